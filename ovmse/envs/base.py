"""The one interface every environment offers: several battles side by side.

Letters: ``E`` battles at once, ``N`` agents, ``A`` actions, ``O`` observation size,
``S`` state size, ``U`` units of both teams.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Units:
    """A world state decoded: what a picture of the battle needs.

    team ``[U]`` (0 ours, 1 theirs), unit_type: ``U`` names, position ``[U, 2]`` (map units),
    health ``[U]`` (share of full health, 0 when dead).
    """

    team: np.ndarray
    unit_type: tuple[str, ...]
    position: np.ndarray
    health: np.ndarray


@dataclass(frozen=True)
class EnvSpec:
    """Sizes of a task. ``episode_limit`` is the most steps a battle can really last.

    action_names: ``A`` names, or none where they are not known; ``attack J`` means enemy J.
    """

    task: str
    backend: str
    n_agents: int
    n_actions: int
    obs_size: int
    state_size: int
    episode_limit: int
    decoder: Callable[[np.ndarray], Units] | None = field(default=None, compare=False, repr=False)
    action_names: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def decode_state(self, state: np.ndarray) -> Units:
        """A state vector ``[S]`` as units; raises ValueError on another size."""
        if self.decoder is None:
            raise ValueError(f"{self.task} on {self.backend} cannot decode its state into units")
        if np.shape(state) != (self.state_size,):
            raise ValueError(
                f"a state of {self.task} has shape ({self.state_size},), got {np.shape(state)}"
            )
        return self.decoder(np.asarray(state, np.float64))


@dataclass
class Frame:
    """One moment of every battle: what each agent sees, obs ``[E, N, O]`` float32; what only
    training knows, state ``[E, S]`` float32; and avail_actions ``[E, N, A]`` bool."""

    obs: np.ndarray
    state: np.ndarray
    avail_actions: np.ndarray


@dataclass
class Step:
    """The outcome of one step of every battle.

    now: the frame to act on next; where a battle ended, the first of the next battle.
    last: the frame right after the step; where a battle ended, its last one, which a target
    bootstraps from when the time limit cut the battle.
    reward ``[E]`` float32, terminated ``[E]`` bool (one side is dead), truncated ``[E]`` bool
    (cut by the time limit), won ``[E]`` bool.
    void ``[E]`` bool, or None for no battle: the engine failed, and the next battle began. Nothing
    of such a battle is stored or counted; its other entries here mean nothing.
    waiting ``[E]`` bool, or None for no battle: its next battle has not begun yet, so that ``now``
    shows nothing of it. Whatever its agents do takes no step.
    failed_starts: how often a battle failed before it had begun.
    """

    now: Frame
    last: Frame
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    won: np.ndarray
    void: np.ndarray | None = None
    waiting: np.ndarray | None = None
    failed_starts: int = 0


class VectorEnv(Protocol):
    """``num_envs`` battles that start anew by themselves. Same seed, same actions: same battles.

    exact_state: whether ``get_state`` and ``set_state`` work. Without them a run that is resumed
    begins new battles.
    shares_tests: tests are played in this environment instead of one of their own, because two at
    once would cost too much. The battles under way are then given up at each test.
    """

    spec: EnvSpec
    num_envs: int
    exact_state: bool
    shares_tests: bool

    def reset(self, seed: int | None = None) -> Frame:
        """Starts every battle anew; a seed restarts the stream of randomness too."""

    def step(self, actions: np.ndarray) -> Step:
        """actions ``[E, N]`` int; each must be available. Raises ValueError on a wrong shape."""

    def get_state(self) -> list[np.ndarray]:
        """Everything that decides the future of the battles, for a resume."""

    def set_state(self, arrays: list[np.ndarray], seed: int | None = None) -> None:
        """Puts back what ``get_state`` returned, in the place of a reset. With a seed the battles
        are the same and chance is drawn anew, for each battle its own: they branch from here."""

    def close(self) -> None:
        """Frees what the environment holds; may be called twice."""


def require_shape(actions: np.ndarray, num_envs: int, n_agents: int) -> None:
    """Raises ValueError where actions are not ``[E, N]``."""
    if np.shape(actions) != (expected := (num_envs, n_agents)):
        raise ValueError(f"actions: got shape {np.shape(actions)}, expected {expected}")
