"""The run directory: locked, cut back to its last whole point, never half written."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from reference import SMALL

from analysis.notebook import runs_folder
from ovmse.config import Config
from ovmse.datasets.hdf5 import load_dataset
from ovmse.errors import UserError
from ovmse.method.learner import new_q_function
from ovmse.runs.directory import RunDirectory, read_tensors, require_whole, write_tensors
from ovmse.runs.files import PROJECT, from_project, write_json
from ovmse.runs.listing import list_runs
from ovmse.runs.reading import (
    RunError,
    find_runs,
    read_config,
    read_metrics,
    read_result,
    snapshot_steps,
)
from ovmse.sweep.grid import load_grid
from ovmse.training import train
from ovmse.training.phase import load_weights

CONFIG = {"algorithm": "ovmse", "seed": 3, "pretrained": None, "gamma": 0.99}


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"weights": torch.full((4, 3), value), "bits": torch.tensor([value > 2])}


def work(run: RunDirectory, number: int) -> None:
    """What training does up to one resume point: the first comes before any battle."""
    run.append("metrics.jsonl", {"env_steps": number})
    for episode in (2 * number - 1, 2 * number) if number else ():
        run.append("events.jsonl", {"episode": episode})
    run.snapshot(f"online_{number:08d}", tensors(number))
    run.save_point({"number": number}, tensors(number), tensors(number), keep_parts=2)


def files(path: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in path.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


def test_a_run_is_described_by_its_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with RunDirectory(path, CONFIG) as run:
        assert not run.finished and run.load_point() is None
        work(run, 0)
        work(run, 1)
        run.finish({"env_steps": 1})
    assert read_config(path).items() >= CONFIG.items()
    assert read_metrics(path) == [{"env_steps": 0}, {"env_steps": 1}]
    assert [steps for steps, _ in snapshot_steps(path)] == [0, 1]
    for steps, file in snapshot_steps(path):
        assert torch.equal(read_tensors(file)["weights"], tensors(steps)["weights"])
    assert sorted(files(path)) == [
        "config.json",
        "events.jsonl",
        "metrics.jsonl",
        "result.json",
        "snapshots/online_00000000.safetensors",
        "snapshots/online_00000001.safetensors",
    ]


def test_a_finished_run_is_recognised_and_left_alone(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, CONFIG) as run:
        work(run, 0)
        run.finish({"env_steps": 0})
    before = files(tmp_path)
    with RunDirectory(tmp_path, CONFIG) as run:
        assert run.finished
    assert files(tmp_path) == before


def test_the_last_point_comes_back_with_its_parts(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, CONFIG) as run:
        for number in range(5):
            work(run, number)
    with RunDirectory(tmp_path, CONFIG) as run:
        point = run.load_point()
        assert point is not None
        meta, state, parts = point
        assert meta == {"number": 4}
        assert state["weights"][0, 0] == 4 and state["bits"].dtype == torch.bool
        assert [part["weights"][0, 0].item() for part in parts] == [2, 3, 4]
        run.save_point({"number": 5}, tensors(5), None, keep_parts=1)
    assert len(list((tmp_path / "resume").iterdir())) == 2  # the state and one part
    with RunDirectory(tmp_path, CONFIG) as run:
        _, state, parts = run.load_point()
        assert state["weights"][0, 0] == 5
        assert [part["weights"][0, 0].item() for part in parts] == [4]


def test_what_came_after_the_last_point_is_cut_off(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, CONFIG) as run:
        work(run, 0)
        work(run, 1)
    kept = files(tmp_path)
    with RunDirectory(tmp_path, CONFIG) as run:
        run.append("metrics.jsonl", {"env_steps": 2})
        run.append("events.jsonl", {"episode": 9})
        run.snapshot("online_00000002", tensors(2))
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"episode": 1')  # half a line
    (tmp_path / "snapshots" / ".online_00000003.safetensors.77").write_bytes(b"half")
    with RunDirectory(tmp_path, CONFIG) as run:
        assert files(tmp_path) == kept
        work(run, 2)
    assert [row["env_steps"] for row in read_metrics(tmp_path)] == [0, 1, 2]
    events = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["episode"] for line in events] == [1, 2, 3, 4]


def test_without_a_point_it_begins_anew(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, CONFIG) as run:
        run.append("metrics.jsonl", {"env_steps": 0})
        run.snapshot("online_00000000", tensors(0))
    with RunDirectory(tmp_path, CONFIG) as run:
        assert run.load_point() is None
        assert read_metrics(tmp_path) == [] and snapshot_steps(tmp_path) == []


def test_a_line_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"env_steps": 0}\n{"env_steps": 1}\n{"env_st')
    assert [row["env_steps"] for row in read_metrics(tmp_path)] == [0, 1]


def test_numbers_that_json_lacks_are_refused(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, CONFIG) as run, pytest.raises(ValueError):
        run.append("metrics.jsonl", {"loss": float("nan")})
    assert read_metrics(tmp_path) == []


def test_other_settings_are_named(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, CONFIG) as run:
        run.append("metrics.jsonl", {"env_steps": 0})
    before = files(tmp_path)
    with pytest.raises(
        RunError, match=r"other settings: seed 3 not 4, gamma 0.99 not 0.5; choose another"
    ):
        RunDirectory(tmp_path, {**CONFIG, "seed": 4, "gamma": 0.5})
    with pytest.raises(RunError, match="other settings: extra None not 1; choose another"):
        RunDirectory(tmp_path, {**CONFIG, "extra": 1})
    assert files(tmp_path) == before
    RunDirectory(tmp_path, CONFIG).close()  # the refusals left no lock


def test_a_run_in_which_nothing_was_measured_takes_corrected_settings(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, CONFIG) as run:
        assert run.load_point() is None
    with RunDirectory(tmp_path, {**CONFIG, "seed": 4}) as run:
        work(run, 0)
    assert read_config(tmp_path)["seed"] == 4
    with pytest.raises(RunError, match="other settings: seed 4 not 3"):
        RunDirectory(tmp_path, CONFIG)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """An unfinished run with two points."""
    with RunDirectory(tmp_path / "run", CONFIG) as run:
        work(run, 0)
        work(run, 1)
    return tmp_path / "run"


def open_and_load(path: Path) -> None:
    with RunDirectory(path, CONFIG) as run:
        run.load_point()


@pytest.mark.parametrize(
    "name",
    ["resume.json", "resume/state_2.safetensors", "resume/part_1.safetensors",
     "resume/part_2.safetensors", "metrics.jsonl", "events.jsonl"],
)  # fmt: skip
def test_a_flipped_bit_is_refused_by_name(whole: Path, name: str) -> None:
    open_and_load(whole)
    data = bytearray((whole / name).read_bytes())
    for at in {0, len(data) // 2, len(data) - 2}:
        damaged = data.copy()
        damaged[at] ^= 1
        (whole / name).write_bytes(damaged)
        with pytest.raises(RunError, match=rf"{name} is damaged"):
            open_and_load(whole)
    (whole / name).write_bytes(data)
    open_and_load(whole)


def test_what_a_run_lists_and_is_not_there_is_said(whole: Path) -> None:
    snapshot = whole / "snapshots/online_00000000.safetensors"
    snapshot.rename(whole / "elsewhere")
    with pytest.raises(RunError, match="online_00000000.safetensors is missing, and resume.json"):
        open_and_load(whole)
    (whole / "elsewhere").rename(snapshot)
    point = (whole / "resume.json").read_bytes()
    (whole / "resume.json").unlink()
    before = files(whole)
    with pytest.raises(RunError, match="resume.json is missing, but .* holds resume/"):
        open_and_load(whole)
    assert files(whole) == before
    (whole / "resume.json").write_bytes(point)
    with RunDirectory(whole, CONFIG) as run:
        run.finish({})
    snapshot.unlink()
    with pytest.raises(RunError, match=r"online_00000000.safetensors is missing, and result.json"):
        open_and_load(whole)
    with pytest.raises(RunError, match=r"lacks snapshots/online_00000000.safetensors, which its"):
        snapshot_steps(whole)


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl"])
def test_a_finished_run_is_as_it_was_written(whole: Path, name: str) -> None:
    with RunDirectory(whole, CONFIG) as run:
        run.finish({})
    RunDirectory(whole, CONFIG).close()
    (whole / name).write_bytes((whole / name).read_bytes().replace(b"1", b"7"))
    with pytest.raises(RunError, match=rf"{name} is damaged"):
        RunDirectory(whole, CONFIG)


def put(file: Path, content: str | None) -> None:
    """A file of this content in the place of what is there; None: a pipe, "/": a directory."""
    file.unlink()
    if content is None:
        os.mkfifo(file)
    elif content == "/":
        file.mkdir()
    else:
        file.write_text(content)


@pytest.mark.parametrize("content", ["", "garb", "null", "[1]", "{}", '{"files": [1]}', "/", None])
@pytest.mark.parametrize("finished", [False, True])
def test_a_damaged_result_is_refused_and_nothing_is_removed(
    whole: Path, finished: bool, content: str | None
) -> None:
    with RunDirectory(whole, CONFIG) as run:
        if finished:
            run.finish({})
    (whole / "result.json").touch()
    put(whole / "result.json", content)
    before = sorted(whole.rglob("*")), (whole / "metrics.jsonl").read_bytes()
    for use in (open_and_load, require_whole, snapshot_steps):
        with pytest.raises(RunError, match=r"result.json (is damaged|cannot be read) ?[(:]"):
            use(whole)
    assert (sorted(whole.rglob("*")), (whole / "metrics.jsonl").read_bytes()) == before


def test_a_finished_run_of_an_earlier_version_stays_readable(whole: Path) -> None:
    with RunDirectory(whole, CONFIG) as run:
        run.finish({})
    put(whole / "result.json", '{"env_steps": 1, "wall_s": 2.5}')  # it listed no checksums
    with RunDirectory(whole, CONFIG) as run:
        assert run.finished
    require_whole(whole)
    assert [steps for steps, _ in snapshot_steps(whole)] == [0, 1]
    shipped = [file.parent for file in (ROOT / "data/runs").rglob("result.json")]
    assert shipped and all(read_result(run)["wall_s"] > 0 for run in shipped)


@pytest.mark.parametrize("content", ["", "[1]", "null", "3", "{}", "/", None])
@pytest.mark.parametrize(
    "name", ["resume.json", "resume/state_2.safetensors", "events.jsonl", "metrics.jsonl",
             "snapshots/online_00000000.safetensors"],
)  # fmt: skip
def test_what_is_not_what_a_run_wrote_is_refused_by_name(
    whole: Path, name: str, content: str | None
) -> None:
    put(whole / name, content)
    before = sorted(whole.rglob("*"))
    with pytest.raises((RunError, OSError), match=name):
        open_and_load(whole)
    assert sorted(whole.rglob("*")) == before


def test_a_run_that_has_seen_battles_does_not_begin_anew_in_silence(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, CONFIG) as run:
        work(run, 0)
        run.append("events.jsonl", {"episode": 1})
    (tmp_path / "resume.json").unlink()
    before = files(tmp_path)
    with pytest.raises(RunError, match=r"resume.json is missing, but .* holds events.jsonl"):
        open_and_load(tmp_path)
    assert files(tmp_path) == before


def test_a_first_point_that_is_lost_is_said(tmp_path: Path) -> None:
    """A process that died at its first point leaves the same, so it is no mistake."""
    with RunDirectory(tmp_path, CONFIG) as run:
        assert run.said == ""
        work(run, 0)
    (tmp_path / "resume.json").unlink()
    with RunDirectory(tmp_path, CONFIG) as run:
        assert re.fullmatch(r"resume/\w+_1.safetensors stands without .* begins anew", run.said)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"wall_s": 1}, "result.json is damaged: it lists no file, and resume.json is still there"),
        ({"files": {"a": "b"}}, "a is missing, and result.json lists it"),
    ],
)
def test_a_result_that_is_none_ends_no_run(whole: Path, result: dict, message: str) -> None:
    (whole / "result.json").write_text(json.dumps(result))
    before = files(whole)
    with pytest.raises(RunError, match=message):
        open_and_load(whole)
    assert files(whole) == before


@pytest.mark.parametrize("left", ["nothing", "part_1", "rows alone"])
def test_a_run_whose_resume_state_is_gone_is_refused_and_kept(whole: Path, left: str) -> None:
    (whole / "resume.json").unlink()
    for file in (whole / "resume").iterdir():
        if left == "nothing" or not file.stem.endswith("_1"):
            file.unlink()
    if left == "rows alone":
        rows = [{"phase": "online", "env_steps": n} for n in (0, 500)]
        (whole / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for file in (whole / "snapshots").iterdir():
            file.unlink()
    before = files(whole)
    with pytest.raises(RunError, match=r"resume.json is missing, but .* move the folder away"):
        open_and_load(whole)
    assert files(whole) == before


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


def test_a_snapshot_that_changed_is_named_whenever_it_is_met(tmp_path: Path) -> None:
    name = "snapshots/online_00000000.safetensors"
    damaged = f"{name} is damaged: it is not what the run wrote"
    with RunDirectory(tmp_path, CONFIG) as run:
        work(run, 0)
        work(run, 1)
        require_whole(tmp_path)
        flip(tmp_path / name)
        with pytest.raises(RunError, match=damaged):  # as a reader of a running run does
            require_whole(tmp_path, [name])
        with pytest.raises(RunError, match=damaged):
            run.finish({})
        assert not (tmp_path / "result.json").exists()
    before = files(tmp_path)
    with pytest.raises(RunError, match=damaged):
        open_and_load(tmp_path)
    assert files(tmp_path) == before
    flip(tmp_path / name)  # back
    with RunDirectory(tmp_path, CONFIG) as run:  # the sums outlive the process
        flip(tmp_path / name)
        with pytest.raises(RunError, match=damaged):
            run.finish({})


@pytest.mark.parametrize(
    "content", ['{"port": 8888}', "[1]", "not JSON", '{"seed": 3, "algorithm": "ovmse"}']
)
def test_a_config_of_something_else_is_refused_and_untouched(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunError, match=r"not a run: it holds a config\.json that no run wrote$"):
        RunDirectory(tmp_path, CONFIG)
    assert files(tmp_path) == {"config.json": content.encode()}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_row_that_is_none_is_named(whole: Path) -> None:
    (whole / "metrics.jsonl").write_text('{"env_steps": 0}\nnull\n')
    with pytest.raises(RunError, match=r"metrics.jsonl is damaged: line 2 is no JSON object"):
        read_metrics(whole)


MINE = ["snapshots/best.safetensors", "snapshots/notes.txt", ".notes.2026", "resume/mine.txt",
        "snapshots/.picture.2026", "resume/state.safetensors"]  # fmt: skip


def test_only_what_a_run_made_itself_is_removed(whole: Path) -> None:
    for name in MINE:
        (whole / name).write_text("mine")
    ours = [".resume.json.123", "snapshots/.online_00000002.safetensors.9",
            "snapshots/online_00000007.safetensors"]  # fmt: skip
    for name in ours:
        (whole / name).write_text("of a killed process")
    with RunDirectory(whole, CONFIG) as run:
        work(run, 2)
        run.finish({})
    RunDirectory(whole, CONFIG).close()
    assert all((whole / name).read_text() == "mine" for name in MINE)
    assert not any((whole / name).exists() for name in ours)
    assert not (whole / "resume/state_3.safetensors").exists()


@pytest.mark.parametrize("name", ["thesis.tex", "snapshots/of_something_else.png"])
def test_a_folder_of_something_else_is_refused_and_untouched(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunError, match=rf"not empty and not a run: it holds {name}$"):
        RunDirectory(tmp_path, CONFIG)
    assert sorted(tmp_path.rglob("*")) == before
    assert file.read_text() == "mine"


def test_the_path_of_a_dataset_counts_from_the_project() -> None:
    """A file's and a vault's; a name is looked up. A kernel works in another folder."""
    for path in ("mine/x.h5", "vaults/3m.vlt/Good"):
        assert from_project({"dataset": path, "seed": 1}) == {"dataset": str(PROJECT / path),
                                                              "seed": 1}  # fmt: skip
    for given in ("/mine/x.h5", "medium", "x.h5"):
        assert from_project({"dataset": given})["dataset"] == given


@pytest.mark.parametrize("path", ["~nosuchuser/x", "a\0b"])
@pytest.mark.parametrize(
    "call",
    [find_runs, list_runs, load_grid, load_dataset, lambda path: find_runs([path]),
     lambda path: RunDirectory(path, CONFIG), lambda path: runs_folder(path, ""),
     lambda path: next(train(Config(), path)),
     lambda path: from_project({"dataset": path + "/.h5"})],
)  # fmt: skip
def test_what_can_be_no_path_is_one_sentence(call: Callable[[str], object], path: str) -> None:
    with pytest.raises(UserError) as caught:
        call(path)
    assert repr(path)[:-1] in str(caught.value) and "allowed: a path" in str(caught.value)
    assert not Path("~nosuchuser").exists()


@pytest.mark.parametrize("below", ["sub", "snapshots/x", "pretrain/one", "a/b/c"])
def test_a_run_inside_another_is_refused_and_nothing_is_written(tmp_path: Path, below: str) -> None:
    outer = tmp_path / "runs/outer"
    RunDirectory(outer, CONFIG).close()
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "link").symlink_to(outer)
    for path in (outer / below, tmp_path / "link" / below):
        with pytest.raises(RunError, match=f"lies inside the run in {outer}; choose one beside"):
            RunDirectory(path, CONFIG)
    (tmp_path / "link").unlink()
    assert sorted(tmp_path.rglob("*")) == before
    RunDirectory(outer.parent / "pretrain" / "one", CONFIG).close()  # beside it


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    for path in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(RunError, match="run is a file, not a directory"):
            RunDirectory(path, CONFIG)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "snapshots").write_text("")
    with pytest.raises(RunError, match="other/snapshots is a file, not a directory"):
        RunDirectory(tmp_path / "other", CONFIG)


def test_killed_while_it_wrote_its_settings_it_can_begin(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.4242").write_text('{"algor')
    with RunDirectory(tmp_path, CONFIG):
        assert read_config(tmp_path).items() >= CONFIG.items()


def test_a_second_process_is_refused_in_one_sentence(tmp_path: Path) -> None:
    code = f"""
import sys
from ovmse.runs.directory import RunDirectory
from ovmse.runs.reading import RunError
try:
    RunDirectory({str(tmp_path)!r}, {CONFIG!r})
except RunError as error:
    print(error)
"""
    with RunDirectory(tmp_path, CONFIG) as run:
        work(run, 0)
        before = files(tmp_path)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
        )
        assert files(tmp_path) == before
    assert (done.stdout, done.stderr) == (f"another process is running in {tmp_path}\n", "")


def test_waiting_ends_when_the_other_is_done(tmp_path: Path) -> None:
    """How algorithms of one seed share a pre-training."""
    opened, refused = threading.Event(), threading.Event()

    def first() -> None:
        with RunDirectory(tmp_path, CONFIG) as run:
            opened.set()
            assert refused.wait(60)
            time.sleep(0.2)
            work(run, 0)
            run.finish({})

    thread = threading.Thread(target=first)
    thread.start()
    assert opened.wait(60)
    with pytest.raises(RunError, match="another process"):
        RunDirectory(tmp_path, CONFIG, wait=0)
    refused.set()
    with RunDirectory(tmp_path, CONFIG, wait=-1) as run:
        assert run.finished
    thread.join()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk: writing past ``size`` bytes fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"old": 1})
    write_tensors(tmp_path / "b.safetensors", tensors(1))
    before = files(tmp_path)
    big: Any = {"x": torch.zeros(50_000)}
    with files_of_at_most(4_096):
        with pytest.raises(OSError):
            write_json(tmp_path / "a.json", {"new": "x" * 100_000})
        with pytest.raises(RunError, match=r"safetensors cannot be written \("):
            write_tensors(tmp_path / "b.safetensors", big)
    assert files(tmp_path) == before  # and no temporary file is left
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"new": {1, 2}})
    assert files(tmp_path) == before


def test_a_point_that_fails_half_way_leaves_the_last_one(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, CONFIG) as run:
        work(run, 0)
        work(run, 1)
        run.append("metrics.jsonl", {"env_steps": 2})
        with (
            files_of_at_most(4_096),
            pytest.raises(RunError, match=r"safetensors cannot be written \("),
        ):
            run.save_point({"number": 2}, {"weights": torch.zeros(50_000)}, tensors(2), 5)
    with RunDirectory(tmp_path, CONFIG) as run:
        meta, state, parts = run.load_point()
        assert meta == {"number": 1} and state["weights"][0, 0] == 1
        assert [part["weights"][0, 0].item() for part in parts] == [0, 1]
    assert [row["env_steps"] for row in read_metrics(tmp_path)] == [0, 1]


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[2], sys.argv[2] + "/runs"]
from ovmse.runs.directory import RunDirectory, read_tensors
from ovmse.runs.reading import read_metrics, snapshot_steps
from test_runs import CONFIG, work

path, rng, reached = Path(sys.argv[1]), random.Random(0), []
for attempt in range(25):
    child = os.fork()
    if child == 0:
        with RunDirectory(path, CONFIG) as run:
            point = run.load_point()
            number = 0 if point is None else point[0]["number"] + 1
            while True:
                work(run, number)
                number += 1
    time.sleep(rng.uniform(0, 0.12))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with RunDirectory(path, CONFIG) as run:
        point = run.load_point()
        count = 0 if point is None else point[0]["number"] + 1
        assert [row["env_steps"] for row in read_metrics(path)] == list(range(count))
        assert len((path / "events.jsonl").read_text().splitlines()) == 2 * max(0, count - 1)
        assert [steps for steps, _ in snapshot_steps(path)] == list(range(count))
        for steps, file in snapshot_steps(path)[-3:]:
            assert read_tensors(file)["weights"][0, 0] == steps
        if point is not None:
            assert point[1]["weights"][0, 0] == count - 1
            kept = list(range(max(0, count - 3), count))
            assert [part["weights"][0, 0] for part in point[2]] == kept
    reached.append(count)
assert len(set(reached)) > 5, reached
print("consistent")
"""


@pytest.mark.slow
def test_sigkill_at_any_moment_leaves_a_whole_point(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run"), str(ROOT / "tests")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("consistent\n", "")


def test_runs_are_found_below_a_folder(tmp_path: Path) -> None:
    for name in ("b", "a/deep"):
        with RunDirectory(tmp_path / name, CONFIG) as run:
            work(run, 0)
    RunDirectory(tmp_path / "pretrain" / "x", {"seed": 3}).close()  # not an online run
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    assert find_runs(tmp_path) == [tmp_path / "a/deep", tmp_path / "b"]
    assert find_runs(tmp_path / "b") == [tmp_path / "b"]
    b, linked = tmp_path / "b", tmp_path / "linked"
    linked.symlink_to(b)
    assert find_runs([b, tmp_path / "a/deep", b, linked, tmp_path / "a/../b"]) == [
        b, tmp_path / "a/deep",
    ]  # fmt: skip
    linked.unlink()
    with pytest.raises(RunError, match="there is no run in"):
        find_runs(tmp_path / "other")


def test_reading_what_is_not_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config\.json cannot be read \(No such file"):
        read_config(tmp_path)
    with pytest.raises(RunError, match=r"no readable metrics\.jsonl"):
        read_metrics(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(RunError, match="config.json is damaged: it is no JSON object"):
        read_config(tmp_path)
    (tmp_path / "x.safetensors").write_bytes(b"\x08\x00")
    for name in ("x.safetensors", "missing.safetensors"):
        with pytest.raises(RunError, match="not a readable safetensors file"):
            read_tensors(tmp_path / name)


def test_weights_come_back_from_a_snapshot_and_from_a_learner(tmp_path: Path) -> None:
    q, target = (new_q_function(SMALL, (8, 4, 6), seed) for seed in (1, 2))
    write_tensors(tmp_path / "snapshot.safetensors", q.state_dict())
    learner = {f"q.{name}": tensor for name, tensor in q.state_dict().items()}
    learner |= {f"target.{name}": tensor for name, tensor in target.state_dict().items()}
    write_tensors(tmp_path / "learner.safetensors", learner | {"updates": torch.tensor(3)})
    for file, part, expected in (
        ("snapshot", "", q),
        ("learner", "q.", q),
        ("learner", "target.", target),
    ):
        loaded = new_q_function(SMALL, (8, 4, 6), 3)
        load_weights(loaded, tmp_path / f"{file}.safetensors", part)
        for name, tensor in expected.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), (file, part, name)


OTHER_MAP = dataclasses.replace(SMALL, n_agents=4)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "is not a readable safetensors file: "),
        ("missing", "is not a readable safetensors file: "),
        ("foreign", "is no snapshot of this version of ovmse: it has no agent.fc_in.bias"),
        ("older", "is no snapshot of this version of ovmse: it has no agent.gru.bias_hh_l0"),
        (
            "another map",
            "is a snapshot of another map or of other network sizes: agent.fc_in.weight has shape "
            "(8, 15), here (8, 14) is needed",
        ),
    ],
)
def test_weights_of_something_else_are_refused(tmp_path: Path, kind: str, message: str) -> None:
    path, q = tmp_path / "x.safetensors", new_q_function(SMALL, (8, 4, 6), 1)
    if kind == "text":
        path.write_text("Dear diary,\nnothing happened.\n" * 9)
    elif kind == "foreign":
        write_tensors(path, {"model.layer.weight": torch.zeros(3)})
    elif kind == "older":  # torch.nn.GRUCell's names
        old = {name.replace("_l0", ""): tensor for name, tensor in q.state_dict().items()}
        write_tensors(path, old)
    elif kind == "another map":
        write_tensors(path, new_q_function(OTHER_MAP, (8, 4, 6), 1).state_dict())
    before = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    with pytest.raises(RunError) as caught:
        load_weights(q, path)
    assert str(caught.value).startswith(f"{path} {message}")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in q.state_dict().items())
