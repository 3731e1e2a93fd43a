"""The command line: ``ovmse train`` and ``ovmse data make | ladder | info``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ovmse.algorithms import ALGORITHMS
from ovmse.config import Config
from ovmse.datasets.hdf5 import DATA_DIR, DatasetError, load_dataset
from ovmse.runs import RunError
from ovmse.training import Progress as Event
from ovmse.training import train as train_run

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
data = typer.Typer(no_args_is_help=True, help="Offline datasets: make one, look at one.")
app.add_typer(data, name="data")
Task = Annotated[str, typer.Option(help="The map, such as 2s3z.")]


@app.command()
def train(
    run_dir: Annotated[Path, typer.Argument(help="Where the run is kept, and resumed from.")],
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
    with _one_sentence():
        given = dict(_setting(text) for text in settings or [])
        config = Config.from_parameters(
            **{"algorithm": algorithm, "task": task, "dataset": dataset, "preset": preset,
               "seed": seed, **given}
        )  # fmt: skip
        _show(train_run(config, run_dir))
        print(f"The run is in {run_dir}.")


@data.command("make")
def make(
    task: Task = "2s3z",
    quality: Annotated[str, typer.Option(help="medium or medium_replay.")] = "medium",
    out: Annotated[Path | None, typer.Option(help="The file; else data/TASK_QUALITY.h5.")] = None,
    ladder: Annotated[
        Path | None, typer.Option(help="A folder of policies; else the shipped one of the map.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Battles.")] = 2_000,
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
    from ovmse.datasets.make import make_dataset

    out = out or DATA_DIR / f"{task}_{quality}.h5"
    with _one_sentence():
        if out.suffix not in (".h5", ".hdf5"):
            raise ValueError(f"out: got {str(out)!r}, allowed: a file that ends in .h5")
        if out.exists() and not force:
            raise ValueError(f"{out} is there already; --force replaces it")
        _show(make_dataset(task, quality, out, ladder, episodes, seed))
        card = out.with_suffix(".md")
        write_card(load_dataset(out.resolve()), card)
        print(f"The dataset is {out}, its card {card}.")


@data.command()
def ladder(
    task: Task = "2s3z",
    out: Annotated[Path | None, typer.Option(help="The folder; else data/ladders/TASK.")] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Where the training is kept.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the ladder there.")] = False,
) -> None:
    """Trains QMIX from scratch and keeps eleven policies that it passed through.

    Takes from 10 minutes (6h_vs_8z) to an hour. The training is resumed in the work folder.
    """
    from ovmse.datasets.make import LADDERS, make_ladder

    out = out or LADDERS / task
    work_dir = work_dir or Path("runs") / "ladders" / f"{task}_seed{seed}"
    with _one_sentence():
        if (out / "ladder.json").exists() and not force:
            raise ValueError(f"{out} holds a ladder already; --force replaces it")
        _show(make_ladder(task, out, work_dir, seed))
        print(f"The ladder is {out}.")


@data.command()
def info(
    name: Annotated[str, typer.Argument(help="A shipped dataset, such as 2s3z_medium, or a file.")],
) -> None:
    """Prints what a dataset holds, as JSON."""
    from ovmse.datasets.card import dataset_statistics

    with _one_sentence():
        print(json.dumps(dataset_statistics(load_dataset(name)), indent=1))


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"settings: got {text!r}, allowed: NAME=VALUE")
    return name, value


def _show(events: Iterator[Event]) -> None:
    """A bar for a person, a line per measurement for a file."""
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} {task.fields[unit]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[win]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        rows: dict[str, object] = {}
        for event in events:
            if event.phase not in rows:
                label = {"offline": "pre-training", "online": "fine-tuning"}.get(
                    event.phase, "collecting"
                )
                rows[event.phase] = bars.add_task(label, total=event.total, unit=event.unit, win="")
            won = ""
            if event.row is not None:
                won = f"wins {event.row['test_win_rate']:.0%}"
                if not console.is_terminal:
                    print(f"{event.phase}: {event.done:,} of {event.total:,} {event.unit}, {won}")
                bars.update(rows[event.phase], win=won)  # type: ignore[arg-type]
            bars.update(rows[event.phase], completed=event.done)  # type: ignore[arg-type]


@contextmanager
def _one_sentence() -> Iterator[None]:
    """What a user can cause ends in one sentence and exit code 2, without a traceback."""
    try:
        yield
    except (RunError, DatasetError, ValueError, OSError) as error:
        print(f"ovmse: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print("ovmse: stopped; the same command continues", file=sys.stderr)
        raise typer.Exit(130) from None


if __name__ == "__main__":
    app()
