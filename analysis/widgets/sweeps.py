"""A sweep as it happens, in a notebook: the table that the terminal shows, as a widget."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from IPython.display import display
from ipywidgets import HTML

from analysis.widgets.live import has_front_end
from ovmse.cli.terminal import report_end, show_sweep
from ovmse.sweep.progress import HEADER, SweepProgress

# Blue, orange and grey: told apart by colour-blind readers, and no algorithm's alone.
COLOURS = {"done": "#4477aa", "running": "#88bbdd", "failed": "#d55e00", "waiting": "#dddddd"}


def follow_sweep(events: Iterator[SweepProgress], title: str = "Sweep") -> SweepProgress:
    """Runs a sweep to its end, shows how it goes, and returns its last state.

    With a person in front, a table is kept up to date and gives way to its last line, so that the
    saved notebook holds no widget; elsewhere plain lines are printed. An interrupt stops every
    notebook of the sweep; what is done is kept. Whatever `events` raises passes on.
    """
    if not has_front_end():
        return show_sweep(events, title)
    widget = HTML()
    handle = display(widget, display_id=True)
    state = SweepProgress([])
    try:
        for state in events:
            widget.value = as_html(state, title)
    finally:
        events.close()  # type: ignore[attr-defined]  # at once: a traceback would keep it alive
        said = f"{title}: {state.summary()}" if state.runs else title
        handle.update({"text/plain": said}, raw=True)
        widget.layout.close()
        widget.close()
        report_end(state)
    return state


def as_html(state: SweepProgress, title: str) -> str:
    """A bar of all runs over a table of those that matter now."""
    total = max(1, len(state.runs))
    bar = "".join(
        f'<div style="width:{100 * sum(r.state == name for r in state.runs) / total}%;'
        f'background:{colour}"></div>'
        for name, colour in COLOURS.items()
    )
    shown = state.shown()
    cell = 'style="text-align:left;padding:2px 14px 2px 0"'
    head = "".join(f"<th {cell}>{escape(name)}</th>" for name in HEADER)
    lines = [[escape(text) for text in one.cells()] for one in shown]
    body = "".join(
        "<tr>" + "".join(f"<td {cell}>{text}</td>" for text in line) + "</tr>" for line in lines
    )
    more = len(state.runs) - len(shown)
    rest = f"<div>and {more:,} more</div>" if more else ""
    return (
        f'<div style="line-height:1.5"><b>{escape(title)}</b>'
        f'<div style="display:flex;height:8px;max-width:640px;margin:4px 0">{bar}</div>'
        f"<div>{escape(state.summary())}</div>"
        f"<table><tr>{head}</tr>{body}</table>{rest}</div>"
    )
