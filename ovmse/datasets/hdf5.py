"""CFCQL's HDF5 layout, padded on disk, and reading it: unpadded in memory.

Letters: ``N`` episodes, ``T`` rows of an episode on disk (the episode limit + 1), ``n`` agents,
``A`` actions, ``O`` observation size, ``S`` state size, ``L`` steps of one episode.

    state          [N, T, S]     float32
    obs            [N, T, n, O]  float32
    avail_actions  [N, T, n, A]  int32
    actions        [N, T, n, 1]  int64
    reward         [N, T, 1]     float32
    terminated     [N, T, 1]     uint8   1 on the last step of a battle that truly ended; a battle
                                         cut by the time limit has none
    filled         [N, T, 1]     int64   1 on the L steps and on the bootstrap row L
    won            [N]           uint8   0, 1 or 255 (unknown); ours, other projects ignore it

Where a battle came from is in the root attributes. CFCQL's ``probs``, zero in practice, is
neither written nor read.

What files of other projects may do differently:
- further keys and attributes (no ``won``: then it is None), other number types, no trailing axis
  of 1, padding and a bootstrap action of any value;
- a terminal step on the last filled row, that is, no bootstrap row, or one that offers an agent
  no action. Nothing bootstraps from the end of a battle that ended, so the last step's row is
  repeated there. Where no row is terminal the last filled row is the bootstrap row, as the
  layout says: if such a file does not mark it, its cut battles lose their last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ovmse.datasets.dataset import (
    Dataset,
    DatasetError,
    check_source,
    check_task,
    checked,
    file_checksum,
    find_dataset,
)
from ovmse.datasets.vault import read_vault
from ovmse.envs.base import EnvSpec
from ovmse.episodes import Episode

FORMAT = "ovmse-1"

AXES = {
    "state": "[N, T, S]",
    "obs": "[N, T, n, O]",
    "avail_actions": "[N, T, n, A]",
    "actions": "[N, T, n, 1]",
    "reward": "[N, T, 1]",
    "terminated": "[N, T, 1]",
    "filled": "[N, T, 1]",
}

READ_BYTES = 2**23  # padded bytes to read at a time (or one chunk of episodes, if that is more)
READ_BYTES_MAX = 2**27


def load_dataset(
    name_or_path: str | Path,
    spec: EnvSpec | None = None,
    backend: str = "smax",
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Reads a dataset by name (``"2s3z_medium"``: that file of the backend's data) or by path.

    The file may be ours or another project's (see the top of this module), or a vault's folder
    (``vault.py``). It is read in blocks of episodes, so memory holds the unpadded episodes and one
    padded block. progress: called with the episodes (of a vault: steps) read, and their number.

    Raises DatasetError if the file is missing, not HDF5, damaged or of another layout; if it is of
    another task than ``spec`` (where given); or if an episode takes an action that is not
    available, is not finite, or exceeds half precision (65504 in obs and state).
    """
    path = find_dataset(name_or_path, spec.backend if spec else backend)
    if path.is_dir():
        return read_vault(path, spec, progress)
    checksum = file_checksum(path)
    with _opened(path) as (file, attrs):
        with _whole(path):
            arrays = _arrays(path, file)
        episodes, rows = arrays["state"].shape[:2]
        sizes = {
            "n_agents": arrays["obs"].shape[2],
            "n_actions": arrays["avail_actions"].shape[3],
            "obs_size": arrays["obs"].shape[3],
            "state_size": arrays["state"].shape[2],
        }
        if spec is not None:
            check_task(path, spec, attrs, sizes)
        with _whole(path):
            filled = arrays["filled"][:].reshape(episodes, rows)
            terminated = arrays["terminated"][:].reshape(episodes, rows)
            won = _won(file, episodes)
        lengths, ended, marked = _lengths(path, filled, terminated)
        if spec is not None and lengths.max() > spec.episode_limit:
            raise DatasetError(
                f"{path}: episode {lengths.argmax()} has {lengths.max()} steps, "
                f"{spec.task} on {spec.backend} allows {spec.episode_limit}"
            )
        read: list[Episode] = []
        for block in _blocks(path, arrays):
            for b in range(len(block["reward"])):
                i = len(read)
                cut = _cut(block, b, int(lengths[i]), bool(ended[i]), bool(marked[i]))
                cut.won = won[i]
                read.append(checked(f"{path}: episode {i}", cut))
            del block  # before the next is read
            if progress is not None:
                progress(len(read), episodes)
    return Dataset(path, read, **sizes, episode_limit=rows - 1, attrs=attrs, checksum=checksum)


def require_source(path: Path, task: str, backend: str) -> None:
    """Raises DatasetError if the file is no dataset, or if it says that it is of another task."""
    if path.is_dir():
        return  # a vault says nothing of itself
    with _opened(path) as (_, attrs):
        check_source(path, attrs, task, backend)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[h5py.File, dict[str, Any]]]:
    """The file and its root attributes."""
    if not h5py.is_hdf5(path):
        raise DatasetError(f"{path} is not an HDF5 file")
    with _whole(path):
        file = h5py.File(path, "r")
    with file:
        with _whole(path):
            attrs = {name: _plain(value) for name, value in file.attrs.items()}
        if attrs.get("format", FORMAT) != FORMAT:
            raise DatasetError(f"{path} has format {attrs['format']!r}, known: {FORMAT!r}")
        yield file, attrs


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Whatever h5py raises on a damaged file, as a DatasetError."""
    try:
        yield
    except DatasetError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError) as error:
        raise DatasetError(f"{path} is damaged or cut short ({error})") from error


def _plain(value: Any) -> Any:
    """An attribute as h5py gives it, as a Python value."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _arrays(path: Path, file: h5py.File) -> dict[str, h5py.Dataset]:
    """The arrays of the layout; raises DatasetError if one is missing or the shapes disagree."""
    found = {}
    for name in AXES:
        found[name], link = file.get(name), file.get(name, getlink=True)
        if found[name] is None and isinstance(link, h5py.ExternalLink):
            raise DatasetError(f"{path}: {name} lies in {link.filename}, which lacks it")
    missing = [name for name, array in found.items() if not isinstance(array, h5py.Dataset)]
    if missing:
        raise DatasetError(f"{path} lacks {', '.join(missing)} (needed: {', '.join(AXES)})")
    size = {"1": 1}  # what each letter stands for, as the first array has it
    for name, axes in AXES.items():
        array, letters = found[name], axes.strip("[]").split(", ")
        if how := _stored_apart(array):
            raise DatasetError(f"{path}: {name} {how}: what is missing would be read as zeros")
        if array.dtype.kind not in "biuf":
            raise DatasetError(f"{path}: {name} holds {array.dtype}, allowed: numbers")
        shape = array.shape or ()
        if letters[-1] == "1" and len(shape) == len(letters) - 1:
            shape = (*shape, 1)
        here = dict(zip(letters, shape))
        if len(shape) != len(letters) or any(size.get(k, s) != s for k, s in here.items()):
            known = ", ".join(f"{k} = {s}" for k, s in size.items() if k in letters and k != "1")
            raise DatasetError(
                f"{path}: {name} has shape {array.shape}, needed: {axes}"
                + (f" with {known} like the other arrays" if known else "")
            )
        size |= here
    if not size["N"]:
        raise DatasetError(f"{path} holds no episodes")
    for name, axes in AXES.items():
        for letter in axes.strip("[]").split(", "):
            if not size[letter]:
                raise DatasetError(f"{path}: {letter} is 0 in {axes} of {name}, needed: 1 or more")
    if size["A"] > 256:
        raise DatasetError(f"{path} has {size['A']} actions, allowed: up to 256")
    return found


def _stored_apart(array: h5py.Dataset) -> str:
    """In which way an array is not in its file, so that HDF5 may read zeros for it; "" for one that
    is. (What was left out of one that is there are zeros, as its writer wanted.)"""
    if array.is_virtual or array.external:
        return "is put together from parts of other files"
    return "" if array.id.get_storage_size() or not array.size else "was never written"


def _won(file: h5py.File, episodes: int) -> list[bool | None]:
    """Per episode: won, lost, or None where the file does not say."""
    array = file.get("won")
    if not isinstance(array, h5py.Dataset) or array.shape != (episodes,):
        return [None] * episodes
    return [{0: False, 1: True}.get(value) for value in array[:].tolist()]


def _lengths(
    path: Path, filled: np.ndarray, terminated: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every episode ``[N]``, from filled and terminated ``[N, T]`` (0 or 1): its steps, whether
    it truly ended, whether it has a bootstrap row."""
    neither = ~np.isin(filled, (0, 1)), ~np.isin(terminated, (0, 1))  # NaN would count as yes
    filled, terminated = filled != 0, terminated != 0
    rows = filled.sum(axis=1)
    real = np.arange(filled.shape[1]) < rows[:, None]
    terminal = np.where((terminated & real).any(1), (terminated & real).argmax(1), -1)
    ended = terminal >= 0
    after = rows - 1 - terminal  # filled rows after the terminal step: the bootstrap row, or none
    marked = ~ended | (after > 0)
    lengths = rows - marked
    for wrong, problem in (
        (neither[0].any(1), "filled is neither 0 nor 1"),
        ((neither[1] & real).any(1), "terminated is neither 0 nor 1"),
        ((filled != real).any(1), "filled is not a run of ones followed by zeros"),
        (ended & (after > 1), "filled goes on for more than one row after the terminal step"),
        (lengths < 1, "filled marks no step before the bootstrap row"),
    ):
        if wrong.any():
            raise DatasetError(f"{path}: episode {wrong.argmax()}: {problem}")
    return lengths, ended, marked


def _blocks(path: Path, arrays: dict[str, h5py.Dataset]) -> Iterator[dict[str, np.ndarray]]:
    """Consecutive episodes of every array, padded, with the trailing axes of 1 dropped."""
    names = ("obs", "state", "avail_actions", "actions", "reward")
    episodes = len(arrays["state"])
    size = sum(math.prod(arrays[n].shape[1:]) * arrays[n].dtype.itemsize for n in names)
    chunk = arrays["obs"].chunks[0] if arrays["obs"].chunks else 1
    # Whole chunks, so that each is unpacked once.
    count = min(max(READ_BYTES // size // chunk, 1) * chunk, max(READ_BYTES_MAX // size, 1))
    for start in range(0, episodes, count):
        yield _block(path, {name: arrays[name] for name in names}, slice(start, start + count))


def _block(path: Path, arrays: dict[str, h5py.Dataset], some: slice) -> dict[str, np.ndarray]:
    with _whole(path):
        block = {name: array[some] for name, array in arrays.items()}
    rows, agents = arrays["obs"].shape[1:3]
    return block | {
        "actions": block["actions"].reshape(-1, rows, agents),
        "reward": block["reward"].reshape(-1, rows),
    }


def _cut(block: dict[str, np.ndarray], b: int, length: int, ended: bool, marked: bool) -> Episode:
    """Episode ``b`` of a padded block, with the file's number types."""
    kept = np.arange(length + 1)
    avail = block["avail_actions"][b]
    if ended and not (marked and avail[length].any(1).all()):
        kept[-1] = length - 1  # no usable bootstrap row, and none is needed
    return Episode(
        obs=block["obs"][b, kept],
        state=block["state"][b, kept],
        avail_actions=avail[kept],
        actions=block["actions"][b, :length],
        reward=block["reward"][b, :length],
        terminated=ended,
    )
