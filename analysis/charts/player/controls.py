"""The signals of the player: which battle, which step, playing or not, which change.

Vega copies the attributes of an input that it does not know: so `Range`, with a capital, is a
native slider with an id, whose arrow keys JupyterLab leaves alone. Its value is a string.
"""

from __future__ import annotations

from typing import Any

from analysis.charts.player.packing import ALPHABET
from analysis.charts.player.parts import Marks


def controls(
    uid: str, battles: list[dict[str, Any]], start: int, agents: list[str], actions: list[str]
) -> Marks:
    """uid: a name that no other player of the page has. agents and actions: what the menus of the
    what-if panel name; no agents, no menus."""
    longest = max(b["steps"] for b in battles)
    press = [
        {"source": "window", "type": "click", "filter": [f"event.target.id == '{uid}-play'"]},
        {
            "source": "window",
            "type": "keydown",
            "filter": [f"event.target.id == '{uid}-step'", "event.key == ' '"],
            "consume": True,
        },
    ]
    native = {"data-lm-suppress-shortcuts": "true", "form": "none"}
    several = {
        "bind": {
            "input": "select",
            "options": list(range(len(battles))),
            "labels": [b["label"] for b in battles],
        }
    }
    signals: Marks = [
        {"name": "alphabet", "value": ALPHABET},
        {"name": "battles", "value": battles},
        {"name": "battle", "value": 0} | (several if len(battles) > 1 else {}),
        {"name": "b", "update": "battles[battle]"},
        {
            "name": "playing",
            "value": False,
            "on": [
                {"events": press, "update": "!playing"},
                {"events": {"signal": "t"}, "update": "playing && t < b.steps"},
                {"events": {"signal": "battle"}, "update": "false"},
            ],
        },
        {
            "name": "button",
            "update": "playing ? 'Pause' : 'Play'",
            "bind": {
                "input": "button",
                "name": "\u00a0",
                "id": f"{uid}-play",
                "style": "min-width: 6em",
                **native,
            },
        },
        {
            "name": "due",
            "value": 0,
            "on": [
                {
                    "events": {"type": "timer", "throttle": 50},
                    "update": "playing && now() - due >= 1000 / speed ? now() : due",
                }
            ],
        },
        {
            "name": "step",
            "value": start,
            "on": [
                {"events": press, "update": "!playing && t == b.steps ? 0 : t"},
                {"events": {"signal": "due"}, "update": "min(t + 1, b.steps)"},
                {"events": {"signal": "battle"}, "update": "0"},
                {"events": "@slot:click, @event:click", "update": "datum.t"},
                {
                    "events": {"markname": "slot", "type": "pointermove"},
                    "update": "event.buttons == 1 ? datum.t : step",
                },
            ],
            "bind": {
                "input": "Range",
                "min": 0,
                "max": longest,
                "step": 1,
                "id": f"{uid}-step",
                "aria-label": "step of the battle",
                "style": "width: 420px; max-width: 60vw; vertical-align: middle",
                **native,
            },
        },
        {"name": "t", "update": "clamp(+step, 0, b.steps)"},
        {
            "name": "speed",
            "value": 4,
            "bind": {
                "input": "select",
                "name": "steps a second",
                "options": [1, 2, 4, 8, 16],
            },
        },
    ]
    return signals + (_changes(agents, actions) if agents else [])


def _changes(agents: list[str], actions: list[str]) -> Marks:
    """Which agent acts otherwise, and how; -1: as it would greedily."""
    return [
        {
            "name": "agent",
            "value": 0,
            "on": [{"events": "@cell:click, @event:click", "update": "datum.i"}],
            "bind": {
                "input": "select",
                "name": "what if agent",
                "options": list(range(len(agents))),
                "labels": agents,
            },
        },
        {
            "name": "action",
            "value": -1,
            "on": [
                {"events": "@cell:click", "update": "datum.a"},
                {"events": "@event:click", "update": "-1"},
            ],
            "bind": {
                "input": "select",
                "name": "did",
                "options": [-1, *range(len(actions))],
                "labels": ["the greedy action", *actions],
            },
        },
    ]
