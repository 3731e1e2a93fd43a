"""Which state of the code, and which versions, make a run."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ovmse.runs.files import PACKAGE

# Where the code stands that decides a number; what keeps, lists, hands out or shows runs does not.
LEARNING = ("errors.py", "config.py", "episodes.py", "envs/", "method/", "datasets/", "training/")
EXPECTED = "OVMSE_CODE"  # set by a sweep for its kernels


class CodeChangedError(RuntimeError):
    """What this process has imported may not be the code that its sweep began with."""


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every module below a folder, by its path from there; hidden files do not count."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue  # what an editor leaves
        try:
            found[name.as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
        except FileNotFoundError:  # being replaced just now
            found[name.as_posix()] = "missing"
    return found


def learning_code() -> dict[str, str]:
    """The checksum of every module that a run learns with, by its path within the project."""
    found = checksums(PACKAGE)
    return {f"ovmse/{n}": found[n] for n in found if n.startswith(LEARNING)}


def learning_code_key() -> str:
    """Eight hexadecimal digits for the state of all learning modules."""
    return hashlib.sha256(json.dumps(learning_code()).encode()).hexdigest()[:8]


@cache  # what is saved after the first run began does not matter to this process
def made_by() -> dict[str, str]:
    """What decides a number beside the settings: the key of the learning code, and versions."""
    found = {"code": learning_code_key(), "python": platform.python_version()}
    return found | {name: package_version(name) for name in ("torch", "numpy", "jax", "jaxmarl")}


def package_version(name: str) -> str:
    """The installed version of a package, without importing it; "missing" if it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


@cache  # what is saved after the imports does not matter to this process
def require_expected_code() -> None:
    """Raises CodeChangedError if a sweep started this process and the code is another by now.

    To be called once everything that learns is imported: a worker compares before it starts a
    kernel, and the kernel's imports take seconds, in which a file may be saved.
    """
    expected = os.environ.get(EXPECTED)
    if expected and expected != learning_code_key():
        raise CodeChangedError("the code changed while this run was starting")
