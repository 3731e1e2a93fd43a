"""What a sweep will cost, from runs that are finished."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovmse.listing import read_json
from ovmse.sweep.grid import NotebookRun, Plan
from ovmse.sweep.progress import Watched
from ovmse.sweep.worker import RECORD, read_record

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


def estimate(plan: Plan, folders: Iterable[Path], retry_failed: bool) -> Estimate:
    """The cost of what is left of a plan, from the finished runs below the folders.

    A run is taken to cost the mean of the finished runs of its notebook with its preset, task and
    algorithm; of its preset and task, or preset alone, where there are none.
    """
    left = [run for run in plan.runs if Watched(run, retry_failed).state == "waiting"]
    finished = []
    for record in sorted({p for folder in folders for p in folder.rglob(RECORD)}):
        known = read_record(record.parent)
        if known.get("state") == "done":
            size = sum(p.stat().st_size for p in record.parent.rglob("*") if p.is_file())
            settings = {"notebook": known["notebook"], **read_json(record.parent / "config.json")}
            finished.append((settings, known["seconds"], size))
    costs = []
    for run in left:
        for names in ALIKE:
            like = [one[1:] for one in finished if _alike(run, one[0], names)]
            if like:
                costs.append([sum(column) / len(like) for column in zip(*like, strict=True)])
                break
    hours = sum(cost[0] for cost in costs) / 3600
    return Estimate(len(left), len(costs), len(finished), hours, sum(cost[1] for cost in costs))


def _alike(run: NotebookRun, finished: dict[str, Any], names: Iterable[str]) -> bool:
    if finished["notebook"] != run.notebook.name:
        return False
    return run.config is None or all(finished.get(n) == getattr(run.config, n) for n in names)
