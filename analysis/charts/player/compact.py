"""The same picture in less of a file, which has a line for each value of a specification."""

from __future__ import annotations

import json
from typing import Any

from analysis.charts import theme
from analysis.charts.player.parts import Marks, rows

# What a text has that does not say it, because its neighbours do. Other channels are then absent.
UNSAID = {"fill": f"'{theme.AROUND}'", "fontSize": "13"}


def literal(value: Any) -> str:
    """A value as a Vega expression; in single quotes, which JSON keeps as they are."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if "'" in text or "\\" in text else text.replace('"', "'")


def together(marks: Marks) -> tuple[Marks, Marks]:
    """Marks, and the data that these need: of each kind, those that stand still are now one mark.

    One stands still that has neither data nor a name. Each channel is a list with an entry for each
    of them. They are drawn last, and the mouse reaches what is below.
    """
    others: Marks = []
    still: dict[str, Marks] = {}
    for one in marks:
        alone = one["type"] == "group" or "from" in one or "name" in one
        (others if alone else still.setdefault(one["type"], [])).append(one)
    data = [rows(f"every {kind}", str(len(group)), "n") for kind, group in still.items()]
    return others + [_one(kind, group) for kind, group in still.items()], data


def _one(kind: str, marks: Marks) -> dict[str, Any]:
    unsaid = UNSAID if kind == "text" else {}
    each = [{n: _expression(c) for n, c in m["encode"]["update"].items()} for m in marks]
    update = {}
    for name in sorted({name for channels in each for name in channels}):
        values = [channels.get(name, unsaid.get(name, "null")) for channels in each]
        update[name] = {"signal": f"[{','.join(values)}][datum.n]"}
    out: dict[str, Any] = {"type": kind, "from": {"data": f"every {kind}"}, "interactive": False}
    return out | {"encode": {"update": update}}


def _expression(channel: dict[str, Any]) -> str:
    return channel["signal"] if "signal" in channel else literal(channel["value"])
