"""How far a long computation has come: a bar that appears after two seconds and then goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, TypeVar

from IPython.display import display

from analysis.widgets.live import REDRAW, has_front_end

T = TypeVar("T")
PATIENCE = 2.0  # seconds without a sign that nobody minds


def tracked(items: Sequence[T], title: str) -> Iterator[T]:
    """Yields the items; what takes longer than two seconds shows how far it is, and for how long.

    With a person in front a bar moves and gives way to one line at the end; elsewhere that line is
    printed.
    """
    begun = shown = time.monotonic()
    handle: Any = None
    live = has_front_end()
    for done, item in enumerate(items):
        now = time.monotonic()
        if live and now - begun >= PATIENCE and now - shown >= REDRAW:
            shown, bar = now, _bar(title, done, len(items), (now - begun) / max(done, 1))
            if handle is None:
                handle = display(bar, raw=True, display_id=True)
            else:
                handle.update(bar, raw=True)
        yield item
    if (spent := time.monotonic() - begun) >= PATIENCE:
        line = f"{title}: {len(items):,} in {spent:.0f} s"
        if handle is None:
            print(line, flush=True)
        else:
            handle.update({"text/plain": line}, raw=True)


def _bar(title: str, done: int, total: int, each: float) -> dict[str, str]:
    text = f"{title}: {done:,} of {total:,}, about {each * (total - done):.0f} s left"
    html = f'<progress max="{total}" value="{done}"></progress> {escape(text)}'
    return {"text/plain": text, "text/html": html}
