"""TD(lambda) and the offline value memory (eq. 4, 5, 8)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import td_returns

from ovmse.method.algorithms import Algorithm
from ovmse.method.targets import ovm_loss, ovm_target, returns_to_go, td_target


def padded(rows: list[list[float]], padding: float) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor(
        [row + [padding] * (longest - len(row)) for row in rows], dtype=torch.float64
    )


def test_an_algorithm_has_a_target_that_all_know() -> None:
    """Each part of the code asks for it by name: of another name it would train by plain TD."""
    with pytest.raises(ValueError, match="^target: got 'ovm2', allowed: td, ovm, action_proposal$"):
        Algorithm(label="mine", target="ovm2")


@pytest.mark.parametrize("td_lambda", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("padding", [0.0, 1e6, float("nan")])
def test_td_lambda_equals_the_loop(td_lambda: float, padding: float) -> None:
    rng = np.random.default_rng(0)
    lengths = [7, 7, 5, 5, 3, 1, 1]
    terminated = [True, False, True, False, False, True, False]
    rewards = [rng.normal(size=n).tolist() for n in lengths]
    values = [(rng.normal(size=n) * 10).tolist() for n in lengths]
    ours = td_target(
        padded(rewards, padding),
        padded(values, padding),
        torch.tensor(terminated),
        torch.tensor(lengths),
        0.9,
        td_lambda,
    ).numpy()
    for b, length in enumerate(lengths):
        expected = td_returns(rewards[b], np.array(values[b]), terminated[b], 0.9, td_lambda)
        np.testing.assert_allclose(ours[b, :length], expected, rtol=0, atol=1e-12)
        assert not ours[b, length:].any()


def one(terminated: bool, td_lambda: float, longest: int = 2) -> list[float]:
    """Rewards 1, 2 and next values 10, 20 with gamma 0.5, padded to ``longest``."""
    beside = td_target(
        padded([[3.0] * longest, [1.0, 2.0]], 99.0),
        padded([[4.0] * longest, [10.0, 20.0]], 99.0),
        torch.tensor([True, terminated]),
        torch.tensor([longest, 2]),
        0.5,
        td_lambda,
    )
    return beside[1, :2].tolist()


@pytest.mark.parametrize("longest", [2, 5])
def test_by_hand(longest: int) -> None:
    """A time limit bootstraps, a true end does not, and padding changes neither: PyMARL2's
    recursion gives a cut episode that is shorter than its batch less at lambda > 0."""
    assert one(True, 0.0, longest) == [1 + 5, 2]
    assert one(False, 0.0, longest) == [1 + 5, 2 + 10]
    assert one(True, 1.0, longest) == [1 + 1, 2]
    assert one(False, 1.0, longest) == [1 + 6, 2 + 10]
    assert one(False, 0.5, longest) == [1 + 0.5 * (5 + 6), 2 + 10]


def test_returns_to_go_by_hand() -> None:
    """No bootstrap, however the battle ended, and nothing of the padding."""
    rows = padded([[1.0, 2.0, 4.0], [3.0, 8.0]], 99.0)
    returns = returns_to_go(rows, torch.tensor([3, 2]), 0.5)
    assert returns.tolist() == [[3.0, 4.0, 4.0], [7.0, 8.0, 0.0]]


def test_gradient_of_the_ovm_loss_is_that_of_one_blended_regression() -> None:
    torch.manual_seed(0)
    q_tot = torch.randn(40, dtype=torch.float64, requires_grad=True)
    y, memory = torch.randn(2, 40, dtype=torch.float64)
    assert (memory > y).any() and (memory < y).any()
    for weight in (0.0, 0.3, 1.0):
        (ours,) = torch.autograd.grad(ovm_loss(q_tot, y, memory, weight), q_tot)
        blend = (1 - weight) * y + weight * torch.maximum(memory, y)
        (theirs,) = torch.autograd.grad(((q_tot - blend) ** 2).mean(), q_tot)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-15)


def test_ovm_loss_equals_the_loop() -> None:
    rng = np.random.default_rng(1)
    q_tot, y, offline = rng.normal(size=(3, 30))
    total = 0.0
    for q, target, memory in zip(q_tot, y, offline):
        q_ovm = memory if memory > target else target
        total += 0.3 * (q - target) ** 2 + 0.7 * (q - q_ovm) ** 2
    ours = ovm_loss(*map(torch.from_numpy, (q_tot, y, offline)), 0.7)
    assert ours.item() == pytest.approx(total / 30, abs=1e-14)


def test_the_memory_never_lowers_the_target() -> None:
    y, offline = torch.tensor([1.0, 5.0, -2.0]), torch.tensor([3.0, 4.0, -2.0])
    assert ovm_target(y, offline).tolist() == [3.0, 5.0, -2.0]
