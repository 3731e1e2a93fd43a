"""``ovmse data``: makes, converts and looks at datasets. What is heavy loads within a command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from ovmse.cli.options import (
    MOST_EPISODES,
    Backend,
    Task,
    known_backend,
    number_option,
    one_sentence,
    path_argument,
    path_option,
)
from ovmse.errors import UserError
from ovmse.runs.files import RUNS

data = typer.Typer(no_args_is_help=True, help="Offline datasets: make one, look at one.")


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
    episodes: Annotated[
        int, number_option("--episodes", int, 1, MOST_EPISODES, "Battles.")
    ] = 2_000,
    seed: Annotated[int, number_option("--seed", int, 0, help="Seed of the battles.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if it is there.")
    ] = False,
) -> None:
    """Collects a dataset from a map's ladder of policies and writes it with its card beside it.

    medium: battles of the policy that did about half as well as the best of its training.
    medium_replay: battles of every policy until then, exploring as the training did. Works for
    2s3z, 3s5z, 5m_vs_6m and 6h_vs_8z; a few minutes each.
    """
    from ovmse.cli.terminal import show_training
    from ovmse.datasets.dataset import data_folder
    from ovmse.ladders import make_dataset

    with one_sentence():
        known_backend(backend)
        out = out or data_folder(backend) / f"{task}_{quality}.h5"
        if out.suffix not in (".h5", ".hdf5"):
            raise UserError(f"out: got {str(out)!r}, allowed: a file that ends in .h5")
        if out.exists() and not force:
            raise UserError(f"{out} is there already; --force replaces it")
        show_training(make_dataset(task, quality, out, ladder, episodes, seed, backend))
        print(f"The dataset is {out}, its card {card_of(out)}.")


@data.command()
def ladder(
    task: Task = "2s3z",
    backend: Backend = "smax",
    out: Annotated[
        Path | None, path_option(help="The folder; else where data make finds it.")
    ] = None,
    work_dir: Annotated[Path | None, path_option(help="Where the training is kept.")] = None,
    seed: Annotated[int, number_option("--seed", int, 0, help="Seed of the training.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the ladder there.")] = False,
) -> None:
    """Trains QMIX from scratch and keeps eleven policies that it passed through.

    Takes from 10 minutes (6h_vs_8z) to an hour. The training is resumed in the work folder.
    """
    from ovmse.cli.terminal import show_training
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
    """Prints what a dataset holds and how it was made, as JSON; what is wrong with it stands under
    "warnings"."""
    from ovmse.cli.terminal import reading
    from ovmse.datasets.audit import audit
    from ovmse.datasets.hdf5 import load_dataset

    with one_sentence():
        known_backend(backend)
        with reading() as progress:
            dataset = load_dataset(name, backend=backend, progress=progress)
        found = audit(dataset)
        about = {"sizes": dataset.sizes, "recorded": dataset.attrs, "warnings": found.warnings}
        print(json.dumps(found.numbers | about, indent=1, default=str))


@data.command()
def convert(
    source: Annotated[
        Path, path_argument(help="A vault's folder ({map}.vlt/{uid}) or an HDF5 file.")
    ],
    quality: Annotated[str, typer.Option(help="Its quality, such as medium.")],
    task: Annotated[
        str | None, typer.Option(help="The map; else the one that the source is named after.")
    ] = None,
    backend: Backend = "smac",
    out: Annotated[
        Path | None,
        path_option(
            help="The HDF5 file, or a vault's folder {map}.vlt/{uid}; else the file that --dataset "
            "QUALITY finds."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Writes a dataset in the other format, with its card: a vault as one compressed HDF5 file in
    CFCQL's layout, or an HDF5 file as a vault.

    Example: ovmse data convert vaults/og_marl/smac_v1/2s3z.vlt/Good --task 2s3z --quality good
    And back: ovmse data convert data/smac/2s3z_good.h5 --quality good --out mine/2s3z.vlt/Good
    """
    from ovmse.cli.terminal import reading
    from ovmse.datasets.dataset import data_folder
    from ovmse.datasets.hdf5 import load_dataset
    from ovmse.datasets.hdf5_writing import write_dataset
    from ovmse.datasets.task_of import named_after, require_task
    from ovmse.datasets.vault import vault_task
    from ovmse.datasets.vault_writing import write_vault
    from ovmse.envs.base import EnvSpec

    with one_sentence():
        known_backend(backend)
        if not re.fullmatch(r"\w[\w.-]*", quality):
            raise UserError(f"quality: got {quality!r}, allowed: a name, such as medium")
        task = task or named_after(source, backend)
        out = out or data_folder(backend) / f"{task}_{quality}.h5"
        vault = vault_task(out)
        if not vault and out.suffix not in (".h5", ".hdf5"):
            raise UserError(
                f"out: got {str(out)!r}, allowed: a file that ends in .h5, or a folder "
                f"{task}.vlt/NAME"
            )
        if vault and (vault, backend) != (task, "smac"):
            raise UserError(f"out: {out} says {vault} on smac, asked for: {task} on {backend}")
        if out.exists() and not force:
            raise UserError(f"{out} is there already; --force replaces it")
        with reading() as progress:
            read = load_dataset(source, progress=progress, backend=backend)
        require_task(read, task, backend)
        spec = EnvSpec(task, backend, **read.sizes)
        origin = {"quality": quality, "source": source.name, "source_sha256": read.checksum}
        if vault:
            with reading() as progress:
                write_vault(out, read, origin, progress)
        else:
            write_dataset(out, read.episodes, spec, origin)
        print(f"The dataset is {out}, its card {card_of(out)}.")


@data.command("card")
def card(
    name: Annotated[str, typer.Argument(help="A dataset's name, such as 2s3z_medium, or a file.")],
    backend: Backend = "smax",
) -> None:
    """Writes a dataset's card beside it: what it holds, and the sum that `doctor` compares.

    Example: ovmse data card 2s3z_medium --backend smac
    """
    from ovmse.datasets.dataset import find_dataset

    with one_sentence():
        known_backend(backend)
        print(f"The card is {card_of(find_dataset(name, backend))}.")


def card_of(path: Path) -> Path:
    """Reads a dataset and writes its card, which stands beside it."""
    from ovmse.cli.terminal import reading
    from ovmse.datasets.card import write_card
    from ovmse.datasets.hdf5 import load_dataset

    with reading() as progress:
        dataset = load_dataset(path.resolve(), progress=progress)
    return write_card(dataset, path.with_suffix(".md"))
