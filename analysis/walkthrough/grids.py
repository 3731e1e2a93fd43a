"""What the sliders of the walkthrough show, computed once: one row for each mark and setting.

Tables only; ``analysis.charts.walkthrough`` draws them. Joint actions are the two columns `first`
and `second`, in the words of ``game.ACTIONS``; `ledge` counts from 1.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.tables import curves, named
from analysis.walkthrough import chances
from analysis.walkthrough.game import ACTIONS, game
from analysis.walkthrough.learning import (
    EPSILON_END,
    LAMBDA_END,
    Online,
    dataset,
    finetune,
    offline,
    q_tot,
)
from ovmse.method.algorithms import ALGORITHMS, EXPLORATIONS, Algorithm

QUALITIES = (0.0, 0.25, 0.5, 0.75, 1.0)  # shares of battles by the bold team
ALPHAS = tuple(np.arange(0, 3.01, 0.5).tolist())
EPSILONS = tuple(np.arange(0, 1.01, 0.2).round(1).tolist())
MEMORIES = (0.0, 0.25, 0.5, 0.75, 1.0)
ALPHA, QUALITY, TEAMS, STEPS, EVERY = 1.0, 0.5, 32, 600, 40
ALONE = {
    "right": ALPHA,
    "wrong": 0.0,
}  # α offline of a memory that is right, and of one that is not


def cells(**tables: np.ndarray) -> pd.DataFrame:
    """One row for each of the nine joint actions, with the values of tables ``[A, A]``."""
    pairs = [(ACTIONS[i], ACTIONS[j]) for i, j in np.ndindex(3, 3)]
    table = pd.DataFrame(pairs, columns=["first", "second"])
    return table.assign(**{name: values.ravel() for name, values in tables.items()})


def true_values() -> pd.DataFrame:
    """`ledge`, `reward` and `value` (``Q*``) of every joint action at every ledge."""
    g = game()
    return pd.concat(
        [cells(reward=g.reward[s], value=g.best[s]).assign(ledge=s + 1) for s in range(4)],
        ignore_index=True,
    )


def held_by_data() -> pd.DataFrame:
    """`quality` (%), and `count`: how often a joint action was taken at a ledge."""
    return pd.concat(
        [cells(count=dataset(q)[0]).assign(quality=100 * q) for q in QUALITIES], ignore_index=True
    )


def conservative() -> pd.DataFrame:
    """`alpha`, `quality` (%), `ledge` and each joint action's `learned` and `true` value; `count`
    in the data; `greedy`: 1 for the team's own choice."""
    grid = list(itertools.product(ALPHAS, QUALITIES))
    counts = np.stack([dataset(q) for _, q in grid])
    learned = q_tot(offline(counts, np.array([a for a, _ in grid])))
    return pd.concat(
        [
            _values(learned[n, s], s).assign(count=counts[n, 0].ravel(), alpha=a, quality=100 * q,
                                             ledge=s + 1)
            for n, (a, q) in enumerate(grid)
            for s in range(4)
        ],
        ignore_index=True,
    )  # fmt: skip


def _values(learned: np.ndarray, ledge: int) -> pd.DataFrame:
    best = (learned == learned.max()).astype(int)
    return cells(learned=learned, true=game().best[ledge], greedy=best)


@functools.cache
def _trained(alpha: float) -> np.ndarray:
    return offline(dataset(QUALITY)[None], np.array([alpha]))


def pretrained(alpha: float = ALPHA, teams: int = TEAMS) -> np.ndarray:
    """Equal teams ``[G, S, N, A]`` after offline training with α on the half-good dataset."""
    return np.repeat(_trained(alpha), teams, 0)


def first_steps(row: Algorithm = ALGORITHMS["switch_cql"]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Online training without the conservative term, for each ε.

    First table: `epsilon`, `steps` and the values of the first ledge (means over the teams).
    Second: `epsilon`, `steps`, `return` and `won` (%), and `held`: ``Q_tot`` at what the
    pre-trained team did, mean over the ledges. Means over the teams.
    """
    start, values, lines = pretrained(), [], []
    for eps in EPSILONS:
        run = finetune(row, start, epsilon=eps, steps=STEPS, every=EVERY)
        lines.append(_lines(run).assign(epsilon=eps))
        for t, learned in zip(run.steps, q_tot(run.parts)[:, :, 0].mean(1), strict=True):
            values.append(_values(learned, 0).assign(epsilon=eps, steps=t))
    return pd.concat(values, ignore_index=True), pd.concat(lines, ignore_index=True)


def _lines(run: Online) -> pd.DataFrame:
    columns = {"return": run.returns.mean(1), "won": 100 * run.wins.mean(1)}
    return pd.DataFrame({"steps": run.steps, **columns, "held": run.held.mean(1)})


def memories(exploration: str = "epsilon_greedy") -> pd.DataFrame:
    """Online training with the memory: `offline` (`right`: the conservative term kept the unseen
    low; `wrong`: it was not used), `memory` (λ, constant), `epsilon`, and `steps`, `return`, `won`
    (%), `held` as means over the teams."""
    row, tables = Algorithm(label="memory", target="ovm", exploration=exploration), []
    lam = np.repeat(MEMORIES, TEAMS)
    for (name, alpha), eps in itertools.product(ALONE.items(), EPSILONS):
        start = pretrained(alpha, teams=len(lam))
        run = finetune(row, start, epsilon=eps, memory=lam, steps=STEPS, every=EVERY)
        for n, value in enumerate(MEMORIES):
            some = slice(n * TEAMS, (n + 1) * TEAMS)
            part = Online(run.steps, run.parts[:, some], *(
                x[:, some] for x in (run.returns, run.wins, run.held)))  # fmt: skip
            tables.append(_lines(part).assign(offline=name, memory=value, epsilon=eps))
    return pd.concat(tables, ignore_index=True)


def lifts() -> pd.DataFrame:
    """`noise` (σ), `memory` (λ), `error` (of the memory) and `lift` of the mean target."""
    errors = np.linspace(-4, 4, 33)
    grid = itertools.product((0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0), MEMORIES)
    return pd.concat(
        [
            pd.DataFrame({"error": errors, "lift": chances.lift(errors, s, lam), "noise": s,
                          "memory": lam})
            for s, lam in grid
        ],
        ignore_index=True,
    )  # fmt: skip


def explorers_at_once() -> pd.DataFrame:
    """`epsilon`, `agents`, `exploration`, `k` and the `share` (%) of steps at which k explore."""
    rows = [
        (eps, n, way, k, 100 * share)
        for eps, n, way in itertools.product(
            np.arange(0.1, 1.01, 0.1).round(1), range(2, 9), EXPLORATIONS
        )
        for k, share in enumerate(chances.explorers(way, eps, n))
    ]
    return pd.DataFrame(rows, columns=["epsilon", "agents", "exploration", "k", "share"])


def deviations() -> pd.DataFrame:
    """`epsilon`, `exploration` and the `share` (%) of each joint action where both would step."""
    return pd.concat(
        [
            cells(share=100 * chances.joint_actions(way, eps)).assign(epsilon=eps, exploration=way)
            for eps, way in itertools.product(EPSILONS, EXPLORATIONS)
        ],
        ignore_index=True,
    )


def schedules(duration: int = 50_000, end: float = 0.1, start: float = 0.5) -> pd.DataFrame:
    """`steps`, `schedule` (λ or ε), `reading` (as printed, as described) and `value`."""
    rows = []
    for t in range(0, 3 * duration + 1, duration // 25):
        for name, pair in (
            ("λ (eq. 6)", chances.memory_schedule(t, duration, end)),
            ("ε (eq. 7)", chances.epsilon_schedule(t, duration, start, end)),
        ):
            for reading, value in zip(("as printed", "as described"), pair, strict=True):
                rows.append((t, name, reading, value))
    return pd.DataFrame(rows, columns=["steps", "schedule", "reading", "value"])


def watch(rows: Mapping[str, Algorithm], teams: int = 4 * TEAMS) -> pd.DataFrame:
    """Algorithms on the game, from one pre-training: `name`, and as in `memories` the rest.

    ε falls from 1 to `EPSILON_END`, λ from 1 to `LAMBDA_END`, both over half of the steps. Raises
    UserError on a row that says what the tables do not hold (see ``learning.finetune``).
    """
    start = pretrained(teams=teams)
    runs = {
        name: finetune(row, start, epsilon=(1.0, EPSILON_END), memory=(1.0, LAMBDA_END),
                       alpha=ALPHA, steps=STEPS, every=EVERY)
        for name, row in rows.items()
    }  # fmt: skip
    return pd.concat([_lines(run).assign(name=name) for name, run in runs.items()],
                     ignore_index=True)  # fmt: skip


def known(names: Iterable[str] = ("ovmse", "ovm", "se", "switch_cql", "macql", "qmix")) -> dict:
    """The rows of the table of algorithms that the game's tables hold, by their labels."""
    return {ALGORITHMS[name].label: ALGORITHMS[name] for name in names}


def rows_of(runs: Sequence[Path]) -> pd.DataFrame:
    """What tells real runs from one another, in the words of the table of algorithms."""
    table = curves(runs).drop_duplicates("run")
    rows = [
        (
            named(run.algorithm, run.variant),
            ALGORITHMS[str(run.algorithm)].target,
            "yes" if run.online_cql else "no",
            run.exploration,
        )
        for run in table.itertuples()
    ]
    return pd.DataFrame(rows, columns=["run", "target", "conservative online", "exploration"])
