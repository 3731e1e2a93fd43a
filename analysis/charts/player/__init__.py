"""The battle player: a recorded battle, step by step, as one picture that needs no kernel.

A whole Vega specification: it plays in JupyterLab, reopened or not trusted, after papermill, and
in a page without a network. It keeps to what Vega 5 (JupyterLab) and 6 (the page) share.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from IPython.display import display

from analysis.battles import Battle, Opinion
from analysis.charts import theme
from analysis.charts.player.bars import ATTACK, bars
from analysis.charts.player.changes import changes
from analysis.charts.player.compact import literal, together
from analysis.charts.player.controls import controls
from analysis.charts.player.field import field
from analysis.charts.player.parts import FAINT, WIDTH, Marks, Part, mark, text
from analysis.charts.player.series import series
from analysis.charts.player.stored import CHANGES, stored
from analysis.charts.show import vega_mimebundle
from analysis.whatif import WhatIf
from ovmse.errors import UserError

LIMIT = 60_000  # bytes of the player of one battle: what is written and read of it, in UTF-8
DESCRIPTION = (
    "The units of both teams at each step, who explores and who attacks whom; the team's values "
    "over the battle; each agent's value of every available action. The slider takes the arrow "
    "keys, Home and End, and there the space key plays and pauses."
)
LETTERS = {"font": theme.FONT, "fill": theme.AROUND, "fontSize": 13, "baseline": "middle"}
PLAY, PAUSE = "M-5,-7L8,0L-5,7Z", "M-5,-7h4v14h-4ZM3,-7h4v14h-4Z"
_number = itertools.count(1)


@dataclass(frozen=True)
class Player:
    """spec: the Vega specification (dict). Shown, it is that and a picture of its first step."""

    spec: dict[str, Any]

    def _ipython_display_(self) -> None:
        display(vega_mimebundle(self.spec), raw=True)


def player(
    battles: Sequence[Battle],
    opinions: Sequence[Opinion],
    what_ifs: Sequence[WhatIf] | None = None,
    title: str = "A battle, step by step",
    start: int = 0,
) -> Player:
    """Battles of one task with what networks think of them; a number picks one of several.

    what_ifs: of every battle, for the panel that changes one action. start: the step that is shown
    at first. The player of one battle takes at most `LIMIT` bytes: where it would take more, the
    what-if panel is left out, and a sentence in its place says so. Only arrays are read: neither
    the backend nor a network is needed. Raises UserError where the battles do not fit each other or
    what is given with them, and where one takes more than `LIMIT` without the panel too.
    """
    battles = list(battles)
    _check(battles, opinions, what_ifs)
    agents, names = battles[0].agents, battles[0].actions
    labels = [_label(n, battle) for n, battle in enumerate(battles, 1)]
    given = list(zip(battles, opinions, labels))
    agent, left_out = _first_strayed(battles[0], opinions[0], start), ""
    for panel in (what_ifs, None) if what_ifs else (None,):
        kept = [stored(*one, panel[n] if panel else None) for n, one in enumerate(given)]
        targets = all(name in k for name in CHANGES for k in kept)
        spec = _spec(
            title, battles, kept, agents, names, bool(panel), targets, start, agent, left_out
        )
        sizes = [_size(k) for k in kept]
        if (size := _size(spec) - sum(sizes) + max(sizes)) <= LIMIT:
            return Player(spec)
        steps = battles[sizes.index(max(sizes))].episode.length
        left_out = (
            f"a battle of {len(agents)} agents and {steps} steps would take {size / 1000:,.0f} kB "
            f"of a file, allowed: {LIMIT / 1000:.0f} kB; choose a shorter battle or a smaller map"
        )
    raise UserError(f"the player is left out: {left_out}")


def _spec(
    title: str,
    battles: list[Battle],
    kept: list[dict[str, Any]],
    agents: list[str],
    names: list[str],
    what_if: bool,
    targets: bool,
    start: int,
    agent: int,
    left_out: str,
) -> dict[str, Any]:
    uid = f"player-{hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:8]}-{next(_number)}"
    below = bars(agents, names, what_if)
    parts = [below, field(battles[0]), series(len(agents))]
    if what_if:
        parts.append(changes(below.end, agents, targets))
    elif left_out:
        parts.append(_instead(below.end, left_out))
    said = f"={json.dumps(title)} + ', ' + b.label" if len(kept) > 1 else title
    head = [
        text(x=0, y=10, text=said, fontSize=16, fontWeight="bold", limit=WIDTH - 96),
        *_press(),
        text(x=0, y=36, text=f"={_status()}", fontSize=14, limit=WIDTH),
    ]
    marks, data = together(head + [m for part in parts for m in part.marks])
    signals = [
        *controls(uid, kept, start, len(agents) if what_if else 0, len(names), agent),
        {"name": "names", "update": literal(names)},
        {"name": "targets", "update": literal(_targets(battles[0], names))},
    ]
    axis = theme.config()["axis"] | {"labelFont": theme.FONT, "titleFont": theme.FONT}
    axis |= {"labelFontSize": 12, "titleFontSize": 13, "titlePadding": 6, "grid": True}
    menu = {"export": True, "source": False, "compiled": False, "editor": False}
    return {
        "description": f"{title}. {DESCRIPTION}",
        "usermeta": {"embedOptions": {"renderer": "svg", "actions": menu}},
        "background": "transparent",
        "width": WIDTH,
        "height": max(part.end for part in parts) + 4,
        "padding": 5,
        "autosize": "none",
        "config": {"axis": axis, "text": LETTERS},
        "signals": signals + [s for part in parts for s in part.signals],
        "data": [d for part in parts for d in part.data] + data,
        "marks": marks,
    }


def _instead(begin: float, left_out: str) -> Part:
    """In the place of the what-if panel, why it is not there."""
    words = f"The what-if panel is left out: {left_out}.".split("; ")
    return Part([text(x=0, y=begin + 26, text=[f"{words[0]};", *words[1:]])], end=begin + 52)


def _press() -> Marks:
    """A button within the picture: those of the page are far below it."""
    icon = f"=playing ? '{PAUSE}' : '{PLAY}'"
    return [
        mark("path", x=WIDTH - 70, y=12, path=icon, fill=theme.AROUND),
        text(x=WIDTH - 54, y=12, text="=button"),
        mark("rect", name="press", x=WIDTH - 84, y=-2, width=84, height=27, cornerRadius=4,
             fill=FAINT, fillOpacity=0.25, cursor="pointer"),
    ]  # fmt: skip


def _status() -> str:
    """The Vega expression of the line under the title."""
    said = "pluck(data('explorers'), 'said')"
    over = "b.won == null ? 'The battle is over' : b.won ? 'The battle is won' : 'It is lost'"
    there = f"length({said}) ? 'At random: ' + join({said}, '; ') : 'Nobody explores'"
    return f"'Step ' + t + ' of ' + b.steps + '. ' + (t == b.steps ? {over} : {there})"


def _check(
    battles: list[Battle],
    opinions: Sequence[Opinion],
    what_ifs: Sequence[WhatIf] | None,
) -> None:
    if not battles:
        raise UserError("the player needs at least one battle")
    for name, given in (("opinions", opinions), ("what_ifs", what_ifs)):
        if given is not None and len(given) != len(battles):
            raise UserError(f"{name}: got {len(given)} for {len(battles)} battles")
    if len({(b.episode.avail_actions.shape[1:], len(b.units) > 0) for b in battles}) > 1:
        raise UserError("the battles of one player must be of one task")
    for battle, opinion in zip(battles, opinions, strict=True):
        if len(opinion.q_tot) != battle.episode.length:
            raise UserError("an opinion is of another battle: their steps differ")


def _first_strayed(battle: Battle, opinion: Opinion, step: int) -> int:
    """The first agent that takes another than the greedy action at a step; the first, if none."""
    strayed = battle.episode.actions != opinion.greedy(battle.episode)
    return int(strayed[step].argmax()) if step < len(strayed) else 0


def _targets(battle: Battle, names: list[str]) -> list[int]:
    """The unit that each action attacks, or -1."""
    ours = int((battle.units[0].team == 0).sum()) if battle.units else 0
    return [
        ours + int(n.removeprefix(ATTACK)) if battle.units and n.startswith(ATTACK) else -1
        for n in names
    ]


def _label(number: int, battle: Battle) -> str:
    won = {True: "won", False: "lost", None: "played"}[battle.episode.won]
    return f"battle {number}: {won}"


def _size(value: dict[str, Any]) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())
