"""One dataset file, in CFCQL's HDF5 layout: padded on disk, unpadded in memory.

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

import io
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from ovmse.runs.files import replacing

FORMAT = "ovmse-1"
UNKNOWN = 255  # in `won`

AXES = {
    "state": "[N, T, S]",
    "obs": "[N, T, n, O]",
    "avail_actions": "[N, T, n, A]",
    "actions": "[N, T, n, 1]",
    "reward": "[N, T, 1]",
    "terminated": "[N, T, 1]",
    "filled": "[N, T, 1]",
}

# A chunk holds one feature of 32 battles over time, not whole rows. On 2s3z obs and state then take
# 165 bytes a transition, not 269; writing is almost four times as fast; reading takes 0.5 s for
# 400 battles, not 0.3.
CHUNK_EPISODES = 32
READ_BYTES = 2**23  # padded bytes to read at a time (or one chunk of episodes, if that is more)
READ_BYTES_MAX = 2**28


# Writing.


def write_dataset(
    path: str | Path,
    episodes: Iterable[Episode],
    spec: EnvSpec,
    provenance: Mapping[str, Any],
) -> Path:
    """Writes episodes to one file, atomically: it is whole or as it was.

    episodes may be a generator; in memory are 32 padded ones at a time, and the file. Only battles
    are stored: ``exploration`` and ``q_offline`` are not. provenance becomes root attributes beside
    the task and its sizes; lists and dicts become JSON. The same battles give the same bytes.

    Raises DatasetError if there is no episode, if one does not fit ``spec`` or could not be read
    back (see ``load_dataset``), or if provenance holds what an attribute cannot.
    """
    path = Path(path)
    rows = spec.episode_limit + 1
    layout: dict[str, tuple[tuple[int, ...], type, int]] = {  # shape of a row, type, chunk's end
        "state": ((spec.state_size,), np.float32, 1),
        "obs": ((spec.n_agents, spec.obs_size), np.float32, 1),
        "avail_actions": ((spec.n_agents, spec.n_actions), np.int32, spec.n_actions),
        "actions": ((spec.n_agents, 1), np.int64, 1),
        "reward": ((1,), np.float32, 1),
        "terminated": ((1,), np.uint8, 1),
        "filled": ((1,), np.int64, 1),
    }
    attributes = _attributes(spec, provenance)
    with _writing(path) as file:
        for name, (tail, dtype, end) in layout.items():
            file.create_dataset(
                name,
                shape=(0, rows, *tail),
                maxshape=(None, rows, *tail),
                chunks=(CHUNK_EPISODES, rows, *tail[:-1], end),
                dtype=dtype,
                shuffle=True,
                compression="gzip",
                compression_opts=9,
            )
        file.create_dataset("won", shape=(0,), maxshape=(None,), chunks=(1024,), dtype=np.uint8)
        done = transitions = 0
        stream = iter(episodes)
        while chunk := list(itertools.islice(stream, CHUNK_EPISODES)):
            size = len(chunk)
            block: dict[str, np.ndarray] = {}
            for name, (tail, dtype, _) in layout.items():
                block[name] = np.zeros((size, rows, *tail), dtype)
            for b, given in enumerate(chunk):
                episode = _fitting(f"episode {done + b}", given, spec)
                end = episode.length
                block["state"][b, : end + 1] = episode.state
                block["obs"][b, : end + 1] = episode.obs
                block["avail_actions"][b, : end + 1] = episode.avail_actions
                block["actions"][b, :end, :, 0] = episode.actions
                block["reward"][b, :end, 0] = episode.reward
                block["terminated"][b, end - 1] = episode.terminated
                block["filled"][b, : end + 1] = 1
                transitions += end
            block["won"] = np.array([UNKNOWN if e.won is None else e.won for e in chunk], np.uint8)
            for name, values in block.items():
                file[name].resize(done + size, axis=0)
                file[name][done:] = values
            done += size
        if not done:
            raise DatasetError(f"{path} was not written: there are no episodes to write")
        attributes |= {"episodes": done, "transitions": transitions}
        for name, value in sorted(attributes.items()):
            try:
                file.attrs[name] = value
            except (TypeError, ValueError, OverflowError, OSError, RuntimeError) as error:
                raise DatasetError(
                    f"provenance: {name!r} cannot be an HDF5 attribute ({error})"
                ) from error
    return path


@contextmanager
def _writing(path: Path) -> Iterator[h5py.File]:
    """A new file, which is at ``path`` once the block ends well. It grows in memory: HDF5 cannot
    even close one that the disk has no room for."""
    content = io.BytesIO()
    with replacing(path) as temporary, temporary.open("wb") as written:
        with h5py.File(content, "w") as file:
            yield file
        written.write(content.getbuffer())


def _attributes(spec: EnvSpec, provenance: Mapping[str, Any]) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "format": FORMAT,
        "task": spec.task,
        "backend": spec.backend,
        "n_agents": spec.n_agents,
        "n_actions": spec.n_actions,
        "obs_size": spec.obs_size,
        "state_size": spec.state_size,
        "episode_limit": spec.episode_limit,
    }
    for name, value in provenance.items():
        if name in attributes or name in ("episodes", "transitions"):
            raise DatasetError(f"provenance: {name!r} is set from the task and the episodes")
        if isinstance(value, list | tuple | dict):
            try:
                value = json.dumps(value)
            except (TypeError, ValueError) as error:
                raise DatasetError(f"provenance: {name!r} is not JSON ({error})") from None
        elif not isinstance(value, str | int | float | np.number | np.bool_):
            raise DatasetError(
                f"provenance: {name!r} is {value!r}, allowed: text, numbers, and lists or dicts "
                "of them"
            )
        attributes[name] = value
    return attributes


def _fitting(where: str, episode: Episode, spec: EnvSpec) -> Episode:
    """The episode if it fits the task's sizes and ``checked``; raises DatasetError."""
    length, agents = len(episode.reward), spec.n_agents
    if not 1 <= length <= spec.episode_limit:
        raise DatasetError(f"{where} has {length} steps, allowed: 1 to {spec.episode_limit}")
    for name, expected in (
        ("obs", (length + 1, agents, spec.obs_size)),
        ("state", (length + 1, spec.state_size)),
        ("avail_actions", (length + 1, agents, spec.n_actions)),
        ("actions", (length, agents)),
        ("reward", (length,)),
    ):
        shape = np.shape(getattr(episode, name))
        if shape != expected:
            raise DatasetError(
                f"{where}: {name} has shape {shape}, {spec.task} on {spec.backend} needs {expected}"
            )
    return checked(where, episode)


# Reading.


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
            filled = arrays["filled"][:].reshape(episodes, rows) != 0
            terminated = arrays["terminated"][:].reshape(episodes, rows) != 0
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
    found = {name: file.get(name) for name in AXES}
    missing = [name for name, array in found.items() if not isinstance(array, h5py.Dataset)]
    if missing:
        raise DatasetError(f"{path} lacks {', '.join(missing)} (needed: {', '.join(AXES)})")
    size = {"1": 1}  # what each letter stands for, as the first array has it
    for name, axes in AXES.items():
        array, letters = found[name], axes.strip("[]").split(", ")
        if array.is_virtual:
            for source in {s.file_name for s in array.virtual_sources()} - {"."}:
                if not (path.parent / source).is_file():  # it would read as zeros
                    raise DatasetError(f"{path}: {name} lies in {source}, which is missing")
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


def _won(file: h5py.File, episodes: int) -> list[bool | None]:
    """Per episode: won, lost, or None where the file does not say."""
    array = file.get("won")
    if not isinstance(array, h5py.Dataset) or array.shape != (episodes,):
        return [None] * episodes
    return [{0: False, 1: True}.get(value) for value in array[:].tolist()]


def _lengths(
    path: Path, filled: np.ndarray, terminated: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every episode ``[N]``, from filled and terminated ``[N, T]`` bool: its steps, whether it
    truly ended, whether it has a bootstrap row."""
    rows = filled.sum(axis=1)
    real = np.arange(filled.shape[1]) < rows[:, None]
    terminal = np.where((terminated & real).any(1), (terminated & real).argmax(1), -1)
    ended = terminal >= 0
    after = rows - 1 - terminal  # filled rows after the terminal step: the bootstrap row, or none
    marked = ~ended | (after > 0)
    lengths = rows - marked
    for wrong, problem in (
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
    episodes, rows = arrays["state"].shape[:2]
    size = sum(math.prod(arrays[n].shape[1:]) * arrays[n].dtype.itemsize for n in names)
    chunk = arrays["obs"].chunks[0] if arrays["obs"].chunks else 1
    # Whole chunks, so that each is unpacked once.
    count = min(max(READ_BYTES // size // chunk, 1) * chunk, max(READ_BYTES_MAX // size, 1))
    for start in range(0, episodes, count):
        with _whole(path):
            block = {name: arrays[name][start : start + count] for name in names}
        block["actions"] = block["actions"].reshape(-1, rows, arrays["obs"].shape[2])
        block["reward"] = block["reward"].reshape(-1, rows)
        yield block


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
