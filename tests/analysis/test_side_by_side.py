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
from ovmse.errors import UserError
from ovmse.runs.reading import read_metrics


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Snapshots:
    return Snapshots(climb_run(tmp_path_factory.mktemp("climb")))


def test_the_ways_have_the_same_epsilon_or_the_same_number() -> None:
    ways = side_by_side.ways(0.1, 5)
    assert len(ways) == 7
    for number, exploration_, epsilon in ways:
        alive = np.array([5])
        chances = exploration.expected(exploration_, np.array([epsilon]), alive, 5)[0]
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
        battles = [b.episode for b in record(of.run, at, row.exploration, row.epsilon, 30, 2)]
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
    assert "at once at 10 %; chance gives 40 %" in said and "and 8 % at ε/N" in said
    assert said.endswith("After 2,000 steps one random action costs 1.50 of Q_tot on average, as "
                         "the network itself sees it.")  # fmt: skip
    means = pd.DataFrame({"part": ["all", "explored", "greedy"], "change": [0.5, 0.75, -0.25]})
    assert moved_by(means) == (
        "One update on the steps at which somebody explored moves the value of the fixed battles "
        "by +0.75, one on all the others by -0.25."
    )
    assert explored("SE", at_once, 0, pd.DataFrame({"cost": []})).endswith("at ε/N.")
