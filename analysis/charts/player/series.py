"""Over the steps of the battle: what networks think of it, and below it who explored when."""

from __future__ import annotations

from analysis.charts import theme
from analysis.charts.player.packing import code_at, number_at
from analysis.charts.player.parts import (
    FAINT,
    FIELD,
    MEMORY,
    OURS,
    RIGHT,
    TARGET,
    THEIRS,
    TOP,
    WIDTH,
    Marks,
    Part,
    formulas,
    group,
    keep,
    mark,
    rows,
    text,
)
from analysis.charts.player.stored import SERIES

LOOKS: dict[str, tuple[str, str, list[int]]] = {  # the name, the colour, the dashes
    "q_tot": ("Q_tot", OURS, [1, 0]),
    "memory": ("offline memory", MEMORY, [7, 3]),
    "td_target": ("TD(λ) target", TARGET, [3, 3]),
    "returns": ("return-to-go", FAINT, [1, 0]),
}
LEGEND, CURVES, GAP = 44, 138, 12
RASTER = FIELD - LEGEND - CURVES - GAP
TOLD = (
    "='step ' + datum.t + ': agent ' + (datum.i + 1) + ' acts at random'"
    " + (datum.strayed ? '' : ', as it would have greedily')"
)
ACROSS = WIDTH - RIGHT - 10


def series(agents: int) -> Part:
    """The curves and the raster, which have one axis of steps."""
    size = f"b.steps * {agents}"
    data = [
        rows("series", "b.steps", "t", *formulas(**{n: number_at(n, "datum.t") for n in SERIES})),
        rows("slots", "b.steps + 1", "t"),
        rows(
            "events", size, "k",
            keep(f"{code_at('explored', 'datum.k')} > 0"),
            *formulas(t=f"floor(datum.k / {agents})", i=f"datum.k % {agents}",
                      strayed=f"{code_at('action', 'datum.k')} != {code_at('greedy', 'datum.k')}"),
        ),
    ]  # fmt: skip
    steps = {
        "name": "t", "type": "linear", "range": [0, ACROSS], "zero": False,
        "domain": [-0.5, {"signal": "b.steps + 0.5"}],
    }  # fmt: skip
    every = {"data": "series", "fields": list(SERIES)}
    values = {
        "name": "v", "type": "linear", "range": [CURVES, 0], "domain": every,
        "zero": False, "nice": True,
    }  # fmt: skip
    axis = {"orient": "left", "scale": "v", "tickCount": 4, "title": "discounted return"}
    marks = [
        *_legend(),
        group(RIGHT, TOP + LEGEND, ACROSS, CURVES, _curves(), [steps, values], [axis]),
        group(RIGHT, TOP + FIELD - RASTER, ACROSS, RASTER, _raster(agents), [steps], [
            {"orient": "bottom", "scale": "t", "tickCount": 6, "grid": False, "title": "step"},
        ]),
        group(RIGHT, TOP + LEGEND, ACROSS, FIELD - LEGEND, _over(agents, FIELD - LEGEND), [steps]),
    ]  # fmt: skip
    return Part(marks, data)


def _legend() -> Marks:
    """The lines' names with their values at the step."""
    out: Marks = []
    for n, (name, (said, colour, dash)) in enumerate(LOOKS.items()):
        x, y = RIGHT - 34 + (n % 2) * 164, TOP + 9 + (n // 2) * 20
        value = f"t < b.steps ? format(data('series')[t].{name}, '.2f') : '–'"
        out += [
            mark("rule", x=x, x2=x + 26, y=y, stroke=colour, strokeWidth=3, strokeDash=dash),
            text(x=x + 32, y=y, text=f"='{said} ' + ({value})"),
        ]
    return out


def _curves() -> Marks:
    return [
        mark("line", "series", x={"scale": "t", "field": "t"}, y={"scale": "v", "field": name},
             stroke=colour, strokeDash=dash, strokeWidth=1.5 if name == "returns" else 2.5,
             strokeJoin="round")
        for name, (_, colour, dash) in reversed(LOOKS.items())
    ]  # fmt: skip


def _raster(agents: int) -> Marks:
    """A bar for each agent while it lives, a mark on it for each random action."""
    each = RASTER / agents
    y, thick = f"=datum.i * {each:.2f} + 1", max(each - 2, 1)
    begin = {"scale": "t", "value": -0.5}
    return [
        mark("rect", "agents", x=begin, x2="=scale('t', b.lived[datum.i] - .5)", y=y,
             height=thick, fill=FAINT, fillOpacity=0.2),
        text("agents", x=-8, y=f"=(datum.i + .5) * {each:.2f}", text="=datum.i + 1",
             align="right", fontSize=12 if each > 11 else 0),
        text(x=-34, y=RASTER / 2, text="agent", angle=-90, align="center", fontSize=13),
    ]  # fmt: skip


def _over(agents: int, height: float) -> Marks:
    """Above all: the cursor, what hears the mouse at each step, and the marks of the raster."""
    each = RASTER / agents
    return [
        mark("rule", x="=scale('t', t)", y=0, y2=height, stroke=theme.AROUND, strokeWidth=2),
        mark("rect", "slots", "slot", x="=scale('t', datum.t - .5)",
             x2="=scale('t', datum.t + .5)", y=0, y2=height, fill=FAINT, fillOpacity=0,
             cursor="pointer"),
        mark("rect", "events", "event", x="=scale('t', datum.t - .5)",
             width="=max(scale('t', 1) - scale('t', 0), 4)", height=max(each - 2, 1),
             y=f"=datum.i * {each:.2f} + {CURVES + GAP + 1}", cursor="pointer",
             fill=f"=datum.strayed ? '{THEIRS}' : '{FAINT}'", tooltip=TOLD),
    ]  # fmt: skip
