"""Sweeps that are stopped, that fail, or that find something else than they need."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil
import pytest
from sweeps import (
    ROOT,
    Sweep,
    alive,
    copied_code,
    waiting_grid,
    write_grid,
    write_notebook,
)

from ovmse.runs.listing import list_runs, read_record
from ovmse.sweep import worker
from ovmse.sweep.engine import GIVE_UPS

pytestmark = pytest.mark.slow


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


def test_an_impatient_second_signal_leaves_no_process_either(grid: Path, tmp_path: Path) -> None:
    sweep = Sweep(grid, tmp_path, "-p", "online_steps=1000000")
    sweep.until(sweep.training)
    below = sweep.below()
    sweep.process.terminate()
    time.sleep(0.5)  # until the first is heard: two at once are one
    sweep.process.send_signal(signal.SIGINT)
    sweep.end(timeout=30)
    psutil.wait_procs(below, timeout=10)
    assert not alive(below)
    assert {run.status for run in list_runs(tmp_path)} == {"unfinished"}


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


def test_code_that_changes_while_a_kernel_imports_is_noticed(tmp_path: Path) -> None:
    """What was imported then is neither the one state nor the other."""
    project = copied_code(tmp_path)
    learner = project / "ovmse/method/learner.py"
    notebook = write_notebook(
        tmp_path / "edit.ipynb", "run_dir = ''\nalgorithm = task = seed = preset = None",
        f"with open({str(learner)!r}, 'a') as file:\n    file.write('# edited')",
        "from ovmse import Config, train",
        "given = dict(algorithm=algorithm, task=task, seed=seed, preset=preset)\n"
        "for _ in train(Config.from_parameters(**given), run_dir):\n    pass",
    )  # fmt: skip
    given = {"algorithm": "qmix", "task": "climb_monotone", "seed": 0, "preset": "tiny"}
    grid = write_grid(tmp_path / "grid.yaml", notebook.name, given)
    code, _, err = Sweep(grid, tmp_path / "runs", project=project).end()
    assert code == 2
    assert "changed while the sweep ran: another ovmse/method/learner.py" in err
    (run,) = list_runs(tmp_path / "runs")
    assert (run.status, run.env_steps) == ("unfinished", None)  # nothing was measured


def test_a_kernel_that_dies_each_time_fails_its_run_alone(tmp_path: Path) -> None:
    notebook = write_notebook(
        tmp_path / "dies.ipynb", "number = 0", "import os, signal",
        "if number:\n    os.kill(os.getpid(), signal.SIGKILL)",
    )  # fmt: skip
    grid = write_grid(tmp_path / "grid.yaml", notebook.name, {"number": "0..1"})
    code, out, _ = Sweep(grid, tmp_path / "runs").end()
    assert code == 1
    assert "1 done, 1 failed of 2" in out
    assert f"failed: number 1: died {GIVE_UPS} times without a further test (DeadKernel" in out
    (failed,) = (run for run in list_runs(tmp_path / "runs") if run.status == "failed")
    assert read_record(failed.path)["attempts"] == GIVE_UPS
    assert (failed.path / "dies.failed.ipynb").exists()


def test_a_terminal_gets_a_table(tmp_path: Path) -> None:
    grid = waiting_grid(tmp_path, 1, 2)
    command = [sys.executable, "-m", "ovmse.cli", "sweep", str(grid)]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*command, "--folder", str(tmp_path / "runs")], cwd=ROOT, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "110", "LINES": "30"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the end of a terminal is an error
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode()
    for expected in ("test battles won", "running", "2 done of 2", "number 1"):
        assert expected in text
    assert "\x1b[" in text  # redrawn in place


def test_the_socket_folders_of_killed_workers_are_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(worker, "LONGEST_TEMPORARY", 1000)
    ended = subprocess.Popen(["true"])
    ended.wait()
    for pid in (ended.pid, os.getpid()):
        (tmp_path / f"ovmse-{pid}-abc").mkdir()
    with worker._socket_folder() as mine:
        found = set(os.listdir(tmp_path))
    assert found == {f"ovmse-{os.getpid()}-abc", Path(mine).name}
