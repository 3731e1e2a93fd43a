"""Branches return what was recorded; bias and rank against numbers by hand and SciPy."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
import torch
from conftest import ROOT
from scipy.stats import spearmanr

from analysis.battles import AT_ONCE, record, record_with
from analysis.branches import Point, at_points, branch, spread_points, with_greedy
from analysis.diagnostics.calibration import against
from analysis.snapshots import Snapshots
from ovmse.config import Config
from ovmse.envs import make_env
from ovmse.envs.climb import EPISODE_LIMIT, STATES, TOP, game_tables
from ovmse.episodes import EpisodeBatch
from ovmse.method.learner import new_q_function

pytestmark = pytest.mark.slow

RUN = ROOT / "data/runs/2s3z/ovmse"
GAMMA = 0.99


@pytest.fixture(scope="module")
def pretrained():
    return Snapshots(RUN).network(0)


@pytest.fixture(scope="module")
def battles():
    return record(RUN, 0, battles=8, seed=3)


def test_with_the_recorded_chance_a_branch_returns_what_was_recorded(pretrained, battles) -> None:
    points = spread_points(battles, 24, seed=1)  # more than slots: the last begin in between
    with closing(make_env("2s3z", num_envs=AT_ONCE)) as env:
        got = branch(pretrained, env, points, 1, GAMMA, seed=None)
        anew = branch(pretrained, env, points, 3, GAMMA, seed=1)
        again = branch(pretrained, env, points, 3, GAMMA, seed=1)
    for point, found, cut in zip(points, got.returns[:, 0], got.cut[:, 0], strict=True):
        episode = point.battle.episode
        recorded = episode.returns_to_go(GAMMA)[point.step]
        assert cut != episode.terminated
        if cut:  # and goes on with the value of the last frame
            batch = EpisodeBatch.from_episodes([episode])
            best = pretrained.q_values(batch).masked_fill(~batch.avail_actions, -torch.inf)
            end = pretrained.q_tot(best.max(-1).values[0, -1:], batch.state[0, -1:])
            recorded += GAMMA ** (episode.length - point.step) * float(end)
        assert found == pytest.approx(recorded, abs=1e-2 if cut else 1e-5)
    assert (anew.returns.std(1) > 0).mean() > 0.5  # chance differs between branches
    np.testing.assert_array_equal(anew.returns, again.returns)


def test_values_at_points_are_those_of_the_whole_battle(pretrained, battles) -> None:
    points = spread_points(battles, 12, seed=1)
    for point, q_tot in zip(points, at_points(pretrained, points)[1], strict=True):
        whole = pretrained.q_tot_taken(EpisodeBatch.from_episodes([point.battle.episode]))
        assert q_tot == pytest.approx(float(whole[0, point.step]), abs=1e-4)


def test_what_a_snapshot_would_do_is_its_greedy_action(pretrained) -> None:
    """At points where all explored; the history, and the recorded battle, stay as they were."""
    points = spread_points(record(RUN, 0, "epsilon_greedy", 1.0, 8, 3), 12, seed=1)
    before = [p.battle.episode.actions.copy() for p in points]
    changed = 0
    for point, own, taken in zip(points, with_greedy(pretrained, points), before, strict=True):
        np.testing.assert_array_equal(point.battle.episode.actions, taken)
        batch = EpisodeBatch.from_episodes([point.battle.episode])
        values = pretrained.q_values(batch).masked_fill(~batch.avail_actions, -torch.inf)
        actions = own.battle.episode.actions
        assert actions[point.step].tolist() == values[0, point.step].argmax(-1).tolist()
        rest = np.arange(len(taken)) != point.step
        np.testing.assert_array_equal(actions[rest], taken[rest])
        changed += (actions[point.step] != taken[point.step]).any()
        best = pretrained.q_tot(values.max(-1).values[:1, point.step], batch.state[:1, point.step])
        assert at_points(pretrained, [own])[1][0] == pytest.approx(float(best), abs=1e-4)
    assert changed > 6


def test_points_spread_over_all_steps(battles) -> None:
    points = spread_points(battles, 40, seed=0)
    assert len({(id(p.battle), p.step) for p in points}) == 40
    assert len({id(p.battle) for p in points}) == 8
    every = spread_points(battles, 10_000, seed=0)
    assert len(every) == sum(b.episode.length for b in battles)
    assert every[5].step == 5


def test_branches_of_the_climb_game_are_those_of_its_tables() -> None:
    """Every branch against the game played by its tables, once for each side of the coin."""
    game = game_tables("climb_monotone")
    with closing(make_env("climb_monotone", "climb", num_envs=16)) as env:
        q = new_q_function(env.spec, (8, 4, 8), seed=4)
        config = Config(task="climb_monotone", backend="climb", preset="tiny")
        battles = record_with(q, config, "epsilon_greedy", 1.0, 16, 0)
        points = [Point(b, t) for b in battles for t in range(b.episode.length)]
        got = branch(q, env, points, 16, GAMMA, seed=0)

    def play(point: Point, coin: int) -> float:
        episode = point.battle.episode
        hidden, last = torch.zeros(2, 8), torch.full((1, 2), -1)
        for t in range(point.step + 1):
            _, hidden = q.act(torch.tensor(episode.obs[None, t]).float(), last, hidden)
            last = torch.tensor(episode.actions[None, t].astype(int))
        state = int(episode.state[point.step].argmax())
        total, step = 0.0, point.step
        while True:
            pair = (state, *last[0].tolist())
            total += GAMMA ** (step - point.step) * float(game.reward[pair])
            state, step = int(game.after[(*pair, coin)]), step + 1
            if state >= TOP:
                return total
            values, hidden = q.act(torch.tensor(env._obs[None, state]), last, hidden)
            values = values.masked_fill(~torch.tensor(game.avail[state]), -torch.inf)
            if step == EPISODE_LIMIT:
                end = q.q_tot(values.max(-1).values, torch.eye(STATES)[None, state])
                return total + GAMMA ** (step - point.step) * end.item()
            last = values.argmax(-1)

    for point, found in zip(points, got.returns, strict=True):
        outcomes = np.unique(np.round([play(point, 0), play(point, 1)], 4))
        assert np.unique(found.round(4)) == pytest.approx(outcomes, abs=2e-4)
    assert got.cut.any() and (got.returns.std(1) > 0.01).any()


def test_bias_and_rank_by_hand() -> None:
    q, g = np.array([1.0, 2.0, 4.0, 4.0]), np.array([2.0, 1.0, 3.0, 2.0])
    found = against(q, g)
    assert found["bias"] == pytest.approx((-1 + 1 + 1 + 2) / 4 / 2)
    assert found["bias_sd"] == pytest.approx(np.std([-0.5, 0.5, 0.5, 1]))
    assert found["rank"] == pytest.approx(spearmanr(q, g).statistic)
    rng = np.random.default_rng(0)
    q, g = rng.integers(9, size=50), rng.normal(size=50)
    assert against(q, g)["rank"] == pytest.approx(spearmanr(q, g).statistic)
    assert np.isnan(against(np.ones(3), g[:3])["rank"])
    nothing = against(np.array([1.0, 2.0, 3.0]), np.array([-1.0, 0.0, 1.0]))
    assert np.isnan([nothing["bias"], nothing["bias_sd"]]).all()  # a share of 0
    assert (nothing["rank"], nothing["q"], nothing["g"]) == (pytest.approx(1), 2, 0)
