"""The main job of `make demo`: train rivals on one dataset, and show who forgets.

Runs `01_train` for each algorithm and seed, several at once, then `02_q_drift` over all of them,
and writes the executed notebooks and one HTML report. What is finished is not run again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from analysis.notebook import ROOT, runs_folder
from analysis.report import write_report
from analysis.theme import label
from ovmse.algorithms import ALGORITHMS
from ovmse.config import Config
from ovmse.runs import RunError, read_config, read_metrics
from ovmse.sweep import NotebookRun, execute, run_notebooks
from ovmse.training import pretrain_directory

# The cores that this process may use; at most four, so that the memory stays below 4 GB.
_WORKERS = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
RIVALS = "ovmse,se,switch_cql,macql"


def main(
    folder: Annotated[str, typer.Option(help="Where runs, notebooks and report go.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ... for each algorithm.")] = 2,
    algorithms: Annotated[str, typer.Option(help="Names with commas between, or all.")] = RIVALS,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of the seeds.")] = 0,
    preset: Annotated[str, typer.Option(help="tiny, quick or paper.")] = "quick",
    workers: Annotated[int, typer.Option(min=1, help="Runs at once, 1 GB each.")] = _WORKERS,
) -> None:
    """Trains OVMSE and its rivals on 2s3z medium and draws the paper's Figure 1."""
    out = runs_folder(folder, "demo")
    try:
        runs = [
            _training(out, algorithm, seed, preset)
            for algorithm in (ALGORITHMS if algorithms == "all" else algorithms.split(","))
            for seed in range(first_seed, first_seed + seeds)
        ]
        errors = _run_all(runs, workers)
        if errors:
            raise RunError("; ".join(errors))
        drift = NotebookRun(
            "02_q_drift", ROOT / "notebooks/02_q_drift.ipynb", out / "02_q_drift.ipynb",
            {"runs": str(out)},
        )  # fmt: skip
        if error := execute(drift):
            raise RunError(error)
        report = write_report(drift.output, out / "report.html")
    except (RunError, ValueError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("demo: stopped; the same command continues", file=sys.stderr)
        raise typer.Exit(130) from None
    print(f"\nExecuted notebooks: {out}")
    print(f"Figure 1, in any browser, without internet: {report}")
    print(f'To explore: make lab, then notebooks/02_q_drift.ipynb with runs = "{out}"')


def _training(out: Path, algorithm: str, seed: int, preset: str) -> NotebookRun:
    name = f"{algorithm}_seed{seed}"
    settings = {"algorithm": algorithm, "seed": seed, "preset": preset}
    Config.from_parameters(**settings)  # a typo is an error before anything starts
    return NotebookRun(
        name,
        ROOT / "notebooks/01_train.ipynb",
        out / name / "01_train.ipynb",
        {**settings, "run_dir": str(out / name)},
    )


class _Watched:
    """A run seen from outside: its last measurement and how much of it is done."""

    def __init__(self, run: NotebookRun) -> None:
        self.run = run
        settings = {k: v for k, v in run.parameters.items() if k != "run_dir"}
        self.config = Config.from_parameters(**settings)
        folder = run.output.parent
        self.folders = (folder, pretrain_directory(self.config, folder.parent))
        self.label = f"{label(self.config.algorithm)}, seed {self.config.seed}"

    def is_done(self) -> bool:
        """Whether the notebook is whole and its run finished with these very settings. A run with
        others is begun, and its notebook then says what differs."""
        folder = self.folders[0]
        if not (self.run.output.exists() and (folder / "result.json").exists()):
            return False
        return self.config.model_dump().items() <= read_config(folder).items()

    def last_row(self) -> dict[str, Any]:
        """Its own last measurement, or that of the pre-training it waits for; empty before one."""
        for path in self.folders:
            with contextlib.suppress(RunError):
                if rows := read_metrics(path):
                    return rows[-1]
        return {}

    def share(self, row: dict[str, Any]) -> float:
        """How much is done, 0..1; pre-training counts as a third."""
        if not row:
            return 0.0
        if row["phase"] == "offline":
            return row["updates"] / self.config.offline_updates / 3
        return (1 + 2 * row["env_steps"] / self.config.online_steps) / 3


def _run_all(runs: list[NotebookRun], workers: int) -> list[str]:
    """Runs the notebooks that are not done yet under a live table (lines without a terminal)."""
    todo = [one for one in map(_Watched, runs) if not one.is_done()]
    if not todo:
        return []
    console, began = Console(), time.monotonic()
    begun_at = sum(one.share(one.last_row()) for one in todo)
    said: dict[str, tuple[str, int]] = {}
    with Live(console=console, auto_refresh=False) as live:

        def report(states: dict[str, str]) -> None:
            rows = {one.run.name: one.last_row() for one in todo}
            share = sum(
                1.0 if states[name] in ("done", "failed") else one.share(rows[name])
                for name, one in zip(rows, todo, strict=True)
            )
            spent, gained = time.monotonic() - began, share - begun_at
            caption = f"{spent / 60:.1f} min so far, " + (
                f"about {spent * (len(todo) - share) / gained / 60:.0f} min left"
                if gained > 0.2
                else "time left not known yet"
            )
            if console.is_terminal:
                live.update(_table(todo, states, rows, caption), refresh=True)
                return
            for one in todo:  # one line when a run changes state, and one each half minute
                name = one.run.name
                now = (states[name], int(spent // 30) if states[name] == "running" else 0)
                if said.get(name) != now and now != ("waiting", 0):
                    said[name] = now
                    print(f"{one.label}: {' '.join(_cells(states[name], rows[name]))} ({caption})")

        return run_notebooks([one.run for one in todo], workers, report)


def _table(
    todo: list[_Watched], states: dict[str, str], rows: dict[str, dict], caption: str
) -> Table:
    table = Table("run", "state", "phase", "at", "test battles won", "Q on fixed battles")
    table.title, table.caption = "Training on 2s3z medium", caption
    for one in todo:
        name = one.run.name
        table.add_row(one.label, *_cells(states[name], rows[name]))
    return table


def _cells(state: str, row: dict[str, Any]) -> list[str]:
    """State, phase, how far, win rate and value of a run as text."""
    if not row or state == "waiting":
        return [state, "", "", "", ""]
    offline = row["phase"] == "offline"
    return [
        state,
        "pre-training" if offline else "online",
        f"{row['updates']:,} updates" if offline else f"{row['env_steps']:,} steps",
        f"{row['test_win_rate']:.0%}",
        f"{row['q_fixed']:.1f}" if "q_fixed" in row else "",
    ]


if __name__ == "__main__":
    typer.run(main)
