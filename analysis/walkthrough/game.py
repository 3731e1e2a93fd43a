"""The penalty game of ``ovmse.envs.climb`` as tables, and what teams earn in it.

Each agent's three actions at a ledge are called rest, step and bold; bold is the leap, or the rope
where it hangs beside the agent.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from ovmse.envs.climb import EPISODE_LIMIT, TOP, game_tables, solve

TASK = "climb_penalty"
GAMMA = 0.95
ACTIONS = ("rest", "step", "bold")
REST, STEP, BOLD = range(3)
LEDGES = TOP  # 5: two of them are the last ledge, with the rope on either side
BEST, STEPPING = 20.0, 12.0  # returns of the best team, and of one that always steps


@dataclass(frozen=True)
class Game:
    """reward ``[S, A, A]``, after ``[S, A, A, 2]`` (the next state, for the coin's two sides; from
    `LEDGES` on a battle has ended), best ``[S, A, A]``: the optimal values ``Q*``. Float64."""

    reward: np.ndarray
    after: np.ndarray
    best: np.ndarray


@functools.cache
def game() -> Game:
    """The game, over each agent's three available actions."""
    tables, (q, _) = game_tables(TASK), solve(TASK, GAMMA)
    kept = [np.ix_(np.array([s]), *(np.flatnonzero(tables.avail[s, n]) for n in (0, 1)))
            for s in range(LEDGES)]  # fmt: skip
    reward, after, best = (
        np.concatenate([table[rows] for rows in kept]) for table in (tables.reward, tables.after, q)
    )
    return Game(reward.astype(np.float64), after, best)


def play(greedy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What teams that always take their greedy actions earn: return ``[G]`` (undiscounted) and the
    share of battles won ``[G]``, as means over the coin's two sides.

    greedy ``[G, S, N]``. A battle that is not over after the time limit is not won.
    """
    g, teams = game(), np.arange(len(greedy))
    earned, won = np.zeros((2, len(greedy))), np.zeros((2, len(greedy)))
    for coin in (0, 1):
        where = np.zeros(len(greedy), np.int64)
        for _ in range(EPISODE_LIMIT):
            on, at = where < LEDGES, np.minimum(where, LEDGES - 1)
            pair = at, greedy[teams, at, 0], greedy[teams, at, 1]
            earned[coin] += np.where(on, g.reward[pair], 0)
            where = np.where(on, g.after[(*pair, coin)], where)
        won[coin] = where == TOP
    return earned.mean(0), won.mean(0)
