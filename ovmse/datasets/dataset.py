"""Datasets in memory: where files are found, and the checks that every format shares."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ovmse.config import did_you_mean
from ovmse.envs.base import EnvSpec
from ovmse.episodes import Episode
from ovmse.errors import UserError
from ovmse.runs.files import DATA_DIR, named_path


class DatasetError(UserError):
    """A dataset that cannot be written or read, in one sentence."""


@dataclass
class Dataset:
    """One dataset, read whole.

    episodes: unpadded, in the order of the file. The sizes are those of the arrays;
    ``episode_limit`` (steps) is ``T - 1``. attrs: the file's root attributes as Python values.
    checksum: SHA-256 of the file, hexadecimal.
    """

    path: Path
    episodes: list[Episode]
    n_agents: int
    n_actions: int
    obs_size: int
    state_size: int
    episode_limit: int
    attrs: dict[str, Any]
    checksum: str

    @property
    def transitions(self) -> int:
        """Steps of all episodes together (environment steps)."""
        return sum(episode.length for episode in self.episodes)

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes of its task, as an ``EnvSpec`` takes them."""
        names = ("n_agents", "n_actions", "obs_size", "state_size", "episode_limit")
        return {name: getattr(self, name) for name in names}


# Finding.


def data_folder(backend: str) -> Path:
    """Where the datasets of a backend lie: ``data/`` for SMAX, a folder of their own for others."""
    return DATA_DIR if backend == "smax" else DATA_DIR / backend


def ladder_folder(task: str, backend: str = "smax") -> Path:
    """Where the shipped ladder of a task lies, or where one that is made goes."""
    return data_folder(backend) / "ladders" / task


def dataset_path(task: str, dataset: str, backend: str) -> Path:
    """The file of a task's dataset: a quality such as ``medium``, or a path as it was given.

    Raises DatasetError if there is none.
    """
    if os.sep in dataset or dataset.endswith((".h5", ".hdf5")):
        return find_dataset(dataset, backend)
    folder, name = data_folder(backend), f"{task}_{dataset}"
    vault = folder / f"{task}.vlt" / dataset
    if is_vault(vault) and not (folder / f"{name}.h5").is_file():
        return vault
    if not (folder / f"{name}.h5").is_file():
        held = [p.stem.removeprefix(f"{task}_") for p in folder.glob(f"{task}_*.h5")]
        held = sorted([*held, *(p.name for p in folder.glob(f"{task}.vlt/*") if is_vault(p))])
        hint = did_you_mean(dataset.removeprefix(f"{task}_"), held)
        raise DatasetError(
            f"dataset: got {dataset!r}, allowed for {task} on {backend}: "
            f"{', '.join([*map(repr, held), 'the path of an HDF5 file'])} "
            f"({folder} holds no {name}.h5){hint}"
        )
    return folder / f"{name}.h5"


def is_vault(path: Path) -> bool:
    """Whether a folder is one of OG-MARL's vaults (see ``vault.py``)."""
    return (path / "manifest.ocdbt").is_file()


def find_dataset(name_or_path: str | Path, backend: str = "smax") -> Path:
    """The file that ``load_dataset`` reads for a name or path; raises DatasetError if none."""
    path, folder = named_path(name_or_path, "dataset"), data_folder(backend)
    bare = path.name == str(name_or_path)  # no folder is named
    if path.is_file() and (path.suffix or not bare):
        return path
    if is_vault(path):
        return path
    if bare:
        shipped = folder / (path.name if path.suffix else f"{path.name}.h5")
        if shipped.is_file():
            return shipped
        held = ", ".join(sorted(p.stem for p in folder.glob("*.h5"))) or "no dataset"
        raise DatasetError(
            f"there is no dataset {str(name_or_path)!r}: {folder} holds {held} "
            "(the path of an HDF5 file is allowed too)"
        )
    if path.is_dir():
        raise DatasetError(f"{path} is a folder, neither an HDF5 file nor a vault")
    if path.exists():
        raise DatasetError(f"{path} is not a regular file")
    raise DatasetError(f"{path} does not exist")


def dataset_files(path: Path) -> list[Path]:
    """The one file of a dataset, or all of a vault, in order."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def dataset_size(path: Path) -> int:
    """Bytes of a dataset, one file or a vault."""
    return sum(file.stat().st_size for file in dataset_files(path))


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, or of a vault's files in order; raises DatasetError if it
    cannot be read."""
    try:
        if path.is_dir():
            files = dataset_files(path)
            sums = [f"{p.relative_to(path).as_posix()} {file_checksum(p)}" for p in files]
            return hashlib.sha256("\n".join(sums).encode()).hexdigest()
        about = path.stat()
        return _checksum(path, about.st_size, about.st_mtime_ns, about.st_ino)
    except OSError as error:
        raise DatasetError(f"{path} cannot be opened ({error.strerror})") from None


@lru_cache(maxsize=64)  # a sweep asks for the same few files at every run
def _checksum(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# Checks.


def check_task(path: Path, spec: EnvSpec, attrs: dict[str, Any], sizes: dict[str, int]) -> None:
    asked = {name: getattr(spec, name) for name in sizes}
    if sizes != asked:
        raise DatasetError(
            f"{path} is of another task: it has {_sizes_in_words(sizes)}; "
            f"{spec.task} on {spec.backend} has {_sizes_in_words(asked)}"
        )
    check_source(path, attrs, spec.task, spec.backend)


def check_source(path: Path, attrs: dict[str, Any], task: str, backend: str) -> None:
    source = (attrs.get("task", task), attrs.get("backend", backend))
    if source != (task, backend):
        raise DatasetError(
            f"{path} is of {source[0]} on {source[1]}, asked for: {task} on {backend}"
        )


def _sizes_in_words(sizes: dict[str, int]) -> str:
    return (
        f"{sizes['n_agents']} agents, {sizes['n_actions']} actions, "
        f"observations of {sizes['obs_size']}, states of {sizes['state_size']}"
    )


def checked(where: str, episode: Episode) -> Episode:
    """The episode in the types of memory, none of them a view; raises DatasetError on a value
    that a network or a target could not use."""
    if not np.isfinite(episode.avail_actions).all():
        t, agent = np.argwhere(~np.isfinite(episode.avail_actions))[0][:2]
        raise DatasetError(f"{where}, step {t}: avail_actions of agent {agent} is not a number")
    avail = episode.avail_actions != 0
    without = ~avail.any(2)
    if without.any():
        t, agent = np.argwhere(without)[0]
        raise DatasetError(f"{where}, step {t}: agent {agent} has no available action")
    actions = episode.actions
    with np.errstate(invalid="ignore"):
        known = (actions >= 0) & (actions < avail.shape[2]) & (actions % 1 == 0)
    if not known.all():
        t, agent = np.argwhere(~known)[0]
        raise DatasetError(
            f"{where}, step {t}: agent {agent} takes action {actions[t, agent]}, "
            f"allowed: 0 to {avail.shape[2] - 1}"
        )
    actions = actions.astype(np.uint8)
    taken = np.take_along_axis(avail[:-1], actions[..., None].astype(np.int64), axis=2)[..., 0]
    if not taken.all():
        t, agent = np.argwhere(~taken)[0]
        raise DatasetError(
            f"{where}, step {t}: agent {agent} takes action {actions[t, agent]}, "
            "which is not available"
        )
    return Episode(
        obs=_as(np.float16, f"{where}, step", "obs", episode.obs),
        state=_as(np.float16, f"{where}, step", "state", episode.state),
        avail_actions=avail,
        actions=actions,
        reward=_as(np.float32, f"{where}, step", "reward", episode.reward),
        terminated=bool(episode.terminated),
        won=episode.won,
    )


def _as(dtype: type[np.floating], where: str, name: str, values: np.ndarray) -> np.ndarray:
    """A copy in ``dtype``; raises DatasetError where that is not finite."""
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    finite = np.isfinite(cast)
    if not finite.all():
        index = tuple(np.argwhere(~finite)[0])
        top = np.finfo(dtype).max
        raise DatasetError(
            f"{where} {index[0]}: {name} is {values[index]}, allowed: {-top:.0f} to {top:.0f}"
        )
    return cast
