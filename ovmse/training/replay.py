"""The replay buffer: online episodes, offline ones, and what a frozen network says of both.

For a stored episode the frozen network's word never changes, so it is asked once: for the offline
memory ``Q_tot-offline(tau, a)`` of eq. 4, or for the actions that the offline policy proposes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ovmse.episodes import (
    Episode,
    EpisodeBatch,
    pack_episodes,
    sample_episodes,
    unpack_episodes,
)
from ovmse.method.networks import QFunction

ASKED_AT_ONCE = 64  # episodes


class ReplayBuffer:
    """The newest ``capacity`` online episodes; a batch is ``batch_size`` of them, or fewer with
    ``round(mixing_ratio * batch_size)`` of the offline ones.

    frozen: the network that is asked, or None; memory: for eq. 4, else for proposals.
    """

    def __init__(
        self,
        capacity: int,
        batch_size: int,
        offline: Sequence[Episode],
        offline_count: int,
        frozen: QFunction | None,
        memory: bool,
        rng: np.random.Generator,
    ) -> None:
        self.capacity, self.rng = capacity, rng
        self.offline, self.offline_count = offline, offline_count
        self.online_count = batch_size - offline_count
        self.frozen, self.memory = frozen, memory
        self.episodes: deque[Episode] = deque(maxlen=capacity)
        self._unsaved: list[Episode] = []  # since the last resume point
        self._part_sizes: list[int] = []  # of the resume state's parts, oldest first
        self._ask(offline)

    def add(self, episode: Episode) -> None:
        """Keeps a finished battle, in the place of the oldest if there is no room."""
        self.episodes.append(episode)
        self._unsaved.append(episode)

    @property
    def ready(self) -> bool:
        """Whether there are enough online episodes for a batch."""
        return len(self.episodes) >= self.online_count

    def sample(self) -> EpisodeBatch:
        """A batch, uniform over the offline and over the online episodes."""
        batch = sample_episodes(self.offline, self.rng, self.offline_count)
        batch += sample_episodes(self.episodes, self.rng, self.online_count)
        self._ask(self._unsaved)
        return EpisodeBatch.from_episodes(batch)

    def _ask(self, episodes: Sequence[Episode]) -> None:
        """What the frozen network says of episodes that lack it."""
        if self.frozen is None:
            return
        missing = [e for e in episodes if (e.q_offline if self.memory else e.proposal) is None]
        for start in range(0, len(missing), ASKED_AT_ONCE):
            some = sorted(missing[start : start + ASKED_AT_ONCE], key=lambda e: -e.length)
            batch = EpisodeBatch.from_episodes(some).to(self.frozen.device)
            if self.memory:
                for episode, row in zip(some, self.frozen.q_tot_taken(batch).cpu(), strict=True):
                    episode.q_offline = row[: episode.length].numpy().copy()
            else:
                actions = self.frozen.greedy_actions(batch).byte().cpu()
                for episode, row in zip(some, actions, strict=True):
                    episode.proposal = row[: episode.length + 1].numpy().copy()

    # Resuming: each point adds a part, the episodes since the last one.

    def new_part(self) -> tuple[dict[str, Tensor] | None, list[int]]:
        """What was added since the last part (None if nothing was), and the sizes of all parts
        that are needed then, oldest first."""
        self._ask(self._unsaved)
        held = len(self._unsaved)
        sizes = [held] if held else []
        for size in reversed(self._part_sizes):
            if held >= self.capacity:  # the newer ones fill the buffer
                break
            sizes.insert(0, size)
            held += size
        part = pack_episodes(self._unsaved) if self._unsaved else None
        self._part_sizes, self._unsaved = sizes, []
        return part, sizes

    def load_parts(self, parts: Sequence[dict[str, Tensor]], sizes: list[int]) -> None:
        """Puts back what ``new_part`` gave, oldest first."""
        for part in parts:
            self.episodes.extend(unpack_episodes(part))
        self._part_sizes = sizes
