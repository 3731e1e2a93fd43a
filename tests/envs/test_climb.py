"""Climb: the game agrees with its exact solution, and learning with what theory says of it."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from battles import assert_same, play
from torch import Tensor

from ovmse import Config, make_env, train
from ovmse.datasets import load_dataset, write_dataset
from ovmse.envs import Frame, Step, VectorEnv
from ovmse.envs.climb import CLIMB_TASKS, LEAP, REST, ROPE, STEP, solve
from ovmse.episodes import Episode, EpisodeBatch
from ovmse.method.algorithms import CQL_FORMS
from ovmse.method.learner import Learner, UpdateSettings, new_q_function
from ovmse.method.networks import QFunction
from ovmse.runs.reading import read_metrics
from ovmse.training.rollout import collect

GAMMA = 0.95
BEST = 5 * (1 + GAMMA + GAMMA**2 + GAMMA**3)  # V*(start): both are bold, four times
SAFE = 3 * (1 + GAMMA + GAMMA**2 + GAMMA**3)  # both step, four times
TOP, FALLEN = 5, 6

# By hand, not from the module: per state, each agent's rest, step and bold action.
ACTIONS = {s: ((REST, STEP, LEAP), (REST, STEP, LEAP)) for s in range(3)}
ACTIONS[3] = ((REST, STEP, ROPE), (REST, STEP, LEAP))
ACTIONS[4] = ((REST, STEP, LEAP), (REST, STEP, ROPE))
PAYOFF = {
    "climb_monotone": [[-5, 1, 2], [1, 3, 4], [2, 4, 5]],
    "climb_penalty": [[-5, 1, -10], [1, 3, -10], [-10, -10, 5]],
}
UP: dict[int, set[int]] = {0: {1}, 1: {2}, 2: {3, 4}, 3: {TOP}, 4: {TOP}}

OBS = {  # ledge 0 to 3, and the rope
    0: [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0]],
    1: [[0, 1, 0, 0, 0], [0, 1, 0, 0, 0]],
    2: [[0, 0, 1, 0, 0], [0, 0, 1, 0, 0]],
    3: [[0, 0, 0, 1, 1], [0, 0, 0, 1, 0]],
    4: [[0, 0, 0, 1, 0], [0, 0, 0, 1, 1]],
    TOP: [[0] * 5] * 2,
    FALLEN: [[0] * 5] * 2,
}


def climb(task: str = "climb_penalty", num_envs: int = 16, seed: int = 0) -> VectorEnv:
    return make_env(task, "climb", num_envs, seed)


def put(env: VectorEnv, state: int) -> None:
    """Every battle into one state, as if it had just begun."""
    arrays = env.get_state()
    arrays[0][:], arrays[1][:] = state, 0
    env.set_state(arrays)


def everyone(env: VectorEnv, *actions: int) -> Step:
    return env.step(np.tile(actions, (env.num_envs, 1)))


# 1. The game.


@pytest.mark.parametrize("task", CLIMB_TASKS)
def test_every_joint_action_of_every_state_does_as_the_solution_says(task: str) -> None:
    env = climb(task)
    env.reset()
    q, v = solve(task, GAMMA)
    for state, joint in itertools.product(range(5), itertools.product(range(4), repeat=2)):
        put(env, state)
        if any(a not in ACTIONS[state][i] for i, a in enumerate(joint)):
            assert q[state][joint] == -np.inf
            with pytest.raises(ValueError, match=r"battle 0, agent \d takes \d, which is not av"):
                everyone(env, *joint)
            continue
        i, j = (ACTIONS[state][agent].index(a) for agent, a in enumerate(joint))
        falls = task == "climb_penalty" and (i == 2) != (j == 2)
        step = everyone(env, *joint)
        after = step.last.state.argmax(1)
        assert set(after) == ({FALLEN} if falls else {state} if i == j == 0 else UP[state])
        np.testing.assert_array_equal(step.reward, PAYOFF[task][i][j])
        np.testing.assert_array_equal(step.terminated, after >= TOP)
        np.testing.assert_array_equal(step.won, after == TOP)
        assert not step.truncated.any()
        # Bellman's equation, with the outcomes that the game really gave.
        outcome = step.reward + GAMMA * ~step.terminated * v[after]
        np.testing.assert_allclose(outcome, q[state][joint], rtol=1e-6)
    np.testing.assert_array_equal(v, q.max((1, 2)))
    assert v[0] == pytest.approx(BEST) and v[[TOP, FALLEN]].tolist() == [0, 0]


@pytest.mark.parametrize("task", CLIMB_TASKS)
def test_values_by_hand(task: str) -> None:
    for gamma in (0.0, 0.9, 1.0):
        q, v = solve(task, gamma)
        worth = [sum(5 * gamma**k for k in range(4 - ledge)) for ledge in (0, 1, 2, 3, 3)]
        np.testing.assert_allclose(v, [*worth, 0, 0])
        assert q[0, REST, REST] == pytest.approx(-5 + gamma * worth[0])
        assert q[2, STEP, STEP] == pytest.approx(3 + gamma * worth[3])
        alone = -10 if task == "climb_penalty" else 4
        assert q[3, ROPE, STEP] == q[4, STEP, ROPE] == alone
        assert q[TOP, REST, REST] == 0 and np.isinf(q[TOP]).sum() == 15
    with pytest.raises(ValueError, match="gamma: got 1.5, allowed: 0 to 1"):
        solve(task, 1.5)


def three_by_three(task: str, state: int, gamma: float) -> np.ndarray:
    """``Q*`` of one state, rows and columns rest, step, bold."""
    return solve(task, gamma)[0][state][np.ix_(*ACTIONS[state])]


@pytest.mark.parametrize("gamma", [GAMMA, 0.99, 1.0])
def test_only_without_the_penalty_can_a_mixer_hold_the_values(gamma: float) -> None:
    """QMIX's is monotone and, as a sum of ELUs, supermodular."""
    for state in range(5):
        q = three_by_three("climb_monotone", state, gamma)
        assert (np.diff(q, axis=0) >= 0).all() and (np.diff(q, axis=1) >= 0).all()
        assert (np.diff(np.diff(q, axis=0), axis=1) >= -1e-12).all()
        q = three_by_three("climb_penalty", state, gamma)
        for rows, columns in itertools.product(itertools.permutations(range(3)), repeat=2):
            ordered = q[np.ix_(rows, columns)]
            assert (np.diff(ordered, axis=0) < 0).any() or (np.diff(ordered, axis=1) < 0).any()


def test_what_is_seen() -> None:
    env = climb()
    first = env.reset()
    spec = env.spec
    assert (spec.task, spec.backend, spec.episode_limit) == ("climb_penalty", "climb", 6)
    assert (spec.n_agents, spec.n_actions, spec.obs_size, spec.state_size) == (2, 4, 5, 7)
    seen: dict[int, Frame] = {0: first}
    for state in range(5):
        put(env, state)
        seen[state] = everyone(env, REST, REST).now
    for a, end in ((STEP, TOP), (LEAP, FALLEN)):
        put(env, 3)
        seen[end] = everyone(env, STEP, a).last
    for state, now in seen.items():
        assert (now.obs.dtype, now.state.dtype) == (np.float32, np.float32)
        assert now.avail_actions.dtype == np.bool_ and now.avail_actions.shape == (16, 2, 4)
        allowed = ACTIONS.get(state, ((REST,), (REST,)))
        for slot in range(env.num_envs):
            assert now.state[slot].tolist() == [s == state for s in range(7)]
            assert now.obs[slot].tolist() == OBS[state]
            for agent in range(2):
                listed = np.flatnonzero(now.avail_actions[slot, agent])
                assert listed.tolist() == list(allowed[agent])


def test_a_battle_that_stands_still_is_cut_after_six_steps() -> None:
    env = climb()
    env.reset()
    for t in range(6):
        step = everyone(env, *((STEP, STEP) if t == 1 else (REST, REST)))
        assert step.truncated.all() == step.truncated.any() == (t == 5)
        assert not step.terminated.any() and not step.won.any()
    assert set(step.last.state.argmax(1)) == {1}
    assert set(step.now.state.argmax(1)) == {0}
    # The next battle has six steps again; the top on the sixth is a true end.
    for t in range(6):
        assert not step.terminated.any()
        step = everyone(env, *((REST, REST) if t < 2 else (STEP, STEP)))
    assert step.won.all() and step.terminated.all() and not step.truncated.any()
    assert set(step.last.state.argmax(1)) == {TOP}
    assert set(step.now.state.argmax(1)) == {0}


def ropes(env: VectorEnv, seed: int) -> np.ndarray:
    """Where the rope hangs in the first two battles of every slot, ``[2, E]``."""
    env.reset(seed)
    out = []
    for _ in range(2):
        steps = [everyone(env, STEP, STEP) for _ in range(4)]
        out.append(steps[2].last.state.argmax(1))
    return np.array(out)


def test_the_same_seed_and_actions_give_the_same_battles() -> None:
    env = climb("climb_monotone", seed=5)
    one = play(env, env.reset(), 80, 0)
    for ended in ("won", "truncated"):
        assert any(getattr(step, ended).any() for step in one)
    other = climb("climb_monotone", seed=9)
    assert_same(one, play(other, other.reset(5), 80, 0))
    assert_same(one, play(other, other.reset(), 80, 0))
    # Seeds, slots and battles differ.
    five, six = ropes(env, 5), ropes(env, 6)
    assert not np.array_equal(five, six) and not np.array_equal(five[0], five[1])
    assert set(five[0]) == {3, 4}


def test_a_saved_state_continues_exactly() -> None:
    env = climb(seed=7)
    now = play(env, env.reset(), 21, 0)[-1].now
    saved = [torch.from_numpy(np.array(a)).numpy() for a in env.get_state()]
    one = play(env, now, 60, 1)
    assert any(step.truncated.any() for step in one)
    other = climb(seed=99)
    other.set_state(saved)
    assert_same(one, play(other, now, 60, 1))
    other.set_state(saved)  # playing on has not changed what was saved
    assert_same(one, play(other, now, 60, 1))
    with pytest.raises(ValueError, match="not 4 of climb_penalty"):
        climb(num_envs=4).set_state(saved)
    env.close()


def test_mistakes_are_named() -> None:
    env = climb()
    with pytest.raises(ValueError, match="reset"):
        everyone(env, REST, REST)
    env.reset()
    with pytest.raises(ValueError, match=r"\(16, 3\), expected \(16, 2\)"):
        everyone(env, REST, REST, REST)
    with pytest.raises(ValueError, match="takes 4, which is not available"):
        everyone(env, REST, 4)
    with pytest.raises(ValueError, match="num_envs: got 0"):
        climb(num_envs=0)
    allowed = "task: got '2s3z', allowed: climb_monotone, climb_penalty"
    for call in (lambda: climb("2s3z"), lambda: solve("2s3z", 1.0)):
        with pytest.raises(ValueError, match=allowed):
            call()


# 2 and 3. QMIX on the game.


def settings(**changes: Any) -> UpdateSettings:
    """One-step targets: longer ones would value how the data were played."""
    base = UpdateSettings(
        lr=1e-2,
        lr_warmup_updates=0,
        target_interval=20,
        gamma=GAMMA,
        td_lambda=0.0,
        grad_clip=10.0,
        cql_alpha=0.0,
        cql_form="macql",
        cql_samples=10,
        cql_data_action=False,
    )
    return dataclasses.replace(base, **changes)


def fresh(task: str, seed: int) -> QFunction:
    return new_q_function(climb(task).spec, (16, 8, 16), seed)


def battles(q: QFunction, task: str, count: int, seed: int, epsilon: float) -> list[Episode]:
    env = climb(task, seed=seed)
    return list(collect(q, env, count, np.random.default_rng(seed), epsilon=epsilon))


def learned(task: str, seed: int, count: int, updates: int) -> QFunction:
    """QMIX after some updates on ``count`` uniformly random battles."""
    q = fresh(task, seed)
    batch = EpisodeBatch.from_episodes(battles(q, task, count, seed, epsilon=1.0))
    learner = Learner(q, settings(decay_updates=updates), seed)
    for _ in range(updates):
        learner.update(batch)
    return q


def greedy_returns(q: QFunction, task: str) -> tuple[list[Episode], np.ndarray]:
    """Sixteen greedy battles and their discounted returns."""
    episodes = battles(q, task, 16, 0, epsilon=0.0)
    return episodes, np.array([e.returns_to_go(GAMMA)[0] for e in episodes])


@pytest.mark.slow
def test_qmix_solves_the_monotone_game() -> None:
    q = learned("climb_monotone", seed=0, count=64, updates=300)
    episodes, returns = greedy_returns(q, "climb_monotone")
    np.testing.assert_allclose(returns, BEST, rtol=1e-6)
    assert all(e.won for e in episodes)
    assert {e.state[3].argmax() for e in episodes} == {3, 4}  # the rope on either side
    values = q.q_tot_taken(EpisodeBatch.from_episodes(episodes)).numpy()
    v = solve("climb_monotone", GAMMA)[1]
    np.testing.assert_allclose(values, np.tile(v[:4], (16, 1)), rtol=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_qmix_fails_under_the_penalty(seed: int) -> None:
    """Three seeds of three: being bold costs on average, and it plays safe for good."""
    q = learned("climb_penalty", seed, count=96, updates=150)
    _, returns = greedy_returns(q, "climb_penalty")
    best = solve("climb_penalty", GAMMA)[1][0]
    assert (returns <= SAFE + 1e-5).all() and best - 7 > SAFE


# 4. Conservatism.

SEEN = {0: (STEP, LEAP), 1: (STEP, LEAP), 2: (STEP, LEAP), 3: (STEP, LEAP), 4: (STEP, ROPE)}


def one_sided_data(count: int) -> EpisodeBatch:
    """Battles in which agent 0 always steps and agent 1 is always bold: one joint action per
    state, of nine."""
    env = climb("climb_monotone", count, seed=0)
    seen, actions, reward = [env.reset()], [], []
    for _ in range(4):
        actions.append(np.array([SEEN[s] for s in seen[-1].state.argmax(1)], np.uint8))
        step = env.step(actions[-1])
        reward.append(step.reward)
        seen.append(step.last)
    assert step.won.all()
    return EpisodeBatch.from_episodes(
        [
            Episode(
                obs=np.array([s.obs[slot] for s in seen]),
                state=np.array([s.state[slot] for s in seen]),
                avail_actions=np.array([s.avail_actions[slot] for s in seen]),
                actions=np.array([a[slot] for a in actions]),
                reward=np.array([r[slot] for r in reward]),
                terminated=True,
            )
            for slot in range(count)
        ]
    )


@torch.no_grad()
def margins(q: QFunction, batch: EpisodeBatch) -> Tensor:
    """``Q_tot`` of the seen joint action over the best unseen available one, ``[M]``."""
    values, state = q.q_values(batch)[:, :-1][batch.filled], batch.state[:, :-1][batch.filled]
    avail, taken = batch.avail_actions[:, :-1][batch.filled], batch.actions[batch.filled]
    seen, unseen = torch.full((2, len(values)), -torch.inf)
    for a, b in itertools.product(range(4), repeat=2):
        q_tot = q.q_tot(torch.stack([values[:, 0, a], values[:, 1, b]], -1), state)
        q_tot = torch.where(avail[:, 0, a] & avail[:, 1, b], q_tot, -torch.inf)
        here = (taken[:, 0] == a) & (taken[:, 1] == b)
        seen = torch.where(here, q_tot, seen)
        unseen = torch.where(here, unseen, torch.maximum(unseen, q_tot))
    return seen - unseen


@pytest.mark.parametrize("form", ["none", *CQL_FORMS])
def test_cql_orders_unseen_actions_below_the_seen(form: str) -> None:
    batch = one_sided_data(8)
    assert set(batch.state[:, :-1].argmax(-1).flatten().tolist()) == {0, 1, 2, 3, 4}
    q = fresh("climb_monotone", 0)
    alpha = 0.0 if form == "none" else 1.0
    learner = Learner(q, settings(cql_alpha=alpha, cql_form=form), seed=0)
    for _ in range(150):
        learner.update(batch)
    if form == "none":  # plain TD: nothing holds the unseen down
        assert (margins(q, batch) < -0.1).any()
    else:
        assert (margins(q, batch) > 0).all()


# 5. The memory.


def effective_targets(learner: Learner, batch: EpisodeBatch, lambda_memory: float) -> Tensor:
    """What the learner regresses each filled step onto, read off its gradient, ``[M]``.

    ``Q_tot`` moves one to one with the last bias of the mixer, so alone in a batch a step gives
    it the gradient ``2 (Q_tot - target)``. The learner's rate is 0: it stays as it is.
    """
    q_tot, out = learner.q.q_tot_taken(batch), []
    for b, t in batch.filled.nonzero().tolist():
        alone = torch.zeros_like(batch.filled)
        alone[b, t] = True
        learner.update(dataclasses.replace(batch, filled=alone), lambda_memory)
        (bias,) = learner.q.mixer.hyper_b2[-1].bias.grad
        out.append(q_tot[b, t] - bias / 2)
    return torch.stack(out)


def test_with_lambda_1_no_target_lies_below_the_memory() -> None:
    task = "climb_penalty"
    offline = learned(task, seed=0, count=64, updates=60)
    q = fresh(task, seed=1)
    batch = EpisodeBatch.from_episodes(battles(q, task, 10, 0, epsilon=0.8))
    batch.q_offline = offline.q_tot_taken(batch)
    memory, filled = batch.q_offline[batch.filled], batch.filled
    learner = Learner(q, settings(lr=0.0, grad_clip=1e9, target_interval=10**9), seed=0)
    before = {name: tensor.clone() for name, tensor in learner.q.state_dict().items()}

    y = effective_targets(learner, batch, 0.0)
    best = effective_targets(learner, batch, 1.0)
    # Each side wins on some steps, or the test would show little.
    assert (memory > y + 0.1).sum() >= 5 and (memory < y - 0.1).sum() >= 5
    assert (best >= memory - 1e-4).all()
    expected = torch.tensor([max(pair) for pair in zip(memory.tolist(), y.tolist())])
    torch.testing.assert_close(best, expected, rtol=0, atol=1e-4)
    for share in (0.3, 0.7):  # between the two, on the line
        between = effective_targets(learner, batch, share)
        torch.testing.assert_close(between, (1 - share) * y + share * best, rtol=0, atol=1e-4)

    # And all steps at once: the loss is that of one regression onto the larger of the two.
    stats = learner.update(batch, 1.0)
    q_tot = q.q_tot_taken(batch)[filled]
    assert stats["loss"] == pytest.approx(((q_tot - expected) ** 2).mean().item(), rel=1e-4)
    assert stats["memory_active"] == pytest.approx((memory > y).float().mean().item())
    for name, tensor in learner.q.state_dict().items():
        assert torch.equal(tensor, before[name])


# The game as a backend.


@pytest.mark.parametrize("algorithm", ["qmix", "ovmse"])
def test_training_on_the_game(algorithm: str, tmp_path: Path) -> None:
    task = "climb_monotone"
    path = tmp_path / "random.h5"
    random = battles(fresh(task, 0), task, 64, 0, epsilon=1.0)
    write_dataset(path, random, climb(task).spec, {"policy": "random"})
    assert len(load_dataset(path, climb(task).spec).episodes) == 64
    config = Config.from_parameters(
        algorithm=algorithm,
        task=task,
        dataset=str(path),
        preset="tiny",
        hidden_size=16,
        embed_size=8,
        hypernet_size=16,
        offline_test_interval=30,
        online_steps=1_200,
        test_battles=8,
    )
    events = list(train(config, tmp_path / algorithm))
    assert events[-1].done == config.online_steps == 1_200
    rows = read_metrics(tmp_path / algorithm)
    phases = [row["phase"] for row in rows]
    assert phases == ["offline"] * (algorithm == "ovmse") + ["online"] * 4
    assert all(-30 <= row["test_return"] <= 20 for row in rows)
    lines = (tmp_path / algorithm / "events.jsonl").read_text().splitlines()
    lengths = [json.loads(line)["length"] for line in lines]
    assert sum(lengths) > 1_100 and 4 in lengths and set(lengths) <= {4, 5, 6}
