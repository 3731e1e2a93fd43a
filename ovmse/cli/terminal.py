"""What the streams of events look like in a terminal, and as plain lines where there is none."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ovmse.cli.options import printable
from ovmse.runs.listing import ListedRun, read_record
from ovmse.sweep.estimate import Estimate
from ovmse.sweep.grid import Plan
from ovmse.sweep.progress import HEADER, SweepProgress

if TYPE_CHECKING:
    from ovmse.training import Progress as Event

PLAIN_INTERVAL = 60.0  # seconds between two lines of how things stand


def show_training(events: Iterator[Event]) -> None:
    """A bar for a person, a line per measurement for a file."""
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} {task.fields[unit]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[win]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        rows: dict[str, object] = {}
        for event in events:
            if event.phase not in rows:
                label = {"offline": "pre-training", "online": "fine-tuning"}.get(
                    event.phase, "collecting"
                )
                rows[event.phase] = bars.add_task(label, total=event.total, unit=event.unit, win="")
            if event.note:
                console.print(event.note, markup=False)
            won = ""
            if event.row is not None:
                won = f"wins {event.row['test_win_rate']:.0%}"
                if not console.is_terminal:
                    print(f"{event.phase}: {event.done:,} of {event.total:,} {event.unit}, {won}")
                bars.update(rows[event.phase], win=won)  # type: ignore[arg-type]
            bars.update(rows[event.phase], completed=event.done)  # type: ignore[arg-type]


def print_events(events: Iterator[Event]) -> None:
    """Each event as a line of JSON, at once."""
    for event in events:
        print(json.dumps(dataclasses.asdict(event)), flush=True)


@contextmanager
def reading() -> Iterator[Callable[[int, int], None]]:
    """A bar for a person while a dataset is read, on standard error."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bars:
        bar = bars.add_task("reading", total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def show_sweep(events: Iterator[SweepProgress], title: str) -> SweepProgress:
    """A live table for a person, a line per change for a file; returns the last state."""
    console = Console(force_jupyter=False)
    said: dict[str, str] = {}
    state, at = SweepProgress([]), time.monotonic()
    try:
        # Closed at once when a person interrupts: that is what stops the notebooks.
        with (
            closing(events),  # type: ignore[type-var]
            Live(console=console, auto_refresh=False) as live,
        ):
            for number, state in enumerate(events):
                if number == 0 and state.where:
                    console.print(
                        f"{title}: scheduler at {state.where}", soft_wrap=True, markup=False
                    )
                if console.is_terminal:
                    live.update(_sweep_table(state, title, console.height - 6), refresh=True)
                    continue
                for one in state.runs:
                    if said.get(one.label, "waiting") != one.shown:
                        said[one.label] = one.shown
                        print(", ".join(filter(None, one.cells())), flush=True)
                if time.monotonic() - at >= PLAIN_INTERVAL:
                    at = time.monotonic()
                    running = [one for one in state.runs if one.state == "running"]
                    print("; ".join(", ".join(filter(None, one.cells())) for one in running))
                    print(state.summary(), flush=True)
        print(state.summary())
    finally:  # a full disk or a person may have ended it
        report_end(state)
    return state


def report_end(state: SweepProgress) -> None:
    """One line for each run that failed."""
    for one in state.failed():
        print(f"failed: {one.label}: {one.error} (see {one.run.folder})")
    if state.failed():
        print("--retry-failed runs these again; what comes after all runs waits for them.")


def show_plan(plan: Plan, cost: Estimate, workers: int | None) -> None:
    """What a sweep would run, and what that will cost."""
    for run in [*plan.runs, *plan.last]:
        print(f"{read_record(run.folder).get('state', 'new')}: {run.label} ({run.folder.name})")
    print(f"{len(plan.runs):,} runs, {cost.left:,} of them left, in {plan.folder}")
    if cost.known:
        hours = (
            f", so {cost.core_hours / workers:.1f} hours with {workers} workers" if workers else ""
        )
        print(
            f"For {cost.known:,} of these, going by {cost.finished:,} finished runs: "
            f"{cost.core_hours:.1f} core hours{hours}, and {cost.size / 1e9:.2f} GB"
        )
    elif cost.left:
        print("No finished run is like them, so there is no estimate of time and disk.")
    if cost.memory:
        here = f", {workers * cost.memory / 1e9:.0f} GB here" if workers else ""
        print(f"The games of a worker take about {cost.memory / 1e9:.0f} GB of memory{here}.")


def _sweep_table(state: SweepProgress, title: str, most: int) -> Table:
    shown = state.shown(max(4, most))
    table = Table(*HEADER, title=escape(title), caption=state.summary())
    for one in shown:
        table.add_row(*map(escape, one.cells()))
    if len(shown) < len(state.runs):
        table.add_row(f"and {len(state.runs) - len(shown):,} more")
    return table


def show_runs(runs: Sequence[ListedRun]) -> None:
    """A table for a person; for a program lines with tabs between."""
    header = ("run", "status", "algorithm", "task", "seed", "steps", "wins", "last written")
    console = Console()
    lines = [_run_cells(run) for run in runs]
    if not console.is_terminal:
        for line in [header, *lines]:
            print("\t".join(line))
        return
    table = Table(*header)
    for line in lines:
        table.add_row(*map(escape, line))
    console.print(table)
    for run in runs:
        if run.error:
            said = printable(f"{run.path.name}: {run.error}")
            console.print(escape(said), highlight=False)


def _run_cells(run: ListedRun) -> tuple[str, ...]:
    return (
        printable(run.path.name), run.status, printable(run.algorithm), printable(run.task),
        "" if run.seed is None else str(run.seed),
        "" if run.env_steps is None else f"{run.env_steps:,}",
        "" if run.test_win_rate is None else f"{run.test_win_rate:.0%}",
        _age(run.age),
    )  # fmt: skip


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does.

    A second SIGINT or SIGTERM ends the process at once, whatever it waits for: workers and kernels
    notice that and end too. SIGHUP does not disturb the ending.
    """
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {name: signal.getsignal(name) for name in names}

    stopped = False

    def stop(*_: Any) -> None:
        nonlocal stopped
        stopped = True
        for name in names:
            signal.signal(name, signal.SIG_IGN if name == signal.SIGHUP else signal.SIG_DFL)
        raise KeyboardInterrupt

    for name, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(name, stop)
    try:
        yield
    except Exception:
        if stopped:  # a cluster that was just starting complains of its end
            raise KeyboardInterrupt from None
        raise
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
