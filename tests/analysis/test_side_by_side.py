"""Ways to explore side by side; and the charts, tables and words of 03_exploration."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from exploring import climb_run
from PIL import Image

from analysis import exploration, ledger, prices, side_by_side
from analysis.answers import explored, moved_by
from analysis.battles import record
from analysis.charts import exploration as charts
from analysis.charts.show import VEGALITE, mimebundle
from analysis.events import events, events_or_recorded
from analysis.notebook import run_given, runs_given, whole
from analysis.snapshots import Snapshots
from analysis.statistics import wilson
from analysis.tables import EXPLORATION, readable
from analysis.walkthrough.chances import expected
from ovmse.errors import UserError
from ovmse.runs.reading import read_metrics

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Snapshots:
    return Snapshots(climb_run(tmp_path_factory.mktemp("climb")))


def test_the_ways_have_the_same_epsilon_or_the_same_number() -> None:
    ways = side_by_side.ways(0.1, 5)
    assert len(ways) == 7
    for number, exploration_, epsilon in ways:
        alive = np.array([5])
        chances = expected(exploration_, np.array([epsilon]), alive, 5)[0]
        assert chances @ np.arange(6) == pytest.approx(float(number))
    assert [e for _, _, e in ways].count(0.1) == 3  # the three ways at one epsilon
    assert max(e for _, _, e in side_by_side.ways(1 / 3, 3)) == 1
    for wrong in (0.0, 0.21, -1.0, "x"):
        with pytest.raises(UserError, match="epsilon: got .*at most 0.200"):
            side_by_side.ways(wrong, 5)


def test_the_comparison_against_battles_recorded_again(of: Snapshots, monkeypatch) -> None:
    monkeypatch.setattr(side_by_side, "DRAWS", 50)
    at = of.nearest(10**9)
    table = side_by_side.compare(of, at, 0.3, battles=30, seed=2)
    for row in table.itertuples():
        recorded = record(of.run, at, row.exploration, row.epsilon, 30, 2)
        battles = [b.episode for b in recorded]
        strayed = [(e.actions != e.exploration.greedy).sum() for e in battles]
        assert row.off_greedy == pytest.approx(sum(strayed) / row.steps)
        costs = prices.costs(of.network(at), recorded)
        if len(costs):
            assert row.cost == pytest.approx(costs.cost.mean())
            once = {(e.battle, e.step): e.all for e in costs.itertuples()}
            assert row.given_up == pytest.approx(sum(once.values()) / row.steps)
        for name, labels in (("joint", exploration.joint_actions(recorded)),
                             ("states", exploration.coarse_states(recorded))):  # fmt: skip
            assert getattr(row, name) == pytest.approx(exploration.distinct(labels, 50))
        at_once = np.concatenate([e.exploration.explored.sum(1) for e in battles])
        assert row.explorers == pytest.approx(at_once.mean())
        assert row.several == pytest.approx((at_once > 1).mean())
        assert row.won == pytest.approx(np.mean([e.won for e in battles]))
        assert row.steps == sum(e.length for e in battles)
    assert table.given_up[0] == table.several[0] == 0 and np.isnan(table.cost[0])
    central = table[table.exploration == "sequential_centralised"]
    assert central.several.eq(0).all() and (central.explorers > 0).all()
    monkeypatch.setattr(side_by_side, "record_with", None)  # kept beside the run
    assert side_by_side.compare(of, at, 0.3, battles=30, seed=2).equals(table)


def test_wilson_is_the_root_of_its_equation() -> None:
    """The ends are where ``|share - p| = z · sqrt(p (1 - p) / n)``."""
    for won, n in ((0.0, 8), (0.25, 64), (1.0, 20)):
        for end in wilson(np.array(won), np.array(n)):
            gap = 1.959964 * np.sqrt(max(end * (1 - end), 0) / n)
            assert abs(won - end) == pytest.approx(gap, abs=1e-6)


@pytest.mark.parametrize("recorded", [False, True])
def test_charts_fit_and_raster_marks_know_their_battle(
    of: Snapshots, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = events(of.run)
    if recorded:
        written = of.run / "events.jsonl"
        written.rename(of.run / "hidden")
        got = events_or_recorded(of.run, battles=4)
        (of.run / "hidden").rename(written)
    monkeypatch.setattr(prices, "WINDOW", 2)  # a climb has four steps
    at, alive = 0, exploration.living_along(of.run)
    battles = record(of.run, at, "epsilon_greedy", 0.4, 40, 1)
    q = of.network(at)
    some = exploration.some_battles(got)
    compared = side_by_side.compare(of, at, 0.3, battles=8)
    moved = ledger.ledger(of, at, battles, batches=2)
    costs = prices.by_number(prices.costs(q, battles))
    spoiled = prices.contamination(q, battles, of.config)
    outcomes, at_once = exploration.by_explorers(got), exploration.at_once(got, alive)
    drawn = {
        "raster": charts.raster(exploration.density(got), some, "run"),
        "explorers": charts.explorers(exploration.along(got, alive), at_once, "run"),
        "outcomes": charts.outcomes(outcomes, "run"),
        "prices": charts.prices(costs, "run"),
        "contaminated": charts.contaminated(spoiled, "run"),
        "ledger": charts.ledger(moved, "run"),
        "side by side": charts.side_by_side(compared, "run"),
    }
    for name, chart in drawn.items():
        bundle = mimebundle(chart)
        picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
        assert picture.width <= 700, name
    text = str(mimebundle(drawn["raster"])[VEGALITE]["datasets"])
    rows = some.dropna()
    assert "battle,step,agent" in text
    assert all(f"\\n{b}," in text or f"\n{b}," in text for b in rows.battle)
    for table in (at_once, outcomes, costs, spoiled, moved, compared):
        words = readable(table, EXPLORATION)
        assert len(words) == len(table) and len(words.columns) >= 3


def drawn_lines(spec: dict, x: str, y: str) -> dict[str, tuple[str, list[list[float]]]]:
    """What a reader takes from a panel: for each name of its legend the colour and the numbers."""
    colour = spec["encoding"]["color"]
    name, scale = colour["field"], colour["scale"]
    colours = dict(zip(scale["domain"], scale["range"], strict=True))
    table = pd.read_csv(io.StringIO(spec["data"]))
    assert list(colours) == colour["sort"] == list(table[name].unique())
    return {n: (colours[n], rows[[x, y]].values.tolist()) for n, rows in table.groupby(name)}


def test_each_name_of_a_legend_has_its_own_numbers() -> None:
    along = pd.DataFrame({"env_steps": [0, 2000], "explored": [0.9, 0.1], "greedy": [5, 4],
                          "sequential": [1, 0.8]})  # fmt: skip
    at_once = pd.DataFrame({"k": [0, 1], "explored": [0.7, 0.3], "strayed": [0.8, 0.2],
                            "greedy": [0.4, 0.6], "sequential": [0.75, 0.25]})  # fmt: skip
    spec = mimebundle(charts.explorers(along, at_once, ""))[VEGALITE]
    panels = [p | {"data": spec["datasets"][p["data"]["name"]]} for p in spec["vconcat"]]
    lines = drawn_lines(panels[0], "x", "value")
    assert {name: numbers for name, (_, numbers) in lines.items()} == {
        "explored": [[0, 0.9], [2, 0.1]],
        "living · ε": [[0, 5], [2, 4]],
        "living · ε/N": [[0, 1], [2, 0.8]],
    }
    shares = drawn_lines(panels[1], "k", "value")
    assert {name: [share for _, share in rows] for name, (_, rows) in shares.items()} == {
        "explored": [70, 30], "not the greedy action": [80, 20],
        "binomial at ε": [40, 60], "binomial at ε/N": [75, 25],
    }  # fmt: skip
    alike = {"binomial at ε": "living · ε", "binomial at ε/N": "living · ε/N"}
    colours = {alike.get(name, name): colour for name, (colour, _) in shares.items()}
    assert len(set(colours.values())) == 4
    assert all(colours[name] == colour for name, (colour, _) in lines.items())
    dashes = panels[0]["encoding"]["strokeDash"]["scale"]
    assert dashes["domain"] == ["explored", "living · ε", "living · ε/N"]
    assert dashes["range"][0] == [1, 0] and [1, 0] not in dashes["range"][1:]

    thirds = pd.DataFrame({"third": exploration.THIRDS, "explorers": [3.0, 2.0, 1.0], "battles": 4,
                           "won": [0, 0.25, 1], "return": [5, 9, 20], "length": 30})  # fmt: skip
    spec = mimebundle(charts.outcomes(thirds, ""))[VEGALITE]
    [above, below] = [p["layer"][-1] for p in spec["vconcat"]]
    data = {"data": spec["datasets"][spec["data"]["name"]]}
    won, returned = (drawn_lines(p | data, "explorers", p["encoding"]["y"]["field"])
                     for p in (above, below))  # fmt: skip
    assert [won[t][1] for t in exploration.THIRDS] == [[[3, 0]], [[2, 25]], [[1, 100]]]
    assert [returned[t][1] for t in exploration.THIRDS] == [[[3, 5]], [[2, 9]], [[1, 20]]]
    assert len({colour for colour, _ in won.values()}) == 3


def test_prices_are_drawn_as_the_line_above_them_says() -> None:
    table = pd.DataFrame({"at_once": [1], "events": [9], "low": [1], "median": [2], "high": [4],
                          "cost": [3], "together": [5]})  # fmt: skip
    spec = mimebundle(charts.prices(table, ""))[VEGALITE]
    bar, dot, diamond = spec["layer"]
    assert [bar["encoding"][y]["field"] for y in ("y", "y2")] == ["low", "high"]
    assert [m["encoding"]["y"]["field"] for m in (dot, diamond)] == ["median", "together"]
    assert diamond["mark"]["shape"] == "diamond" and "shape" not in dot["mark"]


def test_runs_are_listed_and_picked(of: Snapshots, monkeypatch, tmp_path: Path) -> None:
    other = climb_run(of.run.parents[1], algorithm="se", online_steps=800)
    runs = runs_given(str(of.run.parent))
    table = exploration.overview(runs)
    assert table.algorithm.tolist() == ["ovmse", "se"]
    online = [row for row in read_metrics(other) if row["phase"] == "online"]
    assert table["last"][1] == online[-1]["test_win_rate"]
    assert table["first"][1] == online[0]["test_win_rate"]
    given = [row["explorers"] for row in online if "explorers" in row]
    assert table.explorers[1] == pytest.approx(np.mean(given))
    few, many = sorted([(table.explorers[0], "OVMSE"), (table.explorers[1], "SE")])
    way = "(seed 0, sequential, decentralised)"
    assert exploration.who_explores_most(table) == (
        f"On average from {few[0]:.2f} agents at a step in {few[1]} {way} to {many[0]:.2f} agents "
        f"at a step in {many[1]} {way} explored, over 2 runs."
    )
    unknown = exploration.who_explores_most(table.assign(explorers=np.nan))
    assert unknown.startswith("2 runs; none of them wrote down")
    more = pd.concat([table, table.iloc[:1].assign(explorers=np.nan)])
    said = exploration.who_explores_most(more)
    assert said.endswith("explored, over 2 runs; 1 more did not write it down.")
    assert run_given("", runs) == runs[0]
    assert run_given(other.name, runs) == other
    with pytest.raises(UserError, match=f"called 'x', but: {runs[0].name}, {other.name}"):
        run_given("x", runs)
    assert runs_given([str(other)]) == [other]
    twin = tmp_path / "twin" / other.name
    with pytest.raises(UserError, match=f"2 of the runs are called '{other.name}': give its dir"):
        run_given(other.name, [*runs, twin])
    monkeypatch.setattr("analysis.notebook.SHOWN", of.run.parent)  # those that ship
    assert {r.name for r in runs_given("")} == {of.run.name, other.name}
    (tmp_path / "one").symlink_to(other)
    monkeypatch.setattr("analysis.notebook.SHOWN", tmp_path)
    with pytest.raises(UserError, match="there is no run in"):  # links are not followed
        runs_given("")


@pytest.mark.parametrize("wrong", [0, -1, 10_001, 2.5, "3", None, True])
def test_a_number_that_is_none_is_one_sentence(wrong: object) -> None:
    assert whole({"battles": 3}, "battles", 1) == 3
    assert whole({"snapshot": 60_000}, "snapshot", 0, 10**9) == 60_000
    with pytest.raises(UserError, match=r"battles: got .*, allowed: .* from 1 to 10,000$"):
        whole({"battles": wrong}, "battles", 1)


def test_nobody_explored(of: Snapshots) -> None:
    q, battles = of.network(0), record(of.run, 0, "epsilon_greedy", 0.0, 3, 1)
    table = prices.by_number(prices.costs(q, battles))
    assert table.empty
    assert mimebundle(charts.prices(table, "nobody"))


def test_the_answer_by_hand() -> None:
    at_once = pd.DataFrame({"k": [0, 1, 2, 3], "explored": [0.7, 0.2, 0.06, 0.04]})
    at_once = at_once.assign(greedy=[0.4, 0.2, 0.2, 0.2], sequential=[0.8, 0.12, 0.05, 0.03])
    said = explored("SE", at_once, 2_000, pd.DataFrame({"cost": [1.0, 2.0]}))
    assert said.startswith("While SE trained, somebody explored at 30 % of the steps, and two or ")
    assert "at once at 10 % (chance gives 40 %" in said and "and 8 % at ε/N)" in said
    assert said.endswith("; after 2,000 steps one random action costs 1.50 of Q_tot on average, as "
                         "the network itself sees it.")  # fmt: skip
    anew = explored("SE", at_once, 2_000, pd.DataFrame({"cost": [1.0]}), recorded=True)
    assert anew.startswith("In battles of SE recorded anew, somebody explored at 30 %")
    means = pd.DataFrame({"part": ["all", "explored", "greedy"], "change": [0.5, 0.75, -0.25]})
    assert moved_by(means) == (
        "One update on the steps at which somebody explored moves the value of the fixed battles "
        "by +0.75, one on all the others by -0.25."
    )
    assert explored("SE", at_once, 0, pd.DataFrame({"cost": []})).endswith("at ε/N).")


def test_what_random_actions_cost_by_hand(of: Snapshots) -> None:
    rows = {"battle": [1, 1, 1, 2, 3], "step": [0, 4, 4, 2, 0], "agent": [1, 0, 1, 0, 0],
            "cost": [0.5, 1, 3, 2.5, 9], "at_once": [1, 2, 2, 1, 1], "all": [0.5, 5, 5, 2.5, 9],
            }  # fmt: skip
    costs = pd.DataFrame(rows)
    assert prices.what_it_costs(prices.by_number(costs)) == (
        "Half of the random actions of 1 explorer at a step cost at most 2.50 of `Q_tot`, of 2 at "
        "most 2.00 each; together these give up 5.00, against 4.00."
    )
    assert "nothing was given up" in prices.what_it_costs(prices.by_number(costs[:0]))
    battles = record(of.run, 0, "epsilon_greedy", 0.0, 2, 1)
    ends = " and ".join("won" if b.episode.won else "lost" for b in battles)
    assert prices.dearest(costs, battles) == (
        f"These battles were {ends}; the dearest of their 4 random actions is agent 2's at step 4 "
        "of battle 1: it costs 3.00 of `Q_tot`."
    )
    assert prices.dearest(costs[:0], battles).endswith("nobody explored in them.")


@pytest.mark.parametrize(("mean", "verdict"), [
    (-0.5, "Later random actions lower a target: y(λ) − y(0) is -0.50 where 2–4 follow, -0.10"),
    (0.4, "Later random actions raise a target: "),
    (0.1, "Whether later random actions move a target cannot be told: "),
])  # fmt: skip
def test_whether_targets_are_spoilt_by_hand(mean: float, verdict: str) -> None:
    """The difference of the two has a standard error of .15 (9, 12 and 15)."""
    table = pd.DataFrame({"window": ["0", "2–4"], "mean": [-0.1, mean], "error": [0.09, 0.12]})
    said = prices.whether_spoilt(table)
    assert said.startswith(verdict) and said.endswith("standard error 0.15).")
    assert prices.whether_spoilt(table[:1]).endswith("nothing to compare.")


def test_which_way_by_hand() -> None:
    rows = [
        ("0", "epsilon_greedy", 0.0, 0.0, 0.5),
        ("0.5", "epsilon_greedy", 0.1, 0.08, 0.4),
        ("0.5", "sequential_centralised", 0.5, 0.0, 0.45),
        ("0.1", "epsilon_greedy", 0.02, 0.0, 0.6),
        ("0.1", "sequential_centralised", 0.1, 0.0, 0.55),
    ]
    columns = ["expected", "exploration", "epsilon", "several", "won"]
    table = pd.DataFrame(rows, columns=columns).assign(battles=64)
    said = side_by_side.which_way(table)
    assert "At the same ε: ε-greedy 40 % (8 %), sequential, centralised 55 % (0 %)." in said
    assert "At 0.1 explorers a step expected: ε-greedy 60 % (0 %), sequential, cent" in said
    assert said.endswith("50 % are won; all 95 % intervals overlap.")
    lost = table.assign(won=[0.9, 0.1, 0.5, 0.5, 0.5])
    assert side_by_side.which_way(lost).endswith("Where nobody explores 90 % are won.")
