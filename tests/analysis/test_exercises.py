"""The exercises of the walkthrough: solutions pass their checks, mistakes get their hints."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from analysis import exercises
from analysis.notebook import SHIPPED
from analysis.tables import curves, measured, named
from analysis.walkthrough import chances, grids
from analysis.walkthrough.game import BOLD, STEP
from analysis.walkthrough.learning import dataset, offline, q_tot
from ovmse.method.algorithms import ALGORITHMS, Algorithm

NOTEBOOK = nbformat.read(ROOT / "notebooks/00_walkthrough.ipynb", as_version=4)
CHECKS = [getattr(exercises, f"check_{n}") for n in range(1, 7)]


def solutions() -> dict[int, nbformat.NotebookNode]:
    cells = [c for c in NOTEBOOK.cells if c.source.startswith("# Solution")]
    return {int(re.search(r"check_(\d)\(", c.source)[1]): c for c in cells}


def said(capsys: pytest.CaptureFixture[str], number: int, answer: object) -> str:
    assert CHECKS[number - 1](answer) is None
    out = capsys.readouterr().out
    assert out.endswith("\n") and out.count("\n") == 1  # one line, whatever the answer
    return out.strip()


@pytest.mark.parametrize("number", range(1, 7))
def test_each_solution_of_the_notebook_passes_its_check(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = solutions()[number]
    assert "hide-cell" in cell.metadata.tags and cell.metadata.jupyter.source_hidden
    exec(cell.source, {f"check_{number}": CHECKS[number - 1], "Algorithm": Algorithm})
    assert capsys.readouterr().out.startswith("Right")


@pytest.mark.parametrize("number", range(1, 7))
def test_none_and_nonsense_never_raise(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, number, None) == "not answered yet"
    for nonsense in ("?", -1.5, True, [], {"a": 1}, np.zeros(3), object(), float("nan"), [[1]]):
        assert said(capsys, number, nonsense).startswith("Not yet: ")


HINTS = [
    (1, -10, "no battle of the dataset shows it"),
    (1, 20, "the guess before learning"),
    (1, 10, "never seen"),
    (1, 0, "they add two parts"),
    (1, 8, "one part of each"),
    (1, 7, "Add what agent 1's bold contributes"),
    (1, "4", "answer with a number, without quotes; got '4'."),
    (2, "above 15", "one fall teaches both parts"),
    (1, 3, "only agent 2's part"),
    (1, 5, "only agent 1's part"),
    (1, np.array(4), "answer with a number; got array(4)"),
    (1, True, "answer with a number; got True"),
    (1, [4], "answer with a number; got [4]"),
    (1, math.nan, "Add what agent 1's bold contributes"),
    (4, 10**400, "Count the cells of the middle panel"),
    (2, "5 to 15", "changes both of its parts"),
    (3, 0, "its maximum with the truth is not"),
    (3, 0.8, "That is λ = 1"),
    (3, 1, "only draws above the memory count"),
    (3, 2, "less than half"),
    (3, 0.41, "Set both sliders"),
    (3, 0.39, "Set both sliders"),
    (4, 0, "That is ε-greedy"),
    (4, 5, "that *can* be played"),
    (4, 8, "to either side"),
    (4, 1, "not the only one"),
    (4, 2, "neither agent steps"),
    (5, "ovmse", "an algorithm is a row"),
    (5, replace(ALGORITHMS["ovmse"], label="Mine"), "that is OVMSE by another name"),
    (5, Algorithm(label="Mine", target="action_proposal", online_cql=True), "target: got"),
    (5, Algorithm(label="Mine", target="ovm", exploration="one_at_a_time"), "exploration: got"),
    (5, Algorithm(label="Mine", target="ovm", online_cql="yes"), "online_cql: got 'yes'"),  # type: ignore[arg-type]
    (5, replace(ALGORITHMS["ovmse"], label="Mine", online_cql=False), "OVMSE by another name"),
    (5, replace(ALGORITHMS["ovm"], label="Mine", pretrained="no"), "pretrained: got 'no'"),  # type: ignore[arg-type]
    (5, Algorithm(label="Mine", exploration=np.array(["a", "b"])), "exploration: got array"),  # type: ignore[arg-type]
    (5, Algorithm(label="SE", target="ovm", exploration="sequential_centralised"), "is taken"),
    (5, Algorithm(label="", target="ovm"), "label: got ''"),
    (5, Algorithm(label=3, target="ovm"), "label: got 3"),  # type: ignore[arg-type]
    (6, "OVMSE", "How many explore at once in MACQL with SE?"),
    (6, ["SE", "MACQL with SE", "OVMSE"], "How many explore at once in OVMSE without CQL?"),
    (6, {"OVMSE", "SE", "MACQL"}, "does not protect"),
    (6, ("OVMSE", "Switch CQL"), "nothing holds the old values"),
    (6, ["QMIX"], "answer with some of"),
    (6, np.array("SE"), "answer with some of"),
    (6, [], "How many explore at once in MACQL with SE?"),
    (6, pd.Series([1, 2, 3, 4], index=sorted(exercises.ONE_AT_A_TIME)), "answer with some of"),
]


@pytest.mark.parametrize(("number", "answer", "hint"), HINTS)
def test_a_wrong_answer_gets_the_hint_of_its_misconception(
    number: int, answer: object, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(capsys, number, answer)
    assert line.startswith("Not yet: ") and hint in line


def test_the_right_answers_are_what_the_tables_say() -> None:
    learned = q_tot(offline(dataset(0.5)[None], np.zeros(1)))[0]
    assert learned[4, BOLD, STEP] == pytest.approx(4)
    returns = grids.first_steps()[1].query("epsilon == 0.2").set_index("steps")["return"]
    assert returns[0] == 20 and returns[40] < 3  # far from 5: another seed answers alike
    assert chances.lift(np.zeros(1), 2.0, 0.5)[0] == pytest.approx(1 / math.sqrt(2 * math.pi))
    assert (chances.joint_actions("sequential_centralised", 0.7) == 0).sum() == 4


def test_only_a_row_that_is_right_is_watched() -> None:
    """Any other answer, None among them, leaves the solution in its place, and without either (the
    names are those of other exercises, too) two algorithms are watched: section 9 runs."""
    wrong = [answer for number, answer, _ in HINTS if number == 5]
    assert all(exercises.wrong_row(answer) for answer in [None, *wrong])
    mine = Algorithm(label="Mine", target="ovm", exploration="sequential_centralised")
    assert exercises.wrong_row(mine) is None
    watched = next(c.source for c in NOTEBOOK.cells if c.source.startswith("rows = "))
    known = SimpleNamespace(known=dict.fromkeys, watch=dict)
    for answer, solution, row in ((mine, 4, [mine]), (None, mine, [mine]), (["SE"], ["SE"], [])):
        names: dict[str, Any] = {"answer": answer, "solution": solution, "grids": known}
        exec(watched[: watched.index("show(")], names | {"wrong_row": exercises.wrong_row}, names)
        assert [*names["tried"].values()] == [None, None, *row]


def test_who_wins_more_than_half_at_the_end_is_what_the_runs_that_ship_measured() -> None:
    """Exercise 6: its answer, which four explore one at a time, and that two of them fall first."""
    table = measured(curves(SHIPPED / "2s3z"), "test_win_rate")
    wins = {named(a, v): of.test_win_rate for (a, v), of in table.groupby(["algorithm", "variant"])}
    assert {name for name, of in wins.items() if of.iloc[-1] > 0.5} == exercises.ONE_AT_A_TIME
    assert wins.keys() - exercises.ONE_AT_A_TIME == {"MACQL", "Switch CQL"}
    fell = {name for name in exercises.ONE_AT_A_TIME if wins[name].min() < wins[name].iloc[0] / 2}
    assert fell == {"OVMSE without CQL", "SE"}
    ways = table.groupby(["algorithm", "variant"]).exploration.first()
    one = {named(*who) for who, way in ways.items() if way.startswith("sequential")}
    assert one == exercises.ONE_AT_A_TIME


def test_each_exercise_says_its_objective_difficulty_and_minutes() -> None:
    heads = [c.source for c in NOTEBOOK.cells if c.source.startswith("### Exercise")]
    assert [int(h.split()[2].rstrip(":")) for h in heads] == [1, 2, 3, 4, 5, 6]
    for head in heads:
        assert re.search(r"\*Objective: .+ · difficulty [1-5] of 5 · \d+ minutes\*", head)
    assert sum("(predict, then look)" in head for head in heads) == 3
    answers = [c.source for c in NOTEBOOK.cells if c.source.startswith("answer = None")]
    assert answers == [f"answer = None\ncheck_{n}(answer)" for n in range(1, 7)]
