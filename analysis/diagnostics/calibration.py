"""Is the value true? `Q_tot` against what the snapshot's own policy returns, by branches."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.battles import AT_ONCE, record_with
from analysis.branches import Point, at_points, branch, spread_points
from analysis.each import Runs, each_snapshot
from analysis.kept import key
from analysis.snapshots import Snapshots
from analysis.tables import WHO, mean_curves, named
from ovmse.envs import make_env
from ovmse.runs.reading import RunError

BATTLES = 32  # of the pre-trained policy, which the points are taken from


def calibration(
    runs: Runs, points: int = 64, branches: int = 8, most: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """Of `most` snapshots a run, over `points` moments of the pre-trained policy's battles:

    `bias` and `bias_sd`: mean and standard deviation of ``b = (Q_tot(tau, a) - G) / |mean G|``
    (REDQ, Chen et al. 2021); `rank`: Spearman's correlation of ``Q_tot`` and ``G``; `q` and `g`:
    their means; `cut`: share of branches that the time limit ended (see `branch`). ``G`` is the
    mean discounted return of `branches` battles that this snapshot's greedy policy plays on from
    there, after the action that was taken. `remembered_error`: mean of ``Q_offline - G``, where
    the memory is there. Every snapshot of a pre-training is asked about the same moments.

    Raises UserError where the run's backend is missing or cannot put a battle back.
    """
    moments: dict[str, list[Point]] = {}

    def measure(run: Snapshots, env_steps: int) -> dict[str, float]:
        c = run.config
        with closing(make_env(c.task, c.backend, AT_ONCE)) as env:
            if not env.exact_state:
                raise RunError(f"{c.backend} cannot put a battle back: nothing can branch from it")
            if (pretrained := key(run.files[0])) not in moments:
                battles = record_with(run.network(0), c, "epsilon_greedy", 0.0, BATTLES, seed)
                moments[pretrained] = spread_points(battles, points, seed)
            there = moments[pretrained]
            got = branch(run.network(env_steps), env, there, branches, c.gamma, seed)
        returns = got.returns.mean(1)
        found = against(got.q_tot, returns) | {"cut": float(got.cut.mean())}
        if run.memory_file:
            found["remembered_error"] = float((at_points(run.memory(), there)[1] - returns).mean())
        return found

    def depends(run: Snapshots, env_steps: int) -> list[str | float | Path]:
        run.network(0)  # says so where it is missing
        files = [run.files[env_steps], run.files[0], *filter(None, [run.memory_file])]
        c = run.config
        return [*files, c.task, c.backend, c.gamma, BATTLES, points, branches, seed]

    return each_snapshot(runs, "branches", "Snapshots branched", measure, depends, most)


def against(q_tot: np.ndarray, returns: np.ndarray) -> dict[str, float]:
    """``Q_tot [P]`` against ``G [P]``: `bias`, `bias_sd`, `rank`, `q`, `g` (see `calibration`).
    Where all are the same there is no rank (not a number)."""
    b = (q_tot - returns) / abs(returns.mean())
    with np.errstate(invalid="ignore"):
        rank = np.corrcoef(*(pd.Series(x).rank() for x in (q_tot, returns)))[0, 1]
    found = {"bias": b.mean(), "bias_sd": b.std(), "rank": rank, "q": q_tot.mean()}
    return {name: float(x) for name, x in (found | {"g": returns.mean()}).items()}


def who_is_calibrated(table: pd.DataFrame) -> str:
    """How far each algorithm's values end from what its policy returns, and whether they rank."""
    bias, rank = mean_curves(table, "bias"), mean_curves(table, "rank")
    parts = []
    for who, curve in bias.groupby(list(WHO), sort=False):
        ranks = rank[(rank.algorithm == who[0]) & (rank.variant == who[1])]["mean"]
        end, said = curve["mean"].iloc[-1], "over" if curve["mean"].iloc[-1] > 0 else "under"
        parts.append(
            f"{named(*who)} {said}-estimates by {abs(100 * end):.0f} % of the mean return, "
            f"rank {ranks.iloc[-1]:.2f} (lowest {ranks.min():.2f})"
        )
    first = bias["mean"].iloc[0], rank["mean"].iloc[0]
    return (
        f"The pre-trained values are {100 * first[0]:+.0f} % off on average and rank the moments "
        f"with {first[1]:.2f}. After {bias.env_steps.max():,} steps " + "; ".join(parts) + "."
    )
