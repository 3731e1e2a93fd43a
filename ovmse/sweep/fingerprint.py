"""What must agree before a run may be handed to a worker: packages, learning code, data, folder."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from distributed import get_worker

from ovmse.datasets.dataset import DatasetError, file_checksum
from ovmse.runs.code import learning_code, package_version
from ovmse.sweep.notebook_source import code_checksum

# What can change a measured number, and what runs the notebooks.
PACKAGES = ("torch", "numpy", "jax", "jaxlib", "jaxmarl", "h5py", "safetensors", "pydantic",
            "pandas", "filelock", "papermill", "nbclient", "jupyter_client", "ipykernel", "dask",
            "distributed")  # fmt: skip
FOLDER_MARK = ".sweep-folder"


def mark_folder(folder: Path) -> None:
    """Leaves a mark by which a worker on another machine shows that it sees the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / FOLDER_MARK
    if not mark.exists():
        mine = uuid.uuid4().hex
        temporary = mark.with_suffix(f".{mine}")
        temporary.write_text(mine)
        try:
            os.link(temporary, mark)  # unlike a replacement it never takes another sweep's place
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(temporary, mark)
        temporary.unlink(missing_ok=True)


def fingerprint(notebooks: Iterable[str], datasets: Iterable[str], folder: str) -> dict[str, str]:
    """What this process has of each thing that must agree, by its name."""
    found = {"python": platform.python_version(), "threads": "1"}
    with suppress(ValueError):  # this process is no worker
        found["threads"] = str(get_worker().state.nthreads)
    for name in PACKAGES:
        found[name] = package_version(name)
    found |= learning_code()
    for path in notebooks:
        try:
            found[path] = code_checksum(Path(path))
        except ValueError:
            found[path] = "missing"
    for file in datasets:
        try:
            found[f"dataset {file}"] = file_checksum(Path(file))
        except DatasetError:
            found[f"dataset {file}"] = "missing"
    try:
        found[f"run folder {folder}"] = (Path(folder) / FOLDER_MARK).read_text()
    except OSError:
        found[f"run folder {folder}"] = "missing"
    return found


def difference(mine: dict[str, str], theirs: dict[str, str]) -> str:
    """The first things in which a worker differs from the submitter; empty if they agree."""
    differs = []
    for name in mine | theirs:
        here, there = mine.get(name, "missing"), theirs.get(name, "missing")
        if here == there:
            continue
        if name in ("python", "threads", *PACKAGES):
            differs.append(f"{name} {there}, not {here}")
        else:
            differs.append(f"{'no' if there == 'missing' else 'another'} {name}")
    more = f" and {len(differs) - 3} more" if len(differs) > 3 else ""
    return ", ".join(differs[:3]) + more
