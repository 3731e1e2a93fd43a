"""The command line: ``ovmse train``, ``ovmse data make``, ``ovmse data info``."""

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
    algorithm: Annotated[str, typer.Option(help="ovmse, se, switch_cql, macql or qmix.")] = "ovmse",
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
    work_dir: Annotated[Path | None, typer.Option(help="Where the training is kept.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Collect medium data from this policy; train none.")
    ] = None,
    episodes: Annotated[
        int, typer.Option(min=1, help="Battles; of medium_replay the newest.")
    ] = 2_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training and collecting.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if it is there.")
    ] = False,
) -> None:
    """Trains QMIX until it is medium and writes the dataset with its card beside it.

    medium: battles of the policy that wins about half. medium_replay: the replay buffer of its
    training. Both come from one training, which is kept and resumed in the work folder.
    """
    from ovmse.datasets.card import write_card
    from ovmse.datasets.make import make_dataset

    out = out or DATA_DIR / f"{task}_{quality}.h5"
    work_dir = work_dir or Path("runs") / "data" / f"{task}_seed{seed}"
    with _one_sentence():
        if out.suffix not in (".h5", ".hdf5"):
            raise ValueError(f"out: got {str(out)!r}, allowed: a file that ends in .h5")
        if out.exists() and not force:
            raise ValueError(f"{out} is there already; --force replaces it")
        _show(make_dataset(task, quality, out, work_dir, episodes, seed, checkpoint))
        card = out.with_suffix(".md")
        write_card(load_dataset(out.resolve()), card)
        print(f"The dataset is {out}, its card {card}.")


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
                label = {"offline": "pre-training", "online": "fine-tuning"}[event.phase]
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
    except (RunError, DatasetError, ValueError, FloatingPointError, OSError) as error:
        print(f"ovmse: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print("ovmse: stopped; the same command continues", file=sys.stderr)
        raise typer.Exit(130) from None


if __name__ == "__main__":
    app()
