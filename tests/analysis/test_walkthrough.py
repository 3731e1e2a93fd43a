"""The tables of the walkthrough against plain loops, dynamic programming and simulation."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import subprocess
import sys
from functools import cache

import nbformat
import numpy as np
import pandas as pd
import pytest
import vl_convert
from conftest import ROOT

from analysis.answers import unlearned, walked
from analysis.charts import walkthrough as charts
from analysis.charts.show import VEGALITE, VL_VERSION, mimebundle
from analysis.walkthrough import chances, grids
from analysis.walkthrough.game import ACTIONS, BOLD, GAMMA, REST, STEP, game, play
from analysis.walkthrough.learning import GUESS, RATE, dataset, finetune, offline, q_tot
from ovmse.errors import UserError
from ovmse.method.algorithms import ALGORITHMS, EXPLORATIONS, Algorithm
from ovmse.method.exploration import choose_actions

pytestmark = pytest.mark.slow

# By hand, not from the module: rows and columns are rest, step, bold; bold alone falls.
PAYOFF = [[-5, 1, -10], [1, 3, -10], [-10, -10, 5]]
UP = {0: [1], 1: [2], 2: [3, 4], 3: ["top"], 4: ["top"]}
LEDGES, PAIRS = range(5), list(itertools.product(range(3), repeat=2))


@cache
def table(name: str):
    """What a function of `grids` gives; it is asked once, and nothing here changes it."""
    return getattr(grids, name)()


@cache
def watched() -> pd.DataFrame:
    return grids.watch(grids.known())


@cache
def spec_of(name: str) -> dict:
    """A chart as it is shown, without its picture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.charts.show.png", lambda spec: b"")
        return mimebundle(CHARTS[name]())[VEGALITE]


def after(ledge: int, i: int, j: int) -> list:
    return ["fallen"] if (i == 2) != (j == 2) else [ledge] if i == j == 0 else UP[ledge]


@cache
def horizon(steps: int) -> tuple[float, ...]:
    """V of the best play over the last `steps` steps, by backward induction in plain Python."""
    if steps == 0:
        return (0.0,) * 5
    v = horizon(steps - 1)
    return tuple(max(worth(v, s, i, j) for i, j in PAIRS) for s in LEDGES)


def worth(v: tuple[float, ...], s: int, i: int, j: int) -> float:
    following = [0.0 if isinstance(n, str) else v[n] for n in after(s, i, j)]
    return PAYOFF[i][j] + GAMMA * sum(following) / len(following)


def test_the_true_values_are_those_of_backward_induction() -> None:
    v = horizon(60)
    for s, (i, j) in itertools.product(LEDGES, PAIRS):
        assert game().best[s, i, j] == pytest.approx(worth(v, s, i, j), abs=1e-12)


def test_it_starts_without_torch() -> None:
    """The first charts of 00_walkthrough, before a class, need none: two seconds of waiting."""
    [cell] = [c.source for c in nbformat.read(ROOT / "notebooks/00_walkthrough.ipynb", 4).cells
              if "from analysis.walkthrough import" in c.source]  # fmt: skip
    lines = [line for line in cell.splitlines() if line.startswith(("import ", "from "))]
    code = "\n".join([*lines, "import sys", "assert 'torch' not in sys.modules"])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_what_greedy_teams_earn() -> None:
    greedy = np.array([[[BOLD] * 2] * 5, [[STEP] * 2] * 5, [[REST] * 2] * 5, [[BOLD, STEP]] * 5])
    half = np.array([[[STEP] * 2] * 4 + [[BOLD, STEP]]])  # falls if the coin shows its side
    returns, wins = play(np.concatenate([greedy, half]))
    assert returns.tolist() == [20, 12, -30, -10, 9 + (3 - 10) / 2]
    assert wins.tolist() == [1, 1, 0, 0, 0.5]


def test_offline_training_fits_what_the_data_hold_and_leaves_the_rest() -> None:
    """Without the conservative term: seen values solve the Bellman equation with the unseen guess
    in its maximum; on the last ledge, where nothing follows, they are the payoffs."""
    learned = q_tot(offline(dataset(0.5)[None], np.zeros(1)))[0]
    for last in (3, 4):
        assert learned[last, BOLD, BOLD] == pytest.approx(5, abs=1e-6)
        assert learned[last, STEP, STEP] == pytest.approx(3, abs=1e-6)
        assert learned[last, BOLD, STEP] == pytest.approx(4, abs=1e-6)  # their mean; truly -10
        assert learned[last, REST, REST] == 2 * GUESS
    v = [0.0, 0.0, 0.0, 2 * GUESS, 2 * GUESS]
    for s in (2, 1, 0):
        v[s] = 5 + GAMMA * v[s + 1]
        assert learned[s, BOLD, BOLD] == pytest.approx(v[s], abs=1e-6)
    assert learned[0].max() > 20  # over what any battle can return


def test_the_conservative_term_is_at_its_optimum_on_what_was_seen() -> None:
    """The slope at the solution, by differences of the loss as it is written down in loops."""
    share, alpha = dataset(0.25)[0] / dataset(0.25)[0].sum(), 1.5
    parts = offline(dataset(0.25)[None], np.array([alpha]))[0]
    target = {(2, 2): 5.0, (1, 1): 3.0}  # at the last ledge

    def loss(p: np.ndarray) -> float:
        q = {(i, j): p[0][i] + p[1][j] for i, j in PAIRS}
        td = sum(share[pair] * (q[pair] - y) ** 2 for pair, y in target.items())
        soft = math.log(sum(math.exp(value) for value in q.values()))
        return td + alpha * (soft - sum(share[pair] * q[pair] for pair in target))

    for agent, action in itertools.product((0, 1), (STEP, BOLD)):
        up, down = parts[4].copy(), parts[4].copy()
        up[agent, action] += 1e-5
        down[agent, action] -= 1e-5
        assert (loss(up) - loss(down)) / 2e-5 == pytest.approx(0, abs=2e-3)
    q = q_tot(parts)[4]
    assert q[REST, REST] < 0 and q[STEP, STEP] > 3 and q[BOLD, BOLD] < 5  # the rarer one pays


def test_one_step_of_each_target_by_hand() -> None:
    """Nobody explores: one round of four battles at the first ledge moves the parts of (bold, bold)
    by 4·RATE·(target - Q_tot), whatever the coin shows."""
    start = np.zeros((1, 5, 2, 3))
    start[0, :, :, BOLD] = 3.0  # Q_tot = 6 everywhere: y = 5 + 0.95·6 = 10.7
    rows = {name: Algorithm(label=name, target=name) for name in ("td", "ovm")}

    def moved(row: str, start: np.ndarray, memory: float) -> float:
        run = finetune(rows[row], start, epsilon=0.0, memory=memory, steps=4, every=4)
        return float(run.parts[1, 0, 0, 0, BOLD] - start[0, 0, 0, BOLD])

    assert moved("td", start, 0.5) == pytest.approx(4 * RATE * 4.7)
    assert moved("ovm", start, 1.0) == pytest.approx(4 * RATE * 4.7)  # memory 6 < y
    start[0, 0, :, BOLD] = 10.0  # memory 20 > y = 10.7
    assert moved("td", start, 1.0) == pytest.approx(4 * RATE * (10.7 - 20))
    assert moved("ovm", start, 0.0) == pytest.approx(4 * RATE * (10.7 - 20))
    assert moved("ovm", start, 0.25) == pytest.approx(4 * RATE * 0.75 * (10.7 - 20))
    assert moved("ovm", start, 1.0) == pytest.approx(0)


def test_online_a_table_without_exploring_learns_its_own_true_value() -> None:
    start = grids.pretrained(teams=2)
    run = finetune(ALGORITHMS["se"], start, epsilon=0.0, steps=1200, every=400)
    learned = q_tot(run.parts[-1])[0, [0, 1, 2, 3, 4], BOLD, BOLD]
    assert learned == pytest.approx(game().best[:, BOLD, BOLD], abs=0.01)
    assert run.steps.tolist() == [0, 400, 800, 1200] and (run.wins == 1).all()


def test_what_is_held_is_what_the_pre_trained_team_did_whoever_learns() -> None:
    """QMIX learns from nothing, and is asked about the same joint actions as the others."""
    start = grids.pretrained(teams=3)
    run = finetune(ALGORITHMS["qmix"], start, epsilon=0.5, steps=400, every=400)
    best = start.argmax(-1)
    for team in range(3):
        held = [q_tot(run.parts[-1])[team, s, *best[team, s]] for s in range(5)]
        assert run.held[-1, team] == pytest.approx(np.mean(held))
    assert run.held[0].tolist() == [20] * 3  # the guess


def test_a_row_that_the_tables_do_not_hold_is_refused_in_a_sentence() -> None:
    for name in ("action_proposal", "macal_ql", "wsrl"):
        with pytest.raises(UserError, match="the tables of the walkthrough hold"):
            grids.watch({"x": ALGORITHMS[name]})
    with pytest.raises(UserError, match="allowed: an Algorithm"):
        grids.watch({"x": "ovmse"})  # type: ignore[dict-item]


def test_what_the_notebook_says_of_the_algorithms_holds() -> None:
    last = watched().query("steps == 600").set_index("name")["return"]
    assert walked(watched()).count("20 → ") == 4
    ways = [rows.sort_values("steps")["return"].tolist() for _, rows in watched().groupby("name")]
    perfect = [way for way in ways if way[0] > 19.8]
    lost = sum(min(way) < way[0] / 2 for way in perfect)
    assert f"Of the {len(perfect)} teams" in unlearned(watched())
    assert f"below, {lost} lose more than half" in unlearned(watched()) and 0 < lost < len(perfect)
    assert last["OVMSE"] > last["OVM"] > last["Switch CQL"] and last["OVMSE"] > last["SE"] > 12
    # "one explorer at a time softens that, a memory delays it, and both together prevent most"
    of = {name: rows.set_index("steps")["return"] for name, rows in watched().groupby("name")}
    assert of["Switch CQL"].min() < of["SE"].min() < 10 < of["OVMSE"].min()
    half = {name: (way < way.iloc[0] / 2).idxmax() for name, way in of.items()}
    assert half["Switch CQL"] < half["OVM"] and of["OVM"].min() < 10
    at_the_end = table("memories").query("steps == 600")
    memory = at_the_end.set_index(["offline", "memory", "epsilon"])["return"]
    assert memory["right", 1.0, 1.0] > 19 and memory["right", 0.0, 1.0] < 5
    assert memory["wrong", 0.0, 0.0] == 20 and memory["wrong", 1.0, 0.0] == 0


@pytest.mark.parametrize("way", EXPLORATIONS)
def test_who_explores_and_what_is_played_is_as_the_real_rule_draws(way: str) -> None:
    rng, epsilon, n = np.random.default_rng(0), 0.6, 120_000
    q = np.tile([0.0, 1.0, 0.5], (n, 2, 1))  # both would step
    actions, explored, _, _ = choose_actions(rng, way, epsilon, q, np.ones((n, 2, 3), np.bool_))
    counted = np.bincount(explored.sum(1), minlength=3) / n
    assert counted == pytest.approx(chances.explorers(way, epsilon, 2), abs=0.006)
    seen = np.zeros((3, 3))
    np.add.at(seen, (actions[:, 0], actions[:, 1]), 1 / n)
    expected = chances.joint_actions(way, epsilon)
    assert seen == pytest.approx(expected, abs=0.006)
    if way == "sequential_centralised":  # two at once are never seen, however long one waits
        apart = [pair for pair in PAIRS if STEP not in pair]
        assert all(seen[pair] == expected[pair] == 0 for pair in apart)


def test_one_at_a_time_decentralised_is_epsilon_greedy_at_a_share_of_epsilon() -> None:
    for agents in (2, 5, 8):
        one = chances.explorers("sequential_decentralised", 0.4, agents)
        assert one == pytest.approx(chances.explorers("epsilon_greedy", 0.4 / agents, agents))
        assert one @ np.arange(agents + 1) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="exploration: got 'x'"):
        chances.explorers("x", 0.1, 2)


@pytest.mark.parametrize(("error", "noise"), [(0, 2), (1.5, 1), (-1.5, 1), (-4, 0.5), (2, 0)])
def test_what_a_maximum_adds(error: float, noise: float) -> None:
    y = np.random.default_rng(1).normal(0, noise, 400_000)
    measured = np.mean(0.7 * np.maximum(error, y) + 0.3 * y)
    assert chances.lift(np.array([error]), noise, 0.7)[0] == pytest.approx(measured, abs=0.01)
    at_truth = chances.lift(np.array([0.0]), 2.0, 1.0)[0]
    assert at_truth == pytest.approx(2 / math.sqrt(2 * math.pi))


def test_the_schedules_as_printed_are_misprints() -> None:
    wide = grids.schedules(100, end=0.1, start=0.5).pivot(
        index="steps", columns=["schedule", "reading"], values="value"
    )
    printed, described = wide["λ (eq. 6)"]["as printed"], wide["λ (eq. 6)"]["as described"]
    assert printed.loc[:100].to_numpy() == pytest.approx(0.1) and printed[200] < 0
    assert described[0] == 1 and described[100] == described[200] == pytest.approx(0.1)
    printed, described = wide["ε (eq. 7)"]["as printed"], wide["ε (eq. 7)"]["as described"]
    assert printed[0] == 0.1  # min(ε_end, 1): never ε_start
    assert printed[300] < 0 and described[0] == 0.5 and described[300] == pytest.approx(0.1)


def test_the_tables_of_the_charts_name_every_joint_action() -> None:
    pairs = {(a, b) for a in ACTIONS for b in ACTIONS}
    for name, by in (
        ("true_values", ["ledge"]),
        ("held_by_data", ["quality"]),
        ("conservative", ["alpha", "quality", "ledge"]),
        ("deviations", ["epsilon", "exploration"]),
    ):
        for _, group in table(name).groupby(by):
            assert set(zip(group["first"], group["second"], strict=True)) == pairs
    assert table("held_by_data").groupby("quality")["count"].sum().eq(100).all()


# Charts.

CHARTS = {
    "true_values": lambda: charts.true_values(table("true_values")),
    "held_by_data": lambda: charts.held_by_data(table("held_by_data")),
    "conservative": lambda: charts.conservative(table("conservative")),
    "first_steps": lambda: charts.first_steps(*table("first_steps")),
    "memories": lambda: charts.memories(table("memories")),
    "lifts": lambda: charts.lifts(table("lifts")),
    "explorers": lambda: charts.explorers(table("explorers_at_once")),
    "deviations": lambda: charts.deviations(table("deviations")),
    "schedules": lambda: charts.schedules(table("schedules")),
    "watch": lambda: charts.watch(watched()),
}


def sources(spec: dict) -> list[pd.DataFrame]:
    """Every table that a chart holds."""
    return [pd.read_csv(io.StringIO(d)) for d in spec["datasets"].values()]


def filters(part: object) -> set[str]:
    """Every filter of a chart, wherever it stands."""
    if isinstance(part, list):
        return set().union(*map(filters, part)) if part else set()
    if not isinstance(part, dict):
        return set()
    own = {part["filter"]} if isinstance(part.get("filter"), str) else set()
    return own.union(*(filters(value) for value in part.values()))


@pytest.mark.parametrize("name", CHARTS)
def test_every_place_of_every_slider_shows_something(name: str) -> None:
    """What a filter compares with a slider has a row for each value that the slider can take."""
    spec = spec_of(name)
    held = sources(spec)
    sliders = {p["name"]: p for p in spec.get("params", []) if "bind" in p}
    assert bool(sliders) == (name not in ("schedules", "watch"))
    places = {}
    for key, param in sliders.items():
        bind = param["bind"]
        assert bind["input"] == "Range" and bind["data-lm-suppress-shortcuts"] == "true"
        count = round((bind["max"] - bind["min"]) / bind["step"])
        places[key] = [bind["min"] + n * bind["step"] for n in range(count + 1)]
        assert min(abs(param["value"] - p) for p in places[key]) < 1e-6
    used = set()
    for rule in filters(spec):
        asked = re.findall(r"abs\(datum\.(\w+) - (\w+)\) < 1e-6", rule)
        assert all(a == b and a in sliders for a, b in asked)
        used |= {a for a, _ in asked}
        for rows in held:
            if not asked or not {a for a, _ in asked} <= set(rows):
                continue
            shown = rows[[a for a, _ in asked]].to_numpy().round(6)
            wanted = itertools.product(*(places[a] for a, _ in asked))
            assert {tuple(np.round(where, 6)) for where in wanted} <= set(map(tuple, shown))
    assert used == set(sliders)
    assert len(json.dumps(spec)) < 100_000


def test_a_slider_moves_a_chart_without_a_kernel() -> None:
    """The renderer itself: another value, another picture, and text of the slider's own place."""
    spec = json.loads(json.dumps(spec_of("deviations")))
    pictures = []
    for value in (0.2, "0.8"):  # a slider gives text
        [param] = [p for p in spec["params"] if p["name"] == "epsilon"]
        param["value"] = value
        pictures.append(vl_convert.vegalite_to_svg(spec, vl_version=VL_VERSION))
    assert f"{100 * (0.8 / 3 + 0.2) ** 2:.1f} %" in pictures[1]
    assert "ε = 0.8" in pictures[1] and "ε = 0.2" in pictures[0]
