"""Sweeps that are stopped, that fail, or that find something else than they need."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from sweeps import (
    LOCAL,
    ROOT,
    Sweep,
    alive,
    climb_grid,
    dask,
    measured,
    scheduler,
    write_grid,
    write_notebook,
)

from ovmse.listing import list_runs


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return climb_grid(tmp_path_factory.mktemp("grid"))


def test_2s3z_killed_workers_change_nothing(tmp_path: Path) -> None:
    given = {"algorithm": ["ovmse", "qmix"], "task": "2s3z", "preset": "tiny", "seed": 0}
    grid = write_grid(tmp_path / "grid.yaml", "01_train", given)
    code, out, err = Sweep(grid, tmp_path / "whole").end()
    assert code == 0, out + err
    sweep, kills = Sweep(grid, tmp_path / "killed"), 0
    sweep.until(sweep.training)
    rng = random.Random(1)
    while sweep.process.poll() is None:
        if kills < 3 and (workers := sweep.workers()):
            rng.choice(workers).kill()
            kills += 1
        time.sleep(rng.uniform(5, 15))
    code, out, err = sweep.end()
    assert code == 0, out + err
    assert kills >= 2
    assert len(measured(tmp_path / "whole")) == 2
    assert measured(tmp_path / "killed") == measured(tmp_path / "whole")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_every_kernel_and_leaves_no_process(
    grid: Path, tmp_path: Path, name: str
) -> None:
    sweep = Sweep(grid, tmp_path, "-p", "online_steps=1000000")
    sweep.until(sweep.training)
    below, kernels, began = sweep.below(), sweep.kernels(), time.monotonic()
    assert kernels
    if name == "SIGINT":  # as a terminal does: to the whole group
        os.killpg(sweep.process.pid, signal.SIGINT)
    else:
        sweep.process.terminate()
    while alive(kernels):
        assert time.monotonic() - began < 5
        time.sleep(0.02)
    code, _, err = sweep.end(timeout=20)
    assert code == 130
    assert err == "ovmse: stopped; the same command continues\n"
    psutil.wait_procs(below, timeout=5)
    assert not alive(below)
    assert {run.status for run in list_runs(tmp_path)} == {"unfinished"}


def test_a_signal_stops_the_notebooks_of_this_sweep_alone_on_a_shared_cluster(
    grid: Path, tmp_path: Path
) -> None:
    worker = ("worker", *LOCAL, "--nthreads", "1", "--local-directory", str(tmp_path))
    with scheduler(tmp_path) as (address, _), dask(*worker, address), dask(*worker, address):
        for_long = ("--scheduler", address, "-p", "online_steps=1000000", "-p", "algorithm=qmix")
        mine = Sweep(grid, tmp_path / "mine", *for_long, "-p", "seed=0")
        other = Sweep(grid, tmp_path / "other", *for_long, "-p", "seed=1")
        mine.until(mine.training)
        other.until(other.training)
        mine.process.terminate()
        assert mine.end(timeout=30)[0] == 130
        (ended,), (going,) = list_runs(tmp_path / "mine"), list_runs(tmp_path / "other")
        deadline = time.monotonic() + 5
        while ended.status == "running":
            assert time.monotonic() < deadline
            (ended,) = list_runs(tmp_path / "mine")
        assert (ended.status, going.status) == ("unfinished", "running")
        assert not list(ended.path.glob("*.failed.ipynb"))
        other.process.terminate()
        assert other.end(timeout=30)[0] == 130


def test_a_signal_while_it_starts_leaves_no_process(grid: Path, tmp_path: Path) -> None:
    sweep = Sweep(grid, tmp_path)
    sweep.until(sweep.workers)
    below = sweep.below()
    sweep.process.terminate()
    code, _, err = sweep.end(timeout=30)
    assert code == 130
    assert err.endswith("ovmse: stopped; the same command continues\n")
    psutil.wait_procs(below, timeout=10)
    assert not alive(below)


def test_everything_listens_on_localhost_only(grid: Path, tmp_path: Path) -> None:
    sweep = Sweep(grid, tmp_path)
    sweep.until(sweep.kernels)
    time.sleep(1)
    listening = [
        connection.laddr.ip
        for process in [psutil.Process(sweep.process.pid), *sweep.below()]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 3
    assert set(listening) == {"127.0.0.1"}
    sweep.process.terminate()
    _, out, _ = sweep.end()
    assert "scheduler at tcp://127.0.0.1:" in out


def test_a_notebook_that_hangs_is_stopped_and_reported(tmp_path: Path) -> None:
    notebook = write_notebook(
        tmp_path / "hang.ipynb", "seconds = 0", "import time\nprint('before')",
        "time.sleep(seconds)",
    )  # fmt: skip
    grid = write_grid(tmp_path / "grid.yaml", notebook.name, {"seconds": [0, 1000]})
    code, out, _ = Sweep(grid, tmp_path / "runs", "--timeout", "12").end(timeout=90)
    assert code == 1
    assert "1 done, 1 failed of 2" in out
    assert "failed: seconds 1000: stopped after 12 s (--timeout)" in out
    (failed,) = (run for run in list_runs(tmp_path / "runs") if run.status == "failed")
    kept = nbformat.read(failed.path / "hang.failed.ipynb", as_version=4)
    assert kept.cells[2].outputs[0].text == "before\n"  # what was executed is there


def test_failed_runs_are_kept_listed_and_retried_when_asked(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    notebook = write_notebook(
        tmp_path / "flagged.ipynb", "number = 0", "import pathlib",
        f"if number == 1 and not pathlib.Path({str(flag)!r}).exists():\n"
        "    raise KeyError('no flag')",
    )  # fmt: skip
    grid = write_grid(tmp_path / "grid.yaml", notebook.name, {"number": "0..1"})
    folder = tmp_path / "runs"
    code, out, _ = Sweep(grid, folder).end()
    assert code == 1
    assert "failed: number 1: KeyError: 'no flag' (see " in out
    (failed,) = (run for run in list_runs(folder) if run.status == "failed")
    assert (failed.path / "flagged.failed.ipynb").exists()
    flag.touch()
    code, out, _ = Sweep(grid, folder).end()
    assert code == 1  # still failed: it was not asked for
    assert "1 done, 1 failed of 2" in out
    code, out, _ = Sweep(grid, folder, "--retry-failed").end()
    assert code == 0, out
    assert not (failed.path / "flagged.failed.ipynb").exists()


def test_code_that_changes_while_a_sweep_runs_is_noticed(tmp_path: Path) -> None:
    """A kernel imports the code as it stands: half the grid would be another experiment."""
    notebook = write_notebook(
        tmp_path / "edit.ipynb", "number = 0", "import pathlib",
        f"path = pathlib.Path({str(tmp_path / 'edit.ipynb')!r})\n"
        "path.write_text(path.read_text().replace('import pathlib', 'import os, pathlib'))",
    )  # fmt: skip
    grid = write_grid(tmp_path / "grid.yaml", notebook.name, {"number": "0..1"})
    code, out, err = Sweep(grid, tmp_path / "runs", workers=1).end()
    assert code == 2
    assert "number 0, done" in out
    assert f"changed while the sweep ran: another {notebook}" in err


def test_a_worker_that_differs_is_named_before_anything_starts(grid: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["cp", "-r", str(ROOT / "ovmse"), str(other)], check=True)
    with (other / "ovmse/learner.py").open("a") as file:
        file.write("\n# another state of the code\n")
    worker = ("worker", *LOCAL, "--nthreads", "1", "--local-directory", str(tmp_path))
    with (
        scheduler(tmp_path) as (address, _),
        dask(*worker, address, env={"PYTHONPATH": str(other)}),
    ):
        code, _, err = Sweep(grid, tmp_path / "runs", "--scheduler", address).end(timeout=90)
    assert code == 2
    assert "has another ovmse/learner.py" in err
    assert not list((tmp_path / "runs").glob("code-*/*_seed*"))


def test_a_scheduler_that_does_not_answer_is_one_sentence(grid: Path, tmp_path: Path) -> None:
    code, _, err = Sweep(grid, tmp_path / "runs", "--scheduler", "tcp://127.0.0.1:9").end(90)
    assert code == 2
    assert err.startswith("ovmse: --scheduler tcp://127.0.0.1:9 does not answer")
    assert len(err.splitlines()) == 1
