"""Is the value true? `Q_tot` against what the snapshot's own policy returns, by branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.battles import at_once, record_with
from analysis.branches import Point, at_points, branch, spread_points, with_greedy
from analysis.each import Runs, each_snapshot
from analysis.events import epsilon_at, exploring_battles
from analysis.kept import key
from analysis.snapshots import Snapshots
from analysis.tables import alike, at_the_end, at_the_start, mean_curves
from ovmse.envs import make_env
from ovmse.runs.reading import RunError

BATTLES = 32  # of the pre-trained policy, which the points are taken from


def calibration(
    runs: Runs,
    points: int = 32,
    branches: int = 4,
    only: Mapping[str, Sequence[int]] | None = None,
    exploring: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Of the snapshots that `only` names, over `points` moments of battles:

    `bias` and `bias_sd`: mean and standard deviation of ``b = (Q_tot(tau, a) - G) / |mean G|``
    (REDQ, Chen et al. 2021); `rank`: Spearman's correlation of ``Q_tot`` and ``G``; `q` and `g`:
    their means; `cut`: share of branches that the time limit ended (see `branch`). ``G`` is the
    mean discounted return of `branches` battles that this snapshot's greedy policy plays on from
    there, after the action that was taken. `remembered_error`: mean of ``Q_offline - G``, and of
    each third of a battle, `remembered_error_1` to `_3` (see `Snapshots.offline`).

    The battles are the pre-trained policy's own, and every snapshot of a pre-training is asked
    about the same moments; or, with `exploring`, each snapshot's, which explores as the run did at
    that time. There the action asked about is the one that it would take greedily, since what noise
    took is a question of its own (`distance`). Then the columns end in `_exploring`.

    Raises UserError where the run's backend is missing or cannot put a battle back.
    """
    home: dict[str, tuple[list[Point], np.ndarray]] = {}

    def moments(run: Snapshots, env_steps: int) -> tuple[list[Point], np.ndarray]:
        """The points, and ``Q_offline`` there."""
        if exploring:
            noisy = exploring_battles(run, env_steps, seed=seed)
            there = spread_points(noisy, points, seed)
            there = with_greedy(run.network(env_steps), there)
            return there, at_points(run.offline(), there)[1]
        first = min(run.files)
        pretrained = key(run.files[first], run.offline_file)
        if pretrained not in home:
            c, q = run.config, run.network(first)
            battles = record_with(q, c, "epsilon_greedy", 0.0, BATTLES, seed)
            there = spread_points(battles, points, seed)
            home[pretrained] = there, at_points(run.offline(), there)[1]
        return home[pretrained]

    def measure(run: Snapshots, env_steps: int) -> dict[str, float]:
        c = run.config
        with closing(make_env(c.task, c.backend, at_once(c))) as env:
            if not env.exact_state:
                raise RunError(f"{c.backend} cannot put a battle back: nothing can branch from it")
            there, remembered = moments(run, env_steps)
            got = branch(run.network(env_steps), env, there, branches, c.gamma, seed)
        returns = got.returns.mean(1)
        found = against(got.q_tot, returns) | {"cut": float(got.cut.mean())}
        thirds = [third(p) for p in there]
        return found | by_thirds("remembered_error", remembered - returns, thirds)

    def depends(run: Snapshots, env_steps: int) -> list[str | float | Path]:
        c = run.config
        files = [run.files[env_steps], run.files[min(run.files)], run.offline_file]
        given = [c.task, c.backend, c.gamma, BATTLES, points, branches, seed]
        if exploring:
            given += [c.exploration, float(epsilon_at(c, env_steps))]
        return [*files, *given]

    name, title = "branches", "Snapshots branched"
    if exploring:
        name, title = "branches_exploring", "Snapshots branched where they explore"
    found = each_snapshot(runs, name, title, measure, depends, only)
    return found if not exploring else found.rename(
        columns={column: f"{column}_exploring" for column in found.columns[2:]}
    )  # fmt: skip


def third(point: Point) -> int:
    """Which third of its battle a moment lies in, 0 to 2."""
    return 3 * point.step // point.battle.episode.length


def by_thirds(name: str, values: np.ndarray, thirds: Sequence[int] | np.ndarray) -> dict:
    """The mean of `values` as `name`, and of those of each third of a battle as `name_1` to `_3`;
    not a number where there are none."""
    groups = pd.Series(values).groupby(np.asarray(thirds)).mean()
    each = {f"{name}_{n + 1}": float(groups.get(n, np.nan)) for n in range(3)}
    return {name: float(values.mean())} | each


def against(q_tot: np.ndarray, returns: np.ndarray) -> dict[str, float]:
    """``Q_tot [P]`` against ``G [P]``: `bias`, `bias_sd`, `rank`, `q`, `g` (see `calibration`).
    Where all are the same there is no rank, and where the mean return is 0 no bias, nor its
    deviation (not a number)."""
    b = (q_tot - returns) / (abs(returns.mean()) or np.nan)
    with np.errstate(invalid="ignore"):
        rank = np.corrcoef(*(pd.Series(x).rank() for x in (q_tot, returns)))[0, 1]
    found = {"bias": b.mean(), "bias_sd": b.std(), "rank": rank, "q": q_tot.mean()}
    return {name: float(x) for name, x in (found | {"g": returns.mean()}).items()}


def who_is_calibrated(table: pd.DataFrame) -> str:
    """How far each algorithm's values end from what its policy returns, and whether they rank."""
    bias, rank = (mean_curves(table, name) for name in ("bias", "rank"))
    if bias.empty:
        return "Every mean return is 0: there is nothing that a bias could be a share of."
    parts = [
        f"{name} {'over' if r.bias > 0 else 'under'}-estimates by {abs(100 * r.bias):.0f} % of the "
        f"mean return (rank {r['rank']:.2f}, lowest asked {r.rank_min:.2f})"
        for name, r in at_the_end(table, ["bias", "rank"]).set_index("name").iterrows()
    ]
    ranked = at_the_start(rank)
    first = {
        name: f"{100 * off:+.0f} % off on average and rank the moments with {ranked[name]:.2f}"
        for name, off in at_the_start(bias).items()
        if name in ranked
    }
    return f"The pre-trained values are {alike(first)}. At the end {'; '.join(parts)}."
