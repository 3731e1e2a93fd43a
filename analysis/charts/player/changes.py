"""The what-if panel: one agent's action changed at the step, and what moves."""

from __future__ import annotations

from typing import Any

from analysis.charts import theme
from analysis.charts.player.packing import LEVELS
from analysis.charts.player.parts import (
    FAINT,
    OURS,
    THEIRS,
    WIDTH,
    Marks,
    Part,
    formulas,
    keep,
    mark,
    text,
)

ROW = 21
FIELDS = {
    "q": "Q_i of this agent",
    "changed": "Q_tot",
    "changed_memory": "Q_tot of the offline memory",
    "changed_target": "TD(0) target y",
    "changed_ovm": "OVM target max(y, memory)",
}
NO_TARGETS = "No target of a change: this backend cannot put a battle back and play a step again."
COLUMNS = {"as it was": 300, "changed": 375, "difference": 460}


def changes(begin: float, agents: list[str], targets: bool) -> Part:
    """The panel, with its own signals.

    targets: whether the battle could be played on from each change, so that there are targets;
    a sentence stands in their place where it could not.
    """
    fields = dict(list(FIELDS.items())[: None if targets else 3])
    # Data come after signals.
    mine = "(length(data('agents')) ? data('agents')[who].{} : -1)"
    signals: Marks = [
        {"name": "taken", "update": mine.format("action")},
        {"name": "best", "update": "length(data('others')) ? data('others')[0].a : taken"},
        {"name": "changed", "update": "+action ? +action - 1 : best"},
        {"name": "reach", "update": f"b.changed.step * {LEVELS // 4}"},
    ]
    title = (
        f"t == b.steps ? 'The battle is over' : {agents}[who] + ' ' + (changed == taken"
        " ? 'did ' + names[taken] + (length(data('others')) ? '. What if not? Click another bar "
        "above.' : ', and had no choice.')"
        " : 'did ' + names[taken] + '. What if it had done ' + names[changed] + '?')"
    )
    top, first = begin + 26, begin + 68
    head: dict[str, Any] = {"y": top + 22, "align": "right", "fontSize": 13, "fillOpacity": 0.75}
    row = f"={first} + datum.n * {ROW}"
    middle = 560
    marks = [
        text(x=0, y=top, text=f"={title}", fontSize=14, fontWeight="bold"),
        *(text(x=x, text=said, **head) for said, x in COLUMNS.items()),
        text("effects", x=0, y=row, text={"field": "said"}),
        *(text("effects", x=x, y=row, align="right", text=f"={shown}")
          for x, shown in zip(COLUMNS.values(), (
              "datum.was == null ? '–' : format(datum.was, '.3f')",
              "datum.would == null ? '–' : format(datum.would, '.3f')",
              "datum.gain == null ? '–' : format(datum.gain, '+.3f')"))),
        mark("rule", x=middle, y=first - ROW / 2, y2=first + ROW * (len(fields) - 0.5),
             stroke=FAINT),
        mark("rect", "effects", x=middle, y=f"{row} - 6", height=12,
             x2=f"={middle} + clamp(datum.gain / reach, -1, 1) * 90",
             fill=f"=datum.gain < 0 ? '{THEIRS}' : '{OURS}'"),
    ]  # fmt: skip
    said = "t < b.steps && !length(data('would')) ? 'This action is not available here.' : ''"
    marks.append(text(x=WIDTH, y=top, text=f"={said}", align="right", fill=theme.AROUND))
    end = first + ROW * len(fields)
    if not targets:
        marks.append(text(x=0, y=end, text=NO_TARGETS, fillOpacity=0.75))
        end += ROW
    return Part(marks, _data(fields), signals, end)


def _data(fields: dict[str, str]) -> Marks:
    mine = "datum.i == who"
    at = "length(data('{0}')) ? data('{0}')[0][datum.field] : null"
    listed = [{"n": n, "field": f, "said": said} for n, (f, said) in enumerate(fields.items())]
    return [
        {"name": "others", "source": "now", "transform": [
            keep(f"{mine} && !datum.taken"),
            {"type": "collect", "sort": {"field": "q", "order": "descending"}},
        ]},
        {"name": "was", "source": "now", "transform": [keep(f"{mine} && datum.taken")]},
        {"name": "would", "source": "now", "transform": [keep(f"{mine} && datum.a == changed")]},
        {"name": "effects", "values": listed, "transform": formulas(
            was=at.format("was"), would=at.format("would"),
            gain="datum.was == null || datum.would == null ? null : datum.would - datum.was",
        )},
    ]  # fmt: skip
