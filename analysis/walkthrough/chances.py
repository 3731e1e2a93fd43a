"""What is known in closed form: who explores, what a maximum adds, and the two schedules."""

from __future__ import annotations

import math
from math import comb

import numpy as np

from analysis.walkthrough.game import STEP
from ovmse.method.algorithms import EXPLORATIONS
from ovmse.method.schedules import linear_decay


def binomial(k: int, living: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Chance that exactly `k` of `living` agents explore, each by itself with `chance`."""
    ways = np.array([comb(n, k) for n in range(int(living.max(initial=0)) + 1)], float)
    return ways[living] * chance**k * (1 - chance) ** np.maximum(living - k, 0)


def expected(exploration: str, epsilon: np.ndarray, living: np.ndarray, agents: int) -> np.ndarray:
    """Chances of ``0..N`` explorers at each step, ``[steps, N + 1]``, where so many agents live.

    ε-greedy: the binomial of the living at ε. Sequential, decentralised: at ε/N. Centralised: one
    with probability ε·n/N (a dead one drawn means nobody), never more.
    """
    living, epsilon = np.asarray(living), np.broadcast_to(epsilon, np.shape(living))
    if exploration == "sequential_centralised":
        out = np.zeros((len(living), agents + 1))
        out[:, 1] = epsilon * living / agents
        out[:, 0] = 1 - out[:, 1]
        return out
    chance = epsilon / (agents if exploration == "sequential_decentralised" else 1)
    return np.stack([binomial(k, living, chance) for k in range(agents + 1)], 1)


def explorers(exploration: str, epsilon: float, agents: int) -> np.ndarray:
    """The chance that ``k`` agents explore at one step, ``[N + 1]``; all live (Algorithm 2).

    Raises ValueError on an unknown way to explore.
    """
    if exploration not in EXPLORATIONS:
        raise ValueError(f"exploration: got {exploration!r}, allowed: {', '.join(EXPLORATIONS)}")
    return expected(exploration, np.array([epsilon]), np.array([agents]), agents)[0]


def joint_actions(exploration: str, epsilon: float, greedy: int = STEP) -> np.ndarray:
    """The chance of each joint action ``[A, A]`` of the two agents of the game, both of whose
    greedy action is `greedy`. To explore is to draw one of the three, the greedy one included."""
    stays, draws = np.eye(3)[greedy], np.full(3, 1 / 3)
    none, one, both = explorers(exploration, epsilon, 2)
    single = (np.outer(draws, stays) + np.outer(stays, draws)) / 2
    return none * np.outer(stays, stays) + one * single + both * np.outer(draws, draws)


def lift(memory_error: np.ndarray, noise: float, memory: float) -> np.ndarray:
    """How far ``(1-λ)·y + λ·max(Q_offline, y)`` lies above the truth, on average.

    memory_error: ``Q_offline`` less the truth, noise: standard deviation of ``y`` around it
    (normal), memory: λ. ``λ·(b·Φ(b/σ) + σ·φ(b/σ))``: for a true memory (``b = 0``) with noise still
    ``λ·σ/√(2π)``, because a maximum keeps the lucky draws; without noise ``λ·max(b, 0)``.
    """
    b = np.asarray(memory_error, float)
    if noise == 0:
        return memory * np.maximum(b, 0)
    below = np.array([0.5 * (1 + math.erf(z / math.sqrt(2))) for z in (b / noise).flat])
    density = np.exp(-((b / noise) ** 2) / 2) / math.sqrt(2 * math.pi)
    return memory * (b * below.reshape(b.shape) + noise * density)


def memory_schedule(t: int, duration: int, end: float) -> tuple[float, float]:
    """λ after t steps: as eq. 6 prints it, and as the text describes it."""
    return min(end, 1 - (1 - end) / duration * t), linear_decay(1, end, duration, t)


def epsilon_schedule(t: int, duration: int, start: float, end: float) -> tuple[float, float]:
    """ε after t steps: as eq. 7 prints it, and as the text describes it."""
    return min(end, 1 - (start - end) / duration * t), linear_decay(start, end, duration, t)
