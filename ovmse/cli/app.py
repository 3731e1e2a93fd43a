"""The command line: ``ovmse train``, ``sweep``, ``runs``, ``data`` and ``doctor``."""

# What is heavy loads within a command: `ovmse doctor` is for machines where it may not load at all.
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovmse.cli.data import data
from ovmse.cli.options import (
    MOST_SECONDS,
    MOST_WORKERS,
    Task,
    number_option,
    one_sentence,
    parameters_given,
    path_argument,
    path_option,
    printable,
    settings_given,
)
from ovmse.errors import UserError
from ovmse.method.algorithms import ALGORITHMS
from ovmse.runs.files import RUNS
from ovmse.runs.listing import STATUSES
from ovmse.sweep import MAX_RUNS

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)
app.add_typer(data, name="data")


@app.command()
def train(
    context: typer.Context,
    run_dir: Annotated[Path, path_argument(help="Where the run is kept, and resumed from.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Any setting as NAME=VALUE, such as online_lr=3e-4.")
    ] = None,
    algorithm: Annotated[str, typer.Option(help=f"One of {', '.join(ALGORITHMS)}.")] = "ovmse",
    task: Task = "2s3z",
    dataset: Annotated[
        str, typer.Option(help="medium, medium_replay, an HDF5 file or a vault.")
    ] = "medium",
    preset: Annotated[str, typer.Option(help="tiny, quick or paper.")] = "quick",
    seed: Annotated[int, number_option("--seed", int, help="One seed for both phases.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print every event as a line of JSON, for programs.")
    ] = False,
) -> None:
    """Pre-trains on a dataset, then fine-tunes in battles.

    The same command continues a run that was stopped, and does nothing for a finished one. Runs
    in the same folder share their pre-training.

    Example: ovmse train runs/mine/ovmse_0 --algorithm ovmse --seed 0 mixing_ratio=0.1
    """
    from ovmse.cli.terminal import print_events, show_training
    from ovmse.config import Config
    from ovmse.training import train as train_run

    with one_sentence():
        given = settings_given(settings)
        named = ("algorithm", "task", "dataset", "preset", "seed")
        for name in given.keys() & set(named):
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                raise UserError(f"{name}: got it twice, as --{name} and as {name}=")
        config = Config.from_parameters(
            **{"algorithm": algorithm, "task": task, "dataset": dataset, "preset": preset,
               "seed": seed, **given}
        )  # fmt: skip
        if as_json:
            print_events(train_run(config, run_dir))
            return
        show_training(train_run(config, run_dir))
        print(f"The run is in {printable(run_dir)}.")


@app.command()
def sweep(
    grid: Annotated[Path, path_argument(help="A grid file, such as notebooks/grids/figure1.yaml")],
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", help="NAME=VALUES instead of the grid's: seed=0..2"),
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="One of the grid's scales; else its first.")
    ] = None,
    folder: Annotated[
        Path | None, path_option(help="Where the runs go; else runs/GRID_SCALE.")
    ] = None,
    workers: Annotated[
        int | None,
        number_option(
            "--workers", int, 1, MOST_WORKERS, "Runs at once here; else one for each core."
        ),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="A Dask cluster's address, such as tcp://node1:8786.")
    ] = None,
    timeout: Annotated[
        float | None,
        number_option(
            "--timeout",
            float,
            1,
            MOST_SECONDS,
            "Seconds for one notebook, its waiting for a pre-training included.",
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run again what failed earlier.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only print the runs, and their cost where one like them is done."
        ),
    ] = False,
    max_runs: Annotated[
        int, number_option("--max-runs", int, 1, help="A larger grid is taken for a mistake.")
    ] = MAX_RUNS,
) -> None:
    """Runs a notebook for every combination of a grid's parameters, several at once.

    Finished runs are skipped and unfinished ones continue, so the same command goes on after
    whatever happened. Without --scheduler everything listens on 127.0.0.1 only. Exit code 1: some
    runs failed (listed at the end; --retry-failed runs them again).

    Example: ovmse sweep notebooks/grids/figure1.yaml -p seed=0..2 --dry-run
    """
    from ovmse.cli.terminal import show_plan, show_sweep, stoppable
    from ovmse.sweep.engine import default_workers
    from ovmse.sweep.engine import sweep as run_sweep
    from ovmse.sweep.estimate import estimate
    from ovmse.sweep.grid import load_grid, plan

    with one_sentence(), stoppable():
        read = load_grid(grid)
        name = "_".join(filter(None, [grid.stem, scale or next(iter(read.scales), "")]))
        where = folder or RUNS / name
        planned = plan(read, where, scale, parameters_given(parameter), max_runs)
        if scheduler is None:
            workers = workers or default_workers()
        elif workers is not None:
            raise UserError("--workers is of this machine; a cluster at --scheduler has its own")
        if dry_run:
            cost = estimate(planned, {where.resolve(), RUNS.resolve()}, retry_failed)
            show_plan(planned, cost, workers)
            return
        state = show_sweep(run_sweep(planned, workers, scheduler, timeout, retry_failed), str(grid))
        print(f"The runs are in {printable(planned.folder)}.")
        if state.failed():
            raise typer.Exit(1)


@app.command()
def runs(
    folder: Annotated[Path, path_argument(help="A folder of runs.")] = RUNS,
    status: Annotated[str | None, typer.Option(help=f"One of {', '.join(STATUSES)}.")] = None,
    algorithm: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    task: Annotated[str | None, typer.Option(help="Only this map.")] = None,
    seed: Annotated[int | None, number_option("--seed", int, help="Only this seed.")] = None,
    won_above: Annotated[
        float | None, number_option("--won-above", float, 0, 1, "Last win rate, 0 to 1.")
    ] = None,
    won_below: Annotated[
        float | None, number_option("--won-below", float, 0, 1, "Last win rate, 0 to 1.")
    ] = None,
    older_than: Annotated[
        float | None, number_option("--older-than", float, 0, help="Minutes since it last wrote.")
    ] = None,
    newer_than: Annotated[
        float | None, number_option("--newer-than", float, 0, help="Minutes since it last wrote.")
    ] = None,
    export_to: Annotated[
        Path | None,
        path_option("--export", help="Write their measurements to this file.parquet."),
    ] = None,
) -> None:
    """Lists the runs below a folder: status, algorithm, map, seed, last win rate, age.

    Example: ovmse runs runs/figure1_quick --status done --export runs.parquet
    """
    from ovmse.cli.terminal import show_runs
    from ovmse.runs.listing import list_runs, within
    from ovmse.runs.tables import export, metrics_table

    with one_sentence():
        if status is not None and status not in STATUSES:
            raise UserError(f"--status: got {status!r}, allowed: {', '.join(STATUSES)}")
        if algorithm is not None and algorithm not in ALGORITHMS:
            raise UserError(f"--algorithm: got {algorithm!r}, allowed: {', '.join(ALGORITHMS)}")
        wanted = {"status": status, "algorithm": algorithm, "task": task, "seed": seed}
        found = [
            run
            for run in list_runs(folder)
            if all(v is None or getattr(run, k) == v for k, v in wanted.items())
            and within(run.test_win_rate, won_above, won_below)
            and within(run.age / 60, older_than, newer_than)
        ]
        if export_to is None:
            show_runs(found)
            return
        measured = [run.path for run in found if run.env_steps is not None]
        if not measured:
            raise UserError(f"there is nothing to export: no such run in {folder} has measured yet")
        export(metrics_table(measured), export_to)
        print(f"The measurements of {len(measured)} runs are in {export_to}.")
        if left := len(found) - len(measured):
            print(f"{left} without a readable measurement are left out.")


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For a script.")] = False,
) -> None:
    """Checks everything that can be wrong with this machine, and says what to do. Changes nothing.

    Takes some seconds. Exit code 1: something is wrong.
    """
    from ovmse.cli import doctor as checks

    findings = checks.doctor()
    print(checks.as_json(findings) if as_json else checks.as_text(findings))
    if any(finding.state == checks.WRONG for finding in findings):
        raise typer.Exit(1)
