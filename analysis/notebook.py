"""What every notebook does first: take its parameters, and find its folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ovmse.config import did_you_mean
from ovmse.runs.files import PROJECT, RUNS, from_project
from ovmse.sweep.notebook_source import assigned


def parameters(namespace: dict[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The known names that the notebook's cells have set, with their values.

    papermill only warns of a parameter that the notebook does not have. Here a name in its
    injected cell that is not known raises ValueError with one sentence. `namespace` is the
    notebook's `globals()`.
    """
    known = list(known)
    injected = [s for s in namespace.get("In", []) if s.startswith("# Parameters")]
    for name in assigned(injected[-1]) if injected else []:
        if name not in known:
            raise ValueError(f"the notebook has no parameter {name!r}{did_you_mean(name, known)}")
    return from_project({name: namespace[name] for name in known if name in namespace})


def runs_folder(given: str, default: str) -> Path:
    """A folder of runs: absolute as given, else from the repository, whatever the working
    directory. Nothing given means `default` within `runs/` (or within $OVMSE_RUNS)."""
    if given:
        return PROJECT / Path(given).expanduser()
    return RUNS / default
