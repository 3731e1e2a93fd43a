"""How many explore, against simulation; coverage and groups, against plain counting."""

from __future__ import annotations

from math import comb
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from exploring import climb_run

from analysis.battles import record
from analysis.events import Events, config_of, epsilon_at, events, events_of
from analysis.exploration import (
    along,
    at_once,
    by_explorers,
    coarse_states,
    density,
    distinct,
    how_many,
    joint_actions,
    living,
    living_along,
    some_battles,
    whether_they_lose,
    who_explored,
    windows,
)
from analysis.walkthrough.chances import expected
from ovmse.envs.base import Units
from ovmse.method.algorithms import EXPLORATIONS
from ovmse.method.exploration import choose_actions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return climb_run(tmp_path_factory.mktemp("climb"), exploration="epsilon_greedy")


@pytest.mark.parametrize("exploration", EXPLORATIONS)
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_expected_explorers_against_simulation(exploration: str, epsilon: float) -> None:
    """Agents with one action alone are dead: they never explore."""
    rng, draws, agents = np.random.default_rng(0), 40_000, 4
    for alive in range(agents + 1):
        avail = np.ones((draws, agents, 3), bool)
        avail[:, alive:, 1:] = False
        values = np.zeros(avail.shape)
        _, explored, _, _ = choose_actions(rng, exploration, epsilon, values, avail)
        seen = np.bincount(explored.sum(1), minlength=agents + 1) / draws
        said = expected(exploration, np.array([epsilon]), np.array([alive]), agents)[0]
        assert said.sum() == pytest.approx(1)
        assert seen == pytest.approx(said, abs=0.01)


def test_living_are_those_with_a_choice(run: Path) -> None:
    battle = record(run, 0, "epsilon_greedy", 1.0, 1, 0)[0]
    by_loop = [
        sum(sum(agent) > 1 for agent in step) for step in battle.episode.avail_actions.tolist()
    ]
    assert living(battle).tolist() == by_loop[:-1]


def test_the_observed_distribution_is_what_the_living_give(run: Path) -> None:
    """In battles at one ε, where the expectation can be summed up step by step."""
    battles = record(run, 0, "epsilon_greedy", 0.4, 400, 3)
    config = config_of(run)
    got = events_of([(0, battles)], config)
    n = np.concatenate([living(b) for b in battles])
    shares = np.bincount(n, minlength=3) / len(n)
    alive = pd.DataFrame([[0, *shares]], columns=["env_steps", 0, 1, 2])
    table = at_once(got, alive, epsilon=0.4)
    by_hand = [
        np.mean([comb(m, k) * 0.4**k * 0.6 ** (m - k) if k <= m else 0 for m in n])
        for k in range(3)
    ]
    assert table.greedy.tolist() == pytest.approx(by_hand)
    assert (table.greedy == table.own).all()
    assert table.explored.tolist() == pytest.approx(by_hand, abs=0.03)
    assert table[["explored", "strayed", "greedy", "sequential"]].sum().tolist() == pytest.approx(
        [1] * 4
    )
    strayed = [(b.episode.actions != b.episode.exploration.greedy).sum(1) for b in battles]
    counts = np.bincount(np.concatenate(strayed), minlength=3)
    assert table.strayed.tolist() == pytest.approx((counts / counts.sum()).tolist())


def test_training_agrees_with_its_own_exploration(run: Path) -> None:
    got, alive = events(run), living_along(run)
    assert alive.drop(columns="env_steps").sum(axis=1).tolist() == pytest.approx([1] * len(alive))
    table = at_once(got, alive)
    assert table.explored.tolist() == pytest.approx(table.own.tolist(), abs=0.03)
    assert abs(table.explored - table.sequential).max() > 0.1
    assert (run / "cache/living.json").exists()
    assert living_along(run).equals(alive)
    several, somebody = table.explored[2], 1 - table.explored[0]
    said = how_many(table, "epsilon_greedy")
    assert said.startswith(f"Two or more explored at {100 * several:.0f} % of the steps; its way")
    assert f"ε-greedy, gives {100 * table.own[2]:.0f} % by chance. Somebody explored at " in said
    by_chance = 100 - 100 * table.own[0]
    assert f"{100 * somebody:.0f} % of the steps (by chance: {by_chance:.0f} %)" in said
    along_it = along(got, alive, most=7)
    weights = np.bincount(windows(got.clock, 7)[0])
    mean = got.per_step().mean()
    assert (along_it.explored * weights).sum() / weights.sum() == pytest.approx(mean)
    assert (along_it.sequential * 2).tolist() == pytest.approx(along_it.greedy.tolist())
    assert along_it.explored.tolist() == pytest.approx(along_it.greedy.tolist(), abs=0.15)
    # By plain loops: each step at its own ε, with the nearest snapshot's mixture.
    total = np.zeros(3)
    for step in got.clock:
        row = alive.iloc[(alive.env_steps - step).abs().argmin()]
        eps = epsilon_at(got.config, step)
        total += sum(
            row[n] * np.array([comb(n, k) * eps**k * (1 - eps) ** max(n - k, 0) for k in range(3)])
            for n in range(3)
        )
    total /= len(got.clock)
    assert table.greedy.tolist() == pytest.approx(total.tolist(), abs=2e-3)  # ties of nearness


def battles_table(explorers: list[int]) -> Events:
    """Each battle with so many events early, and some later, which do not count."""
    size = len(explorers)
    table = pd.DataFrame({"battle": range(1, size + 1), "env_steps": range(10, 10 * size + 10, 10)})
    table = table.assign(length=30, won=[e < 4 for e in explorers])
    table["return"] = [10.0 - e for e in explorers]
    rows = [(b, t) for b, e in enumerate(explorers, 1) for t in [*range(e), *range(20, 25)]]
    return Events(None, 2, table, pd.DataFrame(rows, columns=["battle", "step"]), np.zeros(0))


def test_groups_by_explorers_by_hand() -> None:
    table = by_explorers(battles_table([6, 0, 2, 4, 8, 2, 6, 0, 3, 3, 3, 3]), groups=2)
    first = table[table.third == "first third"]
    assert first.explorers.tolist() == [1, 5]  # 0, 2 and 4, 6
    assert first.won.tolist() == [1, 0]
    assert first["return"].tolist() == [9, 5]
    assert table.groupby("third", sort=False).battles.sum().tolist() == [4, 4, 4]
    assert len(table[table.third == "last third"]) == 1  # all alike
    few = by_explorers(battles_table([1, 2, 3, 4]), groups=2)
    assert few.battles.sum() == 4
    assert whether_they_lose(table) == (
        "Of the battles with the fewest and those with the most random actions in their first 20 "
        "steps, so many were won: 100 % and 0 % in the first third of training; 100 % and 0 % in "
        "the second third of training."
    )
    assert whether_they_lose(table[table.third == "last third"]).startswith("In all battles about")


def test_distinct_against_drawing(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 30, 120) ** 2
    for draws in (1, 17, 120):
        seen = [len(set(rng.choice(labels, draws, replace=False))) for _ in range(3000)]
        assert distinct(labels, draws) == pytest.approx(np.mean(seen), abs=0.1)
    assert distinct([1, 1, 2], 2) == pytest.approx(1 + 2 / 3)
    assert np.isnan(distinct([1, 2], 3))


def test_labels_of_steps_by_hand() -> None:
    def battle(actions, health, x):
        units = [
            Units(np.array([0, 0, 1]), ("a", "b", "c"), np.array([[p, 0], [p, 2], [9, 9]]), h)
            for p, h in zip([*x, 0], [*map(np.array, health), np.ones(3)])
        ]
        return SimpleNamespace(episode=SimpleNamespace(actions=np.array(actions)), units=units)

    one = battle([[0, 1], [1, 0], [0, 1]], [[1, 1, 1], [1, 0.5, 1], [1, 0, 1]], [1, 3, 1])
    two = battle([[0, 1], [1, 1]], [[1, 1, 1], [0, 1, 1]], [5, 1])
    a, b, c, d, e = joint_actions([one, two])
    assert a == c == d and len({a, b, e}) == 3
    a, b, c, d, e = coarse_states([one, two])
    assert a == b  # hurt, but as many in the same square
    assert len({a, c, d}) == 3 and c == e  # one lives, whichever it is
    climb = SimpleNamespace(
        units=[], episode=SimpleNamespace(state=np.array([[0, 1], [0, 0.96], [1, 0], [9, 9]]))
    )
    assert len(set(coarse_states([climb]))) == 2


def test_windows_by_hand() -> None:
    which, edges = windows(np.array([0, 10, 10, 40]), 3)
    assert (which.tolist(), edges.tolist()) == ([0, 1, 1, 2], [0, 5, 25, 41])
    which, edges = windows(np.arange(100), 4)
    assert edges.tolist() == [0, 25, 50, 75, 100] and np.bincount(which).tolist() == [25] * 4
    assert windows(np.array([7, 7]), 4)[0].tolist() == [0, 0]


def test_density_and_some_battles_against_loops(run: Path) -> None:
    got = events(run)
    table = density(got, most=5)
    assert len(table) == 10
    for row in table.itertuples():
        inside = (got.explored.env_steps >= row.begin) & (got.explored.env_steps < row.end)
        steps = ((got.clock >= row.begin) & (got.clock < row.end)).sum()
        count = (inside & (got.explored.agent == row.agent)).sum()
        assert row.share == pytest.approx(count / steps)
    some = some_battles(got, 6)
    assert some.row.unique().tolist() == list(range(6))
    first, last = got.battles.battle.iloc[[0, -1]]
    assert (some.battle.iloc[0], some.battle.iloc[-1]) == (first, last)
    for battle, rows in some.groupby("battle"):
        mine = got.explored[got.explored.battle == battle]
        assert rows.step.dropna().tolist() == mine.step.tolist()
    strayed = got.explored[got.explored.action != got.explored.greedy]
    for row in some.dropna().itertuples():
        share = (strayed.gap < row.gap).mean()
        assert row.rank == 0 if row.action == row.greedy else abs(row.rank - 0.5 - 3 * share) < 0.6
    assert len(some_battles(got, 50, most=30).dropna()) <= 30
    count, hit = np.zeros(2), 0
    for row in got.explored.itertuples():
        count[row.agent] += 1
        hit += row.action == row.greedy
    said, most = who_explored(got), count.argmax()
    assert said.startswith(f"{len(got.explored):,} random actions in {len(got.battles):,} battles")
    assert f"{100 * hit / count.sum():.0f} % of them drew the greedy action" in said
    assert f"Agent {most + 1} explored most" in said
    assert f"(at {100 * count.max() / len(got.clock):.1f} % of the steps)" in said
