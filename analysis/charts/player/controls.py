"""The signals of the player: which battle, which step, playing or not, which change.

A slider is a `Range` (see `NATIVE`); it has an id, and its value is a string. There is no menu,
because JupyterLab takes its keys.
"""

from __future__ import annotations

from typing import Any

from analysis.charts.base import NATIVE
from analysis.charts.player.compact import literal
from analysis.charts.player.packing import ALPHABET
from analysis.charts.player.parts import Marks


def controls(
    uid: str, battles: Marks, start: int, agents: int, actions: int, agent: int = 0
) -> Marks:
    """uid: a name that no other player of the page has. battles: as of `stored`. agents and
    actions: how many the what-if panel may change, `agent` at first; none, no panel."""
    press: Marks = [
        {"markname": "press", "type": "click"},
        {"source": "window", "type": "click", "filter": [f"event.target.id == '{uid}-play'"]},
        {
            "source": "window",
            "type": "keydown",
            "filter": [f"event.target.id == '{uid}-step'", "event.key == ' '"],
            "consume": True,
        },
    ]
    slid = {"source": "window", "type": "input", "filter": [f"event.target.id == '{uid}-step'"]}
    which = _input("Number", "battle", 1, len(battles)) if len(battles) > 1 else {}
    button = NATIVE | {
        "input": "button",
        "name": "\u00a0",
        "id": f"{uid}-play",
        "style": "width: 6em",
    }
    longest = max(b["steps"] for b in battles)
    return [
        {"name": "alphabet", "value": ALPHABET},
        {"name": "battles", "update": literal(battles)},
        {"name": "battle", "value": 1, **which},
        {"name": "b", "update": f"battles[clamp(+battle, 1, {len(battles)}) - 1]"},
        _signal(
            "playing", False,
            (press, "!playing"),
            ({"signal": "t"}, "playing && t < b.steps"),
            ({"signal": "b"}, "false"),
        ),
        {"name": "button", "update": "playing ? 'Pause' : 'Play'", "bind": button},
        _signal("due", 0, (
            {"type": "timer", "throttle": 50},
            "playing && now() - due >= 1000 / speed ? now() : due",
        )),
        _signal(
            "step", start,
            (press, "!playing && t == b.steps ? 0 : t"),
            ({"signal": "due"}, "min(t + 1, b.steps)"),
            ({"signal": "b"}, "0"),
            # The slider is as long as the longest battle: it goes back to the end of this one.
            (slid, "min(event.target.value, b.steps)"),
            ("@slot:click, @event:click", "datum.t"),
            ("@slot:pointermove", "event.buttons == 1 ? datum.t : step"),
            **_input("Range", "step", 0, longest, id=f"{uid}-step"),
        ),
        {"name": "t", "update": "clamp(+step, 0, b.steps)"},
        {"name": "speed", "value": 4, **_input("Range", "steps a second", 1, 16)},
        *(_changes(agents, actions, agent) if agents else []),
    ]  # fmt: skip


def _changes(agents: int, actions: int, agent: int) -> Marks:
    """Which agent acts otherwise (`who`), and how (`action`, from 1; 0: the best other one, by
    ``Q_i``)."""
    return [
        _signal(
            "agent", agent + 1, ("@cell:click, @event:click", "datum.i + 1"),
            **_input("Number", "what if agent", 1, agents),
        ),
        {"name": "who", "update": f"clamp(+agent, 1, {agents}) - 1"},
        _signal(
            "action", 0, ("@cell:click", "datum.a + 1"), ("@event:click", "0"),
            **_input("Range", "acts (0: best other)", 0, actions),
        ),
    ]  # fmt: skip


def _signal(name: str, value: Any, *heard: tuple[Any, str], **more: Any) -> dict[str, Any]:
    """heard: events, and what the signal then becomes."""
    on = [{"events": events, "update": update} for events, update in heard]
    return {"name": name, "value": value, "on": on, **more}


def _input(kind: str, name: str, low: int, high: int, **more: Any) -> dict[str, Any]:
    wide = "width: 420px; max-width: 60vw" if name == "step" else "width: 12em"
    wide += "; margin: 3px 8px; vertical-align: middle"
    ends = {"min": low, "max": high, "step": 1, "aria-label": name, "style": wide}
    return {"bind": {"input": kind, "name": name, **ends, **NATIVE, **more}}
