"""Each agent's ``Q_i`` over its actions: what was taken, what the greedy action is."""

from __future__ import annotations

from analysis.charts import theme
from analysis.charts.player.packing import code_at, flag_at, number_at
from analysis.charts.player.parts import (
    FAINT,
    FIELD,
    OURS,
    THEIRS,
    TOP,
    WIDTH,
    Marks,
    Part,
    formulas,
    group,
    keep,
    legend,
    mark,
    rows,
    text,
)
from analysis.charts.player.stored import CHANGES

BEGIN = TOP + FIELD + 62  # below the axis of steps
NAMES = 142  # the width of the column of agents
ATTACK = "attack "


def row_height(agents: int) -> int:
    """Of an agent, in pixels."""
    return 32 if agents <= 6 else 26 if agents <= 10 else 18


def bars(agents: list[str], actions: list[str], what_if: bool) -> Part:
    """A row an agent, a column an action; agents: `N` names, actions: `A` names."""
    height, width = row_height(len(agents)), (WIDTH - NAMES) / len(actions)
    turned = width < 34
    first = BEGIN + (80 if turned else 46)
    end = first + height * len(agents)
    table = group(0, first, WIDTH, end - first, _rows(height, width, what_if))
    marks = [*_key(), *_heads(actions, width, first, turned), table]
    return Part(marks, _data(agents, actions, what_if), end=end)


def _data(agents: list[str], actions: list[str], what_if: bool) -> Marks:
    n, a = len(agents), len(actions)
    at = f"t * {n} + datum.i"
    cells = rows(
        "cells", f"b.steps * {n * a}", "k",
        *formulas(t=f"floor(datum.k / {n * a})", i=f"floor(datum.k / {a}) % {n}",
                  a=f"datum.k % {a}"),
        keep(flag_at("open", f"floor(datum.k / {a})", f"(datum.k % {a})", a)),
    )  # fmt: skip
    # What is packed of available actions alone stands in their order; what is packed of those that
    # were not taken, in theirs.
    cells["transform"] += [
        *formulas(other=f"{code_at('action', f'floor(datum.k / {a})')} != datum.a ? 1 : 0"),
        {
            "type": "window",
            "ops": ["row_number", "sum"],
            "fields": [None, "other"],
            "as": ["p", "r"],
        },
        *formulas(q=number_at("q", "datum.p - 1")),
    ]
    if what_if:
        cells["transform"] += formulas(
            **{
                f: f"!b.{f} ? null : datum.other ? {number_at(f, 'datum.r - 1')}"
                f" : {number_at(of, 'datum.t')}"
                for f, (_, of) in CHANGES.items()
            },
            changed_ovm="max(datum.changed_target, datum.changed_memory)",
        )
    ends = {"type": "joinaggregate", "groupby": ["i"], "fields": ["q", "q"]}
    cells["transform"].append(ends | {"ops": ["min", "max"], "as": ["low", "high"]})
    return [
        rows(
            "agents", str(n), "i",
            *formulas(name=f"{agents}[datum.i]",
                      action=f"t < b.steps ? {code_at('action', at)} : -1",
                      greedy=f"t < b.steps ? {code_at('greedy', at)} : -1",
                      explored=f"t < b.steps && {code_at('explored', at)} > 0"),
        ),
        rows("columns", str(a), "a"),
        {"name": "explorers", "source": "agents", "transform": [
            keep("datum.explored"),
            *formulas(said="datum.name + ' ' + names[datum.action] + (datum.action == datum.greedy"
                           " ? ' (greedy too)' : ', greedy: ' + names[datum.greedy])"),
        ]},
        cells,
        {"name": "now", "source": "cells", "transform": [
            keep("datum.t == t"),
            *formulas(taken="data('agents')[datum.i].action == datum.a",
                      greedy="data('agents')[datum.i].greedy == datum.a",
                      random="data('agents')[datum.i].explored",
                      share="(datum.q - datum.low) / max(datum.high - datum.low, 1e-9)"),
        ]},
    ]  # fmt: skip


def _key() -> Marks:
    said = "Q_i of every available action (each agent on its own scale)"
    return [
        text(x=0, y=BEGIN, text=said, fontSize=14, fontWeight="bold"),
        *legend(BEGIN, [
            (WIDTH - 222, "taken", "square", OURS),
            (WIDTH - 166, "taken at random", "square", THEIRS),
            (WIDTH - 52, "greedy", "triangle-down", theme.AROUND),
        ]),
    ]  # fmt: skip


def _heads(actions: list[str], width: float, first: float, turned: bool) -> Marks:
    """The names of the actions over their columns; what they attack under one common word."""
    aims = [n for n, name in enumerate(actions) if name.startswith(ATTACK)]
    up = f"{str(turned).lower()} && datum.a < {(aims or [len(actions)])[0]}"
    out = [
        text("columns", x=f"={NAMES} + (datum.a + .5) * {width:.2f}", y=first - 9,
             text=f"=replace(names[datum.a], '{ATTACK}', '')", limit=60 if turned else width,
             angle=f"={up} ? -90 : 0", align=f"={up} ? 'left' : 'center'")
    ]  # fmt: skip
    if aims:
        middle = NAMES + width * (aims[0] + aims[-1] + 1) / 2
        out.append(text(x=round(middle), y=first - 24, text="attack enemy", align="center"))
    return out


def _rows(height: int, width: float, what_if: bool) -> Marks:
    x, y = f"{NAMES} + datum.a * {width:.3f}", f"datum.i * {height}"
    small = 13 if height > 20 else 11
    agent = f"=(datum.i + .5) * {height}"
    colour = f"datum.taken ? (datum.random ? '{THEIRS}' : '{OURS}') : '{FAINT}'"
    of_agent = f"=datum.explored ? '{THEIRS}' : '{theme.AROUND}'"
    room = height - 9
    marks = [
        mark("rule", "agents", x=0, x2=WIDTH, y=f"=(datum.i + 1) * {height}", stroke=FAINT,
             strokeOpacity=0.5),
        text("agents", x=0, y=agent, text={"field": "name"}, fontSize=small, limit=NAMES - 62),
        text("agents", x=NAMES - 8, y=agent, text="=datum.action < 0 ? '' : names[datum.action]",
             align="right", fontSize=small, fontWeight="bold", fill=of_agent),
        mark("rect", "now", x=f"={x} + 3", width=max(width - 6, 3),
             y=f"={y} + {height} - 2 - datum.share * {room - 2}", y2=f"={y} + {height}",
             fill=f"={colour}", fillOpacity="=datum.taken ? 1 : .45"),
        mark("symbol", "now", x=f"={x} + {width / 2:.2f}", y=f"={y} + 5", size=60,
             shape="triangle-down", fill=theme.AROUND, opacity="=datum.greedy ? 1 : 0"),
    ]  # fmt: skip
    if what_if:
        chosen = "datum.i == who && datum.a == changed"
        marks.append(
            mark("rect", "now", "cell", x=f"={x} + 1", width=width - 2, y=f"={y} + 1",
                 height=height - 2, fill=FAINT, fillOpacity=0, cursor="pointer",
                 stroke=theme.AROUND, strokeWidth=f"={chosen} ? 2 : 0", strokeDash=[4, 2],
                 tooltip="=names[datum.a] + ': Q_i ' + format(datum.q, '.3f')")
        )  # fmt: skip
    return marks
