"""Battles recorded anew: against the plain rollout, and the state they can be branched from."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from exploring import climb_run

from analysis.battles import AT_ONCE, opinion, record, record_with
from analysis.moments import valued
from analysis.snapshots import Snapshots
from ovmse.envs import make_env
from ovmse.episodes import EpisodeBatch
from ovmse.runs.reading import RunError
from ovmse.training.rollout import collect

pytestmark = pytest.mark.slow

RUN = ROOT / "data/runs/2s3z/ovmse"


@pytest.fixture(scope="module")
def battles():
    return record(RUN, 60_000, "epsilon_greedy", 0.3, battles=3, seed=5)


def test_battles_are_those_of_the_plain_rollout(battles) -> None:
    q = Snapshots(RUN).network(60_000)
    with closing(make_env("2s3z", num_envs=AT_ONCE)) as env:
        rng = np.random.default_rng(5)
        plain = list(collect(q, env, 3, rng, "epsilon_greedy", 0.3, seed=5))
    assert len(battles) == 3
    for battle, episode in zip(battles, plain, strict=True):
        np.testing.assert_array_equal(battle.episode.actions, episode.actions)
        np.testing.assert_array_equal(battle.episode.state, episode.state)
    assert any(b.episode.exploration.explored.any() for b in battles)


def test_a_battle_can_be_played_again_from_any_of_its_steps(battles) -> None:
    """Same state, same actions: the same rewards, though other battles ran beside it."""
    battle = battles[0]
    begin = battle.episode.length // 2
    with closing(make_env("2s3z", num_envs=AT_ONCE)) as env:
        env.reset(0)
        env.set_state([np.stack([leaf] * AT_ONCE) for leaf in battle.before[begin]])
        for t in range(begin, battle.episode.length):
            step = env.step(np.stack([battle.episode.actions[t]] * AT_ONCE))
            assert step.reward == pytest.approx([battle.episode.reward[t]] * AT_ONCE, abs=1e-5)
    assert len(battle.before) == battle.episode.length


def test_units_are_the_decoded_states(battles) -> None:
    for battle in battles:
        assert len(battle.units) == battle.episode.length + 1
        first, last = battle.units[0], battle.units[-1]
        assert first.health.min() == 1 and (first.team == [0] * 5 + [1] * 5).all()
        dead = [(last.health[first.team == team] == 0).all() for team in (0, 1)]
        assert dead[1] == battle.episode.won or not battle.episode.terminated


def test_an_opinion_is_what_acting_and_mixing_step_by_step_give(battles) -> None:
    """Against the acting network, one step at a time, with TD(lambda) unrolled by hand."""
    of, episode = Snapshots(RUN), battles[1].episode
    q, memory = of.network(60_000), of.network(0)
    got = opinion(q, memory, episode, of.config)
    hidden, last, values = torch.zeros(5, 64), torch.full((1, 5), -1), []
    for t in range(episode.length + 1):
        now, hidden = q.act(torch.tensor(episode.obs[t]).float()[None], last, hidden)
        values.append(now[0])
        if t < episode.length:
            last = torch.tensor(episode.actions[t].astype(int))[None]
    state = torch.tensor(episode.state).float()
    taken = [
        [float(values[t][i, episode.actions[t, i]]) for i in range(5)]
        for t in range(episode.length)
    ]
    q_tot = [float(q.q_tot(torch.tensor([taken[t]]), state[t : t + 1])) for t in range(len(taken))]
    assert got.q_tot == pytest.approx(q_tot, abs=1e-4)
    assert got.q_agents[3] == pytest.approx(values[3].numpy(), abs=1e-4)

    lam, gamma = of.config.online_td_lambda, of.config.gamma
    future, targets = None, []
    for t in reversed(range(episode.length)):
        masked = values[t + 1].masked_fill(~torch.tensor(episode.avail_actions[t + 1]), -np.inf)
        value = float(q.q_tot(masked.max(1).values[None], state[t + 1 : t + 2]))
        if t == episode.length - 1:
            value = 0.0 if episode.terminated else value
            future = value
        future = float(episode.reward[t]) + gamma * ((1 - lam) * value + lam * future)
        targets.insert(0, future)
    assert got.td_target == pytest.approx(targets, abs=1e-3)
    assert got.returns == pytest.approx(episode.returns_to_go(gamma))


def test_a_run_from_scratch_is_recorded_and_valued(tmp_path: Path) -> None:
    run = climb_run(tmp_path, algorithm="qmix", online_steps=800)
    of = Snapshots(run)
    with closing(make_env("climb_monotone", "climb", num_envs=1)) as env:
        assert of.spec == env.spec
    at = max(of.files)
    seen = valued(of, at, record(run, at, battles=3), changes=False)
    first = of.network(min(of.files))  # nothing was learnt before
    for battle, thought in zip(seen.battles, seen.opinions, strict=True):
        batch = EpisodeBatch.from_episodes([battle.episode])
        with torch.no_grad():
            assert thought.memory == pytest.approx(first.q_tot_taken(batch)[0].numpy())


def test_what_is_recorded_with_progress_is_the_same(
    battles, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    of = Snapshots(RUN)
    monkeypatch.setattr("analysis.widgets.progress.PATIENCE", 0.0)
    silent = record_with(of.network(60_000), of.config, "epsilon_greedy", 0.3, 3, 5)
    assert capsys.readouterr().out == ""
    shown = record(RUN, 60_000, "epsilon_greedy", 0.3, 3, 5)
    assert capsys.readouterr().out.startswith("Battles recorded: 3 in ")
    for ours, theirs, before in zip(silent, shown, battles, strict=True):
        np.testing.assert_array_equal(ours.episode.obs, theirs.episode.obs)
        np.testing.assert_array_equal(before.episode.reward, theirs.episode.reward)
    seen = valued(of, 60_000, shown, changes=False)
    assert capsys.readouterr().out.startswith("Battles valued: 3 in ")
    memory = of.offline()
    for battle, thought in zip(shown, seen.opinions, strict=True):
        alone = opinion(of.network(60_000), memory, battle.episode, of.config)
        np.testing.assert_array_equal(alone.memory, thought.memory)


def test_a_snapshot_that_is_not_there_is_said_with_those_that_are() -> None:
    with pytest.raises(RunError, match="no snapshot at 5 steps, but at: 0, 4,000"):
        record(RUN, 5)
