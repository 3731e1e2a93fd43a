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

from ovmse.config import Config, did_you_mean
from ovmse.errors import UserError
from ovmse.runs.files import PROJECT, RUNS, SHIPPED_DATA, from_project, named_path
from ovmse.runs.reading import find_runs

SHIPPED = SHIPPED_DATA / "runs"  # runs in data/, a folder for each map
SHOWN = SHIPPED / "2s3z"  # what notebooks show, unless told otherwise

TRAINING = (*Config.model_fields, "run_dir")  # the parameters of 01_train

# The line by which the cell of the parameters is known, in the source that a kernel remembers. A
# kernel does not know which cells of its document are tagged.
OWN = "# Parameters of this notebook"
INJECTED = "# Parameters\n"  # papermill's own first line, of the cell that it adds after that one


def parameters(namespace: dict[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The parameters of a notebook with their values, as its cells say them now.

    They come from the source of the parameters cell, which holds the line `OWN`, and of the one
    that papermill injects after it, as they were last run. What only the kernel still knows,
    because its line was deleted or another cell assigned it, does not count. `namespace` is the
    notebook's `globals()`. Raises UserError with one sentence if there is no such cell, or where it
    holds anything but plain assignments to names that are known (papermill only warns).
    """
    _show_sentences_first()
    known, history = list(known), namespace.get("In", [])
    if not any(history):  # nbval's cells leave no trace, and nobody edits them meanwhile
        return from_project({name: namespace[name] for name in known if name in namespace})
    scope = dict(namespace)
    given: dict[str, Any] = {}
    for source in _cells_of_parameters(history):
        names = _assigned(source, known)
        exec(source, scope)  # the person's own cell, which has just run here
        given |= {name: scope[name] for name in names}
    return from_project(given)


def parameters_in(source: str, known: Iterable[str]) -> dict[str, Any]:
    """The parameters that a cell which was not run says; raises UserError like `parameters`."""
    _assigned(source, list(known))
    given: dict[str, Any] = {}
    for line in ast.parse(source).body:
        assert isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None
        try:
            value = ast.literal_eval(line.value)  # nothing that is half typed runs
        except ValueError:
            what = ast.unparse(line.value)
            raise UserError(
                f"the cell of the parameters: {what} is no value; is it a name without quotes?"
            ) from None
        targets = line.targets if isinstance(line, ast.Assign) else [line.target]
        given |= {target.id: value for target in targets if isinstance(target, ast.Name)}
    return from_project(given)


def training_given(given: dict[str, Any]) -> tuple[Config, Path]:
    """What the parameters of 01_train ask for: the settings, and the directory of the run."""
    given = dict(given)
    run_dir = given.pop("run_dir", "")
    config = Config.from_parameters(**given)
    return config, runs_folder(run_dir, f"{config.preset}/{config.algorithm}_seed{config.seed}")


def _cells_of_parameters(history: Sequence[str]) -> list[str]:
    """The last parameters cell that was run, and what papermill injected after it."""
    own = injected = ""
    for source in history:
        if OWN in source:
            own, injected = source, ""
        elif source.startswith(INJECTED):
            injected = source
    if not own:
        raise UserError(f"no cell with the line {OWN!r} was run: run the cell of the parameters")
    return [own, injected]


def _assigned(source: str, known: list[str]) -> list[str]:
    """The names that the cell assigns, if that is all it does."""
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise UserError(f"the cell of the parameters is not plain Python ({error.msg})") from None
    names = []
    for line in body:
        targets: list[ast.expr] = []
        if isinstance(line, ast.Assign):
            targets = line.targets
        elif isinstance(line, ast.AnnAssign) and line.value is not None:
            targets = [line.target]
        found = [target.id for target in targets if isinstance(target, ast.Name)]
        if not found or len(found) < len(targets):
            what = ast.unparse(line).split("\n")[0]
            raise UserError(
                f"the cell of the parameters holds {what!r}, allowed: NAME = VALUE; put anything "
                "else into a cell of its own"
            )
        names += found
    for name in names:
        if name not in known:
            raise UserError(f"the notebook has no parameter {name!r}{did_you_mean(name, known)}")
    return names


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
        if not isinstance(given, list) or not all(isinstance(p, str | Path) for p in given):
            raise UserError(f"runs: got {given!r}, allowed: a folder, or a list of run directories")
        return find_runs(PROJECT / named_path(path, "runs") for path in given)
    if given:
        return find_runs(runs_folder(given, ""))
    return find_runs(SHOWN)


def whole(given: dict[str, Any], name: str, least: int, most: int = 10_000) -> int:
    """A parameter that is a whole number from `least` to `most`; raises UserError if it is not."""
    if type(given[name]) is not int or not least <= given[name] <= most:
        raise UserError(
            f"{name}: got {given[name]!r}, allowed: a whole number from {least:,} to {most:,}"
        )
    return given[name]


def run_given(name: str, runs: Sequence[Path]) -> Path:
    """The run of that name (its folder's); nothing given means the first."""
    if not isinstance(name, str):
        raise UserError(f"run: got {name!r}, allowed: the name of a run")
    if not name:
        return runs[0]
    found = [run for run in runs if run.name == name]
    if len(found) > 1:
        raise UserError(
            f"run: {len(found)} of the runs are called {name!r}: give its directory in `runs`"
        )
    if not found:
        names = [run.name for run in runs]
        hint = did_you_mean(name, names) or f", but: {', '.join(names[:8])}"
        raise UserError(f"run: none of the runs is called {name!r}{hint}")
    return found[0]
