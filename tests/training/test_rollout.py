"""Battles to episodes, on a double of an environment whose battles are known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ovmse.envs.base import EnvSpec, Frame, Step
from ovmse.episodes import Episode, EpisodeBatch
from ovmse.method.algorithms import EXPLORATIONS
from ovmse.method.learner import new_q_function
from ovmse.method.networks import QFunction
from ovmse.training.rollout import Rollout, collect

SPEC = EnvSpec("double", "none", 3, 5, 4, 6, 9)  # 3 agents, 5 actions, obs 4, state 6, limit 9


class KnownBattles:
    """A VectorEnv whose slot e plays battles of ``lengths[e]`` steps, in turn.

    What it emits depends on slot, battle and step alone, never on the actions. A battle of
    ``episode_limit`` steps is cut by the time limit, every other one ends, won if its length is
    even.
    """

    spec = SPEC
    exact_state, shares_tests = True, False

    def __init__(self, lengths: list[list[int]]) -> None:
        self.lengths, self.num_envs = lengths, len(lengths)
        self.battle = self.t = np.zeros(0, np.int64)

    def reset(self, seed: int | None = None) -> Frame:
        self.battle, self.t = np.zeros((2, self.num_envs), np.int64)
        return self._frame()

    def length(self, slot: int, battle: int) -> int:
        return self.lengths[slot][battle % len(self.lengths[slot])]

    def row(self, slot: int, battle: int, t: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """obs, state and avail_actions at one step of one battle; numbers fit half precision."""
        rng = np.random.default_rng([slot, battle, t])
        obs = rng.normal(size=(SPEC.n_agents, SPEC.obs_size)).astype(np.float16)
        state = np.array([slot, battle, t, *rng.normal(size=3)]).astype(np.float16)
        avail = rng.random((SPEC.n_agents, SPEC.n_actions)) < 0.6
        avail[:, 2] = True
        if t >= 2:  # agent 1 dies
            avail[1] = np.arange(SPEC.n_actions) == 4
        return obs.astype(np.float32), state.astype(np.float32), avail

    def reward(self, slot: int, battle: int, t: int) -> float:
        return slot + battle / 8 + t / 64

    def _frame(self) -> Frame:
        rows = [self.row(e, self.battle[e], self.t[e]) for e in range(self.num_envs)]
        return Frame(*(np.stack(column) for column in zip(*rows)))

    def step(self, actions: np.ndarray) -> Step:
        assert actions.shape == (self.num_envs, SPEC.n_agents)
        slots = range(self.num_envs)
        avail = self._frame().avail_actions
        assert np.take_along_axis(avail, actions[..., None], -1).all()
        rewards = [self.reward(e, self.battle[e], self.t[e]) for e in slots]
        self.t = self.t + 1
        last = self._frame()
        lengths = np.array([self.length(e, self.battle[e]) for e in slots])
        done, cut = self.t == lengths, lengths == SPEC.episode_limit
        self.battle = self.battle + done
        self.t = np.where(done, 0, self.t)
        return Step(
            now=self._frame(),
            last=last,
            reward=np.array(rewards, np.float32),
            terminated=done & ~cut,
            truncated=done & cut,
            won=done & ~cut & (lengths % 2 == 0),
        )

    def get_state(self) -> list[np.ndarray]:
        return [self.battle, self.t]

    def set_state(self, arrays: list[np.ndarray]) -> None:
        self.battle, self.t = arrays

    def close(self) -> None:
        pass


LENGTHS = [[1], [9], [2, 7, 3], [9, 1]]


@pytest.fixture
def q() -> QFunction:
    return new_q_function(SPEC, (8, 4, 6), seed=1)


def origin(episode: Episode) -> tuple[int, int]:
    """The slot and the number of the battle, which the first row of the state holds."""
    return int(episode.state[0, 0]), int(episode.state[0, 1])


@pytest.mark.parametrize("battles", [1, 3, 4, 10, 41])
def test_collect_plays_a_fixed_share_of_each_slot(q: QFunction, battles: int) -> None:
    env = KnownBattles(LENGTHS)
    episodes = list(collect(q, env, battles, np.random.default_rng(0)))
    shares = [battles // 4 + (slot < battles % 4) for slot in range(4)]
    expected = [(slot, battle) for slot, share in enumerate(shares) for battle in range(share)]
    assert sorted(map(origin, episodes)) == expected
    assert sorted(e.length for e in episodes) == sorted(env.length(*o) for o in expected)


@pytest.mark.parametrize("exploration", EXPLORATIONS)
def test_rows_are_what_the_environment_emitted(q: QFunction, exploration: str) -> None:
    env = KnownBattles(LENGTHS)
    episodes = list(collect(q, env, 20, np.random.default_rng(0), exploration, 0.5))
    for episode in episodes:
        slot, battle = origin(episode)
        for t in range(episode.length + 1):  # the last row too: not the next battle's first
            obs, state, avail = env.row(slot, battle, t)
            np.testing.assert_array_equal(episode.obs[t], obs)
            np.testing.assert_array_equal(episode.state[t], state)
            np.testing.assert_array_equal(episode.avail_actions[t], avail)
        rewards = [env.reward(slot, battle, t) for t in range(episode.length)]
        np.testing.assert_array_equal(episode.reward, np.float32(rewards))
        assert episode.terminated == (episode.length < SPEC.episode_limit)
        assert episode.won == (episode.terminated and episode.length % 2 == 0)
        types = (episode.obs, episode.state, episode.actions, episode.reward)
        assert [a.dtype for a in types] == [np.float16, np.float16, np.uint8, np.float32]


@pytest.mark.parametrize("exploration", EXPLORATIONS)
def test_every_battle_begins_with_a_fresh_memory(q: QFunction, exploration: str) -> None:
    """Greedy actions and gaps equal those of histories that begin with the battle: neither the
    hidden state nor the last action of the battle before it leaks in."""
    env = KnownBattles(LENGTHS)
    episodes = list(collect(q, env, 40, np.random.default_rng(0), exploration, 0.6))
    assert sum(origin(e)[1] > 0 for e in episodes) > 30
    explored = 0
    for e in episodes:
        with torch.no_grad():
            values = q.q_values(EpisodeBatch.from_episodes([e]))[0, :-1].numpy()
        masked = np.where(e.avail_actions[:-1], values, -np.inf)
        greedy, who = masked.argmax(-1), e.exploration
        np.testing.assert_array_equal(who.greedy, greedy)
        taken = np.take_along_axis(values, e.actions[..., None].astype(int), -1)[..., 0]
        np.testing.assert_allclose(who.gap, masked.max(-1) - taken, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(e.actions[~who.explored], greedy[~who.explored])
        assert not who.explored[2:, 1].any()  # the dead one
        assert who.explored.shape == who.greedy.shape == who.gap.shape == e.actions.shape
        explored += who.explored.sum()
    assert explored > 0


def test_collected_episodes_share_no_memory(q: QFunction) -> None:
    stream = collect(q, KnownBattles([[2, 3]]), 3, np.random.default_rng(0), epsilon=0.5)
    first = next(stream)
    held = {name: getattr(first, name).copy() for name in ("obs", "state", "actions", "reward")}
    list(stream)
    for name, array in held.items():
        np.testing.assert_array_equal(getattr(first, name), array)


def same(one: list[tuple[int, Episode]], other: list[tuple[int, Episode]]) -> bool:
    return [slot for slot, _ in one] == [slot for slot, _ in other] and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for (_, a), (_, b) in zip(one, other)
        for name in ("obs", "state", "avail_actions", "actions", "reward", "terminated", "won")
    )


def test_a_stream_resumes_in_the_middle_of_its_battles(q: QFunction) -> None:
    rng = np.random.default_rng(0)
    rollout = Rollout(KnownBattles(LENGTHS), rng, q.hidden_size)
    rollout.start()
    for _ in range(5):
        rollout.step(q, "epsilon_greedy", 0.5)
    arrays = {name: array.copy() for name, array in rollout.state_dict().items()}
    other_rng = np.random.default_rng(99)
    resumed = Rollout(KnownBattles(LENGTHS), other_rng, q.hidden_size)
    resumed.load_state_dict(arrays)
    other_rng.bit_generator.state = rng.bit_generator.state
    ended = 0
    for _ in range(30):
        one, _ = rollout.step(q, "epsilon_greedy", 0.5)
        assert same(one, resumed.step(q, "epsilon_greedy", 0.5)[0])
        ended += len(one)
    assert ended > 30
