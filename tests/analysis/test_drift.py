"""Replays: kept by content, found again; and what shows that they take their time."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

from analysis import drift, snapshots
from analysis.each import each_snapshot
from analysis.kept import kept, key
from analysis.notebook import run_given, runs_given
from analysis.tables import curves
from analysis.widgets import progress
from ovmse.datasets import write_dataset
from ovmse.errors import UserError
from ovmse.runs.directory import checksum
from ovmse.runs.reading import RunError
from ovmse.training.phase import FixedBattles

pytestmark = pytest.mark.slow

RUN = "ovmse"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shipped run with its pre-training and three snapshots."""
    folder = tmp_path_factory.mktemp("shipped") / "runs"
    for name in (RUN, "pretrain"):
        source = ROOT / "data/runs/2s3z" / name
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("cache"))
    for snapshot in sorted((folder / RUN / "snapshots").iterdir())[:-3]:
        snapshot.unlink()
    return folder


@pytest.fixture(scope="module")
def small(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with four of its fixed battles, as if training had measured these."""
    folder = tmp_path_factory.mktemp("small") / "runs"
    shutil.copytree(shipped, folder, ignore=shutil.ignore_patterns("cache"))
    fixed, of = next(folder.rglob("fixed.h5")), snapshots.Snapshots(folder / RUN)
    episodes = [e for e in of.fixed if e.terminated][:4]
    write_dataset(fixed, episodes, of.spec, {"policy": "of the run"})
    rows = [json.loads(line) for line in (folder / RUN / "metrics.jsonl").read_text().splitlines()]
    battles = FixedBattles(episodes, of.config.gamma)
    for row in rows:
        if row["phase"] == "online" and row["env_steps"] in of.files:
            row["q_fixed"] = battles.measure(of.network(row["env_steps"]))["q_fixed"]
    (folder / RUN / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def runs(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "runs"))


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


def test_what_ships_is_what_training_recorded(shipped: Path) -> None:
    assert drift.replayed_curves(shipped).q_fixed.notna().sum() == 3


def test_several_tasks_are_refused_before_any_replay(runs: Path, loaded: list[Path]) -> None:
    shutil.copytree(runs / RUN, runs / "other")
    config = json.loads((runs / "other/config.json").read_text())
    (runs / "other/config.json").write_text(json.dumps(config | {"task": "3m"}))
    with pytest.raises(UserError, match="runs of 2 tasks at once: .*2s3z.*; pick one"):
        drift.replayed_curves(runs)
    assert loaded == []


def test_what_was_measured_of_a_run_is_written_before_the_next_run(runs: Path) -> None:
    shutil.copytree(runs / RUN, runs / "second")
    file, seen = runs / RUN / "cache/some.json", []

    def measure(of: snapshots.Snapshots, env_steps: int) -> dict[str, float]:
        seen.append((of.run.name, file.exists()))
        return {"at": env_steps}

    found = each_snapshot(runs, "some", "Snapshots", measure, lambda of, at: [str(of.run), at])
    assert seen == [(RUN, False)] * 3 + [("second", True)] * 3
    assert found["at"].tolist() == found.env_steps.tolist()
    assert len(json.loads(file.read_text())) == 3


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


DAMAGES: list[Callable[[Any], Any]] = [
    lambda one: 5,
    lambda one: [1],
    lambda one: None,
    lambda one: one["value"],
    lambda one: one | {"value": {"q_fixed": []}},
    lambda one: one | {"value": one["value"] | {"q_fixed": 1.25}},
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_kept_and_damaged_is_replayed_again(
    runs: Path, loaded: list[Path], damage: Callable[[Any], Any]
) -> None:
    first = drift.replay(runs)
    file = runs / RUN / "cache/replay.json"
    whole = json.loads(file.read_text())
    one = list(whole)[1]
    file.write_text(json.dumps(whole | {one: damage(whole[one])}))
    assert drift.replay(runs).equals(first) and len(loaded) == 4
    assert json.loads(file.read_text()) == whole  # put right for the next time


@pytest.mark.parametrize(("factor", "halved", "agrees"), [
    (1, False, True), (1.002, False, False), (1, True, True), (1.002, True, True),
    (1.05, True, False), (float("nan"), False, False),
])  # fmt: skip
def test_a_replay_that_is_not_what_training_recorded_is_refused(
    runs: Path, factor: float, halved: bool, agrees: bool
) -> None:
    """Half precision rounds a weight by up to 2⁻¹¹ of it, and so may answer otherwise."""
    snapshot = sorted((runs / RUN / "snapshots").iterdir())[1]
    if not halved:  # the shipped ones are
        save_file({n: t.float() for n, t in load_file(snapshot).items()}, snapshot)
    at = int(snapshot.stem.removeprefix("online_"))
    recorded = float(drift.replay(runs).q_fixed[1])
    rows = [json.loads(line) for line in (runs / RUN / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["phase"] == "online" and row["env_steps"] == at:
            row["q_fixed"] = recorded * factor if factor == factor else recorded
    (runs / RUN / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if factor != factor:
        save_file({n: t * factor for n, t in load_file(snapshot).items()}, snapshot)
    if agrees:
        assert drift.replayed_curves(runs).q_fixed.notna().sum() == 3
        return
    with pytest.raises(RunError, match=rf"{snapshot.name}: the fixed battles are worth"):
        drift.replayed_curves(runs)


def test_a_snapshot_and_fixed_battles_that_changed_are_named(runs: Path) -> None:
    snapshot, fixed = sorted((runs / RUN / "snapshots").iterdir())[1], next(runs.rglob("fixed.h5"))
    sums = {f"snapshots/{snapshot.name}": checksum(snapshot)}
    (runs / RUN / "result.json").write_text(json.dumps({"files": sums}))
    (fixed.parent / "result.json").write_text(json.dumps({"files": {"fixed.h5": checksum(fixed)}}))
    of = snapshots.Snapshots(runs / RUN)
    assert of.fixed and of.load(snapshot)
    for file, read in ((snapshot, of.load), (fixed, lambda _: snapshots.Snapshots(of.run).fixed)):
        whole = file.read_bytes()
        file.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        with pytest.raises(RunError, match=rf"{file.name} is damaged: it is not what the run"):
            read(file)


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


def test_one_long_item_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = threading.Event()

    class Handle:
        def update(self, bundle: dict, raw: bool) -> None:
            pass

    def display(bundle: dict, **_: Any) -> Handle:
        assert bundle["text/plain"].startswith("Battles: 0 of 1, ")
        drawn.set()
        return Handle()

    for name, value in (("PATIENCE", 0.05), ("REDRAW", 0.05), ("TICK", 0.02)):
        monkeypatch.setattr(progress, name, value)
    monkeypatch.setattr(progress, "has_front_end", lambda: True)
    monkeypatch.setattr(progress, "display", display)
    before = threading.active_count()
    for _ in progress.tracked(range(1), "Battles"):
        assert drawn.wait(60)
    assert all(not t.is_alive() or t.join(60) is None for t in threading.enumerate()[before:])
    assert threading.active_count() <= before


def test_an_interrupted_cell_leaves_no_bar_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = [1]
    monkeypatch.setattr(progress, "TICK", 0.01)
    monkeypatch.setattr(progress, "_cell", lambda: cell[0])
    monkeypatch.setattr(progress, "has_front_end", lambda: True)
    before = set(threading.enumerate())
    held = progress.tracked(range(2), "Battles")  # as a traceback holds it
    next(held)
    [ticking] = set(threading.enumerate()) - before
    cell[0] = 2
    ticking.join(60)
    assert not ticking.is_alive()


@pytest.mark.parametrize(("name", "values", "sentence"), [
    ("config.json", {"algorithm": ["a"]}, r"algorithm is \['a'\], allowed: a text"),
    ("config.json", {"pretrained": 5}, "pretrained is 5, allowed: a text"),
    ("config.json", {"gamma": "x"}, "gamma: got 'x', allowed: a valid number from 0 to 1"),
    ("metrics.jsonl", {"test_win_rate": "many"}, "damaged: test_win_rate is 'many'"),
    ("metrics.jsonl", {"q_fixed": [1]}, r"damaged: q_fixed is \[1\]"),
    ("metrics.jsonl", {"env_steps": None}, "damaged: env_steps is None"),
])  # fmt: skip
def test_a_value_of_another_kind_is_one_sentence(
    runs: Path, name: str, values: dict[str, Any], sentence: str
) -> None:
    file = runs / RUN / name
    first, *rest = file.read_text().splitlines() if name == "metrics.jsonl" else [file.read_text()]
    file.write_text("\n".join([json.dumps(json.loads(first) | values), *rest]) + "\n")
    with pytest.raises(UserError, match=sentence):
        drift.replayed_curves(runs)


def test_what_somebody_left_beside_the_snapshots_is_passed_over(runs: Path) -> None:
    (runs / RUN / "snapshots/online_best.safetensors").write_text("mine")
    (runs / RUN / "result.json").write_text('{"wall_s": 1}')
    assert len(drift.replay(runs)) == 3


def test_runs_that_are_no_paths_are_one_sentence(tmp_path: Path) -> None:
    for wrong in (5, None, [5]):
        with pytest.raises(UserError, match="runs: got .*, allowed: a folder, or a list"):
            runs_given(wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="run: got 5, allowed: the name of a run"):
        run_given(5, [tmp_path])  # type: ignore[arg-type]
    (tmp_path / "x.parquet").write_text("x")
    with pytest.raises(RunError, match=r"x.parquet is no readable Parquet file"):
        curves(tmp_path / "x.parquet")
