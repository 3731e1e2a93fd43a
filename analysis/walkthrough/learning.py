"""Teams that learn in tables: offline from counts, then online from their own battles.

Each agent has a table of its own, ``Q_i(s, a_i)``, and the team's value is their sum, the simplest
mixer (VDN): ``Q_tot(s, a) = Q_1(s, a_1) + Q_2(s, a_2)``. So the best joint action is each agent's
own best one, and what one joint action teaches reaches all that share a part with it. QMIX learns
the weights of the sum, which must not be negative; see ``ovmse.method.networks`` for the real one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.walkthrough.game import BEST, BOLD, GAMMA, LEDGES, STEP, game, play
from ovmse.envs.climb import EPISODE_LIMIT, STATES
from ovmse.errors import UserError
from ovmse.method.algorithms import EXPLORATIONS, Algorithm
from ovmse.method.exploration import draw_explorers
from ovmse.method.schedules import linear_decay

GUESS = BEST / 2  # of each agent, before it learns: nothing is worth more than the best return
RATE, BATTLES = 0.05, 4  # online: of each step's correction; battles that are played at once
EPSILON_END, LAMBDA_END = 0.05, 0.1


def dataset(bold: float, battles: int = 100) -> np.ndarray:
    """How often each joint action was taken at each ledge, ``[S, A, A]`` float64.

    A share `bold` of the battles is by a team that is bold together, the rest by one that steps
    together. Neither explores, so seven of the nine joint actions are in no battle. Every battle
    climbs all four ledges; the two sides of the last one share its count.
    """
    counts = np.zeros((LEDGES, 3, 3))
    counts[:, BOLD, BOLD], counts[:, STEP, STEP] = bold * battles, (1 - bold) * battles
    counts[-2:] /= 2
    return counts


def q_tot(parts: np.ndarray) -> np.ndarray:
    """The team's values ``[..., S, A, A]`` of the agents' ``[..., S, N, A]``."""
    return parts[..., 0, :, None] + parts[..., 1, None, :]


def offline(counts: np.ndarray, alpha: np.ndarray, updates: int = 1000) -> np.ndarray:
    """The agents' values ``[G, S, N, A]`` after offline training, each from its own dataset.

    counts ``[G, S, A, A]``, alpha ``[G]`` (weight of the conservative term). Gradient descent on
    ``sum_a share(a)·(Q_tot - y)² + α·(logsumexp_a Q_tot(a) - sum_a share(a)·Q_tot(a))`` at every
    ledge, with ``y = r + γ·max Q_tot`` held fixed in each update (eq. 8 to 10), from `GUESS`.
    """
    share = counts / counts.sum((-2, -1), keepdims=True)
    parts = np.full((len(counts), LEDGES, 2, 3), GUESS)
    for _ in range(updates):
        q, ahead = q_tot(parts), _worth(parts)[:, game().after].mean(-1)
        slope = 2 * share * (q - (game().reward + GAMMA * ahead)) + alpha[:, None, None, None] * (
            _soft(q) - share
        )
        parts -= 0.1 * np.stack([slope.sum(-1), slope.sum(-2)], -2)
    return parts


def _worth(parts: np.ndarray) -> np.ndarray:
    """``max_a Q_tot(s, a)`` of every state, ``[G, S + 2]``: a sum is largest where each of its
    parts is. The ends are worth 0."""
    v = np.zeros((len(parts), STATES))
    v[:, :LEDGES] = parts.max(-1).sum(-1)
    return v


def _soft(q: np.ndarray) -> np.ndarray:
    """The softmax over joint actions: the slope of their logsumexp. ``[..., A, A]``."""
    e = np.exp(q - q.max((-2, -1), keepdims=True))
    return e / e.sum((-2, -1), keepdims=True)


@dataclass(frozen=True)
class Online:
    """What online training did to ``G`` teams, at ``T`` times.

    steps ``[T]`` (environment steps, over the parallel battles), parts ``[T, G, S, N, A]``,
    returns and wins ``[T, G]`` (of greedy play), held ``[T, G]``: the mean of ``Q_tot`` over the
    ledges at the joint action that was greedy before the online phase, as Figure 1 holds its
    battles fixed.
    """

    steps: np.ndarray
    parts: np.ndarray
    returns: np.ndarray
    wins: np.ndarray
    held: np.ndarray


def finetune(
    row: Algorithm,
    start: np.ndarray,
    *,
    epsilon: float | tuple[float, float],
    memory: np.ndarray | float | tuple[float, float] = 0.0,
    alpha: float = 1.0,
    steps: int = 600,
    every: int = 20,
    seed: int = 0,
) -> Online:
    """Online training of the teams `start` ``[G, S, N, A]`` as the algorithm `row` says.

    Every step of every battle corrects the two parts of its joint action by `RATE` times
    ``target - Q_tot``: the target is ``y = r + γ·max Q_tot``, or with the memory (row.target
    ``ovm``) ``(1-λ)·y + λ·max(Q_offline, y)``, of which eq. 5 is the regression. epsilon and memory
    (λ) stay as they are (λ one for each team, if an array), or decay from the first to the second
    over half of the steps (eq. 6, 7). alpha: of the conservative term, where row.online_cql. A row
    that is not pre-trained starts from `GUESS`. Battles are cut at the time limit, where the target
    bootstraps. Raises UserError on a row that says what these tables do not hold.
    """
    refuse(row)
    g, rng, teams = game(), np.random.default_rng(seed), np.arange(len(start))[:, None]
    parts = start.copy() if row.pretrained else np.full_like(start, GUESS)
    remembered, fixed = q_tot(start), start.argmax(-1)
    where, clock = np.zeros((2, len(start), BATTLES), np.int64)
    lam = np.asarray(0.0 if isinstance(memory, tuple) else memory, float).reshape(-1, 1)
    kept = []
    for t in range(0, steps + 1, BATTLES):
        greedy = parts.argmax(-1)
        if t % every == 0:
            held = np.take_along_axis(parts, fixed[..., None], -1)[..., 0].sum(-1).mean(-1)
            kept.append((t, parts.copy(), *play(greedy), held))
        eps = _now(epsilon, t, steps)
        if isinstance(memory, tuple):
            lam = np.array([[_now(memory, t, steps)]])
        exploring = draw_explorers(rng, row.exploration, eps, (where.size, 2))
        drawn = rng.integers(3, size=(*where.shape, 2))
        acts = np.where(exploring.reshape(drawn.shape), drawn, greedy[teams, where])
        pair = where, acts[..., 0], acts[..., 1]
        coin = rng.integers(2, size=where.shape)
        taken: list[Any] = [(teams, where, agent, acts[..., agent]) for agent in (0, 1)]
        after = g.after[(*pair, coin)]
        target = g.reward[pair] + GAMMA * _worth(parts)[teams, after]
        if row.target == "ovm":
            target += lam * np.maximum(remembered[(teams, *pair)] - target, 0)
        error = target - parts[taken[0]] - parts[taken[1]]
        if row.online_cql:
            soft = _soft(q_tot(parts))[teams, where]  # [G, E, A, A]
            for agent, other in ((0, -1), (1, -2)):
                push = np.eye(3)[acts[..., agent]] - soft.sum(other)
                at: Any = (teams, where, agent)
                np.add.at(parts, at, RATE * alpha / 2 * push)
        for part in taken:
            np.add.at(parts, part, RATE * error)
        clock += 1
        over = (after >= LEDGES) | (clock >= EPISODE_LIMIT)
        where, clock = np.where(over, 0, after), np.where(over, 0, clock)
    return Online(*(np.array(column) for column in zip(*kept)))


def _now(value: float | tuple[float, float], t: int, steps: int) -> float:
    return linear_decay(*value, steps // 2, t) if isinstance(value, tuple) else value


def refuse(row: Algorithm) -> None:
    """Raises UserError on a row that says what these tables do not hold."""
    if not isinstance(row, Algorithm):
        raise UserError(f"row: got {row!r}, allowed: an Algorithm(...)")
    for name, allowed in (
        ("target", ("td", "ovm")),
        ("cql_form", ("macql",)),
        ("policy_warmup", (False,)),
        ("pretrained", (True, False)),
        ("exploration", EXPLORATIONS),
        ("online_cql", (True, False, None)),
    ):
        value = getattr(row, name)
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise UserError(
                f"{name}: got {value!r}; the tables of the walkthrough hold: "
                f"{', '.join(map(repr, allowed))}"
            )
