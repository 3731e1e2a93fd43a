"""The main job of `make report`: the study as one folder of pages."""

from __future__ import annotations

from typing import Annotated

import typer

from analysis.notebook import runs_folder
from analysis.report.findings import findings
from analysis.report.page import NOTEBOOKS
from analysis.report.study import write_study
from analysis.widgets.progress import tracked
from ovmse.cli.options import one_sentence
from ovmse.runs.files import PROJECT


def main(
    folder: Annotated[str, typer.Option(help="Where the pages go.")] = "",
    run: Annotated[
        bool, typer.Option("--run", help="Run the notebooks anew first, which takes minutes.")
    ] = False,
) -> None:
    """Writes the notebooks, with the outputs stored in them, as pages that need no internet."""
    with one_sentence("report"):
        out, notebooks = runs_folder(folder, "report"), sorted(NOTEBOOKS.glob("*.ipynb"))
        if run:
            from papermill import execute_notebook

            executed = [out / "notebooks" / path.name for path in notebooks]
            executed[0].parent.mkdir(parents=True, exist_ok=True)
            for path, copy in tracked(list(zip(notebooks, executed, strict=True)), "Notebooks run"):
                execute_notebook(path, copy, cwd=str(PROJECT), progress_bar=False)
            notebooks = executed
        front = write_study(out, notebooks, findings())
        print(f"The study, in any browser, without internet: {front}")


if __name__ == "__main__":
    typer.run(main)
