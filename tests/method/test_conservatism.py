"""The three CQL terms and their joint actions (eq. 9, as MACQL has it)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from reference import SMALL, params_of

from ovmse.method.conservatism import counterfactual_loss, cql_loss, sample_joint_actions
from ovmse.method.learner import new_q_function


def case(seed: int, steps: int = 12, samples: int = 7) -> tuple:
    """A network in float64; values, states, taken actions and K sampled ones of some steps."""
    torch.manual_seed(seed)
    q = new_q_function(SMALL, (8, 4, 6), seed).double()
    q_values = torch.randn(steps, 3, 5, dtype=torch.float64, requires_grad=True)
    state = torch.randn(steps, 7, dtype=torch.float64)
    taken = torch.randint(5, (steps, 3))
    joint = torch.randint(5, (steps, samples, 3))
    return q, q_values, state, taken, joint


def ours(
    case_: tuple, data_action: bool, returns: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and its terms ``Q_tot(tau, a_data)``."""
    q, q_values, state, taken, joint = case_
    weights = q.mixer.weights(state)
    data = q.mixer.mix(weights, q_values.gather(-1, taken.unsqueeze(-1)).squeeze(-1))
    return cql_loss(q_values, data, joint, weights, data_action, returns), data


@pytest.mark.parametrize("data_action", [False, True])
def test_equals_the_loop_with_the_same_samples(data_action: bool) -> None:
    q, q_values, state, taken, joint = case_ = case(0)
    params, total = params_of(q), 0.0
    values = q_values.detach().numpy()
    for m in range(12):
        world = state[m].numpy()
        data = reference.q_tot(params, world, [values[m, i, a] for i, a in enumerate(taken[m])])
        sampled = [
            reference.q_tot(params, world, [values[m, i, a] for i, a in enumerate(row)])
            for row in joint[m]
        ]
        total += math.log(sum(map(math.exp, [*sampled, data] if data_action else sampled))) - data
    assert ours(case_, data_action)[0].item() == pytest.approx(total / 12, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_never_negative_with_the_data_action(seed: int) -> None:
    q, q_values, state, taken, joint = case(seed, steps=1, samples=1)
    with torch.no_grad():  # make the data's action by far the best
        q_values.scatter_add_(-1, taken.unsqueeze(-1), torch.full_like(q_values[..., :1], 50.0))
    joint = (taken.unsqueeze(1) + 1) % 5
    with_data = ours((q, q_values, state, taken, joint), True)[0]
    without = ours((q, q_values, state, taken, joint), False)[0]
    assert 0 <= with_data < 1e-3
    assert without < -0.1  # as in CFCQL's code: not bounded below


def test_pushes_the_data_up_and_the_samples_down() -> None:
    q, q_values, state, _, _ = case(0, steps=1, samples=1)
    taken, joint = torch.tensor([[0, 1, 2]]), torch.tensor([[[3, 4, 0]]])
    loss, _ = ours((q, q_values, state, taken, joint), False)
    (slopes,) = torch.autograd.grad(loss, q_values)
    for agent in range(3):
        assert slopes[0, agent, taken[0, agent]] < 0
        assert slopes[0, agent, joint[0, 0, agent]] > 0


def test_calibrated_pushes_nothing_below_the_returns() -> None:
    case_ = case(3)
    q_values, high = case_[1], torch.full((12,), 1e3, dtype=torch.float64)
    plain, data = ours(case_, False)
    assert torch.equal(ours(case_, False, -high)[0], plain)  # a floor that nothing touches
    raised = ours(case_, False, high)[0]  # a floor above everything: R + log K - Q_tot(data)
    assert raised.item() == pytest.approx(1e3 + math.log(7) - data.mean().item(), abs=1e-9)
    both = torch.autograd.grad(raised, q_values)[0], torch.autograd.grad(-data.mean(), q_values)[0]
    torch.testing.assert_close(*both, rtol=0, atol=1e-15)


def counterfactual(case_: tuple, avail: torch.Tensor) -> torch.Tensor:
    q, q_values, state, taken, _ = case_
    weights = q.mixer.weights(state)
    data = q.mixer.mix(weights, q_values.gather(-1, taken.unsqueeze(-1)).squeeze(-1))
    return counterfactual_loss(q_values, data, taken, avail, weights)


def test_counterfactual_leaves_the_data_one_agent_at_a_time() -> None:
    case_ = case(4)
    q_values, taken = case_[1], case_[3]
    alone = torch.nn.functional.one_hot(taken, 5).bool()
    nothing = counterfactual(case_, alone)  # every agent has the data's action only: no term
    assert nothing.item() == pytest.approx(0, abs=1e-12)
    some = alone | (torch.rand(12, 3, 5) < 0.5)
    loss = counterfactual(case_, some)
    assert loss > 0.1
    (slopes,) = torch.autograd.grad(loss, q_values)
    assert not slopes[~some].any()
    assert (slopes[some & ~alone] > 0).all() and (slopes[alone] <= 1e-12).all()
    with torch.no_grad():
        q_values[~some] = 1e6  # what is not available does not matter
    assert torch.equal(counterfactual(case_, some), loss)


def test_samples_are_available_and_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    avail = torch.tensor(
        [
            [[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
            [[0, 1, 0, 0, 1], [1, 1, 0, 1, 1], [0, 0, 1, 0, 0]],
        ],
        dtype=torch.bool,
    )
    draws = 20_000
    joint = sample_joint_actions(avail, draws, generator)
    assert joint.shape == (2, draws, 3)
    for m in range(2):
        for agent in range(3):
            row = avail[m, agent].numpy()
            counts = np.bincount(joint[m, :, agent].numpy(), minlength=5)
            assert counts[~row].sum() == 0
            share = 1 / row.sum()
            bound = 5 * math.sqrt(draws * share * (1 - share))
            assert (abs(counts[row] - draws * share) <= bound).all()


def test_agents_and_samples_are_drawn_independently() -> None:
    generator = torch.Generator().manual_seed(1)
    draws = 20_000
    joint = sample_joint_actions(torch.ones(2, 2, 3, dtype=torch.bool), draws, generator)
    bound = 5 * math.sqrt(draws / 3 * 2 / 3)
    agents = (joint[0, :, 0] == joint[0, :, 1]).sum()
    steps = (joint[0, :, 0] == joint[1, :, 0]).sum()
    neighbours = (joint[0, 1:, 0] == joint[0, :-1, 0]).sum()
    for same in (agents, steps, neighbours):
        assert abs(same.item() - draws / 3) <= bound


def test_the_same_seed_draws_the_same() -> None:
    avail = torch.ones(4, 3, 5, dtype=torch.bool)
    first, again, other = (
        sample_joint_actions(avail, 6, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
