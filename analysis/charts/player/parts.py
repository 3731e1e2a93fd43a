"""What the parts of the player share: how a mark is written, sizes and colours."""

from __future__ import annotations

from typing import Any, NamedTuple

from analysis.charts import theme

WIDTH = 650  # fits every output area together with the menu of the chart
TOP = 58  # below the title
FIELD = 300  # the side of the battlefield
RIGHT = FIELD + 52  # where the curves begin
OURS, THEIRS = theme.STYLES["ovmse"].colour, theme.STYLES["switch_cql"].colour
RING = theme.STYLES["macal_ql"].colour
MEMORY, TARGET = theme.STYLES["ovm"].colour, theme.STYLES["macql"].colour
FAINT = "#888888"

Marks = list[dict[str, Any]]  # or datasets, scales, signals: what Vega has a list of


class Part(NamedTuple):
    """A part of the player; `end`: where the next one below it may begin."""

    marks: Marks
    data: Marks = []
    signals: Marks = []
    end: float = 0


def mark(
    kind: str, data: str | None = None, name: str | None = None, **channels: Any
) -> dict[str, Any]:
    """A mark. A channel is a value, ``=EXPRESSION``, or what Vega takes."""
    out: dict[str, Any] = {"type": kind, "encode": {"update": _encoded(channels)}}
    if data:
        out["from"] = {"data": data}
    return out | ({"name": name} if name else {})


def group(
    x: float, y: float, width: float, height: float, marks: Marks, scales: Marks | None = None,
    axes: Marks | None = None, **look: Any,
) -> dict[str, Any]:  # fmt: skip
    """A part of the player at its place; `look` are channels of its own."""
    place = {"x": x, "y": y, "width": width, "height": height} | look
    inside = {"marks": marks, "scales": scales or [], "axes": axes or []}
    return {"type": "group", "encode": {"update": _encoded(place)}, **inside}


def text(data: str | None = None, **channels: Any) -> dict[str, Any]:
    """A text mark, its middle at `y`."""
    return mark("text", data, **channels)


def legend(y: float, items: list[tuple[float, str, str, str]]) -> Marks:
    """Filled symbols with their names in a row: x, name, shape, colour."""
    return [
        each
        for x, name, shape, colour in items
        for each in (
            mark("symbol", x=x, y=y, size=110, shape=shape, fill=colour),
            text(x=x + 10, y=y, text=name, fontSize=12),
        )
    ]


def formulas(**fields: str) -> list[dict[str, str]]:
    """The transforms that give each row these fields."""
    return [{"type": "formula", "as": name, "expr": expr} for name, expr in fields.items()]


def keep(condition: str) -> dict[str, str]:
    """The transform that keeps the rows for which it is true."""
    return {"type": "filter", "expr": condition}


def rows(name: str, count: str, row: str, *transforms: dict[str, str]) -> dict[str, Any]:
    """A dataset of `count` rows, numbered from 0 in the field `row`."""
    numbered = {"type": "sequence", "start": 0, "stop": {"signal": count}, "as": row}
    return {"name": name, "transform": [numbered, *transforms]}


def _encoded(channels: dict[str, Any]) -> dict[str, Any]:
    return {name: _channel(value) for name, value in channels.items()}


def _channel(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("="):
        return {"signal": value[1:]}
    return value if isinstance(value, dict) else {"value": value}
