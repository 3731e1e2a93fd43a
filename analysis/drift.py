"""Replaying the fixed trajectories through every snapshot: the measurement behind Figure 1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.kept import kept, key
from analysis.snapshots import Snapshots
from analysis.tables import curves
from analysis.widgets.progress import tracked
from ovmse.runs.reading import RunError, find_runs
from ovmse.training.phase import FixedBattles

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
    replayable = [s for path in find_runs(runs) if (s := Snapshots(path)).pretraining]
    todo = [(s.run, *snapshot) for s in replayable for snapshot in s.files.items()]
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        run = measure = None
        for path, env_steps, file in tracked(todo, "Snapshots replayed"):
            if run is None or run.run != path:  # one at a time: its battles are held in memory
                run, measure = Snapshots(path), None
                held = stack.enter_context(kept(path, "replay"))
            name = key(file, run.fixed_file)
            if name not in held:
                measure = measure or FixedBattles(run.fixed, run.config.gamma).measure
                held[name] = measure(run.load(file))
            rows.append({"run": str(path), "env_steps": env_steps, **held[name]})
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
