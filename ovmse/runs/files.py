"""Where the project's files lie, and writing them so that they are whole or as they were."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ovmse.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]  # ovmse/
PROJECT = PACKAGE.parent
RUNS = Path(os.environ.get("OVMSE_RUNS") or PROJECT / "runs")
SHIPPED_DATA = PROJECT / "data"
DATA_DIR = Path(os.environ.get("OVMSE_DATA") or SHIPPED_DATA)  # of datasets


def from_project(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings; a dataset's path counts from the project, whatever the working directory.

    A name without a folder is looked up."""
    dataset = settings.get("dataset")
    if isinstance(dataset, str) and os.sep in dataset:  # a file, or a vault's folder
        return {**settings, "dataset": str(PROJECT / named_path(dataset, "dataset"))}
    return settings


def named_path(given: str | Path, what: str = "") -> Path:
    """A path as a person names it, `~` being a home; raises UserError for what can be none, which
    begins with the name of the setting, `what`, where it has one."""
    text, what = str(given), f"{what}: " if what else ""
    if "\0" in text:
        raise UserError(f"{what}got {text!r}, allowed: a path without a zero byte")
    if given == "":
        raise UserError(f"{what}got '', allowed: a path; . is this folder")
    if (path := os.path.expanduser(text)).startswith("~"):
        user = path[1:].split(os.sep)[0]
        raise UserError(f"{what}got {text!r}, allowed: a path; there is no user {user!r}")
    return Path(path)


def folders_with(folder: Path, *names: str) -> list[Path]:
    """The folders below one that hold any of these files; they may come and go meanwhile."""
    walked = os.walk(folder)  # Path.rglob fails where a folder goes while it looks
    return [Path(path) for path, _, files in walked if not set(names).isdisjoint(files)]


def run_around(path: Path) -> Path | None:
    """The run whose directory holds this path, if there is one."""
    for outer in path.resolve().parents:
        if (outer / "config.json").is_file() and (outer / "snapshots").is_dir():
            return outer
    return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which takes its place once the block ends well.

    The folder is made if it is missing. Whatever the block raises passes on, and nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """The system's errors name the file: of a full disk they do not by themselves."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """Atomically: the file is whole or as it was."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1))


def require_regular(path: Path) -> None:
    """Raises OSError for what is there and is no file: reading a pipe waits for its writer."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "Not a regular file", str(path))


def read_text(path: Path) -> str:
    """The text of a regular file; raises OSError."""
    require_regular(path)
    return path.read_text()


def from_json(text: str) -> Any:
    """``json.loads``, which raises ValueError for what is nested too deeply as well."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty if it is not there, not readable or something else."""
    try:
        content = from_json(read_text(path))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; floats with six digits."""
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in [header, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        value = f"{value:.6g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
