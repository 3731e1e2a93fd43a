"""Training as it happens: curves and a progress bar in a live notebook, a log elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from IPython import get_ipython
from IPython.display import display

from analysis.charts.theme import AROUND, FONT, GRID, QUIET, style
from analysis.tables import CLOCK

REDRAW = 0.2  # least seconds between two pictures; a message to the browser costs 2-6 ms
LOOK = {"quiet": QUIET, "grid": GRID, "font": FONT}
LOG = 1.0  # least seconds between two lines of the log


class LiveCurve(anywidget.AnyWidget):
    """A canvas with the learning curves of the running phase over a progress bar.

    `points` is a list of [x, win rate in % or None, Q_tot or None], x in `unit`s; `reference` is
    the Monte-Carlo return of the fixed battles or None.
    """

    _esm = Path(__file__).with_name("live.js")
    look: Any = traitlets.Dict(LOOK).tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    colour = traitlets.Unicode(AROUND).tag(sync=True)
    phase = traitlets.Unicode().tag(sync=True)
    done = traitlets.Int().tag(sync=True)
    total = traitlets.Int(1).tag(sync=True)
    unit = traitlets.Unicode().tag(sync=True)
    seconds_left = traitlets.Float(None, allow_none=True).tag(sync=True)
    points: Any = traitlets.List().tag(sync=True)
    reference = traitlets.Float(None, allow_none=True).tag(sync=True)


def follow(events: Iterable[Any], title: str, algorithm: str | None = None) -> list[dict]:
    """Run a training generator to its end, show how it goes, return its metrics rows.

    `events` yields `ovmse` Progress events (phase, done, total, unit, row). With a person in front,
    curves and a progress bar are drawn live, in the colour of `algorithm`, and then give way to the
    last line of the log, so that the saved notebook holds no widget. Elsewhere (papermill, nbval,
    nbconvert) measured rows are printed, at most one line a second, the last one always. Whatever
    `events` raises passes on.
    """
    rows = []
    # Closed at once when a person interrupts: an interrupted generator that lives on in the
    # traceback would keep the run directory locked.
    close = getattr(events, "close", lambda: None)
    with contextlib.ExitStack() as stack:
        stack.callback(close)
        view: Live | _Log = Live(title, algorithm) if has_front_end() else _Log(title)
        stack.enter_context(view)
        for event in events:
            view.update(event)
            if event.row is not None:
                rows.append(event.row)
    return rows


def has_front_end() -> bool:
    """Whether the running cell was sent by JupyterLab, Notebook 7 or VS Code.

    Those name the cell in the metadata of each request; papermill, nbclient and nbval do not. (The
    variable JPY_SESSION_NAME of jupyter-server would not do: VS Code sets none, and papermill
    kernels that a notebook starts, as a grid of runs does, inherit the notebook's.)
    """
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and "cellId" in kernel.get_parent().get("metadata", {})


def line(event: Any) -> str:
    """One event as a line of text: `online: 500 of 2,000 environment steps, win rate 12 %`."""
    row = event.row or {}
    text = f"{event.phase}: {event.done:,} of {event.total:,} {event.unit}"
    if (win := row.get("test_win_rate")) is not None:
        text += f", win rate {100 * win:.0f} %"
    if (value := row.get("q_ended")) is not None:
        text += f", Q_tot {value:.2f}"
    return text


def _left(event: Any, begun: tuple[float, int] | None) -> float | None:
    """Seconds to the end of the phase, from the pace since `begun`, (time, done)."""
    if begun is None or event.done == begun[1]:
        return None
    return (time.monotonic() - begun[0]) * (event.total - event.done) / (event.done - begun[1])


class _Log:
    """One line for each measured row, at a bounded rate; nothing is lost that comes last."""

    def __init__(self, title: str) -> None:
        self.title, self.at = title, float("-inf")
        self.last = self.waiting = ""

    def __enter__(self) -> _Log:
        print(self.title, flush=True)
        return self

    def update(self, event: Any) -> None:
        self.last = line(event)
        if event.note:
            print(event.note, flush=True)
        if event.row is not None:
            self.waiting = self.last
            if time.monotonic() - self.at >= LOG:
                self._print()

    def _print(self) -> None:
        print(self.waiting, flush=True)
        self.waiting, self.at = "", time.monotonic()

    def __exit__(self, *_: object) -> None:
        if self.at == float("-inf"):  # a finished run is only read: it measures nothing
            self.waiting = self.last
        if self.waiting:
            self._print()


class Live:
    """The widget, redrawn at a bounded rate; as a context it is shown, and then closed and replaced
    by one line of text."""

    def __init__(self, title: str, algorithm: str | None) -> None:
        self.widget = LiveCurve(
            title=title, colour=style(algorithm).colour if algorithm else AROUND
        )
        self.state: dict[str, Any] = {"phase": "", "points": [], "reference": None}
        self.last, self.rows, self.at = title, 0, float("-inf")

    def __enter__(self) -> Live:
        self.handle = display(self.widget, display_id=True)
        return self

    def update(self, event: Any) -> None:
        state, row = self.state, event.row or {}
        if event.note:
            print(event.note, flush=True)
        if event.phase != state["phase"]:
            state |= {"phase": event.phase, "points": [], "reference": None}
            self.first, self.begun = event.done, None
        if self.begun is None and event.done > self.first:  # what came before was compiling
            self.begun = time.monotonic(), event.done
        state |= {"done": event.done, "total": event.total, "unit": event.unit}
        state["seconds_left"] = _left(event, self.begun)
        earlier = [one for one in event.earlier if one["phase"] == event.phase]
        measured = [(one[CLOCK[event.phase]], one) for one in earlier]
        for at, one in measured or [(event.done, row)]:
            win, value = one.get("test_win_rate"), one.get("q_ended")
            if win is not None or value is not None:
                point = [at, None if win is None else 100 * win, value]
                state["points"] = [*state["points"], point]
            state["reference"] = one.get("mc_ended", state["reference"])
        if row or not self.rows:
            self.last, self.rows = f"{self.widget.title}. {line(event)}", self.rows + bool(row)
        if time.monotonic() - self.at >= REDRAW:
            self._draw()

    def _draw(self) -> None:
        with self.widget.hold_sync():  # all that changed in one message
            for name, value in self.state.items():
                setattr(self.widget, name, value)
        self.at = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.handle.update({"text/plain": self.last}, raw=True)
        self.close()

    def close(self) -> None:
        """Takes the widget from the page."""
        self.widget.layout.close()
        self.widget.close()
