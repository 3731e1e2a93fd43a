"""Each diagnostic against a slow independent computation, or a case solved by hand."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, chart_tables
from exploring import climb_run
from PIL import Image
from safetensors.torch import load_file, save_file

from analysis.answers import or_why_not
from analysis.battles import record_with
from analysis.branches import Point, spread_points
from analysis.charts import diagnostics as charts
from analysis.charts.curves import figure1, schedules
from analysis.charts.show import VEGALITE, mimebundle
from analysis.diagnostics import calibration, churn, distance, forgetting, memory, parts, rivals
from analysis.diagnostics.opinions import earlier, fixed_steps, opinions
from analysis.drift import replayed_curves
from analysis.each import beside, worth_a_look
from analysis.events import epsilon_at, exploring_battles
from analysis.moments import deepest_fall
from analysis.snapshots import Snapshots
from analysis.tables import DIAGNOSTICS, at_the_end, readable, summary
from ovmse.envs.base import EnvSpec
from ovmse.episodes import EpisodeBatch
from ovmse.method.learner import new_q_function
from ovmse.method.networks import gather_actions
from ovmse.runs.reading import RunError

pytestmark = pytest.mark.slow

FOUR = EnvSpec("climb_monotone", "climb", 4, 3, 5, 6, 8)  # sizes alone matter
STEPS = 30


@pytest.fixture(scope="module")
def two_networks() -> tuple:
    """Networks of four agents, and random ``Q_i [M, N, A]`` of both, actions, states."""
    torch.manual_seed(0)
    before, after = (new_q_function(FOUR, (8, 4, 8), seed=s).requires_grad_(False) for s in (1, 2))
    then, now = torch.randn(STEPS, 4, 3), torch.randn(STEPS, 4, 3)
    return before, after, then, now, torch.randint(3, (STEPS, 4)), torch.randn(STEPS, 6)


@pytest.fixture(scope="module")
def climbs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run with a memory and one without, of one pre-training."""
    folder = tmp_path_factory.mktemp("climbs")
    small = {"online_steps": 800, "online_cql": False}
    return [climb_run(folder, algorithm=name, **small) for name in ("ovmse", "se")]


def test_shapley_is_the_mean_over_all_orders(two_networks) -> None:
    before, after, then, now, actions, state = two_networks
    q_then, q_now = gather_actions(then, actions), gather_actions(now, actions)

    def worth(later: set[int]) -> float:  # mixed once for each set, in double precision
        mixer = (after if 4 in later else before).mixer
        chosen = [q_now[:, i] if i in later else q_then[:, i] for i in range(4)]
        w1, b1, w2, b2 = (w.double() for w in mixer.weights(state))
        z = torch.einsum("mn,mne->me", torch.stack(chosen, 1).double(), w1) + b1[:, 0]
        hidden = torch.nn.functional.elu(z)
        return float((torch.einsum("me,me->m", hidden, w2[..., 0]) + b2[:, 0]).mean())

    expected = np.zeros(5)
    for order in itertools.permutations(range(5)):
        for place, part in enumerate(order):
            expected[part] += worth({*order[: place + 1]}) - worth({*order[:place]})
    expected /= math.factorial(5)
    avail = torch.ones(now.shape, dtype=torch.bool)
    found = parts.measure(before, after, then, now, avail, actions, state)
    assert [found[f"part_{i}"] for i in (1, 2, 3, 4)] == pytest.approx(expected[:4], abs=1e-5)
    assert found["part_mixer"] == pytest.approx(expected[4], abs=1e-5)
    moved = (after.q_tot(q_now, state) - before.q_tot(q_then, state)).mean()
    assert sum(expected) == pytest.approx(float(moved), abs=1e-5)
    assert found["change"] == pytest.approx(float(moved), abs=1e-5)


def test_shapley_by_hand() -> None:
    # Two parts: 3 and 5 alone, 12 together. Each adds half of what they add together on top.
    assert parts.shapley_values(np.array([0.0, 3, 5, 12])) == pytest.approx([5, 7])


def test_the_gain_is_the_slope_of_the_mixer(two_networks) -> None:
    _, after, _, now, actions, state = two_networks
    q_agents = gather_actions(now, actions).requires_grad_(True)
    (slope,) = torch.autograd.grad(after.q_tot(q_agents, state).sum(), q_agents)
    torch.testing.assert_close(parts.gain(after, q_agents.detach(), state), slope)
    avail = torch.ones(now.shape, dtype=torch.bool)
    avail[::2, 3, int(actions[0, 3] + 1) % 3] = False
    avail.scatter_(-1, actions[..., None], True)
    found = parts.measure(after, after, now, now, avail, actions, state)
    assert found["gain_2"] == pytest.approx(float(slope[:, 1].mean()), abs=1e-6)
    below = [
        max(float(now[m, 3, a]) for a in range(3) if avail[m, 3, a])
        - float(now[m, 3, actions[m, 3]])
        for m in range(STEPS)
    ]
    assert found["below_4"] == pytest.approx(np.mean(below), abs=1e-6)


def test_too_many_agents_are_refused() -> None:
    q = torch.zeros(1, 11)
    with pytest.raises(ValueError, match="at most 10 agents, not 11"):
        parts.coalitions(None, None, q, q, None)  # type: ignore[arg-type]


def test_the_gap_is_that_of_a_plain_loop(two_networks) -> None:
    _, q, _, values, actions, state = two_networks
    avail = torch.rand(STEPS, 4, 3) < 0.6
    avail.scatter_(-1, actions[..., None], True)
    avail[:5, 1:] = False  # only the first agent may have another action there
    actions[:5, 1:] = 0
    avail[:5, 1:, 0] = True
    to = distance.changes(actions, avail, np.random.default_rng(0))
    gaps: dict[int, list[float]] = {k: [] for k in (1, 2, 3, 4)}
    for m, k in itertools.product(range(STEPS), gaps):
        able = [i for i in range(4) if avail[m, i].sum() > 1]
        if len(able) < k:
            continue

        def q_tot(joint: list[int], m: int = m) -> float:
            chosen = torch.stack([values[m, i, a] for i, a in enumerate(joint)])
            return float(q.q_tot(chosen[None], state[m : m + 1]))

        done, others = actions[m].tolist(), []
        for r in range(distance.SAMPLES):
            joint = list(done)
            for i in range(4):
                if to.order[m, r, i] < k:
                    joint[i] = int(to.other[m, r, i])
            differ = [i for i in range(4) if joint[i] != done[i]]
            assert len(differ) == k and {*differ} <= {*able}
            assert all(avail[m, i, joint[i]] for i in differ)
            others.append(q_tot(joint))
        gaps[k].append(q_tot(done) - np.mean(others))
    found = distance.gaps(q, values, state, to)
    for k, each in gaps.items():
        assert found[f"gap_{k}"] == pytest.approx(np.mean(each), abs=1e-5)
    alone = distance.changes(actions[:5], avail[:5], np.random.default_rng(0))
    assert math.isnan(distance.gaps(q, values[:5], state[:5], alone)["gap_2"])


def test_the_changes_are_even() -> None:
    actions, avail = torch.zeros(500, 3, dtype=torch.long), torch.ones(500, 3, 4).bool()
    to = distance.changes(actions, avail, np.random.default_rng(0))
    for i in range(3):
        assert (to.order[..., i] == 0).float().mean() == pytest.approx(1 / 3, abs=0.02)
        counts = torch.bincount(to.other[..., i].flatten(), minlength=4) / 10_000
        assert counts.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=0.02)


def test_churn_by_hand() -> None:
    avail = torch.tensor([[[1, 1, 0], [1, 1, 1]], [[1, 0, 0], [1, 1, 0]], [[1, 0, 0], [1, 0, 0]]])
    then = torch.tensor([[[2.0, 1, 9], [1, 2, 0]], [[1, 2, 3], [1, 0, 5]], [[0, 1, 2], [0, 1, 2]]])
    now = then.clone()
    now[0, 0] = torch.tensor([2.0, 1, 0])  # an action that is not available changed its value
    now[0, 1] = torch.tensor([0.0, 1, 2])  # this one does otherwise
    now[1, 0] = torch.tensor([3.0, 2, 1])  # and this one is dead
    whole, agents, joint = churn.churned(avail.bool(), then, now)
    assert whole == pytest.approx(1 / 3)
    assert agents == pytest.approx([0, 1 / 2])
    assert joint == pytest.approx(1 / 2)  # nobody has a choice in the third step
    both = churn.measure(avail.bool(), then, now, now)
    assert (both["churn"], both["since"], both["churn_2"]) == pytest.approx((1 / 3, 0, 1 / 2))


def test_forgetting_by_hand() -> None:
    steps, wins = np.array([0.0, 10, 20, 40]), np.array([0.6, 0.2, 0.8, 0.6])
    run = pd.DataFrame({"env_steps": steps, "test_win_rate": wins}).sample(frac=1, random_state=0)
    found = forgetting.of_one(run)
    # Below .6: a triangle of 10 by .4, then one of 20/3 by .4, where the curve comes back.
    area = (10 * 0.4 / 2 + 20 / 3 * 0.4 / 2) / 40
    expected = {"first": 0.6, "lowest": 0.2, "lowest_at": 10, "last": 0.6, "retention": 1 / 3,
                "regained": 1, "lost": area}  # fmt: skip
    assert found == pytest.approx(expected)
    dense = np.linspace(0, 40, 400_001)
    short = np.maximum(0.6 - np.interp(dense, steps, wins), 0)
    assert found["lost"] == pytest.approx(short.mean(), abs=1e-5)
    never = forgetting.of_one(run.assign(test_win_rate=0.0))
    assert math.isnan(never["retention"]) and never["lost"] == 0


def test_opinions_of_a_run_are_those_of_its_networks(climbs) -> None:
    table = opinions(climbs)
    of = Snapshots(climbs[0])
    fixed = fixed_steps(EpisodeBatch.from_episodes(of.fixed), most=10_000)
    first, last = of.network(0), of.network(max(of.files))
    rows = table[table.run == str(climbs[0])]
    assert rows.env_steps.tolist() == list(of.files)
    start, end = rows.iloc[0], rows.iloc[-1]
    assert (start.change, start.part_1, start.churn, start.since) == (0, 0, 0, 0)
    # The fixed battles are this network's own, without exploration.
    assert max(start.below_1, start.below_2) == pytest.approx(0, abs=1e-5)
    before, after = (float(q.q_tot_taken(fixed.batch)[fixed.batch.filled].mean())
                     for q in (first, last))  # fmt: skip
    assert end.change == pytest.approx(after - before, abs=1e-4)
    assert end.part_1 + end.part_2 + end.part_mixer == pytest.approx(end.change, abs=1e-4)
    same = total = 0
    then, now = (q.greedy_actions(fixed.batch) for q in (first, last))
    for b, t in np.argwhere(fixed.batch.filled.numpy()):
        for i in range(2):
            if fixed.batch.avail_actions[b, t, i].sum() > 1:
                total += 1
                same += int(then[b, t, i] == now[b, t, i])
    assert end.churn == pytest.approx(1 - same / total)
    known = list(of.files)
    assert [earlier(of, n) for n in known[:3]] == [(0, 0), (0, 0), (0, known[1])]
    again = opinions(climbs)
    pd.testing.assert_frame_equal(table, again)
    assert (climbs[0] / "cache/opinions.json").exists()


def test_the_memory_is_audited_as_a_loop_does(climbs) -> None:
    found = memory.audit(climbs).set_index("env_steps")
    of = Snapshots(climbs[0])
    at = max(of.files)
    c, q, offline = of.config, of.network(at), of.memory()
    weight = max(c.memory_end, 1 - (1 - c.memory_end) * at / c.memory_anneal)
    binds: dict[int, list[float]] = {0: [], 1: [], 2: []}
    lifts = []
    for battle in exploring_battles(of, at):
        e = battle.episode
        batch = EpisodeBatch.from_episodes([e])
        best = q.q_values(batch).masked_fill(~batch.avail_actions, -torch.inf).max(-1).values[0]
        v = q.q_tot(best, batch.state[0]).tolist()
        then, y = offline.q_tot_taken(batch)[0].tolist(), [0.0] * e.length
        for t in reversed(range(e.length)):
            value = 0.0 if e.terminated and t == e.length - 1 else v[t + 1]
            later = value if t == e.length - 1 else y[t + 1]
            lam = c.online_td_lambda
            y[t] = float(e.reward[t]) + c.gamma * ((1 - lam) * value + lam * later)
            binds[3 * t // e.length].append(then[t] > y[t])
            lifts.append(weight * max(0.0, then[t] - y[t]))
    row = found.loc[at]
    assert row.binds == pytest.approx(np.mean([x for each in binds.values() for x in each]))
    assert [row[f"binds_{n + 1}"] for n in range(3)] == pytest.approx(
        [np.mean(binds[n]) for n in range(3)]
    )
    assert row.lift == pytest.approx(np.mean(lifts), abs=1e-4)
    with pytest.raises(RunError, match="none of these runs has a memory"):
        memory.audit(climbs[1:])


def test_calibration_at_home_and_where_it_explores(climbs) -> None:
    of = Snapshots(climbs[0])
    only = {str(run): [0, max(Snapshots(run).files)] for run in climbs}
    home = calibration.calibration(climbs, 12, 4, only)
    away = calibration.calibration(climbs, 12, 4, only, exploring=True)
    assert home.groupby("run").env_steps.apply(list).to_dict() == only
    assert home.bias[0] == home.bias[2] and home.bias[1] != home.bias[3]  # they share the start
    assert {*away.columns[2:]} == {f"{c}_exploring" for c in home.columns[2:]}
    c = of.config
    points = spread_points(record_with(of.network(0), c, "epsilon_greedy", 0.0, 32, 0), 12, 0)
    batches = [EpisodeBatch.from_episodes([p.battle.episode]) for p in points]
    said = [float(of.memory().q_tot_taken(b)[0, p.step]) for b, p in zip(batches, points)]
    assert home.remembered_error[1] == pytest.approx(np.mean(said) - home.g[1], abs=1e-4)
    thirds = home[["remembered_error_1", "remembered_error_2", "remembered_error_3"]]
    assert (thirds.min(axis=1) <= home.remembered_error).all()
    # Away, the action asked about is the snapshot's own choice, not what noise took.
    q, asked = of.network(0), []
    for p in spread_points(exploring_battles(of, 0), 12, 0):
        batch = EpisodeBatch.from_episodes([p.battle.episode])
        values = q.q_values(batch)[0, p.step]
        best = values.masked_fill(~batch.avail_actions[0, p.step], -torch.inf).amax(-1)
        asked.append(float(q.q_tot(best[None], batch.state[:, p.step])))
    assert away.q_exploring[0] == pytest.approx(np.mean(asked), abs=1e-4)
    battles = exploring_battles(of, 0)
    explored = np.concatenate([b.episode.exploration.explored for b in battles])
    assert explored.mean() == pytest.approx(float(epsilon_at(of.config, 0)) / 2, abs=0.15)


def test_thirds_by_hand() -> None:
    found = calibration.by_thirds("x", np.array([1.0, 2, 6]), [0, 0, 2])
    assert found == pytest.approx({"x": 3, "x_1": 1.5, "x_2": np.nan, "x_3": 6}, nan_ok=True)
    battle = SimpleNamespace(episode=SimpleNamespace(length=4))
    thirds = [calibration.third(Point(battle, step)) for step in range(4)]  # type: ignore[arg-type]
    assert thirds == [0, 0, 1, 2]


def test_sentences_and_thirds_by_hand() -> None:
    table = _story(
        bias=[0.1, 0.2, 0.3, 0.4, 0.1, 0, 0, -0.25], rank=[0.8, 0.7, 0.5, 0.6, 0.8, 0.9, 0.9, 0.9],
        change=[0, 0.1, 0.2, 0.5, 0, -1, -1, -2], part_mixer=[0, 0, 0, 0.2, 0, 0, 0, -1.5],
        **{f"{name}_{n}": [n / 10] * 8 for name in ("binds", "lift", "remembered_error")
           for n in (1, 2, 3)},
    )  # fmt: skip
    assert calibration.who_is_calibrated(table) == (
        "The pre-trained values are +10 % off on average and rank the moments with 0.80. At the "
        "end OVMSE over-estimates by 40 % of the mean return (rank 0.60, lowest asked 0.50); SE "
        "under-estimates by 25 % of the mean return (rank 0.90, lowest asked 0.80)."
    )
    apart = table.assign(bias=[0.1, 0.2, 0.3, 0.4, 0.9, 0, 0, -0.25])  # pre-trained otherwise
    assert calibration.who_is_calibrated(apart).startswith(
        "The pre-trained values are +10 % off on average and rank the moments with 0.80 (OVMSE); "
        "+90 % off on average and rank the moments with 0.80 (SE). At the end OVMSE"
    )
    gaps = table.assign(gap_1=[2.0] * 8, gap_2=[1.0] * 8)
    assert "falls by 2.00 where one agent" in distance.who_tells_apart(gaps)
    for first, starts in ((2.0, {"start of all"}), (3.0, {"start of OVMSE", "start of SE"})):
        gaps.loc[gaps.index[4], "gap_1"] = first
        rows = pd.concat(chart_tables(charts.distances(gaps)))
        assert set(rows.name[rows.when == "start"]) == starts
    assert "falls by 2.00 (OVMSE); 3.00 (SE) where one agent" in distance.who_tells_apart(gaps)
    assert parts.what_moved(table) == (
        "Since the start `Q_tot` of the fixed battles has moved by: OVMSE +0.50 (agents +0.30, "
        "mixer +0.20); SE -2.00 (agents -0.50, mixer -1.50)."
    )
    thirds = memory.over_the_battle(table)
    assert thirds.third.tolist() == ["first third", "middle third", "last third"]
    for name in ("binds", "lift", "remembered_error"):
        assert thirds[name].tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_what_ships_in_half_precision_and_without_a_memory(climbs, tmp_path) -> None:
    folder = tmp_path / "shipped"
    shutil.copytree(climbs[0].parent.parent, folder, ignore=shutil.ignore_patterns("cache"))
    whole = opinions([climbs[0]])
    for file in folder.rglob("online_*.safetensors"):
        save_file({n: t.half() for n, t in load_file(file).items()}, file)
    run = folder / "runs" / climbs[0].name
    result = json.loads((run / "result.json").read_text())
    result.pop("files")  # the checksums of what the run wrote, as `tools/ship_runs.py` does
    (run / "result.json").write_text(json.dumps(result))
    half = opinions([run])
    assert half.change.to_numpy() == pytest.approx(whole.change.to_numpy(), abs=0.02)
    of = Snapshots(run)
    assert of.memory_file is not None
    of.memory_file.unlink()
    of = Snapshots(run)
    assert of.offline_file == of.files[0]
    assert {*memory.audit([run]).env_steps} == {*of.files}


def test_worth_a_look() -> None:
    rows = {"run": "a", "phase": "online", "env_steps": range(0, 90, 10), "q_fixed": 1.0}
    table = pd.DataFrame(rows | {"test_win_rate": [9, 8, 7, 2, 3, 4, 0, 6, 1]})
    table.loc[6, "q_fixed"] = np.nan  # the worst test has no snapshot
    assert worth_a_look(table, 3) == {"a": [0, 30, 80]}
    assert worth_a_look(table, 4) == {"a": [0, 30, 50, 80]}
    assert worth_a_look(table, 50) == {"a": [0, 10, 20, 30, 40, 50, 70, 80]}


def _story(**columns: list) -> pd.DataFrame:
    """Curves of two runs, one that falls, with numbers written by hand."""
    table = replayed_curves([ROOT / f"data/runs/2s3z/{n}" for n in ("ovmse", "se")])
    table = table[(table.phase == "online") & table.env_steps.isin([0, 4000, 10_000, 60_000])]
    return table.assign(test_win_rate=[0.6, 0.6, 0.5, 0.6, 0.6, 0.4, 0.1, 0.3], **columns)


def test_rivals_by_hand() -> None:
    table = rivals.with_rivals(_story(
        gap_1=[2.0, 2.0, 1.5, 2.0, 2.0, 1.0, 0.1, 0.5], churn=[0, 0.1, 0, 0.1, 0, 0.1, 0, 0],
        q=[9.0] * 8, g=[8.0] * 8, q_exploring=[9, 9, 9, 9, 9, 9, 9, 9],
        g_exploring=[8, 7, 6, 8, 8, np.nan, 1, 5],
        remembered_error_exploring=[1, 2, 3, 4, 1, 2, 3, 4],
        part_mixer=[0, 1, -1, 1, 0, 1, 3, 3], part_1=[0, -1.0] + [1] * 6,
    ))  # fmt: skip
    assert table.mixer_share.tolist()[1:4] == [0.5, 0.5, 0.5] and table.mixer_share[:1].isna().all()
    found = rivals.evidence(table).set_index("would")
    by = {r.number: found.loc[f"{r.text} {'falls' if r.sign > 0 else 'rises'} where wins fall"]
          for r in rivals.RIVALS}  # fmt: skip
    assert by["gap_1"].verdict == "goes with the fall" and by["gap_1"].snapshots == 6
    assert by["rank"].verdict == "too few snapshots"  # was not measured
    assert by["churn"].verdict == "speaks against"  # rises where wins are kept
    signs = {r.number: r.sign for r in rivals.RIVALS}
    assert signs == {"gap_1": 1, "astray": -1, "mixer_share": -1, "rank": 1, "churn": -1,
                     "memory_wrong": -1}  # fmt: skip
    said = rivals.from_what(rivals.evidence(table))
    assert re.search(r"like those that were \(\+[01]\.\d\d over 6\)", said), said
    assert re.search(r"that only noise leads to \(-0\.\d\d over 5\)", said), said
    # Q_tot - G is 1 in the fixed battles; where it explores 9 - 7 = 2, 9 - 6 = 3, and so on.
    assert table.astray.dropna().tolist() == [0, 1, 2, 0, 0, 7, 3]
    assert by["astray"].snapshots == 5
    assert by["astray"].verdict == "goes with the fall"  # largest where wins are fewest
    assert table.memory_wrong.tolist()[:4] == [1, 2, 3, 4]  # OVMSE's; SE has no memory
    assert table.memory_wrong[4:].isna().all()
    low = rivals.at_the_lowest(table)
    assert low.algorithm.tolist() == ["ovmse", "se"] and low.env_steps.tolist() == [10_000] * 2
    assert low.over_exploring.tolist() == [3, 8] and low.gap_first.tolist() == [2, 2]
    sentence = rivals.why(low, rivals.evidence(table))
    assert "SE falls from 60 % to 10 %" in sentence and "explores +8.00" in sentence
    assert "OVMSE falls from 60 % to 50 %" in sentence
    risen = rivals.why(low.assign(win=0.7), rivals.evidence(table))
    assert "OVMSE goes from 60 % to 70 %" in risen


def test_what_02_says_of_6h_vs_8z_is_what_its_runs_show() -> None:
    """The numbers of its prose that need no simulator."""
    cells = nbformat.read(ROOT / "notebooks/02_q_drift.ipynb", 4).cells
    said = " ".join(next(c.source for c in cells if "## What 6h_vs_8z asks" in c.source).split())
    folder = ROOT / "data/runs/6h_vs_8z"
    paths = [folder / n for n in ("ovmse", "ovmse_with_cql", "macql_with_se", "se", "macql",
                                  "switch_cql")]  # fmt: skip
    table = rivals.with_rivals(beside(replayed_curves(paths), opinions(paths)))
    at = table[table.phase == "online"].set_index(["run", "env_steps"]).sort_index()

    def of(name: str, steps: int) -> pd.Series:
        return at.loc[(str(folder / name), steps)]

    def wins(name: str, steps: tuple[int, ...] = (0, 10_000, 60_000)) -> str:
        return ", ".join(f"{100 * of(name, n).test_win_rate:.0f}" for n in steps)

    def gap(name: str, steps: int = 10_000) -> str:
        return f"{of(name, steps).gap_1:.1f}".removeprefix("0")

    start, low, end = (of("ovmse", n) for n in (0, 10_000, 60_000))
    kept = of("ovmse_with_cql", 10_000).mixer_share
    lost = [of(p.name, 10_000).mixer_share for p in paths if p.name != "ovmse_with_cql"]
    for sentence in (
        f"OVMSE {wins('ovmse')} %; OVMSE with the conservative term {wins('ovmse_with_cql')} %; "
        f"MACQL with SE {wins('macql_with_se')} %; SE {wins('se')} %.",
        f"moved by {low.q_ended - start.q_ended:.1f} of {start.q_ended:.1f} at 10,000 steps, and "
        f"by {end.q_ended - start.q_ended:.1f} at the end",
        f"action falls from {start.gap_1:.1f} to {gap('ovmse')}, and to {gap('macql')} in MACQL ",
        f"and to {gap('switch_cql')} in MACQL and Switch CQL",
        f"it stays closed ({gap('ovmse', 60_000)}) while OVMSE comes back to 70 %",
        f"{wins('ovmse_with_cql', (10_000,))} % are won at 10,000 steps and the gap is "
        f"{gap('ovmse_with_cql')}; with the term alone {wins('macql_with_se', (10_000,))} % and "
        f"{gap('macql_with_se')}; with the memory alone {wins('ovmse', (10_000,))} % and "
        f"{gap('ovmse')}; with neither nothing and {gap('se')}.",
        f"(at 10,000 steps {100 * min(lost):.0f} to {100 * max(lost):.0f} % of what moved, "
        f"{100 * kept:.0f} % where the wins are kept), but "
        f"{100 * end.mixer_share:.0f} % in OVMSE when it wins 70 %, and "
        f"{100 * of('ovmse_with_cql', 60_000).mixer_share:.0f} % in OVMSE with the term at 54 %",
        f"OVMSE does {100 * low.churn:.0f} % of the choices otherwise where it wins 8 %, and "
        f"{100 * end.churn:.0f} % where it wins 70 %",
    ):  # fmt: skip
        assert sentence in said, sentence
    assert of("se", 10_000).test_win_rate == 0


def test_charts_are_narrow_and_one_look(climbs) -> None:
    table = beside(replayed_curves(climbs), opinions(climbs))
    only = worth_a_look(table, 3)
    table = beside(table, calibration.calibration(climbs, 8, 2, only))
    table = beside(table, calibration.calibration(climbs, 8, 2, only, exploring=True))
    table = rivals.with_rivals(beside(table, memory.audit(climbs, only)))
    numbers = forgetting.forgetting(table)
    drawn = {
        draw.__name__: mimebundle(draw(table))
        for draw in (charts.calibrated, charts.moved, charts.distances, charts.churned,
                     charts.bound, charts.rivals, figure1)
    } | {"forgotten": mimebundle(charts.forgotten(numbers, table))}  # fmt: skip
    for name, bundle in drawn.items():
        picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
        assert name == "figure1" or 300 < picture.width <= 700, name
    text = str(drawn["figure1"][VEGALITE])
    assert "λ, weight of the memory" in text and "ε, chance to explore" in text
    assert len(drawn["moved"][VEGALITE]["vconcat"]) == 2  # a panel for each algorithm
    for csv in drawn["moved"][VEGALITE]["datasets"].values():
        rows = pd.read_csv(io.StringIO(csv))
        keys = [name for name in ("step", "part") if name in rows]
        assert not rows.duplicated(keys).any() and rows.step.nunique() == table.env_steps.nunique()
    for measure, sentence in (
        (calibration.who_is_calibrated, "rank the moments"), (parts.what_moved, "mixer"),
        (distance.who_tells_apart, "one agent does something else"),
        (churn.who_changed, "joint actions"), (memory.where_it_binds, "The memory of OVMSE"),
        (forgetting.highest_curve, "The highest point above"),
    ):  # fmt: skip
        assert sentence in measure(table) and "nan" not in measure(table)
    ends = at_the_end(table, ["bias", *charts.numbered(table, "gap")])
    names = ["algorithm", "variant", "bias", "gap of 1", "gap of 2"]
    assert readable(ends, DIAGNOSTICS).columns.tolist() == names
    assert len(memory.over_the_battle(table)) == 3


def test_began_ended_and_fell_by_hand() -> None:
    table = _story()
    numbers = summary(table, at=[0, 60_000]).assign(q=[9.0, 8.5, 9.0, 3.25], mc=8.05)
    assert forgetting.in_numbers(numbers) == (
        "`Q_tot` of the fixed battles, at the start and at the end: OVMSE 9.00 → 8.50 (wins 60 → "
        "60 %); SE 9.00 → 3.25 (wins 60 → 30 %). What these battles returned: 8.05."
    )
    assert "no value to follow" in forgetting.in_numbers(numbers.assign(q=np.nan))
    of, at = deepest_fall(table)
    assert (of.run.name, at) == ("se", 10_000)
    said = forgetting.who_fell(table, of.run, at)
    assert "SE (seed 10) after 10,000 steps: from 60 % to 10 % of test battles" in said


def test_schedules_are_drawn_for_each_course() -> None:
    """Runs that fade alike are one line, though their tests fall on other steps."""

    def drawn(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
        layered = schedules(table)
        data = pd.read_csv(io.StringIO(layered.data.values))
        return data, layered.title.text

    table = _story(epsilon=[1, 0.5, 0.1, 0.1] * 2, lambda_memory=[1.0, 0.5, 0, 0] + [np.nan] * 4)
    data, title = drawn(table)
    assert data.groupby("of").kind.unique().map(list).to_dict() == {
        "OVMSE, SE": ["ε, chance to explore"], "OVMSE": ["λ, weight of the memory"],
    }  # fmt: skip
    assert title == "What fades"
    late = table.assign(env_steps=table.env_steps + np.array([0] * 7 + [8]))
    assert set(drawn(late)[0].of) == {"OVMSE, SE", "OVMSE"}
    data, title = drawn(table.assign(epsilon=[1, 0.5, 0.1, 0.1, 0.3, 0.2, 0.1, 0.1]))
    assert data[data.of == "SE"]["mean"].tolist() == [0.3, 0.2, 0.1, 0.1]  # no greatest of all
    assert title == "What fades (point at a line: whose it is)"
    assert schedules(table.drop(columns=["epsilon", "lambda_memory"])) is None


def test_verdicts() -> None:
    says = [rivals.verdict(x) for x in (0.9, 0.5, 0.3, 0.1, -0.1, -0.3, -0.9, np.nan)]
    assert says == ["goes with the fall"] * 2 + ["open"] + ["no sign"] * 2 + [
        "speaks against", "speaks against", "too few snapshots",
    ]  # fmt: skip
    two = pd.DataFrame({"verdict": ["goes with the fall"] * 2, "says": ["A b", "C d"]})
    answer = rivals.from_what(two.assign(goes=[0.6, -0.9], snapshots=[8, 20]))
    assert answer == (
        "What goes with the fall, by its correlation with wins over so many snapshots (more "
        "below): c d (-0.90 over 20); a b (+0.60 over 8)."
    )


def test_a_second_memory_is_part_of_the_sentence() -> None:
    table = _story(binds=[0.5] * 8, lift=[0.1] * 8).replace({"algorithm": {"se": "macql"}})
    assert "; that of " in memory.where_it_binds(table) and "; The" not in str(table)


def test_sections_without_their_measurement_read_sensibly() -> None:
    table = rivals.with_rivals(_story())
    found = rivals.evidence(table)
    assert (found.verdict == "too few snapshots").all()
    assert rivals.from_what(found) == "There are too few snapshots to say what goes with a fall."
    none = found.assign(verdict=["open"] + ["no sign"] * (len(found) - 1))
    assert rivals.from_what(none) == "No diagnostic goes with the fall in these runs."
    with pytest.raises(RunError, match="nothing to compare"):
        rivals.at_the_lowest(table)
    low = rivals.at_the_lowest(rivals.with_rivals(_story(churn=[0.1] * 8)))
    assert "falls from" in rivals.why(low, found) and "explores" not in rivals.why(low, found)


def test_a_section_that_cannot_be_shown_says_why(capsys: pytest.CaptureFixture) -> None:
    with or_why_not():
        raise RunError("none of these runs has a memory")
    with pytest.raises(ZeroDivisionError), or_why_not():
        1 / 0  # noqa: B018 - a fault of ours keeps its traceback
    assert "Markdown" in capsys.readouterr().out
