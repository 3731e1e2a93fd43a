"""Replaying the fixed trajectories through every snapshot: the measurement behind Figure 1."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd

from analysis.each import Runs, beside, each_snapshot
from analysis.snapshots import Snapshots
from analysis.tables import curves
from ovmse.training.phase import FixedBattles

REPLAYED = ["q_fixed", "mc_fixed", "q_ended", "mc_ended"]


def replay(runs: Runs) -> pd.DataFrame:
    """Mean ``Q_tot(tau, a)`` over the fixed trajectories, for every snapshot of every run of a
    folder, or of a list of run directories.

    One row per snapshot: `run`, `env_steps`, and what ``FixedBattles.measure`` gives: `q_fixed`,
    `mc_fixed` (the mean discounted Monte-Carlo return-to-go of the same steps), and both over the
    battles that truly ended, `q_ended` and `mc_ended`. Runs from scratch have no fixed
    trajectories and are left out. What was measured is kept beside the run, and found again. Raises
    RunError if nothing is left, or if a pre-training is missing.
    """

    @lru_cache(maxsize=1)  # of one run at a time
    def battles(run: Snapshots) -> FixedBattles:
        return FixedBattles(run.fixed, run.config.gamma)

    def measure(run: Snapshots, env_steps: int) -> dict[str, float]:
        return battles(run).measure(run.network(env_steps))

    def depends(run: Snapshots, env_steps: int) -> list[Path | float]:
        return [run.files[env_steps], run.fixed_file, run.config.gamma]

    found = each_snapshot(runs, "replay", "Snapshots replayed", measure, depends)
    return found.reindex(columns=["run", "env_steps", *REPLAYED])


def replayed_curves(runs: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """The table of ``analysis.tables.curves`` with the columns of ``replay`` measured anew, for the
    online rows that have a snapshot; the `q_fixed` that training recorded is kept as `q_recorded`.
    Runs from scratch keep their rows without them."""
    table = curves(runs).rename(columns={"q_fixed": "q_recorded"})
    return beside(table, replay(runs))
