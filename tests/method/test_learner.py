"""One update: its step, its limits and its state (test_exactness.py: its loss and gradient)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from reference import SMALL, mixed_episodes, params_of

from ovmse.episodes import Episode, EpisodeBatch
from ovmse.method.learner import DivergedError, Learner, UpdateSettings, new_q_function
from ovmse.runs.directory import read_tensors, write_tensors

PLAIN = UpdateSettings(
    lr=1e-3,
    lr_warmup_updates=0,
    target_interval=100,
    gamma=0.9,
    td_lambda=0.6,
    grad_clip=1e9,
    cql_alpha=0.0,
    cql_form="macql",
    cql_samples=4,
    cql_data_action=False,
)
CQL_SEED = 11


def new_learner(seed: int = 1, **changes: object) -> Learner:
    """A float64 learner whose target network differs from its online network."""
    settings = dataclasses.replace(PLAIN, **changes)
    learner = Learner(new_q_function(SMALL, (8, 4, 6), seed).double(), settings, CQL_SEED)
    learner.target.load_state_dict(
        new_q_function(SMALL, (8, 4, 6), seed + 100).double().state_dict()
    )
    return learner


def batch_of(episodes: list[Episode]) -> EpisodeBatch:
    return EpisodeBatch.from_episodes(episodes, torch.float64)


def weights_of(learner: Learner) -> list[torch.Tensor]:
    return [p.detach().clone() for p in learner.q.parameters()]


def test_memory_active_is_the_share_of_steps_that_the_memory_lifts(
    rng: np.random.Generator,
) -> None:
    learner, episodes = new_learner(), mixed_episodes(rng, memory=True)
    online, target = params_of(learner.q), params_of(learner.target)
    lifted = []
    for e in episodes:
        y = reference.td_targets(online, target, e, 0.9, 0.6)
        lifted.extend(e.q_offline > y)
    stats = learner.update(batch_of(episodes), 0.5)
    assert 0 < stats["memory_active"] < 1
    assert stats["memory_active"] == pytest.approx(np.mean(lifted))


def test_double_q_never_picks_an_unavailable_action(rng: np.random.Generator) -> None:
    """Action 0 is never available next: what the networks say of it must not matter."""
    episodes = mixed_episodes(rng)
    for episode in episodes:
        episode.avail_actions[1:, :, 0] = False
        episode.avail_actions[1:, :, 1] = True
        episode.actions[1:] = 1
    learner, batch = new_learner(), batch_of(episodes)

    def target() -> torch.Tensor:
        with torch.no_grad():
            return learner.td_target(batch, learner.q.q_values(batch))

    before = target()
    with torch.no_grad():
        for network in (learner.q, learner.target):
            network.agent.fc_out.bias[0] += 1e6
    assert torch.equal(target(), before)
    with torch.no_grad():
        learner.q.agent.fc_out.bias[1] += 1e6  # available: it is chosen, and valued by the target
    assert not torch.equal(target(), before)
    assert target().abs().max() < 1e3


def test_the_order_of_the_episodes_does_not_matter(rng: np.random.Generator) -> None:
    episodes = mixed_episodes(rng)
    one = new_learner().update(batch_of(episodes))["loss"]
    other = new_learner().update(batch_of(episodes[::-1]))["loss"]
    assert one == pytest.approx(other, abs=1e-12)


def test_gradient_is_clipped_to_its_norm_and_adam_steps(rng: np.random.Generator) -> None:
    episodes = mixed_episodes(rng)
    free, clipped = new_learner(), new_learner(grad_clip=1e-3)
    before = weights_of(clipped)
    free.update(batch_of(episodes))
    clipped.update(batch_of(episodes))
    norm = torch.cat([p.grad.flatten() for p in free.q.parameters()]).norm()
    assert norm > 1e-2
    for p, q, old in zip(clipped.q.parameters(), free.q.parameters(), before):
        torch.testing.assert_close(p.grad, q.grad * 1e-3 / norm, rtol=1e-3, atol=1e-12)
        step = PLAIN.lr * p.grad / (p.grad.abs() + 1e-8)  # Adam's first step
        torch.testing.assert_close(p.detach(), old - step, rtol=0, atol=1e-9)


def test_the_rate_warms_up_from_zero_and_stays(rng: np.random.Generator) -> None:
    batch = batch_of(mixed_episodes(rng))
    learner, rates = new_learner(lr_warmup_updates=4, lr=0.01), []
    for _ in range(6):
        learner.update(batch)
        rates.append(learner.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    at_once = new_learner(lr_warmup_updates=0, lr=0.01)
    at_once.update(batch)
    assert at_once.optimizer.param_groups[0]["lr"] == 0.01


def test_the_rate_falls_in_a_line_and_the_steps_with_it(rng: np.random.Generator) -> None:
    """Of five updates the first has the whole rate and the last a fifth; Adam's steps by hand."""
    batch, learner = batch_of(mixed_episodes(rng)), new_learner(lr=0.01, decay_updates=5)
    for number, rate in enumerate([0.01, 0.008, 0.006, 0.004, 0.002], 1):
        before = weights_of(learner)
        learner.update(batch)
        for old, weight in zip(before, learner.q.parameters()):
            moments = learner.optimizer.state[weight]
            first = moments["exp_avg"] / (1 - 0.9**number)
            second = moments["exp_avg_sq"] / (1 - 0.999**number)
            expected = old - rate * first / (second.sqrt() + 1e-8)
            torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-12)


def test_the_target_network_is_copied_every_interval(rng: np.random.Generator) -> None:
    batch = batch_of(mixed_episodes(rng))
    learner = new_learner(target_interval=3)
    held = [p.clone() for p in learner.target.parameters()]
    for update in range(1, 8):
        learner.update(batch)
        now = list(learner.target.parameters())
        if update % 3 == 0:
            held = weights_of(learner)
        assert all(torch.equal(a, b) for a, b in zip(now, held)), update
        assert not any(p.requires_grad for p in now)
    assert learner.updates == 7


def test_state_round_trip_continues_bit_for_bit(rng: np.random.Generator, tmp_path: Path) -> None:
    batches = [batch_of(mixed_episodes(rng, memory=True)) for _ in range(7)]
    changes = {"cql_alpha": 0.5, "target_interval": 3, "lr_warmup_updates": 5}
    learner = new_learner(**changes)
    for batch in batches[:4]:
        learner.update(batch, 0.5)
    write_tensors(tmp_path / "state.safetensors", learner.state_dict())
    resumed = new_learner(seed=9, **changes)
    resumed.load_state_dict(read_tensors(tmp_path / "state.safetensors"))
    for batch in batches[4:]:
        assert learner.update(batch, 0.5) == resumed.update(batch, 0.5)
    one, other = learner.state_dict(), resumed.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_optimizer_alone_carries_over(rng: np.random.Generator) -> None:
    batch = batch_of(mixed_episodes(rng))
    old = new_learner()
    old.update(batch)
    tensors = {name: tensor.clone() for name, tensor in old.state_dict().items()}
    fresh, carried = new_learner(lr=5e-4), new_learner(lr=5e-4)
    for learner in (fresh, carried):
        learner.q.load_state_dict(old.q.state_dict())
        learner.target.load_state_dict(old.target.state_dict())
    carried.load_optimizer({name: tensor.clone() for name, tensor in tensors.items()})
    assert all(torch.equal(a, b) for a, b in zip(weights_of(fresh), weights_of(old)))
    assert fresh.updates == carried.updates == 0
    for learner in (fresh, carried):
        learner.update(batch)
        assert learner.optimizer.param_groups[0]["lr"] == 5e-4
    # Adam's two moments by hand: the old gradient counts in the carried one alone.
    for name, weight in carried.q.named_parameters():
        index = [n for n, _ in carried.q.named_parameters()].index(name)
        first = 0.9 * tensors[f"adam.{index}.exp_avg"] + 0.1 * weight.grad
        second = 0.999 * tensors[f"adam.{index}.exp_avg_sq"] + 0.001 * weight.grad**2
        moved = 5e-4 * (first / (1 - 0.9**2)) / ((second / (1 - 0.999**2)).sqrt() + 1e-8)
        expected = tensors[f"q.{name}"] - moved
        torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-12)
    assert not torch.equal(weights_of(fresh)[0], weights_of(carried)[0])


@pytest.mark.parametrize("reward", [np.nan, np.inf, 1e5])
def test_a_loss_that_diverged_stops_before_the_step(
    rng: np.random.Generator, reward: float
) -> None:
    """Not finite, or finite but far beyond what returns of at most 20 allow."""
    episodes, learner = mixed_episodes(rng), new_learner()
    learner.update(batch_of(episodes))
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    episodes[0].reward[0] = reward
    with pytest.raises(DivergedError, match=r"at update 2: the loss is \S+, its gradient"):
        learner.update(batch_of(episodes))
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state_dict().items())


@pytest.mark.parametrize(
    ("asked", "lacks"), [({"lambda_memory": 0.5}, "q_offline"), ({"proposals": True}, "proposal")]
)
def test_a_target_without_what_it_needs_is_an_error(
    rng: np.random.Generator, asked: dict[str, Any], lacks: str
) -> None:
    with pytest.raises(ValueError, match=f"the batch has no {lacks}$"):
        new_learner().update(batch_of(mixed_episodes(rng)), **asked)
