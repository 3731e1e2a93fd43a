"""Replaying the fixed trajectories through every snapshot: the measurement behind Figure 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analysis.kept import kept, key
from analysis.tables import curves
from analysis.widgets.progress import tracked
from ovmse.datasets import load_dataset
from ovmse.envs.base import EnvSpec
from ovmse.method.networks import QFunction
from ovmse.runs.reading import RunError, find_runs, read_config, snapshot_steps
from ovmse.training.phase import FIXED_FILE, FixedBattles, load_weights

REPLAYED = ["q_fixed", "mc_fixed", "q_ended", "mc_ended"]


def replay(runs: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """Mean ``Q_tot(tau, a)`` over the fixed trajectories, for every snapshot of every run of a
    folder, or of a list of run directories.

    One row per snapshot: `run`, `env_steps`, and what ``FixedBattles.measure`` gives: `q_fixed`,
    `mc_fixed` (the mean discounted Monte-Carlo return-to-go of the same steps), and both over the
    battles that truly ended, `q_ended` and `mc_ended`. Runs from scratch have no fixed
    trajectories and are left out. What was measured is kept beside the run, and found again. Raises
    RunError if nothing is left, or if a pre-training is missing.
    """
    torch.set_num_threads(1)  # a second one doubles the CPU time and saves nothing
    todo = [(run, *snapshot) for run in find_runs(runs) for snapshot in _replayable(run)]
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        run, measure = None, None
        for now, env_steps, file in tracked(todo, "Snapshots replayed"):
            if now != run:
                run, fixed = now, _fixed(now)
                held = stack.enter_context(kept(run, "replay"))
                measure = None
            name = key(file, fixed)
            if name not in held:
                measure = measure or _measure(run, fixed)
                held[name] = measure(file)
            rows.append({"run": str(run), "env_steps": env_steps, **held[name]})
    if not rows:
        raise RunError(f"no run in {runs} has both a pre-training and a snapshot")
    return pd.DataFrame(rows).reindex(columns=["run", "env_steps", *REPLAYED])


def _replayable(run: Path) -> list[tuple[int, Path]]:
    """The snapshots; none where a run is from scratch, or still pre-training."""
    return snapshot_steps(run) if read_config(run).get("pretrained") is not None else []


def _fixed(run: Path) -> Path:
    file = (run / read_config(run)["pretrained"] / FIXED_FILE).resolve()
    if not file.exists():
        raise RunError(f"{run} names a pre-training without {FIXED_FILE}: {file.parent}")
    return file


def _measure(run: Path, fixed_file: Path) -> Callable[[Path], dict[str, float]]:
    """What values the fixed battles by a snapshot of the run."""
    config, fixed = read_config(run), load_dataset(fixed_file)
    battles = FixedBattles(fixed.episodes, config["gamma"])
    spec = EnvSpec(
        config["task"], config["backend"], fixed.n_agents, fixed.n_actions, fixed.obs_size,
        fixed.state_size, fixed.episode_limit,
    )  # fmt: skip
    q = QFunction(spec, config["hidden_size"], config["embed_size"], config["hypernet_size"])

    def measure(snapshot: Path) -> dict[str, float]:
        load_weights(q, snapshot)
        return battles.measure(q)

    return measure


def replayed_curves(runs: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """The table of ``analysis.tables.curves`` with the columns of ``replay`` measured anew, for the
    online rows that have a snapshot; the `q_fixed` that training recorded is kept as `q_recorded`.
    Runs from scratch keep their rows without them."""
    table = curves(runs).rename(columns={"q_fixed": "q_recorded"})
    table = table.drop(columns=["mc_fixed", "q_ended", "mc_ended"])
    return table.merge(replay(runs).assign(phase="online"), "left", ["run", "phase", "env_steps"])
