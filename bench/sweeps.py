"""What a batch costs beyond its notebooks, whether it leaks, and whether kills change a number."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import psutil
import yaml

from bench.rows import Effort
from ovmse.runs.reading import read_metrics, snapshot_steps
from ovmse.sweep.engine import sweep
from ovmse.sweep.grid import Plan, load_grid, plan

HEADER = ("part of a notebook", "seconds, median", "middle half")
WORKERS = 2
WORKER = "spawn_main"  # what marks the command line of a worker of a local cluster
TINY = {"algorithm": "qmix", "task": "climb_monotone", "preset": "tiny", "num_envs": 8,
        "online_steps": 2_000, "test_battles": 8, "long_test_battles": 8}  # fmt: skip


def bare(names: Sequence[str]) -> tuple[str, str]:
    """The cells of a notebook that only trains, with these parameters: without charts, so that a
    kernel imports less than it does."""
    given = ["run_dir = ''", *(f"{name} = None" for name in names)]
    return "\n".join(given), (
        f"from ovmse import Config, train\ngiven = {{name: globals()[name] for name in {names}}}\n"
        "for _ in train(Config.from_parameters(**given), run_dir):\n    pass"
    )


def batch(effort: Effort) -> tuple[list[list[str]], str]:
    """Tiny notebooks, one after the other on two workers: their parts, and the workers' memory."""
    count = 2 if effort.quick else 200
    with tempfile.TemporaryDirectory() as folder:
        planned = _plan(Path(folder), {**TINY, "seed": f"0..{count - 1}"})
        began = time.monotonic()
        memory = np.array(list(_memory(planned)))
        wall = time.monotonic() - began
        parts = [_parts(run.folder / "01_train.ipynb") for run in planned.runs]
    lines = []
    for name in parts[0]:
        values = [part[name] for part in parts]
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        lines.append([name, f"{middle:.2f}", f"{low:.2f}-{high:.2f}"])
    each = wall * WORKERS / count
    inside = np.mean([sum(part.values()) for part in parts])
    work = np.mean([part["its own work: the training cell"] for part in parts])
    done, megabytes = memory.T
    settled = done >= count / 10  # the first notebook of a worker imports what the others reuse
    growth = 1e3 * np.polyfit(done[settled], megabytes[settled], 1)[0] * WORKERS
    third = max(1, settled.sum() // 3)
    return lines, (
        f"{count} tiny notebooks (QMIX on the climb game, 2,000 steps) on {WORKERS} workers: "
        f"{wall:.0f} s, {each:.2f} s of a worker for each; {each - work:.2f} s of that beyond its "
        f"own work, of which {each - inside:.2f} s outside the notebook (handing out, records, the "
        f"cluster's start). A worker's memory: {megabytes[settled][:third].mean():.0f} MB in the "
        f"first third, {megabytes[settled][-third:].mean():.0f} MB in the last; it grows by "
        f"{growth:.0f} kB a notebook."
    )


def kills(effort: Effort) -> str:
    """Workers are killed at random moments through a grid; then every measurement is compared."""
    count, runs = (1, 1) if effort.quick else (100, 12)
    settings = {**TINY, "online_steps": 2_000 if effort.quick else 150_000,
                "test_interval": 500, "seed": f"0..{runs - 1}"}  # fmt: skip
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bare.ipynb"
        file.write_text(json.dumps(notebook(*bare([*settings]))))
        whole, killed = (
            _plan(Path(folder) / name, settings, str(file)) for name in ("whole", "killed")
        )
        for _ in sweep(whole, WORKERS):
            pass
        done, due, began = 0, 0.0, time.monotonic()
        for _ in sweep(killed, WORKERS, interval=0.2):
            if done < count and time.monotonic() - began > due and (there := _workers()):
                rng.choice(there).kill()
                done, due = done + 1, time.monotonic() - began + rng.uniform(2, 10)
        same = [measured(a.folder) == measured(b.folder)
                for a, b in zip(whole.runs, killed.runs, strict=True)]  # fmt: skip
    return (
        f"{done} kills (SIGKILL) of workers at random moments through a grid of {runs} runs, in "
        f"{time.monotonic() - began:.0f} s: {sum(same)} of {runs} runs end with the measurements "
        "of an undisturbed sweep, bit for bit."
    )


def _plan(folder: Path, parameters: dict, notebook: str = "01_train") -> Plan:
    folder.mkdir(exist_ok=True)
    grid = folder / "grid.yaml"
    grid.write_text(yaml.safe_dump({"notebook": notebook, "parameters": parameters}))
    return plan(load_grid(grid), folder)


def notebook(*sources: str) -> dict:
    """The content of a notebook file; the first cell holds the parameters."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells: list[dict] = [
        {"cell_type": "code", "id": f"cell-{number}", "source": source, "outputs": [],
         "metadata": {"tags": [] if number else ["parameters"]}, "execution_count": None}
        for number, source in enumerate(sources)
    ]  # fmt: skip
    return {
        "nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": cells,
    }  # fmt: skip


def _workers() -> list[psutil.Process]:
    """The worker processes of the local cluster of this process."""
    return [child for child in psutil.Process().children() if named(child, WORKER)]


def named(process: psutil.Process, part: str) -> bool:
    """Whether the process still runs and its command line holds this."""
    try:
        return any(part in word for word in process.cmdline())
    except psutil.Error:
        return False


def _memory(planned: Plan) -> Iterator[tuple[int, float]]:
    """Notebooks done and the mean resident size of a worker in MB, each second of the sweep."""
    for state in sweep(planned, WORKERS):
        sizes = [process.memory_info().rss / 1e6 for process in _workers()]
        if sizes:
            yield sum(one.state == "done" for one in state.runs), float(np.mean(sizes))


def _parts(path: Path) -> dict[str, float]:
    """Seconds of an executed notebook, by what they went to (papermill's own records)."""
    notebook = json.loads(path.read_text())
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    spent = {"".join(c["source"]): c["metadata"]["papermill"]["duration"] or 0 for c in cells}
    whole = notebook["metadata"]["papermill"]
    first = notebook["cells"][0]["metadata"]["papermill"]["start_time"]
    imports = sum(s for source, s in spent.items() if "import " in source)
    work = sum(s for source, s in spent.items() if "follow(train(" in source)
    start = (_when(first) - _when(whole["start_time"])).total_seconds()
    return {
        "kernel start": start,
        "its imports (torch, altair, pandas)": imports,
        "its own work: the training cell": work,
        "its charts and tables": sum(spent.values()) - imports - work,
        "between cells, and the kernel's end": whole["duration"] - start - sum(spent.values()),
    }


def _when(text: str) -> datetime:
    return datetime.fromisoformat(text)


def measured(run: Path) -> tuple:
    """Of a finished run what may not depend on what happened to it: every measurement but the time,
    every event, the last weights."""
    rows = [{k: v for k, v in row.items() if k != "wall_s"} for row in read_metrics(run)]
    steps, last = snapshot_steps(run)[-1]
    return rows, (run / "events.jsonl").read_bytes(), steps, last.read_bytes()
