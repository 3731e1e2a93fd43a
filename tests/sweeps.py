"""What the tests of sweeps share: a small grid on the climb game, and the command as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import safetensors
import yaml
from distributed import Client

import bench.sweeps
from ovmse.datasets import write_dataset
from ovmse.envs import make_env
from ovmse.method.learner import new_q_function
from ovmse.training.rollout import collect

ROOT = Path(__file__).resolve().parents[1]
# Many resume points in a few seconds of training.
SMALL = {"preset": "tiny", "num_envs": 8, "test_interval": 400, "online_steps": 4_000,
         "test_battles": 8, "long_test_battles": 8, "fixed_battles": 8}  # fmt: skip
# What a `dask scheduler` or `dask worker` of ours listens on.
LOCAL = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")


def write_climb_dataset(path: Path) -> Path:
    """64 random episodes of the climb game."""
    env = make_env("climb_monotone", "climb", num_envs=8)
    q = new_q_function(env.spec, (8, 4, 8), seed=0)
    episodes = list(collect(q, env, 64, np.random.default_rng(0), epsilon=1.0))
    return write_dataset(path, episodes, env.spec, {"policy": "random"})


def climb_grid(folder: Path, **parameters: object) -> Path:
    """Four runs of the small game, by a notebook that only trains: two algorithms, two seeds."""
    dataset = folder / "climb.h5"
    if not dataset.exists():
        write_climb_dataset(dataset)
    given = {"algorithm": ["ovmse", "qmix"], "seed": "0..1", "task": "climb_monotone"}
    given |= {"dataset": str(dataset)} | SMALL | {"online_steps": 1_600}  # type: ignore[operator]
    given |= parameters
    notebook = write_notebook(folder / "bare.ipynb", *bench.sweeps.bare([*given]))
    return write_grid(folder / "climb.yaml", notebook.name, given)


def write_grid(path: Path, notebook: str, parameters: dict) -> Path:
    path.write_text(yaml.safe_dump({"notebook": notebook, "parameters": parameters}))
    return path


def write_notebook(path: Path, *cells: str) -> Path:
    """A notebook of a parameters cell and others."""
    path.write_text(json.dumps(bench.sweeps.notebook(*cells)))
    return path


def waiting_grid(tmp_path: Path, seconds: float, count: int) -> Path:
    """Runs that only pass the time."""
    cells = ("number = 0", f"import time\ntime.sleep({seconds})")
    notebook = write_notebook(tmp_path / "wait.ipynb", *cells)
    return write_grid(tmp_path / "wait.yaml", notebook.name, {"number": f"0..{count - 1}"})


class Sweep:
    """`ovmse sweep` as a process of its own, as from a shell without a terminal."""

    def __init__(
        self, grid: Path, folder: Path, *options: str, workers: int = 2, project: Path = ROOT
    ) -> None:
        command = [sys.executable, "-m", "ovmse.cli", "sweep", str(grid), "--folder", str(folder)]
        if "--scheduler" not in options:
            command += ["--workers", str(workers)]
        self.folder = folder
        _heed_interrupts()
        self.process = subprocess.Popen(
            [*command, *options], cwd=project, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(project)},
        )  # fmt: skip
        weakref.finalize(self, _kill, self.process)  # of a test that failed

    def end(self, timeout: float = 300) -> tuple[int, str, str]:
        """Exit code, output and errors, once it has ended."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err

    def below(self) -> list[psutil.Process]:
        """Every process below it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def workers(self) -> list[psutil.Process]:
        return [p for p in self.below() if bench.sweeps.named(p, bench.sweeps.WORKER)]

    def kernels(self) -> list[psutil.Process]:
        return [p for p in self.below() if bench.sweeps.named(p, "ipykernel_launcher")]

    def until(self, seen: Callable[[], object], timeout: float = 120) -> None:
        """Waits for something to be so; fails at once if the process ends before."""
        deadline = time.monotonic() + timeout
        while not seen():
            assert self.process.poll() is None, self.end()
            assert time.monotonic() < deadline, "it never came to that"
            time.sleep(0.05)

    def training(self) -> bool:
        """Whether a run has measured online."""
        files = self.folder.glob("code-*/*/metrics.jsonl")
        return any('"online"' in file.read_text() for file in files)


def _heed_interrupts() -> None:
    """A shell starts what it runs in the background deaf to Ctrl-C, and that is inherited."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _kill(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def copied_code(folder: Path) -> Path:
    """A project of its own, with the code as it stands."""
    subprocess.run(["cp", "-r", str(ROOT / "ovmse"), str(folder)], check=True)
    return folder


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a dead one that its parent has not asked after does not count."""
    return [p for p in processes if p.is_running() and _status(p) != psutil.STATUS_ZOMBIE]


def _status(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.Error:
        return psutil.STATUS_ZOMBIE


def measured(folder: Path) -> dict[str, tuple]:
    """What `bench.sweeps.measured` says of each finished run in the folder of a sweep."""
    finished = sorted(folder.glob("code-*/*_seed*/result.json"))
    return {result.parent.name: bench.sweeps.measured(result.parent) for result in finished}


@contextmanager
def dask(*arguments: str, env: dict) -> Iterator[subprocess.Popen]:
    """`dask scheduler` or `dask worker` as a process of its own, as on a cluster."""
    command = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]]
    process = subprocess.Popen(command, cwd="/", env={**os.environ, **env},
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def scheduler(tmp_path: Path, project: Path = ROOT) -> Iterator[tuple[str, subprocess.Popen]]:
    """A scheduler without workers: its address and its process."""
    where = tmp_path / "scheduler.json"
    where.unlink(missing_ok=True)
    options = (*LOCAL, "--port", "0", "--scheduler-file", str(where))
    with dask("scheduler", *options, env={"PYTHONPATH": str(project)}) as process:
        deadline = time.monotonic() + 60
        while not where.exists() or not where.read_text().strip().endswith("}"):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        yield json.loads(where.read_text())["address"], process


@contextmanager
def worker(address: str, folder: Path, threads: int = 1, project: Path = ROOT) -> Iterator[None]:
    """A worker process of a scheduler, which has it when the block begins."""
    options = ("--nthreads", str(threads), "--local-directory", str(folder))
    with Client(address, set_as_default=False) as client:
        there = len(client.ncores())
        with dask("worker", *LOCAL, *options, address, env={"PYTHONPATH": str(project)}):
            client.wait_for_workers(there + 1, timeout=60)
            client.close()
            yield


@contextmanager
def small_disk(size: str, at: Path) -> Iterator[None]:
    at.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here (that takes root)")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def require_whole_files(folder: Path, least: int = 1) -> None:
    """Nothing that carries a final name is cut off."""
    checked = 0
    for path in folder.rglob("*"):
        if path.name.startswith("."):
            continue  # locks, and temporaries that a killed process leaves
        if path.suffix in (".json", ".ipynb"):
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            with safetensors.safe_open(path, "np") as file:
                assert file.keys()
        else:
            continue
        checked += 1
    assert checked >= least
