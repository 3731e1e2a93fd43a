"""OG-MARL's vaults, read with ``tensorstore`` alone (an extra: pip install tensorstore).

A vault is a folder, ``{map}.vlt/{uid}``, of arrays over one flat stream of ``T`` steps: battles end
to end, without bootstrap rows. ``n`` agents, ``A`` actions, ``O`` and ``S`` observation and state
size.

    observations.             [1, T, n, O]
    actions.                  [1, T, n]
    rewards.                  [1, T, n]     the team's reward, once for each agent
    terminals., truncations.  [1, T, n]     1 on a battle's last step
    infos.legals.             [1, T, n, A]
    infos.state.              [1, T, S]
    vault_index               [1]           T; the time axis itself is declared endless

Nothing bootstraps from the end of a battle that ended, so its last row is repeated there. Of a
battle that was cut, the last row is the bootstrap row, and its last step is lost. SMAC's vaults
call every end terminal: a battle as long as the map's limit (by the folder's name) counts as cut.
Ours (``vault_writing.py``) mark their cut battles, and say so under ``OURS`` in the metadata.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ovmse.datasets.dataset import (
    Dataset,
    DatasetError,
    check_task,
    checked,
    file_checksum,
)
from ovmse.envs.base import EnvSpec
from ovmse.envs.smac_units import LIMITS
from ovmse.episodes import Episode
from ovmse.runs.files import read_json

AXES = {
    "observations.": "1Tno",
    "actions.": "1Tn",
    "rewards.": "1Tn",
    "terminals.": "1Tn",
    "truncations.": "1Tn",
    "infos.legals.": "1TnA",
    "infos.state.": "1TS",
}
INDEX, METADATA = "vault_index", "metadata.json"
OURS = "ovmse"
READ_BYTES = 2**23
# Longer than this no battle is: a stream without ends would be read into memory whole.
MOST_STEPS = 100_000


def vault_task(path: Path) -> str:
    """The map that a vault's folder is named after, ``{map}.vlt/{uid}``; empty where none is."""
    return path.parent.stem if path.parent.suffix == ".vlt" else ""


def read_vault(
    path: Path, spec: EnvSpec | None = None, progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """Reads a vault; memory holds the episodes and one block of the stream.

    progress: called with the steps read and their number. Raises DatasetError if tensorstore is
    missing, if the vault is damaged or of another layout or task, or holds unusable values.
    """
    checksum = file_checksum(path)
    arrays, total = _opened(path)
    ours = read_json(path / METADATA).get(OURS)
    attrs = dict(ours) if isinstance(ours, dict) else {}
    if task := vault_task(path):
        attrs |= {"task": task, "backend": "smac" if task in LIMITS else "unknown"}
    sizes = {
        "n_agents": int(arrays["observations."].shape[2]),
        "n_actions": int(arrays["infos.legals."].shape[3]),
        "obs_size": int(arrays["observations."].shape[3]),
        "state_size": int(arrays["infos.state."].shape[2]),
    }
    if spec is not None:
        check_task(path, spec, attrs if task in LIMITS else {}, sizes)
    limit = LIMITS.get(task, 0)
    unmarked = 0 if isinstance(ours, dict) else limit
    episodes: list[Episode] = []
    for battle in _battles(path, arrays, total, progress):
        where = f"{path}: episode {len(episodes)}"
        if (episode := _episode(where, battle, unmarked)) is not None:
            episodes.append(checked(where, episode))
    if not episodes:
        raise DatasetError(f"{path} holds no episodes")
    longest = max(episode.length for episode in episodes)
    if spec is not None and longest > spec.episode_limit:
        raise DatasetError(
            f"{path}: an episode has {longest} steps, {spec.task} on {spec.backend} allows "
            f"{spec.episode_limit}"
        )
    return Dataset(
        path, episodes, **sizes, episode_limit=max(limit, longest), attrs=attrs, checksum=checksum
    )


def tensorstore_for(path: Path) -> Any:
    """The module; raises DatasetError where it is missing."""
    try:
        import tensorstore
    except ImportError:
        raise DatasetError(
            f"{path} is a vault, which needs tensorstore (pip install tensorstore)"
        ) from None
    return tensorstore


def array_spec(path: Path, name: str) -> dict[str, Any]:
    """Where an array of a vault lies, in tensorstore's words."""
    store = {"driver": "ocdbt", "base": path.resolve().as_uri() + "/", "path": name}
    return {"driver": "zarr", "kvstore": store}


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Rows after rows, of every array of ``AXES``."""
    return {name: np.concatenate([part[name] for part in parts]) for name in AXES}


def _opened(path: Path) -> tuple[dict[str, Any], int]:
    """The arrays, and how many steps they hold; raises DatasetError."""
    tensorstore = tensorstore_for(path)

    def opened(name: str) -> Any:
        try:
            return tensorstore.open(array_spec(path, name), read=True).result()
        except (ValueError, OSError, RuntimeError) as error:
            raise DatasetError(f"{path} lacks {name} or is damaged ({first_line(error)})") from None

    arrays = {name: opened(name) for name in AXES}
    size = {"1": 1}
    for name, axes in AXES.items():
        shape = tuple(arrays[name].shape)
        here = dict(zip(axes, shape))
        here.pop("T", None)
        if len(shape) != len(axes) or any(size.setdefault(k, s) != s for k, s in here.items()):
            raise DatasetError(
                f"{path}: {name} has shape {shape}, needed: [{', '.join(axes)}] like the others"
            )
        if np.dtype(arrays[name].dtype.numpy_dtype).kind not in "biuf":
            raise DatasetError(f"{path}: {name} holds {arrays[name].dtype.name}, allowed: numbers")
    if not all(size.values()) or size["A"] > 256:
        raise DatasetError(f"{path} has sizes {size}, needed: 1 or more, and at most 256 actions")
    index = opened(INDEX)
    if tuple(index.shape) != (1,):
        raise DatasetError(f"{path}: {INDEX} has shape {tuple(index.shape)}, needed: [1]")
    total = int(_read(path, INDEX, index)[0])
    shortest = min(int(array.shape[1]) for array in arrays.values())
    if not 0 < total <= shortest:
        raise DatasetError(f"{path}: {INDEX} is {total}, allowed: 1 to {shortest}")
    return arrays, total


def _read(path: Path, name: str, view: Any) -> np.ndarray:
    try:
        return np.asarray(view.read().result())
    except (ValueError, OSError, RuntimeError) as error:
        raise DatasetError(f"{path}: {name} is damaged ({first_line(error)})") from None


def first_line(error: Exception) -> str:
    """What tensorstore says, in short."""
    return (str(error).splitlines() or [""])[0][:200]


def _battles(
    path: Path, arrays: dict[str, Any], total: int, progress: Callable[[int, int], None] | None
) -> Iterator[dict[str, np.ndarray]]:
    """The rows of one battle after another; the last may be unfinished."""
    step = sum(math.prod(a.shape[2:]) * a.dtype.numpy_dtype.itemsize for a in arrays.values())
    count = max(1, READ_BYTES // step)
    kept: list[dict[str, np.ndarray]] = []
    for start in range(0, total, count):
        block = {
            name: _read(path, name, array[0, start : min(start + count, total)])
            for name, array in arrays.items()
        }
        over = (block["terminals."] != 0).any(1) | (block["truncations."] != 0).any(1)
        begin = 0
        for end in (np.flatnonzero(over) + 1).tolist():
            yield joined([*kept, {name: a[begin:end] for name, a in block.items()}])
            kept, begin = [], end
        if begin < len(over):
            kept.append({name: a[begin:].copy() for name, a in block.items()})
            if sum(len(part["actions."]) for part in kept) > MOST_STEPS:
                raise DatasetError(f"{path}: more than {MOST_STEPS} steps without an end")
        if progress is not None:
            progress(min(start + count, total), total)
    if kept:
        yield joined(kept)


def _episode(where: str, rows: dict[str, np.ndarray], limit: int) -> Episode | None:
    """One battle; None where a cut one has no step before its bootstrap row."""
    length = len(rows["actions."])
    rewards = rows["rewards."]
    if not np.array_equal(rewards, np.broadcast_to(rewards[:, :1], rewards.shape), True):
        raise DatasetError(f"{where}: the agents' rewards differ, allowed: one of the team")
    ended = bool((rows["terminals."][-1] != 0).any()) and length != limit
    if not ended:
        length -= 1
    if not length:
        return None
    kept = np.arange(length + 1)
    if ended:
        kept[-1] = length - 1
    return Episode(
        obs=rows["observations."][kept],
        state=rows["infos.state."][kept],
        avail_actions=rows["infos.legals."][kept],
        actions=rows["actions."][:length],
        reward=rewards[:length, 0],
        terminated=ended,
    )
