"""How long notebooks take on the runs that ship: until the first chart, and whole; and with 100."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbformat import NotebookNode
from safetensors.torch import load_file, save_file

from ovmse.runs.files import PROJECT
from ovmse.runs.reading import find_runs

HEADER = (
    "notebook", "task", "runs", "first chart, s (goal 10)", "its CPU time",
    "whole, s (goal 60; of 00: 30)", "its CPU time", "peak memory, MB",
)  # fmt: skip
MANY = 100
SHIPPED = PROJECT / "data/runs"


def opened(quick: bool) -> tuple[list[list[str]], str]:
    """A line for each notebook and number of runs, on copies without anything cached."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        few, many, hard = (Path(folder) / name for name in ("few", "many", "hard"))
        _copies("2s3z", few, 1)
        names = ["02_q_drift", "03_exploration"]
        asked = [(name, "2s3z", few) for name in names[quick:]]
        if not quick:
            _copies("6h_vs_8z", hard, 1)
            _copies("2s3z", many, -(-MANY // len(find_runs(few))))
            asked += [("00_walkthrough", "2s3z", few), ("02_q_drift", "6h_vs_8z", hard)]
            asked += [(name, "2s3z", many) for name in names]
        for name, task, runs in asked:
            measured = _measure(name, runs, whole=not quick)
            lines.append([name, task, str(len(find_runs(runs))), *measured])
    return lines, (
        "Wall time from the start of the kernel, its imports included, and the kernel's CPU time, "
        "which says more where other work runs beside it; nothing cached beside the runs, nor of "
        "what JAX compiles. Memory: the kernel's largest resident size. The many runs "
        "are copies of the shipped ones under other seeds, a weight of every snapshot changed, so "
        "that each is measured; 03 looks at one run of them, as always."
    )


def _copies(task: str, folder: Path, times: int) -> None:
    """The shipped runs of a task, so many times, as if of other seeds: with another content, by
    which what was measured is found again, and all but the same values."""
    for seed in range(times):
        target = folder / f"seed{seed}"
        shutil.copytree(SHIPPED / task, target, ignore=shutil.ignore_patterns("cache"))
        for run in find_runs(target):
            config = json.loads((run / "config.json").read_text())
            (run / "config.json").write_text(json.dumps(config | {"seed": seed}))
        for snapshot in target.rglob("*.safetensors"):
            tensors = load_file(snapshot)
            tensors[min(tensors)].view(-1)[0] += seed / 1000
            save_file(tensors, snapshot)


def _measure(name: str, runs: Path, whole: bool) -> list[str]:
    """Seconds to the first chart, wall and CPU, the same to the end ("–" where it stops before),
    and megabytes."""
    notebook = nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    charts = [any(_drawn(out) for out in cell.outputs) for cell in code]
    first = notebook.cells.index(code[charts.index(True)])
    if not whole:
        notebook.cells = notebook.cells[: first + 1]
    code[0].source += f"\nruns = {str(runs)!r}"
    began, at, largest, stop = time.monotonic(), {}, [0], threading.Event()
    known = {child.pid for child in psutil.Process().children()}
    watcher = threading.Thread(target=_watch, args=(known, largest, stop))

    def executed(cell_index: int, **_: object) -> None:
        cpu = sum(sum(child.cpu_times()[:2]) for child in _kernels(known))
        at[cell_index] = f"{time.monotonic() - began:.0f}", f"{cpu:.0f}"

    with tempfile.TemporaryDirectory() as cache:
        NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=None,
            resources={"metadata": {"path": str(PROJECT / "notebooks")}},
            on_notebook_start=lambda **_: watcher.start(),
            on_cell_executed=executed,
        ).execute(
            env={**os.environ, "OMP_NUM_THREADS": "1"}
            | ({"XDG_CACHE_HOME": cache} if whole else {})
        )
    stop.set()
    watcher.join()
    end = at[max(at)] if whole else ("–", "–")
    return [*at[first], *end, f"{largest[0] / 1e6:.0f}"]


def _drawn(output: NotebookNode) -> bool:
    return any(kind.startswith("application/vnd.vega") for kind in output.get("data", {}))


def _kernels(known: set[int]) -> list[psutil.Process]:
    """The children that were not there before."""
    return [child for child in psutil.Process().children() if child.pid not in known]


def _watch(known: set[int], largest: list[int], stop: threading.Event) -> None:
    """Until told to stop, the largest resident size of a kernel."""
    while not stop.wait(0.2):
        for child in _kernels(known):
            with contextlib.suppress(psutil.NoSuchProcess):
                largest[0] = max(largest[0], child.memory_info().rss)
