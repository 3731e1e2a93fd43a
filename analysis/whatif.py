"""What if one agent had acted otherwise? Every single change of a battle, valued."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from analysis.battles import Battle, at_once
from analysis.branches import Point, at_points, restore
from ovmse.config import Config
from ovmse.envs import make_env
from ovmse.envs.base import VectorEnv
from ovmse.episodes import EpisodeBatch
from ovmse.method.networks import QFunction, gather_actions
from ovmse.method.targets import ovm_target


@dataclass(frozen=True)
class WhatIf:
    """Values of the joint action of step t with agent i alone changed to action a, ``[L, N, A]``.

    q_agents and q_agents_memory: each agent's ``Q_i``; q_tot and memory: ``Q_tot``; each pair as
    the snapshot and as the memory has it.
    td_target: y of eq. 8 with TD(0), the snapshot being its own target network:
    ``r + gamma * Q_tot(greedy)`` after this one step was played again with that change and the
    battle's own randomness. NaN where the action was not available; None where the backend cannot
    go back to a step.
    """

    q_agents: np.ndarray
    q_agents_memory: np.ndarray
    q_tot: np.ndarray
    memory: np.ndarray
    td_target: np.ndarray | None

    @property
    def ovm_target(self) -> np.ndarray | None:
        """``Q_OVM`` of eq. 4 with that y, ``[L, N, A]``."""
        if self.td_target is None:
            return None
        y, memory = torch.from_numpy(self.td_target), torch.from_numpy(self.memory)
        return ovm_target(y, memory).numpy()


@torch.no_grad()
def what_if(q: QFunction, memory: QFunction, battle: Battle, config: Config) -> WhatIf:
    """Every change of one agent's action in a battle, as a snapshot `q` and the memory value it.

    A battle of 80 steps on 2s3z takes about 2,000 steps of the simulator.
    """
    batch = EpisodeBatch.from_episodes([battle.episode])
    now, then = _each(q, batch), _each(memory, batch)
    y = None
    if battle.before and battle.alone:
        with closing(make_env(config.task, config.backend, at_once(config))) as env:
            y = _targets(q, battle, env, config.gamma)
    return WhatIf(now[0], then[0], now[1], then[1], y)


def _each(q: QFunction, batch: EpisodeBatch) -> tuple[np.ndarray, np.ndarray]:
    """``Q_i`` and ``Q_tot`` of every single change, ``[L, N, A]`` both."""
    values = q.q_values(batch)[0, :-1]
    taken = gather_actions(values, batch.actions[0])
    q_tot = q.mixer.mix_each(q.mixer.weights(batch.state[0, :-1]), taken, values)
    return values.numpy(), q_tot.numpy()


def _targets(q: QFunction, battle: Battle, env: VectorEnv, gamma: float) -> np.ndarray:
    """y of every single change, ``[L, N, A]``, NaN where it is not available."""
    episode = battle.episode
    changes = np.argwhere(episode.avail_actions[:-1])  # [K, 3]: step, agent, action
    steps, agents, changed = changes.T
    actions = episode.actions[steps].astype(np.int64)  # [K, N]
    actions[np.arange(len(changes)), agents] = changed

    points = [Point(battle, t) for t in range(episode.length)]
    after: list[tuple[np.ndarray, ...]] = []
    for begin in range(0, len(changes), env.num_envs):
        slots = np.arange(begin, begin + env.num_envs).clip(max=len(changes) - 1)
        restore(env, [points[t] for t in steps[slots]])
        step = env.step(actions[slots])
        last = step.last
        after.append((step.reward, step.terminated, last.obs, last.state, last.avail_actions))
    reward, terminated, obs, state, avail = (
        torch.from_numpy(np.concatenate(parts)[: len(changes)]) for parts in zip(*after)
    )
    # Stored battles have half precision: so has what a target sees of them.
    obs, state = obs.half().float(), state.half().float()

    hidden = at_points(q, points)[0][torch.from_numpy(steps)].flatten(0, 1)
    values, _ = q.act(obs, torch.from_numpy(actions), hidden)
    best = values.masked_fill(~avail, -torch.inf).amax(-1)
    y = reward + gamma * q.q_tot(best, state).masked_fill(terminated, 0.0)

    out = np.full(episode.avail_actions[:-1].shape, np.nan, np.float32)
    out[tuple(changes.T)] = y.numpy()
    return out
