"""The command line: ``ovmse train``, ``sweep``, ``runs``, ``data`` and ``doctor``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ovmse.cli.terminal import reading, show_plan, show_runs, show_sweep, show_training, stoppable
from ovmse.config import Config
from ovmse.datasets.dataset import check_source, data_folder
from ovmse.datasets.hdf5 import load_dataset
from ovmse.envs import BACKENDS
from ovmse.errors import UserError
from ovmse.method.algorithms import ALGORITHMS
from ovmse.runs.files import RUNS, named_path
from ovmse.runs.listing import STATUSES, list_runs, within
from ovmse.sweep.engine import default_workers
from ovmse.sweep.engine import sweep as run_sweep
from ovmse.sweep.estimate import estimate
from ovmse.sweep.grid import MAX_RUNS, grid_value, load_grid, plan
from ovmse.training import train as train_run

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
data = typer.Typer(no_args_is_help=True, help="Offline datasets: make one, look at one.")
app.add_typer(data, name="data")


def given_path(text: str) -> Path:
    """A path as it was typed: a shell expands no `~` in `--out=~/x`."""
    with one_sentence():
        return named_path(text)


path_argument = partial(typer.Argument, parser=given_path)
path_option = partial(typer.Option, parser=given_path, metavar="PATH")

# What an option can bear: episodes are held in memory, 0.1 MB each, and a worker takes 1.2 GB.
MOST_EPISODES, MOST_WORKERS, MOST_SECONDS = 100_000, 256, 1e9

Task = Annotated[str, typer.Option(help="The map, such as 2s3z.")]
Backend = Annotated[str, typer.Option(help=f"One of {', '.join(BACKENDS)}.")]


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
        str, typer.Option(help="medium, medium_replay, or an HDF5 file.")
    ] = "medium",
    preset: Annotated[str, typer.Option(help="tiny, quick or paper.")] = "quick",
    seed: Annotated[int, typer.Option(help="One seed for both phases.")] = 0,
) -> None:
    """Pre-trains on a dataset, then fine-tunes in battles.

    The same command continues a run that was stopped, and does nothing for a finished one. Runs
    in the same folder share their pre-training.

    Example: ovmse train runs/mine/ovmse_0 --algorithm ovmse --seed 0 mixing_ratio=0.1
    """
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
        show_training(train_run(config, run_dir))
        print(f"The run is in {run_dir}.")


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
        typer.Option(min=1, max=MOST_WORKERS, help="Runs at once here; else one for each core."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="A Dask cluster's address, such as tcp://node1:8786.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=MOST_SECONDS,
            help="Seconds for one notebook, its waiting for a pre-training included.",
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run again what failed earlier.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the runs, and what they will cost.")
    ] = False,
    max_runs: Annotated[
        int, typer.Option(min=1, help="A larger grid is taken for a mistake.")
    ] = MAX_RUNS,
) -> None:
    """Runs a notebook for every combination of a grid's parameters, several at once.

    Finished runs are skipped and unfinished ones continue, so the same command goes on after
    whatever happened. Without --scheduler everything listens on 127.0.0.1 only. Exit code 1: some
    runs failed (listed at the end; --retry-failed runs them again).

    Example: ovmse sweep notebooks/grids/figure1.yaml -p seed=0..2 --dry-run
    """
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
        print(f"The runs are in {planned.folder}.")
        if state.failed():
            raise typer.Exit(1)


@app.command()
def runs(
    folder: Annotated[Path, path_argument(help="A folder of runs.")] = RUNS,
    status: Annotated[str | None, typer.Option(help=f"One of {', '.join(STATUSES)}.")] = None,
    algorithm: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    task: Annotated[str | None, typer.Option(help="Only this map.")] = None,
    seed: Annotated[int | None, typer.Option(help="Only this seed.")] = None,
    won_above: Annotated[float | None, typer.Option(help="Last win rate, 0 to 1.")] = None,
    won_below: Annotated[float | None, typer.Option(help="Last win rate, 0 to 1.")] = None,
    older_than: Annotated[float | None, typer.Option(help="Minutes since it last wrote.")] = None,
    newer_than: Annotated[float | None, typer.Option(help="Minutes since it last wrote.")] = None,
    export_to: Annotated[
        Path | None,
        path_option("--export", help="Write their measurements to this file.parquet."),
    ] = None,
) -> None:
    """Lists the runs below a folder: status, algorithm, map, seed, last win rate, age.

    Example: ovmse runs runs/figure1_quick --status done --export runs.parquet
    """
    from ovmse.runs.tables import export, metrics_table  # pandas: only here

    with one_sentence():
        if status is not None and status not in STATUSES:
            raise UserError(f"--status: got {status!r}, allowed: {', '.join(STATUSES)}")
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


@data.command("make")
def make(
    task: Task = "2s3z",
    quality: Annotated[str, typer.Option(help="medium or medium_replay.")] = "medium",
    backend: Backend = "smax",
    out: Annotated[
        Path | None, path_option(help="The file; else where --dataset QUALITY finds it.")
    ] = None,
    ladder: Annotated[
        Path | None, path_option(help="A folder of policies; else the shipped one of the map.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, max=MOST_EPISODES, help="Battles.")] = 2_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the battles.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if it is there.")
    ] = False,
) -> None:
    """Collects a dataset from a map's ladder of policies and writes it with its card beside it.

    medium: battles of the policy that did about half as well as the best of its training.
    medium_replay: battles of every policy until then, exploring as the training did. Works for
    2s3z, 3s5z, 5m_vs_6m and 6h_vs_8z; a few minutes each.
    """
    from ovmse.datasets.card import write_card
    from ovmse.ladders import make_dataset

    with one_sentence():
        known_backend(backend)
        out = out or data_folder(backend) / f"{task}_{quality}.h5"
        if out.suffix not in (".h5", ".hdf5"):
            raise UserError(f"out: got {str(out)!r}, allowed: a file that ends in .h5")
        if out.exists() and not force:
            raise UserError(f"{out} is there already; --force replaces it")
        show_training(make_dataset(task, quality, out, ladder, episodes, seed, backend))
        card = out.with_suffix(".md")
        write_card(load_dataset(out.resolve()), card)
        print(f"The dataset is {out}, its card {card}.")


@data.command()
def ladder(
    task: Task = "2s3z",
    backend: Backend = "smax",
    out: Annotated[
        Path | None, path_option(help="The folder; else where data make finds it.")
    ] = None,
    work_dir: Annotated[Path | None, path_option(help="Where the training is kept.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the ladder there.")] = False,
) -> None:
    """Trains QMIX from scratch and keeps eleven policies that it passed through.

    Takes from 10 minutes (6h_vs_8z) to an hour. The training is resumed in the work folder.
    """
    from ovmse.datasets.dataset import ladder_folder
    from ovmse.ladders import make_ladder

    with one_sentence():
        known_backend(backend)
        out = out or ladder_folder(task, backend)
        name = task if backend == "smax" else f"{task}_{backend}"
        work_dir = work_dir or RUNS / "ladders" / f"{name}_seed{seed}"
        if (out / "ladder.json").exists() and not force:
            raise UserError(f"{out} holds a ladder already; --force replaces it")
        show_training(make_ladder(task, out, work_dir, seed, backend))
        print(f"The ladder is {out}.")


@data.command()
def info(
    name: Annotated[str, typer.Argument(help="A shipped dataset, such as 2s3z_medium, or a file.")],
    backend: Backend = "smax",
) -> None:
    """Prints what a dataset holds, as JSON; what is wrong with it stands under "warnings"."""
    from ovmse.datasets.audit import audit

    with one_sentence():
        known_backend(backend)
        with reading() as progress:
            dataset = load_dataset(name, backend=backend, progress=progress)
        found = audit(dataset)
        print(json.dumps(found.numbers | {"warnings": found.warnings}, indent=1))


@data.command()
def convert(
    source: Annotated[
        Path, path_argument(help="A vault's folder ({map}.vlt/{uid}) or an HDF5 file.")
    ],
    quality: Annotated[str, typer.Option(help="Its quality, such as medium.")],
    task: Task = "2s3z",
    backend: Backend = "smac",
    out: Annotated[
        Path | None, path_option(help="The file; else where --dataset QUALITY finds it.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if it is there.")
    ] = False,
) -> None:
    """Writes a public dataset as one compressed HDF5 file in CFCQL's layout, with its card.

    Example: ovmse data convert vaults/og_marl/smac_v1/2s3z.vlt/Good --task 2s3z --quality good
    """
    from ovmse.datasets.card import write_card
    from ovmse.datasets.hdf5 import write_dataset
    from ovmse.envs.base import EnvSpec

    with one_sentence():
        known_backend(backend)
        out = out or data_folder(backend) / f"{task}_{quality}.h5"
        if out.exists() and not force:
            raise UserError(f"{out} is there already; --force replaces it")
        with reading() as progress:
            read = load_dataset(source, progress=progress)
        spec = EnvSpec(
            task, backend, read.n_agents, read.n_actions, read.obs_size, read.state_size,
            read.episode_limit,
        )  # fmt: skip
        check_source(source, read.attrs, task, backend)
        origin = {"quality": quality, "source": source.name, "source_sha256": read.checksum}
        write_dataset(out, read.episodes, spec, origin)
        card = out.with_suffix(".md")
        write_card(load_dataset(out.resolve()), card)
        print(f"The dataset is {out}, its card {card}.")


def known_backend(name: str) -> None:
    """Raises UserError for a backend that is none."""
    if name not in BACKENDS:
        raise UserError(f"--backend: got {name!r}, allowed: {', '.join(BACKENDS)}")


def settings_given(texts: list[str] | None) -> dict[str, str]:
    """What NAME=VALUE says, each name once."""
    given: dict[str, str] = {}
    for name, value in map(_setting, texts or []):
        if name in given:
            raise UserError(f"{name}: got it twice")
        given[name] = value
    return given


def parameters_given(texts: list[str] | None) -> dict[str, Any]:
    """What -p NAME=VALUES says, with values as a grid file has them."""
    given: dict[str, Any] = {}
    for name, value in map(_setting, texts or []):
        if name in given or not value:
            what = "it twice; give a list, such as [0, 1]" if value else "no value"
            raise UserError(f"{name}: got {what}")
        given[name] = grid_value(name, value)
    return given


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"got {text!r}, allowed: NAME=VALUE, such as seed=1")
    return name, value


@contextmanager
def one_sentence(program: str = "ovmse") -> Iterator[None]:
    """What a user can cause ends in one sentence and exit code 2, without a traceback."""
    try:
        yield
    except (UserError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print(f"{program}: stopped; the same command continues", file=sys.stderr)
        raise typer.Exit(130) from None
