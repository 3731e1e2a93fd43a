"""Writing files so that they are whole or as they were; finding folders by what they hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def folders_with(folder: Path, *names: str) -> list[Path]:
    """The folders below one that hold any of these files; they may come and go meanwhile."""
    walked = os.walk(folder)  # Path.rglob fails where a folder goes while it looks
    return [Path(path) for path, _, files in walked if not set(names).isdisjoint(files)]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which takes its place once the block ends well.

    The folder is made if it is missing. Whatever the block raises passes on, and nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
