"""Who explores and what they draw (Algorithm 2)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ovmse.method.algorithms import EXPLORATIONS
from ovmse.method.exploration import choose_actions, draw_explorers, random_actions

DRAWS = 40_000


def assert_share(count: int, draws: int, share: float) -> None:
    """The count of a binomial, within five standard deviations."""
    assert abs(count - draws * share) <= 5 * math.sqrt(draws * share * (1 - share))


@pytest.mark.parametrize(
    ("exploration", "share"),
    [
        ("epsilon_greedy", 0.4),
        ("sequential_centralised", 0.4 / 5),
        ("sequential_decentralised", 0.4 / 5),
    ],
)
def test_each_agent_explores_with_its_probability(
    rng: np.random.Generator, exploration: str, share: float
) -> None:
    drawn = draw_explorers(rng, exploration, 0.4, (DRAWS, 5))
    assert drawn.shape == (DRAWS, 5)
    for agent in range(5):
        assert_share(drawn[:, agent].sum(), DRAWS, share)


@pytest.mark.parametrize("exploration", ["epsilon_greedy", "sequential_decentralised"])
def test_agents_explore_independently(rng: np.random.Generator, exploration: str) -> None:
    drawn = draw_explorers(rng, exploration, 1.0, (DRAWS, 3))
    share = 1.0 if exploration == "epsilon_greedy" else 1 / 3
    for a, b in ((0, 1), (0, 2), (1, 2)):
        both = (drawn[:, a] & drawn[:, b]).sum()
        assert_share(both, DRAWS, share**2)
    assert_share(drawn.all(1).sum(), DRAWS, share**3)


def test_centralised_is_one_agent_or_none(rng: np.random.Generator) -> None:
    drawn = draw_explorers(rng, "sequential_centralised", 0.3, (DRAWS, 4))
    assert drawn.sum(1).max() == 1
    assert_share(drawn.any(1).sum(), DRAWS, 0.3)
    assert draw_explorers(rng, "sequential_centralised", 1.0, (DRAWS, 4)).sum(1).tolist() == (
        [1] * DRAWS
    )


def test_random_actions_are_available_and_uniform(rng: np.random.Generator) -> None:
    avail = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]], bool)
    drawn = random_actions(rng, np.broadcast_to(avail, (DRAWS, 3, 5)))
    for agent, row in enumerate(avail):
        counts = np.bincount(drawn[:, agent], minlength=5)
        assert counts[~row].sum() == 0
        for count in counts[row]:
            assert_share(count, DRAWS, 1 / row.sum())


def case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Values and masks of 2,000 battles of four agents; agent 3 is dead (one action)."""
    q_values = rng.normal(size=(2_000, 4, 6)).astype(np.float32)
    avail = rng.random((2_000, 4, 6)) < 0.5
    avail[:, :, :2] = True
    avail[:, 3] = False
    avail[:, 3, 4] = True
    q_values[~avail] = 1e6  # what is not available always looks best
    return q_values, avail


@pytest.mark.parametrize("exploration", EXPLORATIONS)
def test_actions_greedy_and_gap_agree(rng: np.random.Generator, exploration: str) -> None:
    q_values, avail = case(rng)
    actions, explored, greedy, gap = choose_actions(rng, exploration, 0.7, q_values, avail)
    explored_elsewhere = 0
    for e in range(len(actions)):
        for i in range(4):
            allowed = np.flatnonzero(avail[e, i])
            best = max(allowed, key=lambda a: q_values[e, i, a])
            assert greedy[e, i] == best
            assert actions[e, i] in allowed
            assert gap[e, i] == q_values[e, i, best] - q_values[e, i, actions[e, i]] >= 0
            if not explored[e, i]:
                assert actions[e, i] == best
            explored_elsewhere += actions[e, i] != best
    assert explored_elsewhere > 0
    assert explored[:, :3].any()
    assert gap.dtype == np.float32


@pytest.mark.parametrize("exploration", EXPLORATIONS)
def test_the_dead_never_explore(rng: np.random.Generator, exploration: str) -> None:
    q_values, avail = case(rng)
    _, explored, _, gap = choose_actions(rng, exploration, 1.0, q_values, avail)
    assert not explored[:, 3].any()
    assert not gap[:, 3].any()
    if exploration == "epsilon_greedy":
        assert explored[:, :3].all()
    else:  # the dead one's share is not handed to the living
        for agent in range(3):
            assert_share(explored[:, agent].sum(), len(explored), 1 / 4)


def test_an_explorer_may_draw_the_greedy_action(rng: np.random.Generator) -> None:
    q_values, avail = case(rng)
    actions, explored, greedy, _ = choose_actions(rng, "epsilon_greedy", 1.0, q_values, avail)
    living = explored[:, :3]
    same = (actions == greedy)[:, :3] & living
    expected = (1 / avail[:, :3].sum(-1))[living]
    deviation = math.sqrt((expected * (1 - expected)).sum())
    assert abs(same.sum() - expected.sum()) <= 5 * deviation


@pytest.mark.parametrize("exploration", EXPLORATIONS)
def test_epsilon_zero_is_greedy(rng: np.random.Generator, exploration: str) -> None:
    q_values, avail = case(rng)
    actions, explored, greedy, gap = choose_actions(rng, exploration, 0.0, q_values, avail)
    assert not explored.any() and not gap.any()
    assert (actions == greedy).all()


@pytest.mark.parametrize("exploration", EXPLORATIONS)
def test_randomness_used_does_not_depend_on_who_explores(exploration: str) -> None:
    states = []
    for epsilon, seed in ((0.0, 1), (0.9, 2)):
        q_values, avail = case(np.random.default_rng(seed))
        stream = np.random.default_rng(7)
        choose_actions(stream, exploration, epsilon, q_values, avail)
        states.append(stream.bit_generator.state)
    assert states[0] == states[1]


def test_an_unknown_exploration_is_named(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=r"'boltzmann'.*epsilon_greedy.*sequential_decentralised"):
        draw_explorers(rng, "boltzmann", 0.1, (2, 3))
