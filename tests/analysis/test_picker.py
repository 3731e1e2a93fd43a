"""The list of runs: what a person marks becomes the line of the parameters cell."""

from __future__ import annotations

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
    choice, line = shown[0].children
    texts = sorted(text.split() for text, _ in choice.options)
    assert texts[0][:3] == ["MACQL", "2s3z", "3"] and texts[0][-1] == "runs/macql_seed3"
    assert len(texts) == 4 and "Mark" in line.value
    by_name = {run.algorithm: run for _, run in choice.options}
    choice.value = (by_name["se"],)
    assert "<code>runs = &#x27;runs/se_seed3&#x27;</code>" in line.value
    choice.value = (by_name["se"], by_name["ovmse"])
    assert line.value.count("runs/") == 2 and "[" in line.value


def test_without_a_person_the_newest_are_a_table(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tables = []
    monkeypatch.setattr(picker, "show_text", tables.append)
    picker.pick_runs(runs, runs / "not there")
    [table] = tables
    assert set(table.algorithm) == {"OVMSE", "SE", "Switch CQL", "MACQL"}
    assert table["last win rate"].str.endswith(" %").all()
    picker.pick_runs(runs.parent / "nothing")
    assert "no runs yet" in capsys.readouterr().out
