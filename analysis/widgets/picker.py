"""The runs that there are, to choose from instead of pasting paths."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path

from IPython.display import display
from ipywidgets import HTML, SelectMultiple, VBox

from analysis.charts.theme import STYLES, label
from analysis.notebook import SHIPPED
from analysis.tables import per_cent
from analysis.widgets.live import has_front_end
from ovmse.runs.files import PROJECT, RUNS
from ovmse.runs.listing import ListedRun, list_runs

SHOWN = 12  # lines of the list before it scrolls
LOOK = """<style>
.runs option, pre.runs { font: 13px "DejaVu Sans Mono", Menlo, Consolas, monospace; }
pre.runs { margin: 0; padding: 0 4px; font-weight: bold; background: none; }
</style>"""  # letters of one width, so that the heading stands over its columns


def pick_runs(*folders: str | Path, one: bool = False) -> None:
    """Lists the runs of `folders` (by default those made here, then the shipped ones).

    They can be marked, and the line to put into the parameters cell stands below: what the notebook
    shows is always what that cell says. one: whether it looks at `run`, one of its `runs`. Where no
    person is in front to mark any, nothing is shown.
    """
    if not has_front_end():
        return
    places = folders or (RUNS, SHIPPED)
    chosen = [Path(folder) for folder in places if Path(folder).is_dir()]
    runs = [run for folder in chosen for run in list_runs(folder) if run.env_steps is not None]
    runs.sort(key=lambda run: run.age)
    if not runs:
        print("There are no runs yet: notebook 01_train makes one.")
        return
    rows = [_row(run) for run in runs]
    table = [tuple(rows[0]), *(tuple(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    heading, *texts = [
        "  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)) for row in table
    ]
    choice = SelectMultiple(options=list(zip(texts, runs, strict=True)), rows=min(SHOWN, len(runs)))
    choice.layout.width, choice.layout.max_width = "max-content", "100%"
    choice.add_class("runs")
    head, line = HTML(f'{LOOK}<pre class="runs">{heading}</pre>'), HTML()

    def say(_: object = None) -> None:
        places = [place(run.path) for run in choice.value]
        given = repr(places[0] if len(places) == 1 else places)
        line.value = f"Put into the parameters cell: <code>runs = {escape(given)}</code>"
        if not places:
            line.value = "Mark one run or several: the line for the parameters cell is then here."
        elif one and len(places) > 1:
            name = escape(repr(choice.value[0].path.name))
            line.value += f" and <code>run = {name}</code>, or another of these names"

    choice.observe(say, "value")
    say()
    display(VBox([head, choice, line]))


def _row(run: ListedRun) -> dict[str, str]:
    """A run as its reader sees it."""
    known = run.algorithm in STYLES
    return {
        "algorithm": label(run.algorithm) if known else run.algorithm,
        "task": run.task,
        "seed": "" if run.seed is None else str(run.seed),
        "last win rate": "" if run.test_win_rate is None else per_cent(run.test_win_rate),
        "date": time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() - run.age)),
        "folder": place(run.path),
    }


def place(path: Path) -> str:
    """A folder as the parameters cell takes it: from the project where it lies within."""
    path = path.resolve()
    return str(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path)
