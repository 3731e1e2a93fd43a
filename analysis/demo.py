"""The main job of `make demo`: the grid of Figure 1 at its smallest scale, and the study as pages.

What is finished is not run again, and what was stopped continues.
"""

from __future__ import annotations

from typing import Annotated

import typer

from analysis.answers import kept_wins
from analysis.notebook import runs_folder
from analysis.report import write_study
from analysis.report.page import NOTEBOOKS
from analysis.tables import curves
from ovmse.cli.options import one_sentence, parameters_given
from ovmse.cli.terminal import show_sweep, stoppable
from ovmse.runs.files import PROJECT
from ovmse.sweep.engine import default_workers, sweep
from ovmse.sweep.grid import load_grid, plan

GRID = PROJECT / "notebooks/grids/figure1.yaml"
MOST_WORKERS = 4  # so that the memory stays below 5 GB


def main(
    folder: Annotated[str, typer.Option(help="Where runs, notebooks and report go.")] = "",
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", help="NAME=VALUES instead of the grid's: seed=0..2"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Runs at once, 1.2 GB each.")
    ] = None,
) -> None:
    """Trains OVMSE and its rivals on 2s3z medium and draws the paper's Figure 1."""
    with one_sentence("demo"), stoppable():
        out = runs_folder(folder, "demo")
        planned = plan(load_grid(GRID), out, "demo", parameters_given(parameter))
        workers = workers or min(MOST_WORKERS, default_workers())
        events = sweep(planned, workers, retry_failed=True)
        state = show_sweep(events, "Training on 2s3z medium")
        if state.failed():
            raise typer.Exit(1)
        shown = planned.runs[0], planned.last[0]
        pages = {path.name: path for path in NOTEBOOKS.glob("*.ipynb")}
        pages |= {run.notebook.name: run.folder / run.notebook.name for run in shown}
        names = " and ".join(run.notebook.stem for run in shown)
        said = [
            kept_wins(curves(planned.folder)),
            f"The pages of {names} show these runs; the others show what ships.",
        ]
        front = write_study(out / "report", pages.values(), said)
        print(f"\nExecuted notebooks: {planned.folder}")
        print(f"The study with Figure 1, in any browser, without internet: {front}")
        print(
            f'To explore: make lab, then notebooks/02_q_drift.ipynb with runs = "{planned.folder}"'
        )


if __name__ == "__main__":
    typer.run(main)
