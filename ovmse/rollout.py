"""Battles to episodes: the network acts, the environment answers, episodes come out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ovmse.envs.base import Observation, VectorEnv
from ovmse.episodes import Episode, Exploration
from ovmse.exploration import choose_actions
from ovmse.networks import QFunction


class Rollout:
    """A stream of battles, ``num_envs`` at once, each beginning as the one before it ends.

    Everything that decides the future is in ``state_dict``, so a stream can be resumed exactly.
    """

    def __init__(self, env: VectorEnv, rng: np.random.Generator, hidden_size: int) -> None:
        spec, battles = env.spec, env.num_envs
        self.env, self.rng = env, rng
        steps = spec.episode_limit
        agents = (battles, steps, spec.n_agents)
        # The battles under way, written in place: [E, T(+1), ...].
        self.parts: dict[str, np.ndarray] = {
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
        self.now: Observation = env.reset()

    def step(self, q: QFunction, exploration: str, epsilon: float) -> list[tuple[int, Episode]]:
        """One step of every battle; the battles that ended, as ``(slot, episode)``."""
        p, now, device = self.parts, self.now, q.device
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
        p["length"] += 1
        p["last_actions"][:] = actions
        p["hidden"][:] = hidden.cpu().numpy()

        ended = np.flatnonzero(step.terminated | step.truncated)
        episodes = []
        for slot in ended:
            end = p["length"][slot]
            p["obs"][slot, end] = step.last.obs[slot]
            p["state"][slot, end] = step.last.state[slot]
            p["avail"][slot, end] = step.last.avail_actions[slot]
            cut = {name: p[name][slot, :end].copy() for name in ("explored", "greedy", "gap")}
            episode = Episode(
                obs=p["obs"][slot, : end + 1].copy(),
                state=p["state"][slot, : end + 1].copy(),
                avail_actions=p["avail"][slot, : end + 1].copy(),
                actions=p["actions"][slot, :end].copy(),
                reward=p["reward"][slot, :end].copy(),
                terminated=bool(step.terminated[slot]),
                won=bool(step.won[slot]),
                exploration=Exploration(**cut),
            )
            episodes.append((int(slot), episode))
        p["length"][ended] = 0
        p["last_actions"][ended] = -1
        p["hidden"].reshape(self.env.num_envs, -1)[ended] = 0.0
        self.now = step.observation
        return episodes

    def state_dict(self) -> dict[str, np.ndarray]:
        """The battles under way as plain arrays (the generator's state is kept by its owner)."""
        out = {f"parts.{name}": array for name, array in self.parts.items()}
        out |= {f"now.{name}": array for name, array in vars(self.now).items()}
        out |= {f"env.{i}": array for i, array in enumerate(self.env.get_state())}
        return out

    def load_state_dict(self, arrays: dict[str, np.ndarray]) -> None:
        """Puts back what ``state_dict`` returned."""
        for name, array in self.parts.items():
            array[...] = arrays[f"parts.{name}"]
        self.now = Observation(**{name: arrays[f"now.{name}"] for name in vars(self.now)})
        count = sum(name.startswith("env.") for name in arrays)
        self.env.set_state([arrays[f"env.{i}"] for i in range(count)])


def collect(
    q: QFunction,
    env: VectorEnv,
    battles: int,
    rng: np.random.Generator,
    exploration: str = "epsilon_greedy",
    epsilon: float = 0.0,
) -> Iterator[Episode]:
    """Exactly ``battles`` battles, ``exploration`` and ``epsilon`` as in ``choose_actions``.

    Each slot plays a share of battles fixed beforehand. Taking the first battles to finish would
    favour the short ones, and with them defeats or quick wins.
    """
    rollout = Rollout(env, rng, q.hidden_size)
    left = np.full(env.num_envs, battles // env.num_envs)
    left[: battles % env.num_envs] += 1
    while left.any():
        for slot, episode in rollout.step(q, exploration, epsilon):
            if left[slot] > 0:
                left[slot] -= 1
                yield episode
