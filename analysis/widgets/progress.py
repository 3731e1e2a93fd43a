"""How far a long computation has come: a bar that appears after two seconds and then goes."""

from __future__ import annotations

import contextvars
import re
import threading
import time
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, TypeVar

from IPython import get_ipython
from IPython.display import display

from analysis.widgets.live import REDRAW, has_front_end

T = TypeVar("T")
OVER = re.compile(r"\s*[^\n]+: [\d,]+ in \d+ s\s*")  # the line that is left at the end
PATIENCE = 2.0  # seconds without a sign that nobody minds
TICK = 0.5  # seconds between two pictures within one item


def tracked(items: Sequence[T], title: str) -> Iterator[T]:
    """Yields the items; what takes longer than two seconds shows how far it is, and for how long.

    With a person in front a bar moves, while one item takes long too, and gives way to one line at
    the end; elsewhere that line is printed.
    """
    begun, bar = time.monotonic(), None
    if has_front_end():
        bar = _Bar(title, len(items), begun)
        # In this context, by which the kernel knows whose output it is.
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(bar.tick,), daemon=True).start()
    try:
        for done, item in enumerate(items):
            if bar:
                bar.draw(done)
            yield item
    finally:
        if bar:
            bar.over.set()
    if (spent := time.monotonic() - begun) >= PATIENCE:
        line = f"{title}: {len(items):,} in {spent:.0f} s"
        if bar is None or bar.handle is None:
            print(line, flush=True)
        else:
            with bar.lock:  # not before the last picture
                bar.handle.update({"text/plain": line}, raw=True)


class _Bar:
    """The bar, drawn as an item begins and, by a thread, while it goes on."""

    def __init__(self, title: str, total: int, begun: float) -> None:
        self.title, self.total, self.begun = title, total, begun
        self.done, self.shown = 0, begun
        self.handle: Any = None
        self.lock, self.over = threading.Lock(), threading.Event()
        self.cell = _cell()

    def tick(self) -> None:
        """Until the items end, or the cell does: an interrupted one may keep its items alive."""
        while not self.over.wait(TICK) and self.cell == _cell():
            self.draw(self.done)

    def draw(self, done: int) -> None:
        with self.lock:
            self.done, now = done, time.monotonic()
            waited = now - self.begun >= PATIENCE and now - self.shown >= REDRAW
            if not waited or self.over.is_set():
                return
            self.shown, picture = now, self._picture(now - self.begun)
            if self.handle is None:
                self.handle = display(picture, raw=True, display_id=True)
            else:
                self.handle.update(picture, raw=True)

    def _picture(self, spent: float) -> dict[str, str]:
        text = f"{self.title}: {self.done:,} of {self.total:,}, "
        if self.done:
            text += f"about {spent / self.done * (self.total - self.done):.0f} s left"
        else:
            text += f"{spent:.0f} s so far"
        html = f'<progress max="{self.total}" value="{self.done}"></progress> {escape(text)}'
        return {"text/plain": text, "text/html": html}


def _cell() -> int:
    """The number of the cell that runs."""
    return getattr(get_ipython(), "execution_count", 0)
