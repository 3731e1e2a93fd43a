"""Agent, mixer and the ragged GRU against slow references (eq. 1-3)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
import torch
from reference import SMALL, mixed_episodes, params_of, random_episode
from torch import Tensor, nn

from ovmse.episodes import EpisodeBatch
from ovmse.method.learner import new_q_function
from ovmse.method.networks import QFunction
from ovmse.method.recurrent import RaggedGRU

COUNTS = [[5], [4, 4, 3, 1, 1], [6, 2], [1, 1, 1]]


@pytest.fixture
def q() -> QFunction:
    return new_q_function(SMALL, (8, 4, 6), seed=1).double()


def loop(cell: nn.GRUCell, x: Tensor, counts: list[int]) -> Tensor:
    """The hidden states of rows ``x [R, I]``, one ``GRUCell`` call per step."""
    hidden, out = x.new_zeros(counts[0], cell.hidden_size), []
    for rows in x.split(counts):
        hidden = cell(rows, hidden[: len(rows)])
        out.append(hidden)
    return torch.cat(out)


@pytest.mark.parametrize("counts", COUNTS)
def test_ragged_gru_equals_a_loop_of_gru_cells(counts: list[int]) -> None:
    torch.manual_seed(0)
    cell = nn.GRUCell(3, 4).double()
    x = torch.randn(sum(counts), 3, dtype=torch.float64, requires_grad=True)
    towards = torch.randn(sum(counts), 4, dtype=torch.float64)
    weights = cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh
    ours, theirs = RaggedGRU.apply(x, *weights, counts), loop(cell, x, counts)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    wanted = [x, *cell.parameters()]
    for a, b in zip(
        torch.autograd.grad((ours * towards).sum(), wanted),
        torch.autograd.grad((theirs * towards).sum(), wanted),
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_ragged_gru_passes_gradcheck() -> None:
    torch.manual_seed(1)
    counts = [3, 2, 2, 1]
    inputs = [torch.randn(*s, dtype=torch.float64) for s in ((8, 3), (6, 3), (6, 2), (6,), (6,))]
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *xs: RaggedGRU.apply(*xs, counts), inputs)


def test_q_values_and_q_tot_equal_the_reference(q: QFunction, rng: np.random.Generator) -> None:
    episodes = mixed_episodes(rng)
    batch = EpisodeBatch.from_episodes(episodes, torch.float64)
    values, taken = q.q_values(batch).detach().numpy(), q.q_tot_taken(batch).numpy()
    params = params_of(q)
    for b, episode in enumerate(episodes):
        end = episode.length
        expected = reference.agent_values(params, episode)
        np.testing.assert_allclose(values[b, : end + 1], expected, rtol=0, atol=1e-13)
        assert not values[b, end + 1 :].any()
        expected = reference.q_tot_taken(params, episode)
        np.testing.assert_allclose(taken[b, :end], expected, rtol=0, atol=1e-13)
        assert not taken[b, end:].any()


def test_acting_equals_q_values_step_by_step(q: QFunction, rng: np.random.Generator) -> None:
    episodes = [random_episode(rng, 5) for _ in range(3)]
    batch = EpisodeBatch.from_episodes(episodes, torch.float64)
    values = q.q_values(batch)
    hidden = torch.zeros(3 * SMALL.n_agents, q.hidden_size, dtype=torch.float64)
    last = torch.full((3, SMALL.n_agents), -1)
    for t in range(6):
        now, hidden = q.act(batch.obs[:, t], last, hidden)
        torch.testing.assert_close(now, values[:, t], rtol=0, atol=1e-13)
        last = batch.actions[:, t] if t < 5 else last


def test_mixing_is_monotone(q: QFunction) -> None:
    torch.manual_seed(2)
    q_agents = torch.randn(500, 3, dtype=torch.float64).mul(5).requires_grad_()
    total = q.q_tot(q_agents, torch.randn(500, 7, dtype=torch.float64) * 3)
    slopes = torch.autograd.grad(total.sum(), q_agents)[0]
    assert slopes.min() >= 0
    assert slopes.max() > 0


def test_the_best_joint_action_is_made_of_each_agents_best(q: QFunction) -> None:
    """eq. 3, by brute force over all joint actions."""
    torch.manual_seed(3)
    q_agents = torch.randn(20, 3, 5, dtype=torch.float64) * 3
    state = torch.randn(20, 7, dtype=torch.float64) * 3
    joint = torch.tensor(list(itertools.product(range(5), repeat=3)))
    everything = torch.stack(
        [q.q_tot(q_agents[:, range(3), actions], state) for actions in joint], 1
    )
    greedy = q.q_tot(q_agents.amax(-1), state)
    torch.testing.assert_close(greedy, everything.amax(1), rtol=0, atol=1e-13)
    assert (everything.amax(1) > everything.amin(1)).all()


def test_many_joint_actions_at_once_equal_one_by_one(q: QFunction) -> None:
    torch.manual_seed(4)
    state = torch.randn(6, 7, dtype=torch.float64)
    many = torch.randn(6, 4, 3, dtype=torch.float64)
    weights = q.mixer.weights(state)
    together = q.mixer.mix(weights, many)
    assert together.shape == (6, 4)
    for k in range(4):
        torch.testing.assert_close(together[:, k], q.q_tot(many[:, k], state), rtol=0, atol=1e-13)


def test_changing_one_agent_equals_mixing_anew(q: QFunction) -> None:
    torch.manual_seed(7)
    state = torch.randn(6, 7, dtype=torch.float64)
    values, taken = torch.randn(6, 3, 5, dtype=torch.float64), torch.randn(6, 3).double()
    changed = q.mixer.mix_each(q.mixer.weights(state), taken, values)
    assert changed.shape == (6, 3, 5)
    for i, a in itertools.product(range(3), range(5)):
        joint = taken.clone()
        joint[:, i] = values[:, i, a]
        expected = q.q_tot(joint, state)
        torch.testing.assert_close(changed[:, i, a], expected, rtol=0, atol=1e-13)


def test_greedy_actions_are_the_best_available(q: QFunction, rng: np.random.Generator) -> None:
    episodes, params = mixed_episodes(rng), params_of(q)
    actions = q.greedy_actions(EpisodeBatch.from_episodes(episodes, torch.float64))
    assert not actions.requires_grad
    for row, episode in zip(actions.tolist(), episodes):
        values = reference.agent_values(params, episode)
        for t in range(episode.length + 1):
            assert row[t] == reference.greedy(values[t], episode.avail_actions[t])


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = new_q_function(SMALL, (8, 4, 6), seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    again = new_q_function(SMALL, (8, 4, 6), seed=3).state_dict()
    other = new_q_function(SMALL, (8, 4, 6), seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
