"""Replaying the fixed trajectories through every snapshot: the measurement behind Figure 1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from analysis.tables import curves
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
    trajectories and are left out. Raises RunError if nothing is left, or if a pre-training is
    missing.
    """
    rows = []
    for run in find_runs(runs):
        config = read_config(run)
        snapshots = snapshot_steps(run)
        if config.get("pretrained") is None or not snapshots:
            continue  # from scratch, or still pre-training: nothing to replay
        fixed_file = (run / config["pretrained"] / FIXED_FILE).resolve()
        if not fixed_file.exists():
            raise RunError(f"{run} names a pre-training without {FIXED_FILE}: {fixed_file.parent}")
        fixed = load_dataset(fixed_file)
        battles = FixedBattles(fixed.episodes, config["gamma"])
        spec = EnvSpec(
            config["task"], config["backend"], fixed.n_agents, fixed.n_actions, fixed.obs_size,
            fixed.state_size, fixed.episode_limit,
        )  # fmt: skip
        q = QFunction(spec, config["hidden_size"], config["embed_size"], config["hypernet_size"])
        for env_steps, file in snapshots:
            load_weights(q, file)
            rows.append({"run": str(run), "env_steps": env_steps, **battles.measure(q)})
    if not rows:
        raise RunError(f"no run in {runs} has both a pre-training and a snapshot")
    return pd.DataFrame(rows).reindex(columns=["run", "env_steps", *REPLAYED])


def replayed_curves(runs: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """The table of ``analysis.tables.curves`` with the columns of ``replay`` measured anew, for the
    online rows that have a snapshot; the `q_fixed` that training recorded is kept as `q_recorded`.
    Runs from scratch keep their rows without them."""
    table = curves(runs).rename(columns={"q_fixed": "q_recorded"})
    table = table.drop(columns=["mc_fixed", "q_ended", "mc_ended"])
    return table.merge(replay(runs).assign(phase="online"), "left", ["run", "phase", "env_steps"])
