"""Battles in memory: unpadded episodes, padded batches of them, and sampling.

Letters of every shape: ``B`` episodes, ``L`` steps (``L_b`` of episode b), ``N`` agents,
``A`` actions, ``O`` observation size, ``S`` state size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass
class ExplorationRecord:
    """Who explored in one battle (the record behind the exploration events).

    explored: ``[L, N]`` bool, the agent drew its action at random.
    greedy: ``[L, N]`` uint8, the action it would have taken otherwise.
    gap: ``[L, N]`` float32, ``Q_i(greedy) - Q_i(taken)``, 0 where the two agree.
    """

    explored: np.ndarray
    greedy: np.ndarray
    gap: np.ndarray


@dataclass
class Episode:
    """One battle of ``L`` steps, unpadded; row ``L`` is the bootstrap row.

    obs ``[L+1, N, O]`` float16, state ``[L+1, S]`` float16, avail_actions ``[L+1, N, A]`` bool,
    actions ``[L, N]`` uint8, reward ``[L]`` float32. Half precision keeps 10 bits of each
    feature, which halves the replay memory and loses nothing the networks can use.

    terminated: the battle truly ended (one side dead). False means that the time limit cut it,
    and the target bootstraps from row ``L``.
    won: None where it is not known (files of other projects).
    q_offline: ``[L]`` float32, the offline memory ``Q_tot-offline(tau, a)`` of eq. 4; it never
    changes for a stored episode, so it is computed once.
    proposal: ``[L+1, N]`` uint8, the frozen offline policy's greedy actions, computed once too.
    """

    obs: np.ndarray
    state: np.ndarray
    avail_actions: np.ndarray
    actions: np.ndarray
    reward: np.ndarray
    terminated: bool
    won: bool | None = None
    q_offline: np.ndarray | None = None
    proposal: np.ndarray | None = None
    exploration: ExplorationRecord | None = None

    @property
    def length(self) -> int:
        """Steps ``L`` (environment steps)."""
        return len(self.reward)

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of rewards; the best return of a battle is 20."""
        return float(self.reward.sum())

    def returns_to_go(self, gamma: float) -> np.ndarray:
        """Discounted Monte-Carlo return-to-go ``R_t = r_t + gamma * R_{t+1}``, ``[L]`` float64."""
        out = np.zeros(self.length)
        future = 0.0
        for t in range(self.length - 1, -1, -1):
            future = float(self.reward[t]) + gamma * future
            out[t] = future
        return out


@dataclass
class EpisodeBatch:
    """Episodes padded to the longest, sorted by length, longest first.

    obs ``[B, L+1, N, O]``, state ``[B, L+1, S]``, avail_actions ``[B, L+1, N, A]`` bool,
    actions ``[B, L, N]`` int64, reward ``[B, L]``, filled ``[B, L]`` bool (real transitions; the
    bootstrap row is not one), terminated ``[B]`` bool, lengths ``[B]`` int64,
    q_offline ``[B, L]`` or None, proposal ``[B, L+1, N]`` int64 or None. What lies beyond an
    episode's end never matters.
    """

    obs: torch.Tensor
    state: torch.Tensor
    avail_actions: torch.Tensor
    actions: torch.Tensor
    reward: torch.Tensor
    filled: torch.Tensor
    terminated: torch.Tensor
    lengths: torch.Tensor
    q_offline: torch.Tensor | None = None
    proposal: torch.Tensor | None = None

    @classmethod
    def from_episodes(
        cls, episodes: Sequence[Episode], dtype: torch.dtype | None = None
    ) -> EpisodeBatch:
        """Pads and stacks; q_offline and proposal are set if every episode has them."""
        episodes = sorted(episodes, key=lambda e: -e.length)
        size, longest = len(episodes), episodes[0].length
        import torch  # here: datasets are checked and found without it

        kind = np.float64 if dtype == torch.float64 else np.float32

        def padded(shape: tuple[int, ...], dtype: type) -> np.ndarray:
            return np.zeros((size, *shape), dtype)

        first = episodes[0]
        obs = padded((longest + 1, *first.obs.shape[1:]), kind)
        state = padded((longest + 1, *first.state.shape[1:]), kind)
        avail = padded((longest + 1, *first.avail_actions.shape[1:]), np.bool_)
        actions = padded((longest, *first.actions.shape[1:]), np.int64)
        reward = padded((longest,), kind)
        memory = padded((longest,), kind)
        proposal = padded((longest + 1, *first.actions.shape[1:]), np.int64)
        for b, episode in enumerate(episodes):
            end = episode.length
            obs[b, : end + 1] = episode.obs
            state[b, : end + 1] = episode.state
            avail[b, : end + 1] = episode.avail_actions
            actions[b, :end] = episode.actions
            reward[b, :end] = episode.reward
            if episode.q_offline is not None:
                memory[b, :end] = episode.q_offline
            if episode.proposal is not None:
                proposal[b, : end + 1] = episode.proposal
        lengths = torch.tensor([e.length for e in episodes])
        remembered = all(e.q_offline is not None for e in episodes)
        proposed = all(e.proposal is not None for e in episodes)
        return cls(
            obs=torch.from_numpy(obs),
            state=torch.from_numpy(state),
            avail_actions=torch.from_numpy(avail),
            actions=torch.from_numpy(actions),
            reward=torch.from_numpy(reward),
            filled=torch.arange(longest) < lengths[:, None],
            terminated=torch.tensor([e.terminated for e in episodes]),
            lengths=lengths,
            q_offline=torch.from_numpy(memory) if remembered else None,
            proposal=torch.from_numpy(proposal) if proposed else None,
        )

    def to(self, device: torch.device | str) -> EpisodeBatch:
        """The same batch on another device (itself where it already is there)."""
        moved: dict[str, Any] = {n: t if t is None else t.to(device) for n, t in vars(self).items()}
        return EpisodeBatch(**moved)


def sample_episodes(
    episodes: Sequence[Episode], rng: np.random.Generator, count: int
) -> list[Episode]:
    """``count`` different episodes, uniformly; raises ValueError if there are fewer."""
    return [episodes[i] for i in rng.choice(len(episodes), count, replace=False)]


# What an episode holds per step; 1: with a row for the bootstrap step too.
_ROWS = {
    "obs": 1,
    "state": 1,
    "avail_actions": 1,
    "actions": 0,
    "reward": 0,
    "q_offline": 0,
    "proposal": 1,
}


def pack_episodes(episodes: Sequence[Episode]) -> dict[str, torch.Tensor]:
    """Episodes end to end as a few tensors, for a resume state (who explored is left out)."""
    import torch

    out = {
        name: torch.from_numpy(np.concatenate([getattr(e, name) for e in episodes]))
        for name in _ROWS
        if all(getattr(e, name) is not None for e in episodes)
    }
    out["length"] = torch.tensor([e.length for e in episodes])
    out["terminated"] = torch.tensor([e.terminated for e in episodes])
    out["won"] = torch.tensor([bool(e.won) for e in episodes])
    return out


def unpack_episodes(packed: dict[str, torch.Tensor]) -> list[Episode]:
    """What ``pack_episodes`` packed."""
    arrays = {name: packed[name].numpy() for name in _ROWS if name in packed}
    episodes, start = [], 0
    for i, length in enumerate(packed["length"].tolist()):
        cut: dict[str, Any] = {}
        for name, array in arrays.items():
            extra = _ROWS[name]  # rows of the bootstrap step, which shift all later episodes
            first = start + extra * i
            cut[name] = array[first : first + length + extra]
        start += length
        episodes.append(
            Episode(**cut, terminated=bool(packed["terminated"][i]), won=bool(packed["won"][i]))
        )
    return episodes
