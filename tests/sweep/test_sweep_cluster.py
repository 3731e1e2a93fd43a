"""Sweeps on clusters that they did not start, real scheduler and worker processes on loopback."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from distributed import Client, LocalCluster
from sweeps import Sweep, copied_code, scheduler, waiting_grid, worker

from ovmse.runs.listing import list_runs, read_record
from ovmse.sweep.engine import sweep
from ovmse.sweep.grid import load_grid, plan

pytestmark = pytest.mark.slow


def another_state(folder: Path) -> Path:
    """A project whose learning code differs."""
    project = copied_code(folder)
    with (project / "ovmse/method/learner.py").open("a") as file:
        file.write("\n# another state of the code\n")
    return project


def test_a_worker_that_differs_is_named_before_anything_starts(tmp_path: Path) -> None:
    other = another_state(tmp_path)
    grid, runs = waiting_grid(tmp_path, 1, 2), tmp_path / "runs"
    with scheduler(tmp_path) as (address, _):
        with worker(address, tmp_path, project=other):
            code, _, err = Sweep(grid, runs, "--scheduler", address).end(timeout=90)
        assert code == 2
        assert err.startswith("ovmse: worker tcp://127.0.0.1:")
        assert "has another ovmse/method/learner.py" in err
        with worker(address, tmp_path, threads=2):
            code, _, err = Sweep(grid, runs, "--scheduler", address).end(timeout=90)
        assert code == 2
        assert err.startswith("ovmse: worker tcp://127.0.0.1:")
        assert "has 2 threads, allowed: --nthreads 1" in err
    assert not list(runs.glob("code-*/wait_*"))


def test_a_worker_that_joins_later_and_differs_gets_no_run(tmp_path: Path) -> None:
    other = another_state(tmp_path)
    grid, runs = waiting_grid(tmp_path, 4, 4), tmp_path / "runs"
    with scheduler(tmp_path) as (address, _), worker(address, tmp_path):
        sweep = Sweep(grid, runs, "--scheduler", address)
        sweep.until(lambda: list(runs.glob("code-*/*/sweep.json")))
        with worker(address, tmp_path, project=other):
            code, out, err = sweep.end()
    assert code == 0, err
    assert "4 done of 4" in out
    assert "is not used: it has another ovmse/method/learner.py" in err
    assert [read_record(run.path)["attempts"] for run in list_runs(runs)] == [1] * 4


def test_a_scheduler_without_the_project_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "ovmse").mkdir()
    (tmp_path / "ovmse/__init__.py").write_text("raise ImportError('another project')")
    grid = waiting_grid(tmp_path, 1, 2)
    with scheduler(tmp_path, project=tmp_path) as (address, _):
        code, _, err = Sweep(grid, tmp_path / "runs", "--scheduler", address).end(timeout=90)
    assert code == 2
    assert f"the scheduler at {address} cannot import the project" in err.splitlines()[-1]


def test_a_cluster_that_adapts_gets_work_to_grow_for(tmp_path: Path) -> None:
    """Such a cluster adds workers only while more is handed out than it has room for."""
    planned = plan(load_grid(waiting_grid(tmp_path, 6, 4)), tmp_path / "runs")
    with LocalCluster(
        n_workers=0, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        cluster.adapt(minimum=0, maximum=2, interval="200ms")
        seen = [state.workers for state in sweep(planned, scheduler=cluster.scheduler_address)]
    assert max(count for count in seen if count is not None) == 2
    assert [run.status for run in list_runs(tmp_path / "runs")] == ["done"] * 4


def test_a_signal_stops_the_notebooks_of_this_sweep_alone_on_a_shared_cluster(
    grid: Path, tmp_path: Path
) -> None:
    with scheduler(tmp_path) as (address, _), worker(address, tmp_path), worker(address, tmp_path):
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


def refused(grid: Path, tmp_path: Path, address: str) -> str:
    """Why an address is no scheduler's, as the one sentence says it."""
    options = ("--scheduler", address)
    code, _, err = Sweep(grid, tmp_path / "runs", *options).end(timeout=60)
    before = f"ovmse: --scheduler {address} does not answer as Dask's does ("
    assert (code, err[: len(before)], len(err.splitlines())) == (2, before, 1)
    return err[len(before) : -2]


def test_what_is_no_scheduler_is_one_sentence(grid: Path, tmp_path: Path) -> None:
    assert refused(grid, tmp_path, "tcp://127.0.0.1:9") == "nothing within 10 s"
    assert "'no'" in refused(grid, tmp_path, "no://127.0.0.1:9")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.server_port}"
        assert refused(grid, tmp_path, address) == "nothing within 10 s"
        server.shutdown()
    with scheduler(tmp_path) as (address, _), worker(address, tmp_path):
        with Client(address, set_as_default=False) as client:
            (of_worker,) = client.ncores()
        assert refused(grid, tmp_path, of_worker) == "it is a worker"


def test_a_second_signal_ends_what_waits_at_once(grid: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        sweep = Sweep(grid, tmp_path / "runs", "--scheduler", address)
        there, _ = silent.accept()
        began = time.monotonic()
        sweep.process.terminate()
        with suppress(subprocess.TimeoutExpired):  # the first ends it once the wait is over
            sweep.process.wait(1)
        sweep.process.terminate()
        sweep.end(timeout=5)
        there.close()
    assert time.monotonic() - began < 5
