"""What lies in a folder of runs: a list with statuses."""

from __future__ import annotations

import fcntl
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovmse.runs.files import folders_with, named_path, read_json
from ovmse.runs.reading import RunError, read_metrics, read_result

STATUSES = ("done", "running", "unfinished", "failed")
RECORD = "sweep.json"
KINDS: dict[str, Any] = {"state": str, "error": str, "notebook": str, "parameters": dict,
                         "attempts": int, "seconds": int | float}  # fmt: skip


@dataclass(frozen=True)
class ListedRun:
    """A run as a list shows it; ``age`` is the time since it last wrote, in seconds."""

    path: Path
    status: str  # one of STATUSES
    algorithm: str
    task: str
    seed: int | None
    env_steps: int | None
    test_win_rate: float | None
    age: float
    error: str


def list_runs(folder: str | Path) -> list[ListedRun]:
    """Every run below a folder, sorted by path; raises RunError if there is no such folder.

    A run is a directory with a ``sweep.json`` or with the ``config.json`` of an algorithm, or with
    one that cannot be read.
    """
    folder = named_path(folder, "runs")
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}")
    listed = []
    for path in sorted(folders_with(folder, "config.json", RECORD)):
        config, record = read_json(path / "config.json"), read_record(path)
        if record or "algorithm" in config or not config:  # unreadable: it may be one
            listed.append(_listed(path, {**record.get("parameters", {}), **config}, record))
    return listed


def read_record(folder: Path) -> dict[str, Any]:
    """What a sweep says of a run in ``sweep.json``; what is of another kind is left out."""
    record = read_json(folder / RECORD)
    return {n: v for n, v in record.items() if isinstance(v, KINDS.get(n, object))}


def within(value: float | None, low: float | None, high: float | None) -> bool:
    """Whether a value lies between two limits, None being no limit; no value lies between any."""
    if value is None:
        return low is None and high is None
    return (low is None or value >= low) and (high is None or value <= high)


def _listed(path: Path, settings: dict[str, Any], record: dict[str, Any]) -> ListedRun:
    row: dict[str, Any] = {}
    with suppress(RunError, ValueError):  # none yet, or a line that is damaged
        row = (read_metrics(path) or [{}])[-1]
    won = _kept(row.get("test_win_rate"), int | float)
    held = any(_is_held(path / name) for name in (".lock", ".sweep.lock"))
    ended = "unfinished"
    with suppress(RunError):  # damaged: not what finishing wrote
        ended = "done" if read_result(path) else ended
    status = record["state"] if record.get("state") in STATUSES else ended
    if held and status != "done":
        status = "running"
    written = []
    for name in ("config.json", RECORD, "metrics.jsonl", "result.json"):
        with suppress(OSError):
            written.append((path / name).stat().st_mtime)
    return ListedRun(
        path,
        status,
        _kept(settings.get("algorithm"), str) or "",
        _kept(settings.get("task"), str) or "",
        _kept(settings.get("seed"), int),
        steps if within(steps := _kept(row.get("env_steps"), int), 0, None) else None,
        won if within(won, 0, 1) else None,
        time.time() - max(written, default=time.time()),
        record.get("error", ""),
    )


def _kept(value: Any, kind: Any) -> Any:
    """A value that is of its kind, True being no number; a damaged file may hold any."""
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _is_held(lock: Path) -> bool:
    """Whether some process has locked the file; asks by sharing the lock for an instant."""
    if not lock.is_file():  # a pipe would wait for its writer
        return False
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
