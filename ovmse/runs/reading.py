"""Reading what a run left behind. Needs neither torch nor pandas."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ovmse.config import with_defaults
from ovmse.errors import UserError
from ovmse.runs.files import folders_with, from_json, named_path, read_text

# Settings that older runs know by another name.
RENAMED = {
    "warmup_updates": "lr_warmup_updates",
    "final_battles": "long_test_battles",
}


class RunError(UserError):
    """A run directory that cannot be used, in one sentence."""


def find_runs(source: str | Path | Iterable[str | Path]) -> list[Path]:
    """The online run directories in a folder (itself included), sorted, or among those given.
    The same directory twice counts once.

    Raises RunError if there is none.
    """
    if isinstance(source, str | Path):
        candidates = sorted(folders_with(named_path(source, "runs"), "config.json"))
    else:
        candidates = [named_path(path, "runs") for path in source]
    once: dict[Path, Path] = {}
    for path in candidates:
        once.setdefault(path.resolve(), path)
    found = [
        p
        for p in once.values()
        if (p / "metrics.jsonl").exists()
        and (p / "config.json").exists()
        and "algorithm" in read_config(p)
    ]
    if not found:
        where = source if isinstance(source, str | Path) else f"the {len(candidates)} given"
        raise RunError(f"there is no run in {where}")
    return found


def read_config(path: str | Path) -> dict[str, Any]:
    """``config.json`` of a run: its settings, ``pretrained`` (where its pre-training lies),
    ``dataset_sha256`` and ``made_by`` (the code key and the versions that made it).

    A setting that did not exist yet when the run was made has its default. Raises RunError if
    the file is not there or not JSON.
    """
    return with_defaults(stored_config(path))


def stored_config(path: str | Path) -> dict[str, Any]:
    """``config.json`` as it was written, in the names of today; raises RunError if it is not there
    or not JSON."""
    config = read_object(Path(path) / "config.json")
    for name in ("algorithm", "pretrained"):
        if not isinstance(config.get(name) or "", str):
            raise RunError(f"{path}/config.json: {name} is {config[name]!r}, allowed: a text")
    made = config.get("made_by") or {}
    if not isinstance(made, dict) or not all(isinstance(v, str) for v in made.values()):
        raise RunError(f"{path}/config.json: made_by is {made!r}, allowed: an object of texts")
    return {str(RENAMED.get(n, n)): value for n, value in config.items()}


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file that a run wrote; raises RunError on anything else."""
    try:
        content = from_json(read_text(file))
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error})") from None
    if not isinstance(content, dict):
        raise RunError(f"{file} is damaged: it is no JSON object")
    return content


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``. A last line that is still being written is left out. Raises
    RunError if a row is no JSON object."""
    try:
        text = read_text(Path(path) / "metrics.jsonl")
    except (OSError, ValueError) as error:
        raise RunError(f"{path} holds no readable metrics.jsonl ({error})") from None
    rows = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            row = from_json(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise RunError(f"{path}/metrics.jsonl is damaged: line {number} is no JSON object")
        rows.append(row)
    return rows


def snapshot_steps(path: str | Path) -> list[tuple[int, Path]]:
    """``(env_steps, file)`` of the online snapshots of a run, in order. Raises RunError where a
    finished run lacks one that its ``result.json`` lists, or where that is damaged."""
    found = sorted((Path(path) / "snapshots").glob("online_*.safetensors"))
    files = [file for file in found if file.stem.removeprefix("online_").isdecimal()]
    listed = written_sums(path)
    there = {f"snapshots/{file.name}" for file in files}
    if gone := sorted(n for n in listed if n.startswith("snapshots/online_") and n not in there):
        raise RunError(f"{path} lacks {gone[0]}, which its result.json lists")
    return [(int(file.stem.removeprefix("online_")), file) for file in files]


def read_result(path: str | Path) -> dict[str, Any]:
    """``result.json`` of a finished run; empty for an unfinished one, which has none.

    Raises RunError if it is there and not what finishing writes: ``files``, their SHA-256, or at
    least ``wall_s`` by earlier versions and in what ships.
    """
    file = Path(path) / "result.json"
    if not file.exists():
        return {}
    result = read_object(file)
    files = result.get("files", {})
    texts = isinstance(files, dict) and all(isinstance(v, str) for v in files.values())
    if not texts or not (files or "wall_s" in result):
        raise RunError(f"{file} is damaged: it is not what a finished run writes")
    return result


def written_sums(path: str | Path) -> dict[str, str]:
    """The SHA-256 of the files of a finished run, as its ``result.json`` lists them by their path
    from the run; empty for an unfinished one, and for one that did not write them down. Raises
    RunError if ``result.json`` is damaged."""
    return dict(read_result(path).get("files", {}))
