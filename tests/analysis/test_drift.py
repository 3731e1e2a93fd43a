"""Replays: kept by content, found again; and what shows that they take their time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

from analysis import drift, snapshots
from analysis.kept import kept, key
from analysis.widgets import progress

RUN = "ovmse_seed10"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """One shipped run with its pre-training and three snapshots."""
    folder = tmp_path / "runs"
    others = [f"{name}_seed10" for name in ("macql", "se", "switch_cql")]
    shutil.copytree(ROOT / "data/figure1", folder, ignore=shutil.ignore_patterns(*others, "cache"))
    for snapshot in sorted((folder / RUN / "snapshots").iterdir())[:-3]:
        snapshot.unlink()
    return folder


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The snapshots whose weights were loaded."""
    seen: list[Path] = []
    load = snapshots.load_weights
    monkeypatch.setattr(
        snapshots, "load_weights", lambda q, file, _: (seen.append(file), load(q, file))
    )
    return seen


def test_a_snapshot_is_replayed_once(runs: Path, loaded: list[Path]) -> None:
    threads = torch.get_num_threads()
    first = drift.replay(runs)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)
    assert len(loaded) == len(first) == 3
    again = drift.replay(runs)
    assert len(loaded) == 3
    assert again.equals(first)


def test_another_content_is_replayed_anew(runs: Path, loaded: list[Path]) -> None:
    first = drift.replay(runs)
    one, two, three = sorted((runs / RUN / "snapshots").iterdir())
    shutil.copy(three, one)
    again = drift.replay(runs)
    assert len(loaded) == 3  # its content was measured under the other name
    assert again.q_fixed.tolist() == [first.q_fixed[2], first.q_fixed[1], first.q_fixed[2]]
    save_file({n: 2 * t for n, t in load_file(two).items()}, two)
    assert drift.replay(runs).q_fixed[1] != first.q_fixed[1]
    assert len(loaded) == 4


def test_what_cannot_be_kept_or_read_is_computed_again(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with kept(tmp_path, "replay") as held:
        held["a"] = 1
    (tmp_path / "cache").unlink()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/replay.json").write_text('{"a": ')
    with kept(tmp_path, "replay") as held:
        assert held == {}
        held["b"] = 2
    with pytest.raises(KeyboardInterrupt), kept(tmp_path, "replay") as held:
        held["c"] = 3
        raise KeyboardInterrupt
    with kept(tmp_path, "replay") as held:
        assert held == {"b": 2, "c": 3}


def test_a_key_is_of_values_contents_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    keys = [key("ab", "c"), key("a", "bc"), key(1), key("1"), key(file)]
    file.write_text("other")
    keys.append(key(file))
    monkeypatch.setattr("analysis.kept.made_by", lambda: {"code": "0ther000"})
    assert len({*keys, key(file), key(1)}) == len(keys) + 2


@pytest.mark.parametrize("live", [True, False])
def test_what_takes_long_shows_how_far_it_is(
    live: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    now, shown = [0.0], []

    class Handle:
        def update(self, bundle: dict, raw: bool) -> None:
            shown.append(bundle)

    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "has_front_end", lambda: live)
    monkeypatch.setattr(progress, "display", lambda b, **_: (shown.append(b), Handle())[1])

    def take(seconds: float) -> None:
        for _ in progress.tracked(range(100), "Snapshots <b>"):
            now[0] += seconds / 100

    take(1.9)
    assert (shown, capsys.readouterr().out) == ([], "")
    take(10)
    last = "Snapshots <b>: 100 in 10 s"
    if not live:
        assert (shown, capsys.readouterr().out) == ([], last + "\n")
        return
    assert 25 <= len(shown) <= 42
    assert shown[0]["text/plain"].startswith("Snapshots <b>: 20 of 100, about 8 s left")
    assert 'value="20"' in shown[0]["text/html"] and "<b>" not in shown[0]["text/html"]
    assert shown[-1] == {"text/plain": last}
