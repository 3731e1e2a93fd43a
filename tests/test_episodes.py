"""Episodes: padding, packing, sampling, returns."""

from __future__ import annotations

import dataclasses
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import SMALL, random_episode

from ovmse.episodes import (
    Episode,
    EpisodeBatch,
    pack_episodes,
    sample_episodes,
    unpack_episodes,
)
from ovmse.runs.directory import read_tensors, write_tensors

LENGTHS = st.lists(st.integers(1, SMALL.episode_limit), min_size=1, max_size=7)
ARRAYS = ("obs", "state", "avail_actions", "actions", "reward")


def episodes_of(lengths: list[int], memory: bool, seed: int) -> list[Episode]:
    rng = np.random.default_rng(seed)
    return [
        random_episode(rng, length, bool(rng.random() < 0.5), memory=memory) for length in lengths
    ]


@settings(deadline=None)
@given(lengths=LENGTHS, memory=st.booleans(), double=st.booleans())
def test_batches_hold_the_episodes_longest_first(
    lengths: list[int], memory: bool, double: bool
) -> None:
    given_episodes = episodes_of(lengths, memory, 0)
    dtype = torch.float64 if double else torch.float32
    batch = EpisodeBatch.from_episodes(given_episodes, dtype)
    longest = max(lengths)
    assert batch.lengths.tolist() == sorted(lengths, reverse=True)
    assert batch.obs.shape == (len(lengths), longest + 1, 3, 6)
    assert batch.obs.dtype == batch.state.dtype == batch.reward.dtype == dtype
    assert (batch.q_offline is not None) == memory
    expected = sorted(given_episodes, key=lambda e: -e.length)
    for b, episode in enumerate(expected):
        end = episode.length
        for name in ARRAYS if not memory else (*ARRAYS, "q_offline"):
            stored = getattr(batch, name)[b].numpy()
            rows = end + 1 if name in ("obs", "state", "avail_actions") else end
            np.testing.assert_array_equal(stored[:rows], getattr(episode, name))
            assert not stored[rows:].any()
        assert batch.filled[b].tolist() == [True] * end + [False] * (longest - end)
        assert bool(batch.terminated[b]) == episode.terminated


def test_one_episode_without_a_memory_leaves_the_batch_without() -> None:
    rng = np.random.default_rng(0)
    mixed = [random_episode(rng, 3, memory=True), random_episode(rng, 2)]
    assert EpisodeBatch.from_episodes(mixed).q_offline is None


@settings(deadline=None, max_examples=40)
@given(lengths=LENGTHS, memory=st.booleans())
def test_packing_round_trip(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], memory: bool
) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "packed.safetensors"
    before = episodes_of(lengths, memory, 1)
    write_tensors(path, pack_episodes(before))
    after = unpack_episodes(read_tensors(path))
    assert len(after) == len(before)
    for one, other in zip(before, after):
        for field in dataclasses.fields(Episode):
            a, b = getattr(one, field.name), getattr(other, field.name)
            if isinstance(a, np.ndarray):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
            else:
                assert a == b, field.name


@given(
    rewards=st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40),
    gamma=st.floats(0, 1),
)
def test_returns_to_go_equal_the_sum(rewards: list[float], gamma: float) -> None:
    rng = np.random.default_rng(0)
    episode = random_episode(rng, len(rewards))
    episode.reward = np.array(rewards, np.float32)
    ours = episode.returns_to_go(gamma)
    for t in range(len(rewards)):
        expected = sum(gamma**k * r for k, r in enumerate(rewards[t:]))
        assert ours[t] == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert episode.episode_return == pytest.approx(sum(rewards), rel=1e-4, abs=1e-3)
    assert episode.length == len(rewards)


def test_samples_are_different_episodes_drawn_uniformly() -> None:
    rng = np.random.default_rng(0)
    buffer = deque(random_episode(rng, 1) for _ in range(6))
    index = {id(episode): i for i, episode in enumerate(buffer)}
    counts = np.zeros(6)
    for _ in range(2_000):
        drawn = [index[id(episode)] for episode in sample_episodes(buffer, rng, 3)]
        assert len(set(drawn)) == 3
        counts[drawn] += 1
    assert (abs(counts - 1_000) <= 5 * np.sqrt(2_000 * 0.25)).all()
    assert sample_episodes(deque(), rng, 0) == []
    with pytest.raises(ValueError):
        sample_episodes(buffer, rng, 7)
