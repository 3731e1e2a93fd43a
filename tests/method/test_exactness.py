"""Every target, loss and regulariser against the slow reference, on random ragged batches.

Batches hold dead agents, unavailable actions, battles that ended and battles that the time limit
cut; sizes, weights and settings are random too. Values and gradients agree to 1e-9 in float64
and to 1e-4 in float32, relative to the size of what is compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Cql, params_of, random_episode
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ovmse.envs.base import EnvSpec
from ovmse.episodes import Episode, EpisodeBatch
from ovmse.method.algorithms import CQL_FORMS
from ovmse.method.conservatism import sample_joint_actions
from ovmse.method.learner import Learner, UpdateSettings, new_q_function
from ovmse.method.networks import QFunction, gather_actions

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
CQL_SEED = 11


def exactly(examples: int) -> Callable:
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


@dataclasses.dataclass
class Case:
    """A batch, the weights of both networks in float32, and the settings of an update."""

    spec: EnvSpec
    episodes: list[Episode]  # longest first
    online: QFunction
    target: QFunction
    settings: UpdateSettings
    lambda_memory: float
    rng: np.random.Generator

    def learner(self, dtype: torch.dtype, **changes: object) -> Learner:
        """The same weights in ``dtype``."""
        online = new_q_function(self.spec, sizes_of(self.online), 0).to(dtype)
        online.load_state_dict(self.online.state_dict())
        learner = Learner(online, dataclasses.replace(self.settings, **changes), CQL_SEED)
        learner.target.load_state_dict(self.target.state_dict())
        return learner

    def batch(self, dtype: torch.dtype) -> EpisodeBatch:
        return EpisodeBatch.from_episodes(self.episodes, dtype)

    def without(self, *names: str) -> Case:
        """The same without the memory or the proposals."""
        bare = [dataclasses.replace(e, **dict.fromkeys(names)) for e in self.episodes]
        return dataclasses.replace(self, episodes=bare)

    def targets(self) -> list[np.ndarray]:
        """y of each episode, slowly."""
        s, online, target = self.settings, params_of(self.online), params_of(self.target)
        return [
            reference.td_targets(online, target, e, s.gamma, s.td_lambda) for e in self.episodes
        ]

    def cql(self, form: str) -> Cql:
        """The reference's term, with the joint actions that a fresh learner draws."""
        s, batch = self.settings, self.batch(torch.float64)
        avail = batch.avail_actions[:, :-1][batch.filled]
        generator = torch.Generator().manual_seed(CQL_SEED)
        samples = sample_joint_actions(avail, s.cql_samples, generator)
        assert gather_actions(avail.unsqueeze(1).expand(*samples.shape, -1), samples).all()
        return Cql(form, samples.numpy(), s.cql_data_action, s.gamma)


def sizes_of(q: QFunction) -> tuple[int, int, int]:
    return q.hidden_size, q.mixer.embed_size, q.mixer.hyper_w1[0].out_features


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """The shapes are hypothesis's; the numbers are noise that is another for any other shape."""
    agents, actions = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    obs_size, state_size = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    spec = EnvSpec("random", "none", agents, actions, obs_size, state_size, episode_limit=8)
    sizes = (draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 5)))
    shapes = draw(st.lists(st.tuples(st.integers(1, 8), st.booleans()), min_size=1, max_size=6))
    shapes.sort(key=lambda shape: -shape[0])
    samples, data_action = draw(st.integers(1, 5)), draw(st.booleans())
    seed = [draw(st.integers(0, 2**32)), agents, actions, obs_size, state_size, *sizes, samples]
    rng = np.random.default_rng([*seed, *(2 * length + ended for length, ended in shapes)])

    def share() -> float:
        return float(rng.choice([0.0, 1.0, rng.random()], p=[0.1, 0.1, 0.8]))

    scale = rng.choice([0.1, 1.0, 5.0])
    episodes = [
        random_episode(rng, length, ended, spec, True, True, deaths=True, reward=scale)
        for length, ended in shapes
    ]
    online, target = (new_q_function(spec, sizes, int(s)) for s in rng.integers(2**31, size=2))
    larger = rng.choice([1.0, 2.0])
    with torch.no_grad():
        for weight in (*online.parameters(), *target.parameters()):
            weight *= larger
    update = UpdateSettings(
        lr=1e-3,
        lr_warmup_updates=0,
        target_interval=100,
        gamma=share(),
        td_lambda=share(),
        grad_clip=1e9,
        cql_alpha=rng.uniform(0.01, 5),
        cql_form="macql",
        cql_samples=samples,
        cql_data_action=data_action,
    )
    return Case(spec, episodes, online, target, update, share(), rng)


def assert_close(ours: object, theirs: object, dtype: torch.dtype) -> None:
    """Within the tolerance of ``dtype``, relative to the largest entry or to 1, whichever is more
    (a ``Q_tot`` is of that size: it is a sum in which values and biases may cancel)."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs)
    assert ours.shape == theirs.shape
    scale = max(1.0, np.abs(theirs).max(initial=0))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE[dtype] * scale)


def assert_gradient(
    gradients: dict[str, Tensor],
    slow: Callable[[reference.Params], np.ndarray],
    case: Case,
    expected: tuple[reference.Params, np.ndarray] | None = None,
) -> tuple[reference.Params, np.ndarray]:
    """Directional derivatives: along each tensor alone, and along all of them at once.

    In float64 each tensor is compared at the size of its own gradient, with a floor of 1e-3: the
    derivative of ``Q_tot`` by the bias of the mixer's ``b2`` is 1, so that is small beside what
    the terms of a sum that nearly cancels were. In float32 at the size of the whole gradient.
    """
    params = params_of(case.online)
    if expected is None:
        along = reference.directions(params, case.rng)
        expected = along, reference.derivatives(slow, params, along)
    along, theirs = expected
    ours = sum(
        (gradients[name].double().numpy() * along[name]).reshape(len(theirs), -1).sum(1)
        for name in params
    )
    norms = np.array([gradients[name].double().norm().item() for name in params])
    whole = np.linalg.norm(norms)
    if next(iter(gradients.values())).dtype == torch.float64:
        scale = np.maximum(np.append(norms, [whole] * (len(theirs) - len(norms))), 1e-3)
        tolerance = 1e-9 * scale
    else:
        tolerance = np.full(len(theirs), 1e-4 * max(whole, 1.0))
    names = [*params, *["all"] * (len(theirs) - len(params))]
    wrong = [
        f"{name}: {a} not {b}"
        for name, a, b, allowed in zip(names, ours, theirs, tolerance)
        if not abs(a - b) <= allowed
    ]
    assert not wrong, "; ".join(wrong)
    return expected


def gradients_of(learner: Learner, loss: Tensor) -> dict[str, Tensor]:
    names, weights = zip(*learner.q.named_parameters())
    found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found))


# Targets.


@pytest.mark.parametrize("proposal", [False, True])
@exactly(20)
@given(case=cases())
def test_target_of_double_q_td_lambda_and_proposals(proposal: bool, case: Case) -> None:
    if not proposal:
        case = case.without("proposal")
    slow = case.targets()
    for dtype in TOLERANCE:
        learner, batch = case.learner(dtype), case.batch(dtype)
        y = learner.td_target(batch, learner.q.q_values(batch))
        assert not y.requires_grad
        for row, expected in zip(y.numpy(), slow):
            assert_close(row[: len(expected)], expected, dtype)
            assert not row[len(expected) :].any()


# Losses.

REGULARISERS = [None, *CQL_FORMS]
TARGETS = ["td", "ovm", "action_proposal"]


@pytest.mark.parametrize("form", CQL_FORMS)
@exactly(20)
@given(case=cases())
def test_cql_term_alone(form: str, case: Case) -> None:
    cql, nothing = case.cql(form), [np.zeros(e.length) for e in case.episodes]

    def slow(p: reference.Params) -> np.ndarray:
        return reference.losses(p, case.episodes, nothing, cql=cql)[1]

    value, expected = slow(params_of(case.online)), None
    for dtype in TOLERANCE:
        learner, batch = case.learner(dtype, cql_form=form), case.batch(dtype)
        q_values = learner.q.q_values(batch)[:, :-1][batch.filled]
        weights = learner.q.mixer.weights(batch.state[:, :-1][batch.filled])
        data = gather_actions(q_values, batch.actions[batch.filled])
        loss = learner.cql(batch, q_values, learner.q.mixer.mix(weights, data), weights)
        assert_close(loss.item(), value, dtype)
        expected = assert_gradient(gradients_of(learner, loss), slow, case, expected)


@pytest.mark.parametrize("form", REGULARISERS)
@pytest.mark.parametrize("target", TARGETS)
@exactly(8)
@given(case=cases())
def test_loss_of_one_update(target: str, form: str | None, case: Case) -> None:
    if target != "action_proposal":
        case = case.without("proposal")
    lambda_memory = case.lambda_memory if target == "ovm" else None
    alpha = case.settings.cql_alpha if form else 0.0
    cql, targets = case.cql(form) if form else None, case.targets()

    def slow(p: reference.Params) -> np.ndarray:
        td, conservative = reference.losses(p, case.episodes, targets, lambda_memory, cql)
        return td + alpha * conservative

    value, expected = slow(params_of(case.online)), None
    for dtype in TOLERANCE:
        learner = case.learner(dtype, cql_alpha=alpha, cql_form=form or "macql")
        stats = learner.update(case.batch(dtype), lambda_memory)
        assert_close(stats["loss"], value, dtype)
        gradients = {name: weight.grad for name, weight in learner.q.named_parameters()}
        expected = assert_gradient(gradients, slow, case, expected)


@exactly(15)
@given(case=cases())
def test_memory_is_one_regression_onto_the_blended_target(case: Case) -> None:
    """eq. 5: the same gradient as ``(Q_tot - [(1 - lambda) y + lambda Q_OVM])^2``."""
    case, weight = case.without("proposal"), case.lambda_memory
    blend = [
        (1 - weight) * y + weight * np.maximum(y, e.q_offline)
        for y, e in zip(case.targets(), case.episodes)
    ]

    def slow(p: reference.Params) -> np.ndarray:
        return reference.losses(p, case.episodes, blend)[0]

    expected = None
    for dtype in TOLERANCE:
        learner = case.learner(dtype, cql_alpha=0.0)
        learner.update(case.batch(dtype), weight)
        gradients = {name: p.grad for name, p in learner.q.named_parameters()}
        expected = assert_gradient(gradients, slow, case, expected)


# Padding.


def outcome(case: Case, batch: EpisodeBatch, form: str) -> list[Tensor]:
    """Values, targets, the loss and its gradient."""
    learner = case.learner(torch.float64, cql_form=form)
    y = learner.td_target(batch, learner.q.q_values(batch))
    loss = learner.update(batch, case.lambda_memory)["loss"]
    gradients = [weight.grad for weight in learner.q.parameters()]
    return [learner.q.q_tot_taken(batch), y, torch.tensor(loss), *gradients]


@pytest.mark.parametrize("form", CQL_FORMS)
@exactly(10)
@given(case=cases())
def test_padding_never_matters(form: str, case: Case) -> None:
    """Neither do what lies beyond an end and the last row of a battle that truly ended."""
    clean, dirty = case.batch(torch.float64), case.batch(torch.float64)
    for b, episode in enumerate(case.episodes):
        end = episode.length
        for tensor in (dirty.obs, dirty.state):
            tensor[b, end + 1 :] = torch.nan
        for tensor in (dirty.reward, dirty.q_offline):
            tensor[b, end:] = torch.nan
        dirty.actions[b, end:] = dirty.proposal[b, end + 1 :] = case.spec.n_actions - 1
        dirty.avail_actions[b, end + 1 :] = True
        if episode.terminated:
            dirty.obs[b, end] = dirty.state[b, end] = 7.0
            dirty.avail_actions[b, end] = True
            dirty.proposal[b, end] = 0
    for a, b in zip(outcome(case, clean, form), outcome(case, dirty, form), strict=True):
        assert torch.equal(a, b)


@exactly(12)
@given(case=cases(), extra=st.integers(1, 4))
def test_a_longer_episode_beside_it_changes_no_other(case: Case, extra: int) -> None:
    longer = random_episode(case.rng, 8 + extra, spec=case.spec, memory=True, proposal=True)

    def found(episodes: Sequence[Episode]) -> tuple[np.ndarray, np.ndarray]:
        learner = case.learner(torch.float64)
        batch = EpisodeBatch.from_episodes(episodes, torch.float64)
        y = learner.td_target(batch, learner.q.q_values(batch))
        return y.numpy(), learner.q.q_tot_taken(batch).numpy()

    together = found([longer, *case.episodes])
    for b, episode in enumerate(case.episodes):
        for alone, beside in zip(found([episode]), together):
            scale = max(1, np.abs(alone).max())
            beside = beside[b + 1, : episode.length]
            np.testing.assert_allclose(beside, alone[0], rtol=0, atol=1e-12 * scale)


# The path of a GPU, run on the CPU.


@exactly(20)
@given(case=cases(), seed=st.integers(0, 2**31))
def test_both_ways_through_the_gru_agree(case: Case, seed: int) -> None:
    """``Agent.unroll`` on a CPU against ``nn.GRU`` on packed sequences, which a GPU uses."""
    generator = torch.Generator().manual_seed(seed)
    longest = case.episodes[0].length
    counts = [sum(e.length >= t for e in case.episodes) for t in range(longest + 1)]
    for dtype in TOLERANCE:
        agent = case.learner(dtype).q.agent
        inputs = torch.randn(
            sum(counts), agent.fc_in.in_features, generator=generator, dtype=dtype
        ).requires_grad_()
        towards = torch.randn(sum(counts), case.spec.n_actions, generator=generator, dtype=dtype)
        packed = PackedSequence(torch.relu(agent.fc_in(inputs)), torch.tensor(counts))
        both = agent.unroll(inputs, counts), agent.fc_out(agent.gru(packed)[0].data)
        with torch.no_grad():
            assert torch.equal(agent.unroll(inputs, counts), both[0])
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        wanted = [inputs, *agent.parameters()]
        ours, theirs = (torch.autograd.grad((out * towards).sum(), wanted) for out in both)
        for a, b in zip((both[0], *ours), (both[1], *theirs)):
            scale = max(1.0, b.abs().max().item())
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)
