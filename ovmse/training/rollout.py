"""Battles to episodes: the network acts, the environment answers, episodes come out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import torch

from ovmse.envs.base import Frame, Step, VectorEnv
from ovmse.episodes import Episode, ExplorationRecord
from ovmse.method.exploration import choose_actions
from ovmse.method.networks import QFunction
from ovmse.runs.reading import RunError

MOST_VOID = 10  # void battles in a row that are borne, for each battle at once


class Rollout:
    """A stream of battles, ``num_envs`` at once, each beginning as the one before it ends.

    ``start`` or ``load_state_dict`` comes first. Everything that decides the future is in
    ``state_dict``, so a stream can be resumed exactly where the environment has an exact state.
    """

    def __init__(self, env: VectorEnv, rng: np.random.Generator, hidden_size: int) -> None:
        spec, battles = env.spec, env.num_envs
        self.env, self.rng = env, rng
        steps = spec.episode_limit
        agents = (battles, steps, spec.n_agents)
        # The battles under way, written in place: [E, T(+1), ...].
        self.under_way: dict[str, np.ndarray] = {
            "obs": np.zeros((battles, steps + 1, spec.n_agents, spec.obs_size), np.float16),
            "state": np.zeros((battles, steps + 1, spec.state_size), np.float16),
            "avail": np.zeros((battles, steps + 1, spec.n_agents, spec.n_actions), np.bool_),
            "actions": np.zeros(agents, np.uint8),
            "reward": np.zeros((battles, steps), np.float32),
            "explored": np.zeros(agents, np.bool_),
            "greedy": np.zeros(agents, np.uint8),
            "gap": np.zeros(agents, np.float32),
            "length": np.zeros(battles, np.int64),
            "last_actions": np.full((battles, spec.n_agents), -1, np.int64),
            "hidden": np.zeros((battles * spec.n_agents, hidden_size), np.float32),
        }
        self.now: Frame | None = None
        self.waiting: np.ndarray | None = None  # as in Step
        self.void_in_a_row = 0
        self.played = 0  # battles that took part in the last step

    @property
    def started(self) -> bool:
        """Whether battles are under way."""
        return self.now is not None

    @property
    def steps_under_way(self) -> int:
        """Environment steps of the battles that have not ended yet."""
        return int(self.under_way["length"].sum())

    def start(self, seed: int | None = None) -> None:
        """Begins every battle; the same seed, the same battles."""
        self.now, self.waiting = self.env.reset(seed), None

    def give_up(self) -> int:
        """Forgets the battles under way, whose steps it returns; ``start`` begins new ones."""
        steps = self.steps_under_way
        self._forget(np.arange(self.env.num_envs))
        self.now = None
        return steps

    def step(
        self, q: QFunction, exploration: str, epsilon: float
    ) -> tuple[list[tuple[int, Episode]], list[int]]:
        """One step of every battle; the battles that ended, as ``(slot, episode)``, and how many
        steps each took that is void: nothing of it is left. A battle that waits takes no step, and
        one that failed before it began took none. Raises RunError where all are void."""
        if self.now is None:
            raise ValueError("call start() before step()")
        p, now, device = self.under_way, self.now, q.device
        obs = torch.from_numpy(now.obs.copy())
        q_values, hidden = q.act(
            obs.to(device),
            torch.from_numpy(p["last_actions"]).to(device),
            torch.from_numpy(p["hidden"]).to(device),
        )
        actions, explored, greedy, gap = choose_actions(
            self.rng, exploration, epsilon, q_values.cpu().numpy(), now.avail_actions
        )
        step = self.env.step(actions)

        slots, t = np.arange(self.env.num_envs), p["length"]
        p["obs"][slots, t] = obs.half().numpy()  # torch halves it quicker than numpy
        p["state"][slots, t] = now.state
        p["avail"][slots, t] = now.avail_actions
        for name, value in (
            ("actions", actions),
            ("reward", step.reward),
            ("explored", explored),
            ("greedy", greedy),
            ("gap", gap),
        ):
            p[name][slots, t] = value
        idle = np.zeros_like(step.terminated) if self.waiting is None else self.waiting
        self.played = len(idle) - int(idle.sum())
        p["length"] += ~idle  # what a waiting battle has written, its first step will overwrite
        p["last_actions"][:] = actions
        p["hidden"][:] = hidden.cpu().numpy()

        void = np.zeros_like(step.terminated) if step.void is None else step.void
        ended = np.flatnonzero((step.terminated | step.truncated) & ~void)
        episodes = [(slot, self._episode(slot, step)) for slot in ended.tolist()]
        lost = p["length"][void].tolist() + [0] * step.failed_starts
        self.void_in_a_row = 0 if episodes else self.void_in_a_row + len(lost)
        if self.void_in_a_row >= MOST_VOID * self.env.num_envs:
            raise RunError(
                f"{self.env.spec.backend} declared {self.void_in_a_row} battles void in a row: "
                "nothing can be learnt from it"
            )
        self._forget(np.concatenate([ended, np.flatnonzero(void | idle)]))
        self.now, self.waiting = step.now, step.waiting
        return episodes, lost

    def _episode(self, slot: int, step: Step) -> Episode:
        """The battle that ended in a slot; its last frame is the bootstrap row."""
        p, end = self.under_way, self.under_way["length"][slot]
        p["obs"][slot, end] = step.last.obs[slot]
        p["state"][slot, end] = step.last.state[slot]
        p["avail"][slot, end] = step.last.avail_actions[slot]
        record = {name: p[name][slot, :end].copy() for name in ("explored", "greedy", "gap")}
        return Episode(
            obs=p["obs"][slot, : end + 1].copy(),
            state=p["state"][slot, : end + 1].copy(),
            avail_actions=p["avail"][slot, : end + 1].copy(),
            actions=p["actions"][slot, :end].copy(),
            reward=p["reward"][slot, :end].copy(),
            terminated=bool(step.terminated[slot]),
            won=bool(step.won[slot]),
            exploration=ExplorationRecord(**record),
        )

    def _forget(self, slots: np.ndarray) -> None:
        """New battles begin in these slots."""
        p = self.under_way
        p["length"][slots] = 0
        p["last_actions"][slots] = -1
        p["hidden"].reshape(self.env.num_envs, -1)[slots] = 0.0

    def state_dict(self) -> dict[str, np.ndarray]:
        """The battles under way as plain arrays (the generator's state is kept by its owner)."""
        out = {f"under_way.{name}": array for name, array in self.under_way.items()}
        out |= {f"now.{f.name}": getattr(self.now, f.name) for f in fields(Frame)}
        out |= {f"env.{i}": array for i, array in enumerate(self.env.get_state())}
        return out

    def load_state_dict(self, arrays: dict[str, np.ndarray]) -> None:
        """Puts back what ``state_dict`` returned."""
        for name, array in self.under_way.items():
            array[...] = arrays[f"under_way.{name}"]
        self.now = Frame(**{f.name: arrays[f"now.{f.name}"] for f in fields(Frame)})
        count = sum(name.startswith("env.") for name in arrays)
        self.env.set_state([arrays[f"env.{i}"] for i in range(count)])


def collect(
    q: QFunction,
    env: VectorEnv,
    battles: int,
    rng: np.random.Generator,
    exploration: str = "epsilon_greedy",
    epsilon: float = 0.0,
    seed: int | None = None,
) -> Iterator[Episode]:
    """Exactly ``battles`` battles that are not void, begun anew with ``seed``; ``exploration`` and
    ``epsilon`` as in ``choose_actions``."""
    rollout = Rollout(env, rng, q.hidden_size)
    rollout.start(seed)
    left = shares(battles, env.num_envs)
    while left.any():
        for slot, episode in rollout.step(q, exploration, epsilon)[0]:
            if left[slot] > 0:
                left[slot] -= 1
                yield episode


def shares(battles: int, num_envs: int) -> np.ndarray:
    """How many of the battles each slot plays, fixed beforehand. Taking the first battles to finish
    would favour the short ones, and with them defeats or quick wins."""
    return battles // num_envs + (np.arange(num_envs) < battles % num_envs)
