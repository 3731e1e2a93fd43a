"""Who explores: epsilon-greedy and sequential exploration (Algorithm 2 of the paper)."""

from __future__ import annotations

import numpy as np

from ovmse.method.algorithms import EXPLORATIONS


def draw_explorers(
    rng: np.random.Generator, exploration: str, epsilon: float, shape: tuple[int, int]
) -> np.ndarray:
    """Which agents explore, ``[E, N]`` bool.

    - ``epsilon_greedy``: each agent by itself with probability epsilon.
    - ``sequential_centralised``: with probability epsilon exactly one agent, uniform over all N
      (where a dead one is drawn, nobody explores).
    - ``sequential_decentralised``: each agent by itself with probability epsilon / N.
    """
    battles, agents = shape
    if exploration == "epsilon_greedy":
        return rng.random(shape) < epsilon
    if exploration == "sequential_decentralised":
        return rng.random(shape) < epsilon / agents
    if exploration == "sequential_centralised":
        chosen = rng.integers(agents, size=battles)
        someone = rng.random(battles) < epsilon
        return someone[:, None] & (np.arange(agents) == chosen[:, None])
    raise ValueError(f"exploration: got {exploration!r}, allowed: {', '.join(EXPLORATIONS)}")


def random_actions(rng: np.random.Generator, avail_actions: np.ndarray) -> np.ndarray:
    """Uniform over the available actions: ``[..., A]`` bool to ``[...]`` int64."""
    return nth_available(avail_actions, rng.random(avail_actions.shape[:-1]))


def nth_available(avail_actions: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The available action that lies ``share`` (0 <= share < 1) of the way through their list."""
    pick = (share * avail_actions.sum(-1)).astype(np.int64)
    return ((avail_actions.cumsum(-1) - 1 == pick[..., None]) & avail_actions).argmax(-1)


def choose_actions(
    rng: np.random.Generator,
    exploration: str,
    epsilon: float,
    q_values: np.ndarray,
    avail_actions: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``(actions, explored, greedy, gap)``, each ``[E, N]``, from ``[E, N, A]`` values and mask.

    To explore is to draw uniformly among the available actions, the greedy one included. An
    agent with one available action (a dead one) never counts as exploring. ``gap`` is
    ``Q_i(greedy) - Q_i(taken)``, at least 0.
    """
    masked = np.where(avail_actions, q_values, -np.inf)
    greedy = masked.argmax(-1)
    explored = draw_explorers(rng, exploration, epsilon, greedy.shape)
    drawn = rng.random(greedy.shape)  # for all: one stream, whoever explores
    actions, gap = greedy.copy(), np.zeros(greedy.shape, np.float32)
    if explored.any():
        explored &= avail_actions.sum(-1) > 1
        rows, values = avail_actions[explored], masked[explored]
        actions[explored] = taken = nth_available(rows, drawn[explored])
        at = np.arange(len(taken))
        gap[explored] = values[at, greedy[explored]] - values[at, taken]
    return actions, explored, greedy, gap
