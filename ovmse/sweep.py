"""Several notebook runs at once: papermill in the workers of a local Dask cluster.

Each worker is a process of its own with one torch thread, and runs its notebook in-process:
papermill as a subprocess would outlive a worker that dies.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dask.distributed import Client, Future, LocalCluster


@dataclass(frozen=True)
class NotebookRun:
    """A notebook, its parameters, and where the executed one goes (absolute paths)."""

    name: str
    notebook: Path
    output: Path
    parameters: dict[str, Any] = field(default_factory=dict)


def execute(run: NotebookRun) -> str | None:
    """Runs one notebook; None if it went well, else its error in one line.

    The output gets its name only when it is whole. A notebook that fails is kept, cells up to the
    failure executed, under the same name with ``.failed.ipynb``. What the kernel says of itself
    goes to a ``.log`` beside it, not between the lines of the display.
    """
    run.output.parent.mkdir(parents=True, exist_ok=True)
    partial = run.output.with_name(f".{run.output.stem}.{os.getpid()}.ipynb")
    with _stderr_to(run.output.with_suffix(".log")):
        return _execute(run, partial)


def _execute(run: NotebookRun, partial: Path) -> str | None:
    import papermill

    failed = run.output.with_suffix(".failed.ipynb")
    # Dask makes its workers give freed memory back at once, and their kernels inherit that: every
    # tensor then faults its pages in anew, which doubled the time of a run.
    os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)
    try:
        papermill.execute_notebook(
            str(run.notebook),
            str(partial),
            parameters=run.parameters,
            cwd=str(run.notebook.parent),
            progress_bar=False,
        )
        os.replace(partial, run.output)
        failed.unlink(missing_ok=True)
    except papermill.PapermillExecutionError as error:
        os.replace(partial, failed)
        return f"{run.name}: {error.ename}: {error.evalue}"
    finally:
        partial.unlink(missing_ok=True)
    return None


def run_notebooks(
    runs: Sequence[NotebookRun],
    workers: int,
    report: Callable[[dict[str, str]], None],
    interval: float = 2.0,
) -> list[str]:
    """Runs all, ``workers`` at a time, in order; returns the errors.

    ``report`` is called every ``interval`` seconds with the state of each run by name: "waiting",
    "running", "done" or "failed". The cluster listens on localhost only and has no dashboard.
    """
    with (
        LocalCluster(
            n_workers=min(workers, len(runs)),
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=logging.ERROR,  # a worker that is slow to stop is no news
            env={"OMP_NUM_THREADS": "1"},
        ) as cluster,
        Client(cluster) as client,
    ):
        states = {run.name: "waiting" for run in runs}
        queue, active = deque(runs), dict[str, Future]()
        errors: list[str] = []
        while queue or active:
            # No more are handed out than can run, so that they start in order.
            while queue and len(active) < workers:
                run = queue.popleft()
                active[run.name] = client.submit(execute, run, key=run.name)
                states[run.name] = "running"
            report(states)
            time.sleep(interval)
            for name in [name for name, future in active.items() if future.done()]:
                error = _outcome(name, active.pop(name))
                states[name] = "failed" if error else "done"
                errors += [error] if error else []
        report(states)
        return errors


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Sends this process's standard error, which its kernels inherit, to the end of a file."""
    kept = os.dup(2)
    try:
        with path.open("ab") as log:
            os.dup2(log.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _outcome(name: str, future: Future) -> str | None:
    if future.status == "finished":
        return future.result()
    return f"{name}: {future.exception()}"
