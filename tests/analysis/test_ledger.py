"""The drift ledger against real updates, and against a gradient of a loss written out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exploring import climb_run

from analysis.battles import record
from analysis.ledger import MaskedLearner, asked, fixed_gradient, ledger, somebody_explored
from analysis.prices import batched
from analysis.snapshots import Snapshots
from ovmse.method.learner import Learner
from ovmse.training.phase import FixedBattles, online_settings

pytestmark = pytest.mark.slow

AT = 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("climb")


@pytest.fixture(scope="module", params=["ovmse", "macql", "action_proposal", "se"])
def of(request: pytest.FixtureRequest, folder: Path) -> Snapshots:
    return Snapshots(climb_run(folder, algorithm=request.param, online_steps=800))


@pytest.fixture(scope="module")
def battles(of: Snapshots):
    return record(of.run, AT, "epsilon_greedy", 0.2, 24, 1)


def test_all_is_a_real_update(of: Snapshots, battles) -> None:
    got = ledger(of, AT, battles, batches=1, seed=3)
    size = min(of.config.batch_size, 12)
    some = [battles[b] for b in np.random.default_rng(3).choice(24, size, replace=False)]
    given = asked(of, AT, [b.episode for b in some])
    q = of.network(AT).requires_grad_(True)
    settings = replace(online_settings(of.config), lr_warmup_updates=0)
    fixed = FixedBattles(of.fixed, of.config.gamma)
    before = fixed.measure(q)["q_fixed"]
    Learner(q, settings, 0).update(batched(some)[2], **given)
    change = fixed.measure(q)["q_fixed"] - before
    assert got.part.tolist() == ["all", "explored", "greedy"]
    assert got.change[0] == pytest.approx(change, abs=1e-6) and abs(change) > 1e-3
    assert got.share[0] == 1 and got.share[1] + got.share[2] == pytest.approx(1)
    assert min(got.share) > 0.1


def test_parts_add_up_to_the_whole(of: Snapshots, battles) -> None:
    settings = replace(online_settings(of.config), cql_alpha=0.0)  # whose samples differ
    _, episodes, batch = batched(battles)
    given = asked(of, AT, episodes)
    batch = type(batch).from_episodes(episodes)
    explored = somebody_explored(episodes, batch)
    gradients = []
    for mask in (batch.filled, explored, batch.filled & ~explored):
        learner = MaskedLearner(of.network(AT).requires_grad_(True), settings, 0)
        learner.masked_update(batch, mask, **given)
        gradients.append(torch.cat([g.flatten() for g in learner.gradient]))
    whole, one, other = gradients
    assert torch.allclose(whole, one + other, atol=1e-5) and one.norm() > 0.01


def test_the_first_order_is_what_a_small_step_does(folder: Path) -> None:
    """Plain gradient descent on a loss written out: SE, whose loss is the TD error alone."""
    of = Snapshots(climb_run(folder, algorithm="se", online_steps=800))
    battles = record(of.run, AT, "epsilon_greedy", 0.2, 40, 1)
    _, episodes, batch = batched(battles)
    explored = somebody_explored(episodes, batch)
    q = of.network(AT).requires_grad_(True)
    target = Learner(q, online_settings(of.config), 0).td_target(batch, q.q_values(batch).detach())
    taken = q.q_values(batch)[:, :-1].gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
    shape = explored.shape
    q_tot = q.q_tot(taken.flatten(0, 1), batch.state[:, :-1].flatten(0, 1)).view(shape)
    loss = (((q_tot - target) ** 2) * explored).sum() / batch.filled.sum()
    loss.backward()

    learner = MaskedLearner(of.network(AT).requires_grad_(True), online_settings(of.config), 0)
    learner.masked_update(batch, explored)
    for ours, parameter in zip(learner.gradient, q.parameters(), strict=True):
        assert torch.allclose(ours, parameter.grad, atol=1e-5)

    fixed = FixedBattles(of.fixed, of.config.gamma)
    towards, rate = fixed_gradient(of.network(AT).requires_grad_(True), fixed.batch), 1e-4
    predicted = -rate * sum(float((a * p.grad).sum()) for a, p in zip(towards, q.parameters()))
    before = fixed.measure(q)["q_fixed"]
    with torch.no_grad():
        for parameter in q.parameters():
            parameter -= rate * parameter.grad
    assert fixed.measure(q)["q_fixed"] - before == pytest.approx(predicted, rel=0.05)


def test_its_columns_are_what_their_names_say(folder: Path) -> None:
    """One battle of two, in plain loops: how far its targets lie above, and plain gradient descent
    at the run's own rate."""
    of = Snapshots(climb_run(folder, algorithm="se", online_steps=800))
    battles = record(of.run, AT, "epsilon_greedy", 0.5, 2, 1)
    got = ledger(of, AT, battles, batches=1, seed=0).set_index("part")
    (one,) = np.random.default_rng(0).choice(2, 1, replace=False)
    batch = batched([battles[one]])[2]
    q = of.network(AT).requires_grad_(True)
    target = Learner(q, online_settings(of.config), 0).td_target(batch, q.q_values(batch).detach())
    taken = q.q_values(batch)[0, :-1].gather(-1, batch.actions[0].unsqueeze(-1)).squeeze(-1)
    off = target[0] - q.q_tot(taken, batch.state[0, :-1])
    assert got.too_low["all"] == pytest.approx(float(off.detach().mean()), abs=1e-5)
    mask = somebody_explored(*batched([battles[one]])[1:])[0]
    assert got.too_low["explored"] == pytest.approx(float(off.detach()[mask].mean()), abs=1e-5)
    (off**2).mean().backward()
    fixed = FixedBattles(of.fixed, of.config.gamma)
    towards = fixed_gradient(of.network(AT).requires_grad_(True), fixed.batch)
    moved = sum(float((a * p.grad).sum()) for a, p in zip(towards, q.parameters()))
    assert got.first_order["all"] == pytest.approx(-of.config.online_lr * moved, rel=1e-3)
    assert abs(moved) > 1e-3
    parts = got.first_order["explored"] + got.first_order["greedy"]
    assert parts == pytest.approx(got.first_order["all"], rel=1e-3)


def test_a_part_without_steps_moves_nothing(of: Snapshots) -> None:
    got = ledger(of, AT, record(of.run, AT, "epsilon_greedy", 0.0, 8, 1), batches=1)
    assert got.set_index("part").loc["explored", ["share", "change", "first_order"]].eq(0).all()
    assert got.change[0] == pytest.approx(got.change[2])
