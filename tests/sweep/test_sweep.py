"""Sweeps with real processes: whatever dies, the numbers are those of an undisturbed sweep."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
from sweeps import Sweep, alive, measured, require_whole_files, scheduler, small_disk, worker

from ovmse.runs.listing import list_runs, read_record

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(grid: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The folder and the measurements of a sweep that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "my {runs}"
    sweep = Sweep(grid, folder)
    code, out, err = sweep.end()
    assert (code, err) == (0, ""), out
    found = measured(folder)
    assert len(found) == 4
    return folder, found


HALF = ("-p", "seed=0")


def half(undisturbed: tuple[Path, dict]) -> dict:
    """The measurements of the two runs that HALF asks for."""
    return {name: values for name, values in undisturbed[1].items() if "_seed0_" in name}


def test_what_is_finished_is_skipped(grid: Path, undisturbed: tuple[Path, dict]) -> None:
    folder, _ = undisturbed
    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    began = time.monotonic()
    code, out, _ = Sweep(grid, folder).end()
    assert code == 0
    assert "4 done of 4" in out
    assert "scheduler at" not in out  # nothing was to be done, so no cluster was started
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert time.monotonic() - began < 60


def test_the_records_say_what_was_run(undisturbed: tuple[Path, dict]) -> None:
    folder, _ = undisturbed
    runs = list_runs(folder)
    assert {(r.algorithm, r.seed, r.status) for r in runs} == {
        (a, s, "done") for a in ("ovmse", "qmix") for s in (0, 1)
    }
    for run in runs:
        record = read_record(run.path)
        assert (record["state"], record["attempts"], record["error"]) == ("done", 1, "")
        assert record["seconds"] > 1
        nbformat.validate(nbformat.read(run.path / "bare.ipynb", as_version=4))


def test_workers_and_kernels_killed_at_random_change_nothing(
    grid: Path, undisturbed: tuple[Path, dict], tmp_path: Path
) -> None:
    sweep, rng = Sweep(grid, tmp_path, *HALF), random.Random(0)
    for which in (sweep.workers, sweep.workers, sweep.kernels):
        sweep.until(sweep.kernels)
        time.sleep(rng.uniform(0, 2))  # no kernel is done so soon, on whatever machine
        sweep.until(which)
        rng.choice(which()).kill()
    code, out, err = sweep.end()
    assert code == 0, out + err
    assert measured(tmp_path) == half(undisturbed)
    require_whole_files(tmp_path)


def test_killed_whole_and_the_command_again(
    grid: Path, undisturbed: tuple[Path, dict], tmp_path: Path
) -> None:
    """A local sweep's scheduler is the command's own process."""
    for attempt in range(5):  # so short a run can be done before it hears of the kill
        folder = tmp_path / str(attempt)
        sweep = Sweep(grid, folder, *HALF)
        sweep.until(sweep.training)
        below = sweep.below()
        sweep.process.kill()
        psutil.wait_procs(below, timeout=10)
        assert not alive(below)  # workers and kernels end by themselves
        if "unfinished" in {run.status for run in list_runs(folder)}:
            break
    assert len(measured(folder)) < 2
    assert "unfinished" in {run.status for run in list_runs(folder)}
    code, out, err = Sweep(grid, folder, *HALF).end()
    assert (code, err) == (0, ""), out
    assert measured(folder) == half(undisturbed)


def test_two_sweeps_of_one_folder_share_the_runs(
    grid: Path, undisturbed: tuple[Path, dict], tmp_path: Path
) -> None:
    first = Sweep(grid, tmp_path, *HALF, workers=1)
    first.until(first.training)  # the second finds one at work, the other not begun
    for sweep in (first, Sweep(grid, tmp_path, *HALF, workers=1)):
        code, out, err = sweep.end()
        assert (code, err) == (0, ""), out
        assert "2 done of 2" in out
    assert [read_record(run.path)["attempts"] for run in list_runs(tmp_path)] == [1] * 2
    assert measured(tmp_path) == half(undisturbed)


def test_a_full_disk_is_one_sentence_and_the_runs_resume(
    grid: Path, undisturbed: tuple[Path, dict], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with small_disk("1500k", disk):
        code, _, err = Sweep(grid, disk / "runs", *HALF).end()
        assert code == 2
        assert len(err.splitlines()) == 1
        assert "No space left on device" in err
        assert "the same command continues" in err
        require_whole_files(disk)
        assert not any(run.status == "failed" for run in list_runs(disk / "runs"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        code, out, err = Sweep(grid, disk / "runs", *HALF).end()
        assert (code, err) == (0, ""), out
        assert measured(disk / "runs") == half(undisturbed)


def test_a_folder_that_turns_read_only_is_one_sentence_and_the_runs_resume(
    grid: Path, undisturbed: tuple[Path, dict], tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    sweep = Sweep(grid, folder, *HALF, workers=1)
    sweep.until(sweep.training)
    with read_only(folder):  # in the middle of a run
        code, _, err = sweep.end()
        assert code == 2
        assert len(err.splitlines()) == 1
        assert "cannot write" in err and "Read-only file system" in err
        require_whole_files(folder)
        code, _, err = Sweep(grid, folder, *HALF).end()  # still read-only
        assert code == 2
        assert len(err.splitlines()) == 1
    code, out, err = Sweep(grid, folder, *HALF).end()
    assert (code, err) == (0, ""), out
    assert measured(folder) == half(undisturbed)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Whatever is opened in the folder from now on cannot be written."""
    if subprocess.run(
        ["mount", "--bind", str(folder), str(folder)], capture_output=True
    ).returncode:
        pytest.skip("nothing can be mounted here (that takes root)")
    try:
        remount = ["mount", "-o", "remount,bind,ro", str(folder)]
        for _ in range(100):  # busy while a run holds a file that it opened since the line above
            if not subprocess.run(remount, capture_output=True).returncode:
                break
            time.sleep(0.05)
        else:
            subprocess.run(remount, check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_cluster_of_others_and_the_death_of_its_scheduler(
    grid: Path, undisturbed: tuple[Path, dict], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    with scheduler(tmp_path) as (address, process), worker(address, tmp_path):
        sweep = Sweep(grid, runs, *HALF, "--scheduler", address)
        sweep.until(sweep.training)
        process.kill()
        code, _, err = sweep.end(timeout=60)
        assert code == 2
        assert f"the scheduler at {address} is gone; the same command continues" in err
    with scheduler(tmp_path) as (address, _), worker(address, tmp_path), worker(address, tmp_path):
        code, out, err = Sweep(grid, runs, *HALF, "--scheduler", address).end()
        assert (code, err) == (0, ""), out
        assert f"scheduler at {address}" in out
    assert measured(runs) == half(undisturbed)
