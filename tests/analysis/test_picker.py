"""The list of runs: what a person marks becomes the line of the parameters cell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_runs import write_runs

from analysis.widgets import picker


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return write_runs(tmp_path / "runs", seeds=(3,))


def test_what_is_marked_is_the_line_to_put_into_the_cell(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(picker, "has_front_end", lambda: True)
    monkeypatch.setattr(picker, "display", shown.append)
    monkeypatch.setattr(picker, "PROJECT", runs.parent.resolve())
    picker.pick_runs(runs)
    head, choice, line = shown[0].children
    texts = sorted(text.split() for text, _ in choice.options)
    assert texts[0][:3] == ["MACQL", "2s3z", "3"] and texts[0][-1] == "runs/macql_seed3"
    assert len(texts) == 4 and "Mark" in line.value
    heading = re.search(r"<pre[^>]*>(.*)</pre>", head.value)[1]
    for name, value in (("algorithm", "MACQL"), ("task", "2s3z"), ("seed", "3")):
        text = next(t for t, _ in choice.options if t.startswith("MACQL "))
        assert text[heading.index(name) :].startswith(value), name
    assert "last win rate" in heading and "date" in heading
    by_name = {run.algorithm: run for _, run in choice.options}
    choice.value = (by_name["se"],)
    assert "<code>runs = &#x27;runs/se_seed3&#x27;</code>" in line.value
    choice.value = (by_name["se"], by_name["ovmse"])
    assert line.value.count("runs/") == 2 and "[" in line.value and "run =" not in line.value
    picker.pick_runs(runs, one=True)
    _, choice, line = shown[1].children
    choice.value = tuple(run for _, run in choice.options)[:2]
    assert f"<code>run = &#x27;{choice.value[0].path.name}&#x27;</code>" in line.value


def test_the_runs_made_here_and_those_that_ship_are_listed(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shown = []
    monkeypatch.setattr(picker, "has_front_end", lambda: True)
    monkeypatch.setattr(picker, "display", shown.append)
    monkeypatch.setattr(picker, "RUNS", runs)
    monkeypatch.setattr(picker, "SHIPPED", runs.parent / "data")
    for name in ("2s3z", "6h_vs_8z"):
        write_runs(runs.parent / "data" / name, seeds=(4,))
    picker.pick_runs()
    assert len(shown[0].children[1].options) == 12
    picker.pick_runs(runs.parent / "nothing")
    assert "no runs yet" in capsys.readouterr().out


def test_without_a_person_nothing_is_shown(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shown = []
    monkeypatch.setattr(picker, "display", shown.append)
    picker.pick_runs(runs)
    assert not shown and capsys.readouterr().out == ""
