"""One measurement of every snapshot of every run: kept beside the run, and its progress shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.kept import kept, key
from analysis.snapshots import Snapshots
from analysis.widgets.progress import tracked
from ovmse.runs.reading import RunError, find_runs

Runs = str | Path | Iterable[str | Path]


def each_snapshot(
    runs: Runs,
    name: str,
    title: str,
    measure: Callable[[Snapshots, int], dict[str, Any]],
    depends: Callable[[Snapshots, int], Sequence[str | float | Path]],
    most: int | None = None,
) -> pd.DataFrame:
    """What `measure(run, env_steps)` finds, for the snapshots of every run of a folder, or of a
    list of run directories.

    One row a snapshot: `run`, `env_steps`, and the measured (JSON values). Of each run `most`
    snapshots count, spread over its tests, the first and the last among them. Runs from scratch
    have no pre-training to forget and are left out. What was measured is kept beside the run as
    NAME, and found again by what it `depends` on; runs that share a snapshot share what was found.
    Raises RunError if nothing is left.
    """
    todo = []
    for path in find_runs(runs):
        if (of := Snapshots(path)).pretraining:
            steps = list(of.files)
            todo += [(path, steps[i]) for i in spaced(len(steps), most)]
    rows: list[dict[str, Any]] = []
    found: dict[str, Any] = {}
    run: Snapshots | None = None
    with ExitStack() as stack:
        for path, env_steps in tracked(todo, title):
            if run is None or run.run != path:  # one at a time: its battles are held in memory
                run = Snapshots(path)
                held = stack.enter_context(kept(path, name))
            content = key(*depends(run, env_steps))
            if content not in held:
                held[content] = found.get(content) or measure(run, env_steps)
            found[content] = held[content]
            rows.append({"run": str(path), "env_steps": env_steps, **held[content]})
    if not rows:
        raise RunError(f"no run in {runs} has both a pre-training and a snapshot")
    return pd.DataFrame(rows)


def spaced(count: int, most: int | None) -> list[int]:
    """At most so many of the numbers below `count`, evenly, the first and the last among them."""
    if most is None or count <= most:
        return list(range(count))
    return np.linspace(0, count - 1, most).round().astype(int).tolist()


def beside(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The table of ``analysis.tables.curves`` with what `each_snapshot` found, at the online rows
    that have it."""
    new = found.assign(phase="online")
    table = table.drop(columns=[c for c in found.columns[2:] if c in table])
    return table.merge(new, "left", ["run", "phase", "env_steps"])
