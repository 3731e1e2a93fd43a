"""One measurement of every snapshot of every run: kept beside the run, and its progress shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    only: Mapping[str, Sequence[int]] | None = None,
) -> pd.DataFrame:
    """What `measure(run, env_steps)` finds, for the snapshots of every run of a folder, or of a
    list of run directories.

    One row a snapshot: `run`, `env_steps`, and the measured (JSON values). `only` says of each run
    which snapshots count (see `worth_a_look`); left out, all do. Runs from scratch have no
    pre-training to forget and are left out. What was measured is kept beside the run as
    NAME, and found again by what it `depends` on; runs that share a snapshot share what was found.
    Raises RunError if nothing is left.
    """
    todo = []
    for path in find_runs(runs):
        if (of := Snapshots(path)).pretraining:
            todo += [(path, n) for n in of.files if only is None or n in only.get(str(path), ())]
    rows: list[dict[str, Any]] = []
    found: dict[str, Any] = {}
    run: Snapshots | None = None
    with ExitStack() as stack:
        for path, env_steps in tracked(todo, title):
            if run is None or run.run != path:  # one at a time: its battles are held in memory
                stack.close()  # what was measured of the run before is written now
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


def worth_a_look(table: pd.DataFrame, most: int) -> dict[str, list[int]]:
    """Of each run the environment steps of at most so many (3 or more) snapshots: the first, the
    last, the one whose test was the worst between them, then those farthest from all of these.

    table: as from `drift.replayed_curves`, which has `q_fixed` where there is a snapshot.
    """
    found = {}
    rows = table[(table.phase == "online") & table.q_fixed.notna()]
    for run, part in rows.groupby("run"):
        steps, wins = part.env_steps.to_numpy(), part.test_win_rate.to_numpy()
        chosen = {0, len(steps) - 1}
        if len(steps) > 2:
            chosen.add(1 + int(wins[1:-1].argmin()))
        while len(chosen) < min(most, len(steps)):
            far = [min(abs(i - c) for c in chosen) for i in range(len(steps))]
            chosen.add(int(np.argmax(far)))
        found[str(run)] = steps[sorted(chosen)].tolist()
    return found


def spaced(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return np.linspace(0, count - 1, most).round().astype(int).tolist()


def beside(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The table of ``analysis.tables.curves`` with what `each_snapshot` found, at the online rows
    that have it."""
    new = found.assign(phase="online")
    table = table.drop(columns=[c for c in found.columns[2:] if c in table])
    return table.merge(new, "left", ["run", "phase", "env_steps"])
