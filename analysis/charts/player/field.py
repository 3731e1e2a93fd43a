"""The battlefield: units of both teams, who explores, who attacks whom."""

from __future__ import annotations

from typing import Any

from analysis.battles import Battle
from analysis.charts import theme
from analysis.charts.player.packing import code_at, number_at
from analysis.charts.player.parts import (
    FAINT,
    FIELD,
    OURS,
    RING,
    THEIRS,
    TOP,
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
from analysis.charts.player.stored import HEALTH
from ovmse.envs.base import Units

SIZE = 22  # of a unit, in pixels
X, Y = {"scale": "x", "field": "x"}, {"scale": "y", "field": "y"}


def field(battle: Battle) -> Part:
    """The field of this battle and of others with the same units; of one whose state is not
    decoded, a sentence."""
    if not battle.units:
        said = ["The states of this backend are not", "decoded: no picture of the battle."]
        return Part([text(x=FIELD / 2, y=TOP + 120, text=said, align="center", fillOpacity=0.75)])
    units = battle.units[0]
    space = {"stroke": FAINT, "strokeOpacity": 0.4, "clip": True}
    picture = group(0, TOP, FIELD, FIELD, scales=_scales(), axes=_axes(), marks=_marks(), **space)
    shown = ", ".join(number_at("view", f"3 * t + {n}") for n in range(3))
    signals = [{"name": "view", "update": f"[{shown}]"}]
    return Part([picture, *_key(units)], _data(units, len(units.unit_type)), signals)


def _data(units: Units, size: int) -> Marks:
    target = "targets[datum.action]"
    return [
        rows(
            "units", str(size), "u",
            *formulas(**{name: number_at(name, f"t * {size} + datum.u") for name in ("x", "y")}),
            *formulas(health=f"{code_at('health', f't * {size} + datum.u')} / {HEALTH}",
                      ours=f"datum.u < {(units.team == 0).sum()}",
                      label=f"{_labels(units)}[datum.u]"),
        ),
        {"name": "living", "source": "units", "transform": [keep("datum.health > 0")]},
        {"name": "dead", "source": "units", "transform": [keep("datum.health <= 0")]},
        {"name": "aims", "source": "agents", "transform": [
            keep(f"datum.action >= 0 && {target} >= 0"),
            *_place("datum.i"), *_place(target, "_of"),
            *formulas(x2=".2 * datum.x + .8 * datum.x_of", y2=".2 * datum.y + .8 * datum.y_of"),
        ]},
        {"name": "ringed", "source": "agents", "transform": [
            keep("datum.explored"), *_place("datum.i"),
        ]},
    ]  # fmt: skip


def _place(unit: str, which: str = "") -> list[dict[str, str]]:
    """The fields `x` and `y` of a unit, in map units."""
    return formulas(**{name + which: f"data('units')[{unit}].{name}" for name in ("x", "y")})


def _scales() -> Marks:
    """A square of map units around those who live; north is up."""
    return [
        {
            "name": name, "type": "linear", "range": range_, "zero": False,
            "domain": [{"signal": f"view[{n}] {sign} view[2]"} for sign in "-+"],
        }
        for n, (name, range_) in enumerate({"x": [0, FIELD], "y": [FIELD, 0]}.items())
    ]  # fmt: skip


def _axes() -> Marks:
    """A grid of squares of four map units, so that the moving of the picture is seen."""
    ends = "4 * ceil((view[{0}] - view[2]) / 4), view[{0}] + view[2]"
    return [
        {"orient": side, "scale": name, "labels": False, "ticks": False,
         "values": {"signal": f"sequence({ends.format(n)}, 4)"}}
        for n, (name, side) in enumerate({"x": "bottom", "y": "left"}.items())
    ]  # fmt: skip


def _marks() -> Marks:
    colour: dict[str, Any] = {"fill": f"=parent.ours ? '{OURS}' : '{THEIRS}'"}
    bar: dict[str, Any] = colour | {"x": -SIZE / 2, "y": -SIZE / 2 - 6, "height": 5}
    unit = [
        mark("symbol", **colour, shape="=parent.ours ? 'circle' : 'square'",
             size=f"=parent.ours ? {SIZE**2} : {(SIZE - 2) ** 2}", stroke="white"),
        text(text="=parent.label", align="center", fill="white", fontSize=11, fontWeight="bold"),
        mark("rect", **bar, width=SIZE, fillOpacity=0.3),
        mark("rect", **bar, width=f"=parent.health * {SIZE}"),
    ]  # fmt: skip
    return [
        text("dead", x=X, y=Y, text="×", align="center", fontSize=20, fillOpacity=0.75),
        mark("symbol", "ringed", x=X, y=Y, size=(SIZE + 13) ** 2, stroke=RING, strokeWidth=4),
        {"type": "group", "from": {"data": "living"}, "marks": unit,
         "encode": {"update": {"x": X, "y": Y}}},
        # Over the units, which are close to whom they attack; it ends short of the target's name.
        mark("rule", "aims", x=X, y=Y, x2={"scale": "x", "field": "x2"},
             y2={"scale": "y", "field": "y2"}, stroke=theme.AROUND, strokeWidth=2.5, opacity=0.8),
    ]  # fmt: skip


def _labels(units: Units) -> list[str]:
    """Agents count from 1, as in every chart; enemies from 0, as the actions that attack them."""
    short, ours = initials(sorted(set(units.unit_type))), int((units.team == 0).sum())
    return [
        short[kind] + str(n + 1 if n < ours else n - ours) for n, kind in enumerate(units.unit_type)
    ]


def _key(units: Units) -> Marks:
    """What the picture means, below it."""
    kinds = ", ".join(f"{s} {n}" for n, s in initials(sorted(set(units.unit_type))).items())
    y = TOP + FIELD + 15
    return [
        *legend(y, [(7, "ours", "circle", OURS), (54, "enemies", "square", THEIRS)]),
        mark("symbol", x=126, y=y, size=110, stroke=RING, strokeWidth=3),
        text(x=136, y=y, text="explores", fontSize=12),
        text(x=FIELD, y=y, text=kinds, align="right", fontSize=12, limit=FIELD - 190),
    ]


def initials(names: list[str]) -> dict[str, str]:
    """The shortest beginning of each name that no other has: `stalker` -> `S`."""
    out = {}
    for name in names:
        others = [o for o in names if o != name]
        sizes = range(1, len(name) + 1)
        n = next((n for n in sizes if not any(o.startswith(name[:n]) for o in others)), len(name))
        out[name] = name[:n].capitalize()
    return out
