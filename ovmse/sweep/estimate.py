"""What a sweep will cost, from runs that are finished."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ovmse.envs.smac_setup import GAME_BYTES
from ovmse.runs.files import folders_with, read_json
from ovmse.runs.listing import RECORD, read_record, within
from ovmse.sweep.grid import Plan
from ovmse.sweep.progress import Watched

LONGEST = 1e9  # seconds of a run; a record that says otherwise is damaged
# From the runs most like it to those that tell least.
ALIKE = (("preset", "task", "algorithm"), ("preset", "task"), ("preset",))


@dataclass(frozen=True)
class Estimate:
    """Hours of one core and bytes for the runs that are left, and what that rests on."""

    left: int  # runs that are not done
    known: int  # of them, those that a finished run tells something about
    finished: int  # runs that were looked at
    core_hours: float
    size: float
    memory: float  # bytes of the games that one run holds, at most; 0 for other backends


def estimate(plan: Plan, folders: Iterable[Path], retry_failed: bool) -> Estimate:
    """The cost of what is left of a plan, from the finished runs below the folders.

    A run is taken to cost the mean of the finished runs of its notebook with its preset, task and
    algorithm; of its preset and task, or preset alone, where there are none. A shared pre-training
    counts with the run that made it in time, and in equal parts in size.
    """
    left = [run for run in plan.runs if Watched(run, retry_failed).state == "waiting"]
    costs: dict[tuple, list[tuple[float, float]]] = defaultdict(list)
    finished = 0
    for folder in {found for top in folders for found in folders_with(top, RECORD)}:
        record = read_record(folder)
        seconds = record.get("seconds", 0.0)
        if record.get("state") != "done" or not within(seconds, 0, LONGEST):
            continue
        finished += 1
        settings = read_json(folder / "config.json")
        settings = {n: v for n, v in settings.items() if isinstance(v, str)}
        size = _size(folder) + _size(folder.parent / "pretrain") / len(os.listdir(folder.parent))
        for names in ALIKE:
            kind = record.get("notebook"), names, *(settings.get(name) for name in names)
            costs[kind].append((seconds, size))
    means = []
    for run in left:
        for names in ALIKE:
            values = [getattr(run.config, name, None) for name in names]
            if known := costs.get((run.notebook.name, names, *values)):
                means.append([sum(column) / len(known) for column in zip(*known, strict=True)])
                break
    hours = sum(seconds for seconds, _ in means) / 3600
    games = [run.config.num_envs for run in left if run.config and run.config.backend == "smac"]
    size, memory = sum(size for _, size in means), max(games, default=0) * GAME_BYTES
    return Estimate(len(left), len(means), finished, hours, size, memory)


@cache
def _size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                total += os.stat(os.path.join(path, name)).st_size
    return total
