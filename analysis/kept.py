"""Results of long computations, kept beside the run they belong to and found again by content."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ovmse.runs.code import checksums, made_by
from ovmse.runs.files import read_json, write_json


@contextlib.contextmanager
def kept(run: Path, name: str) -> Iterator[dict[str, Any]]:
    """A dictionary of JSON values that is read from, and put back into, `run/cache/NAME.json`.

    It is put back after an interrupt too. Each value carries its SHA-256 there: one that is not as
    it was written is not held, so it is computed again. Where the file cannot be read nothing is
    held, and where it cannot be written (shipped runs on a read-only disk) everything is computed
    again the next time.
    """
    path = run / "cache" / f"{name}.json"
    found = {n: one for n, one in read_json(path).items() if isinstance(one, dict)}
    held = {n: one["value"] for n, one in found.items() if one.get("sum") == _sum(one.get("value"))}
    before = len(held)
    try:
        yield held
    finally:
        if len(held) > before:
            with contextlib.suppress(OSError):
                write_json(path, {n: {"value": v, "sum": _sum(v)} for n, v in held.items()})


def _sum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def key(*parts: str | float | Path) -> str:
    """What a result depends on: values, the content of files, and the state of the code."""
    digest = hashlib.sha256(f"{made_by()['code']} {_measuring_code()}".encode())
    for part in parts:
        digest.update(part.read_bytes() if isinstance(part, Path) else repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


@cache  # what is saved after the imports does not matter to this process
def _measuring_code() -> str:
    """The code of `analysis/` that measures; what draws and shows does not decide a number."""
    found = checksums(Path(__file__).parent)
    return repr(
        [s for n, s in found.items() if not n.startswith(("charts/", "widgets/", "report/"))]
    )
