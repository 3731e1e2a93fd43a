"""Replaying the fixed trajectories through every snapshot: the measurement behind Figure 1."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd

from analysis.each import Runs, beside, each_snapshot
from analysis.snapshots import Snapshots
from analysis.tables import curves, require_one
from ovmse.runs.reading import RunError
from ovmse.training.phase import FixedBattles

REPLAYED = ["q_fixed", "mc_fixed", "q_ended", "mc_ended"]
# How far a replay may lie from what training recorded, as a share of it (or of 1 where that is
# smaller): the rounding of another machine, or of weights that are kept in half precision.
WHOLE, HALF = 1e-3, 1e-2


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
    Runs from scratch keep their rows without them. Raises RunError where the two disagree: then a
    snapshot, the fixed battles or what was recorded is not what training made. Runs of several
    tasks are refused (UserError) before any is replayed."""
    table = curves(runs).rename(columns={"q_fixed": "q_recorded"})
    require_one(table, ["task"])
    found = replay(runs)
    both = found.merge(table[table.phase == "online"][["run", "env_steps", "q_recorded"]])
    of: Snapshots | None = None
    for row in both.dropna(subset="q_recorded").itertuples():
        if of is None or str(of.run) != row.run:
            of = Snapshots(row.run)
        share = HALF if of.in_half_precision(row.env_steps) else WHOLE
        if not abs(row.q_fixed - row.q_recorded) <= share * max(1.0, abs(row.q_recorded)):
            raise RunError(
                f"{of.files[row.env_steps]}: the fixed battles are worth {row.q_fixed:.4f} to it, "
                f"and training recorded {row.q_recorded:.4f}: one of them is not what training made"
            )
    return beside(table, found)
