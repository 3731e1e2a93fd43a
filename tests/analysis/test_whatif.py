"""What-if tables: against the learner's own targets, brute-force mixing and a second simulator."""

from __future__ import annotations

import dataclasses
from contextlib import closing

import numpy as np
import pytest
import torch
from conftest import ROOT

from analysis.battles import AT_ONCE, record, record_with
from analysis.snapshots import Snapshots
from analysis.whatif import what_if
from ovmse.config import Config
from ovmse.envs import make_env
from ovmse.episodes import EpisodeBatch
from ovmse.method.learner import Learner, new_q_function
from ovmse.training.phase import online_settings

RUN = Snapshots(ROOT / "data/runs/2s3z/ovmse")


@pytest.fixture(scope="module")
def networks():
    return RUN.network(60_000), RUN.network(0)


@pytest.fixture(scope="module")
def battle():
    """The shortest of a few: one that truly ends."""
    found = record(RUN.run, 60_000, "epsilon_greedy", 0.3, battles=AT_ONCE, seed=5)
    return min(found, key=lambda b: b.episode.length)


@pytest.fixture(scope="module")
def table(networks, battle):
    return what_if(*networks, battle, RUN.config)


def test_the_taken_action_has_the_learners_own_targets(networks, battle, table) -> None:
    episode = battle.episode
    batch = EpisodeBatch.from_episodes([episode])
    settings = dataclasses.replace(online_settings(RUN.config), td_lambda=0.0)
    learner = Learner(networks[0], settings, 0)
    y = learner.td_target(batch, networks[0].q_values(batch))[0].numpy()
    t, i = np.indices(episode.actions.shape)
    assert episode.terminated
    assert table.td_target[t, i, episode.actions] == pytest.approx(
        np.repeat(y[:, None], 5, 1), abs=1e-4
    )
    for values, q in ((table.q_tot, networks[0]), (table.memory, networks[1])):
        taken = q.q_tot_taken(batch)[0].numpy()
        assert values[t, i, episode.actions] == pytest.approx(
            np.repeat(taken[:, None], 5, 1), abs=1e-4
        )


def test_q_tot_of_every_change_is_mixed_alone(networks, battle, table) -> None:
    episode, t = battle.episode, battle.episode.length // 2
    state = torch.tensor(episode.state[t]).float()[None]
    for q, of_agents, of_all in (
        (networks[0], table.q_agents, table.q_tot),
        (networks[1], table.q_agents_memory, table.memory),
    ):
        for i in range(5):
            for a in range(10):
                joint = episode.actions[t].astype(int)
                joint[i] = a
                values = torch.tensor(of_agents[t, range(5), joint])[None]
                assert of_all[t, i, a] == pytest.approx(float(q.q_tot(values, state)), abs=1e-4)


def test_a_changed_step_is_what_a_second_simulator_and_the_acting_network_give(
    networks, battle, table
) -> None:
    q, episode, gamma = networks[0], battle.episode, RUN.config.gamma
    at = np.argwhere(episode.avail_actions[:-1])[::97]
    with closing(make_env("2s3z", num_envs=AT_ONCE)) as env:
        env.reset(3)
        for t, i, a in at:
            joint = episode.actions[t].astype(int)
            joint[i] = a
            env.set_state([np.stack([leaf] * AT_ONCE) for leaf in battle.before[t]])
            step = env.step(np.stack([joint] * AT_ONCE))
            hidden, last = torch.zeros(5, 64), torch.full((1, 5), -1)
            for s in range(t + 1):
                _, hidden = q.act(torch.tensor(episode.obs[s]).float()[None], last, hidden)
                last = torch.tensor(episode.actions[s].astype(int))[None]
            obs = torch.tensor(step.last.obs[:1])
            values, _ = q.act(obs, torch.tensor(joint)[None], hidden)
            avail = torch.tensor(step.last.avail_actions[:1])
            best = values.masked_fill(~avail, -np.inf).max(-1).values
            after = float(q.q_tot(best, torch.tensor(step.last.state[:1])))
            y = step.reward[0] + gamma * (0.0 if step.terminated[0] else after)
            assert table.td_target[t, i, a] == pytest.approx(y, abs=0.02)  # half precision


def test_the_larger_one_is_the_ovm_target_and_nothing_else_has_one(battle, table) -> None:
    avail = battle.episode.avail_actions[:-1]
    assert (np.isfinite(table.td_target) == avail).all()
    expected = np.where(table.memory > table.td_target, table.memory, table.td_target)
    np.testing.assert_array_equal(table.ovm_target[avail], expected[avail])
    assert np.isnan(table.ovm_target[~avail]).all()


def test_without_a_state_of_its_own_a_battle_has_no_changed_target() -> None:
    """The battles of the climb game share one stream of randomness."""
    config = Config(task="climb_penalty", backend="climb", algorithm="qmix")
    with closing(make_env("climb_penalty", "climb")) as env:
        q = new_q_function(env.spec, (8, 4, 8), 0)
    [battle] = record_with(q, config, "epsilon_greedy", 1.0, 1, 0)
    table = what_if(q, q, battle, config)
    assert not battle.alone and battle.units == []
    assert table.td_target is None and table.ovm_target is None
    assert table.q_tot.shape == (battle.episode.length, 2, 4)
    np.testing.assert_array_equal(table.q_tot, table.memory)
