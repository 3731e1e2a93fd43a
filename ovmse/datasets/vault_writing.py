"""Writing OG-MARL's vaults (see ``vault.py``), so that Flashbax reads them too."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ovmse.datasets.dataset import Dataset, DatasetError, is_vault
from ovmse.datasets.vault import (
    INDEX,
    METADATA,
    OURS,
    array_spec,
    first_line,
    joined,
    tensorstore_for,
)
from ovmse.episodes import Episode

ENDLESS = 10**13  # the time axis, as Flashbax declares it
CHUNK_ROWS, WRITE_ROWS = 1_000, 16_000  # a chunk on disk; what is written at a time
FLASHBAX = 1.2  # the version of its format


def write_vault(
    path: str | Path,
    dataset: Dataset,
    provenance: Mapping[str, str],
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a dataset as the vault ``{map}.vlt/{uid}``: whole, in the place of one that is there,
    or not at all.

    A battle that was cut has one row more, its bootstrap row (with the first available actions and
    no reward), and is marked as truncated there. Who won is lost: a vault has no place for it.
    provenance goes into the metadata. progress: called with the battles written, and their number.
    Raises DatasetError if tensorstore is missing or cannot write, or if something else is there.
    """
    path = Path(path)
    tensorstore = tensorstore_for(path)
    if path.exists() and not is_vault(path):
        raise DatasetError(f"{path} is there already, and is no vault")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")

    def made(name: str, shape: tuple[int, ...], dtype: np.dtype, **metadata: Any) -> Any:
        spec = array_spec(temporary, name) | {"metadata": metadata}
        return tensorstore.open(spec, create=True, shape=shape, dtype=dtype).result()

    try:
        temporary.mkdir()
        first = _rows(dataset.episodes[0])
        arrays = {
            name: made(
                name, (1, ENDLESS, *a.shape[1:]), a.dtype,
                compressor={"id": "gzip", "level": 5}, chunks=[1, CHUNK_ROWS, *a.shape[1:]],
            )
            for name, a in first.items()
        }  # fmt: skip
        total = 0
        for block in _blocks(dataset.episodes, progress):
            rows = len(block["actions."])
            for name, values in block.items():
                arrays[name][0, total : total + rows].write(values).result()
            total += rows
        index = made(INDEX, (1,), np.dtype(np.int32))
        index.write(np.array([total], np.int32)).result()
        shapes = {name: str((1, WRITE_ROWS, *a.shape[1:])) for name, a in first.items()}
        about = {
            "version": FLASHBAX,
            "structure_shape": _tree(shapes),
            "structure_dtype": _tree({name: a.dtype.name for name, a in first.items()}),
            OURS: dict(provenance),
        }
        (temporary / METADATA).write_text(json.dumps(about, indent=1))
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except (ValueError, RuntimeError) as error:  # tensorstore's, of a full disk too
        raise DatasetError(f"{path} was not written ({first_line(error)})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def _tree(leaves: dict[str, str]) -> dict[str, Any]:
    """``{"infos.state.": x}`` as ``{"infos": {"state": x}}``: so Flashbax finds the arrays."""
    tree: dict[str, Any] = {}
    for name, value in leaves.items():
        *folders, leaf = name.rstrip(".").split(".")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = value
    return tree


def _blocks(
    episodes: list[Episode], progress: Callable[[int, int], None] | None
) -> Iterator[dict[str, np.ndarray]]:
    """The stream of all battles, whole chunks at a time, so that each is written once."""
    kept: list[dict[str, np.ndarray]] = []
    count = 0
    for done, episode in enumerate(episodes, 1):
        kept.append(_rows(episode))
        count += len(kept[-1]["actions."])
        if count >= WRITE_ROWS:
            whole = joined(kept)
            full = count // CHUNK_ROWS * CHUNK_ROWS
            yield {name: values[:full] for name, values in whole.items()}
            kept, count = [{name: values[full:] for name, values in whole.items()}], count - full
        if progress is not None:
            progress(done, len(episodes))
    if count:
        yield joined(kept)


def _rows(episode: Episode) -> dict[str, np.ndarray]:
    """One battle in the vault's layout, without the axis of 1 in front."""
    agents = episode.actions.shape[1]
    length = episode.length + (not episode.terminated)
    idle = episode.avail_actions[-1:].argmax(-1)
    ends = np.zeros((length, agents), np.bool_)
    ends[-1] = True
    reward = np.append(episode.reward, 0)[:length, None]
    return {
        "observations.": episode.obs[:length].astype(np.float32),
        "actions.": np.concatenate([episode.actions, idle])[:length].astype(np.int64),
        "rewards.": np.repeat(reward, agents, 1).astype(np.float32),
        "terminals.": ends & episode.terminated,
        "truncations.": ends & (not episode.terminated),
        "infos.legals.": episode.avail_actions[:length],
        "infos.state.": episode.state[:length].astype(np.float32),
    }
