"""What every notebook does first: take its parameters, and find its folders."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from IPython import get_ipython
from IPython.display import display

from ovmse.config import did_you_mean
from ovmse.errors import UserError
from ovmse.runs.files import DATA_DIR, PROJECT, RUNS, from_project, named_path
from ovmse.runs.reading import find_runs
from ovmse.sweep.notebook_source import assigned


def parameters(namespace: dict[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The parameters of a notebook with their values, as its cells say them now.

    They come from the source of the parameters cell and of the one that papermill injects after
    it, as they were last run. What only the kernel still knows, because its line was deleted or
    another cell assigned it, does not count. A name that is not known raises UserError with one
    sentence (papermill only warns). `namespace` is the notebook's `globals()`.
    """
    _show_sentences_first()
    known, history = list(known), namespace.get("In", [])
    if not any(history):  # nbval's cells leave no trace, and nobody edits them meanwhile
        return from_project({name: namespace[name] for name in known if name in namespace})
    scope = dict(namespace)
    given: dict[str, Any] = {}
    for source in _cells_of_parameters(history, known):
        names = assigned(source)
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known)
                raise UserError(f"the notebook has no parameter {name!r}{hint}")
        exec(source, scope)  # the person's own cell, which has just run here
        given |= {name: scope[name] for name in names}
    return from_project(given)


def _cells_of_parameters(history: Sequence[str], known: list[str]) -> list[str]:
    """The last parameters cell that was run, and what papermill injected after it."""
    cells: list[str] = []
    for source in history:
        if source.startswith("# Parameters\n"):
            cells = [*cells[:1], source]
        elif _declares(source, known):
            cells = [source]
    return cells


def _declares(source: str, known: list[str]) -> bool:
    """Whether a cell is the one of the parameters: assignments alone, a known one annotated."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return False
    annotated = {ast.unparse(line.target) for line in body if isinstance(line, ast.AnnAssign)}
    plain = all(isinstance(line, ast.AnnAssign | ast.Assign) for line in body)
    return plain and not annotated.isdisjoint(known)


def _show_sentences_first() -> None:
    """What a person did wrong shows as its sentence; where it was noticed is folded below it."""

    def show(shell: Any, kind: type, error: BaseException, trace: Any, **_: Any) -> list[str]:
        sentence = [f"{kind.__name__}: {error}"]
        shell._showtraceback(kind, error, sentence)  # what a kernel sends as the cell's error
        where = escape("".join(traceback.format_exception(kind, error, trace)))
        folded = f"<details><summary>Where it was noticed</summary><pre>{where}</pre></details>"
        display({"text/html": folded, "text/plain": ""}, raw=True)
        return sentence

    if shell := get_ipython():
        shell.set_custom_exc((UserError,), show)


def runs_folder(given: str, default: str) -> Path:
    """A folder of runs: absolute as given, else from the repository, whatever the working
    directory. Nothing given means `default` within `runs/` (or within $OVMSE_RUNS)."""
    if given:
        return PROJECT / named_path(given, "runs")
    return RUNS / default


def runs_given(given: str | list[str]) -> list[Path]:
    """The runs of a folder, or those of a list; nothing given means the runs that ship."""
    if not isinstance(given, str):
        return find_runs(PROJECT / named_path(path, "runs") for path in given)
    shipped = [DATA_DIR / name for name in ("runs", "figure1")]
    return find_runs(runs_folder(given, "") if given else next(d for d in shipped if d.exists()))


def whole(given: dict[str, Any], name: str, least: int) -> int:
    """A parameter that is a whole number from `least` on; raises UserError if it is not."""
    if type(given[name]) is not int or given[name] < least:
        raise UserError(f"{name}: got {given[name]!r}, allowed: a whole number from {least} on")
    return given[name]


def run_given(name: str, runs: Sequence[Path]) -> Path:
    """The run of that name (its folder's); nothing given means the first."""
    if not name:
        return runs[0]
    found = [run for run in runs if run.name == name]
    if len(found) != 1:
        names = [run.name for run in runs]
        hint = did_you_mean(name, names) or f", but: {', '.join(names[:8])}"
        raise UserError(f"run: {len(found) or 'none'} of the runs is called {name!r}{hint}")
    return found[0]
