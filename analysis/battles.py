"""Battles recorded anew from a snapshot, with all that a picture or a branch of them needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from analysis.snapshots import Snapshots
from analysis.widgets.progress import tracked
from ovmse.config import Config
from ovmse.envs import make_env
from ovmse.envs.base import EnvSpec, Units
from ovmse.episodes import Episode, EpisodeBatch
from ovmse.method.learner import double_q_target
from ovmse.method.networks import QFunction
from ovmse.training.rollout import Rollout, shares

AT_ONCE = 16  # battles side by side: a number that is compiled once, however few are wanted


def at_once(config: Config) -> int:
    """Battles side by side; of StarCraft II, whose games take 1 GB each, as many as in training."""
    return config.num_envs if config.backend == "smac" else AT_ONCE


@dataclass(frozen=True)
class Battle:
    """One recorded battle of ``L`` steps.

    episode: with who explored (``episode.exploration``).
    units: the ``L + 1`` states decoded, empty where the backend cannot.
    before: the environment's own state before each of the ``L`` steps, without its axis of battles;
    empty where it has none that is exact. A branch begins from these.
    alone: whether these hold the battle's chance too, so that it can be played again as it was;
    battles that share one stream of chance can only be branched with a new one.
    action_names: as of ``EnvSpec``.
    """

    episode: Episode
    units: Sequence[Units]
    before: Sequence[list[np.ndarray]]
    alone: bool = True
    action_names: tuple[str, ...] = ()

    @property
    def agents(self) -> list[str]:
        """Each agent's name, from 1 as in every chart: `1 stalker`, or only the number where units
        are not decoded."""
        kinds = self.units[0].unit_type if self.units else ()
        count = self.episode.actions.shape[1]
        return [" ".join([str(n + 1), *kinds[n : n + 1]]) for n in range(count)]

    @property
    def actions(self) -> list[str]:
        """Each action's name; its number where it has none."""
        count = self.episode.avail_actions.shape[-1]
        return list(self.action_names) or [f"action {n}" for n in range(count)]


@dataclass(frozen=True)
class Opinion:
    """What networks think of one battle: q_agents ``[L, N, A]`` (each agent's ``Q_i``), q_tot and
    memory ``[L]`` (``Q_tot`` of what was done, now and as pre-training left it), td_target ``[L]``
    (see `td_target`), returns ``[L]`` (return-to-go)."""

    q_agents: np.ndarray
    q_tot: np.ndarray
    memory: np.ndarray
    td_target: np.ndarray
    returns: np.ndarray

    def greedy(self, episode: Episode) -> np.ndarray:
        """The greedy actions ``[L, N]``: as recorded, else of the largest ``Q_i``."""
        if episode.exploration is not None:
            return episode.exploration.greedy
        return np.where(episode.avail_actions[:-1], self.q_agents, -np.inf).argmax(-1)


def record(
    run: str | Path,
    snapshot: int,
    exploration: str = "epsilon_greedy",
    epsilon: float = 0.0,
    battles: int = 1,
    seed: int = 0,
) -> list[Battle]:
    """So many battles of the snapshot at `snapshot` environment steps, exploring as told.

    The same arguments give the same battles. The battles need the run's backend; raises UserError
    where it has none, RunError where the run has no such snapshot. What takes long shows how far
    it is.
    """
    of = Snapshots(run)
    ending = _ending(of.network(snapshot), of.config, exploration, epsilon, battles, seed)
    progress = tracked(range(battles), "Battles recorded")
    return [battle for _, battle in zip(progress, ending, strict=True)]


def record_with(
    q: QFunction, config: Config, exploration: str, epsilon: float, battles: int, seed: int
) -> list[Battle]:
    """As `record`, with a network at hand, and silent: as part of what shows its own progress."""
    return list(_ending(q, config, exploration, epsilon, battles, seed))


def _ending(
    q: QFunction, config: Config, exploration: str, epsilon: float, battles: int, seed: int
) -> Iterator[Battle]:
    """The battles of `record_with`, each as it ends."""
    slots = at_once(config)
    if config.backend == "smac":
        slots = min(slots, battles)
    with closing(make_env(config.task, config.backend, slots)) as env:
        rollout = Rollout(env, np.random.default_rng(seed), q.hidden_size)
        rollout.start(seed)
        left = shares(battles, env.num_envs)
        before: list[list[list[np.ndarray]]] = [[] for _ in left]
        # Nothing is shared where every array has a row for each battle.
        alone = env.exact_state and all(len(a) == env.num_envs for a in env.get_state())
        while left.any():
            if env.exact_state:
                arrays = env.get_state()
                for slot, steps in enumerate(before):
                    steps.append([array[slot] for array in arrays])
            for slot, episode in rollout.step(q, exploration, epsilon)[0]:
                states, before[slot] = before[slot], []
                if left[slot] > 0:
                    left[slot] -= 1
                    units, names = _decoded(env.spec, episode), env.spec.action_names
                    yield Battle(episode, units, states, alone, names)


def _decoded(spec: EnvSpec, episode: Episode) -> list[Units]:
    if spec.decoder is None:
        return []
    return [spec.decode_state(state) for state in episode.state]


@torch.no_grad()
def td_target(
    q: QFunction,
    batch: EpisodeBatch,
    q_values: Tensor,
    config: Config,
    td_lambda: float | None = None,
) -> Tensor:
    """y of eq. 8, ``[B, L]``, from `q`'s ``Q_i`` of the batch: the learner's own, with the λ of the
    run's online phase unless told otherwise. No snapshot holds a target network: it is its own."""
    lam = config.online_td_lambda if td_lambda is None else td_lambda
    return double_q_target(batch, q_values, q_values, q.mixer, config.gamma, lam)


@torch.no_grad()
def opinion(q: QFunction, memory: QFunction, episode: Episode, config: Config) -> Opinion:
    """What a snapshot `q` and the memory think of a battle."""
    batch = EpisodeBatch.from_episodes([episode])
    values = q.q_values(batch)
    return Opinion(
        q_agents=values[0, :-1].numpy(),
        q_tot=q.q_tot_taken(batch)[0].numpy(),
        memory=memory.q_tot_taken(batch)[0].numpy(),
        td_target=td_target(q, batch, values, config)[0].numpy(),
        returns=episode.returns_to_go(config.gamma),
    )
