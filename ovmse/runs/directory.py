"""The run directory: what a run leaves behind, and how a killed one continues.

    config.json       the settings, where its pre-training lies, and which code made it
    metrics.jsonl     one object a line, as measured
    events.jsonl      one object per finished online battle: who explored, when, at what cost
    snapshots/        the online network's weights at each test
    fixed.h5          (pre-training only) the fixed trajectories
    resume.json       names the last whole point; resume/ holds its tensors
    result.json       present once the run is finished (the resume state is then gone)

A point becomes the last whole one when ``resume.json`` is replaced, which is atomic. Opening an
unfinished run cuts ``metrics.jsonl`` and ``events.jsonl`` back to that point and drops later
snapshots. Nothing here is ever pickled.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from filelock import FileLock, Timeout
from torch import Tensor

from ovmse.config import with_defaults
from ovmse.runs.code import made_by
from ovmse.runs.files import replacing, write_json
from ovmse.runs.reading import RunError, stored_config

LINES = ("metrics.jsonl", "events.jsonl")
# In config.json beside the settings: what is noted when the run begins, and never compared.
NOTED = ("pretrained", "made_by", "continue_with_other_code")


class RunDirectory:
    """One run's directory, locked while it is open.

    config: the settings, which decide whether this is the run that lies there. notes: what else is
    written down when it begins. Raises RunError if another process has it open (after ``wait``
    seconds; -1 waits for ever), if it holds a run with other settings, if it is unfinished and was
    begun by other learning code (``continue_with_other_code`` among the settings allows that), or
    if the path is not a directory of ours.
    """

    def __init__(
        self,
        path: str | Path,
        config: dict[str, Any],
        wait: float = 0,
        notes: dict[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        if self.path.is_dir() and (strangers := _strangers(self.path)):
            raise RunError(f"{self.path} is not empty and not a run: it holds {strangers[0]}")
        try:
            (self.path / "snapshots").mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise RunError(f"{self.path} is a file, not a directory for a run") from None
        self._lock = FileLock(self.path / ".lock")
        try:
            self._lock.acquire(timeout=wait)
        except Timeout:
            raise RunError(f"another process is running in {self.path}") from None
        try:
            self._open(json.loads(json.dumps(config)), notes or {})
        except BaseException:
            self._lock.release()
            raise

    def _open(self, config: dict[str, Any], notes: dict[str, Any]) -> None:
        known = self.path / "config.json"
        self.finished = (self.path / "result.json").exists()
        if known.exists():
            self._require_same(config)
        else:
            write_json(known, {**config, **notes, "made_by": made_by()})
        for left in self.path.glob(".*.*"):  # temporaries of a killed process: .NAME.PID
            if left.suffix[1:].isdigit():
                left.unlink()
        if self.finished:
            self._drop_resume_state()
            return
        self._point = self._read_point()
        kept = set(self._point["snapshots"])
        for snapshot in (self.path / "snapshots").iterdir():
            if snapshot.name not in kept:
                snapshot.unlink()
        self._files = {}
        for name in LINES:
            size = self._point["bytes"].get(name, 0)
            file = (self.path / name).open("ab")
            if file.tell() < size:
                file.close()
                raise RunError(f"{self.path / name} is shorter than its resume point: it was cut")
            file.truncate(size)
            file.seek(0, os.SEEK_END)
            self._files[name] = file

    def _require_same(self, config: dict[str, Any]) -> None:
        stored = stored_config(self.path)
        known = stored
        if self.finished:  # what is not stored did not exist yet when the run was made
            known = config | with_defaults(stored)
        compared = [n for n in stored | config if n not in NOTED]
        names = [n for n in compared if known.get(n) != config.get(n)]
        if names:
            what = ", ".join(f"{n} {known.get(n)!r} not {config.get(n)!r}" for n in names)
            raise RunError(
                f"{self.path} holds a run with other settings: {what}; choose another run directory"
            )
        made, mine = stored.get("made_by") or {}, made_by()
        begun_by = made.get("code", "unknown")
        both = {name: _joined(made.get(name, "unknown"), mine[name]) for name in mine}
        if self.finished or both == made:
            return
        allowed = config.get("continue_with_other_code")
        if both["code"] != begun_by and not allowed:
            raise RunError(
                f"{self.path} was begun by other learning code ({begun_by}, here {mine['code']}): "
                "choose another run directory, or set continue_with_other_code"
            )
        self.note(made_by=both)
        if both["code"] != begun_by:
            self.note(continue_with_other_code=True)

    @property
    def begun(self) -> bool:
        """Whether there is a point to continue from."""
        return self._point["number"] > 0

    def note(self, **notes: Any) -> None:
        """Writes down anew in ``config.json`` what is noted beside the settings."""
        write_json(self.path / "config.json", {**stored_config(self.path), **notes})

    def _read_point(self) -> dict[str, Any]:
        path = self.path / "resume.json"
        if path.exists():
            try:
                return json.loads(path.read_text())
            except ValueError as error:
                raise RunError(f"{path} is damaged ({error})") from None
        return {"number": 0, "bytes": {}, "snapshots": [], "parts": [], "meta": None}

    # Writing.

    def append(self, name: str, record: dict[str, Any]) -> None:
        """One line to ``metrics.jsonl`` or ``events.jsonl``."""
        line = json.dumps(record, allow_nan=False, separators=(", ", ": "))
        self._files[name].write(line.encode() + b"\n")
        self._files[name].flush()

    def snapshot(self, name: str, tensors: dict[str, Tensor]) -> None:
        """``snapshots/{name}.safetensors``."""
        write_tensors(self.path / "snapshots" / f"{name}.safetensors", tensors)

    def save_point(
        self,
        meta: dict[str, Any],
        tensors: dict[str, Tensor],
        part: dict[str, Tensor] | None = None,
        keep_parts: int = 0,
    ) -> None:
        """Makes this moment the one a killed run continues from.

        meta: JSON values. tensors: replaced at every point. part: what was added since the last
        point (new episodes), kept beside the newest ``keep_parts`` earlier ones; ``load_point``
        hands the parts back, oldest first.
        """
        number = self._point["number"] + 1
        folder = self.path / "resume"
        folder.mkdir(exist_ok=True)
        parts = self._point["parts"]
        parts = parts[max(0, len(parts) - keep_parts) :]
        if part is not None:
            write_tensors(folder / f"part_{number}.safetensors", part)
            parts = [*parts, number]
        write_tensors(folder / f"state_{number}.safetensors", tensors)
        sizes = {}
        for name, file in self._files.items():
            os.fsync(file.fileno())
            sizes[name] = file.tell()
        snapshots = sorted(p.name for p in (self.path / "snapshots").glob("*.safetensors"))
        point = {
            "number": number,
            "bytes": sizes,
            "snapshots": snapshots,
            "parts": parts,
            "meta": meta,
        }
        write_json(self.path / "resume.json", point)
        self._point = point
        keep = {f"state_{number}.safetensors"} | {f"part_{p}.safetensors" for p in parts}
        for old in folder.iterdir():
            if old.name not in keep:
                old.unlink()

    def load_point(
        self,
    ) -> tuple[dict[str, Any], dict[str, Tensor], list[dict[str, Tensor]]] | None:
        """``(meta, tensors, parts)`` of the last whole point, or None at the very start."""
        point, folder = self._point, self.path / "resume"
        if point["meta"] is None:
            return None
        tensors = read_tensors(folder / f"state_{point['number']}.safetensors")
        parts = [read_tensors(folder / f"part_{p}.safetensors") for p in point["parts"]]
        return point["meta"], tensors, parts

    def finish(self, result: dict[str, Any]) -> None:
        """Marks the run finished and drops the resume state."""
        for file in self._files.values():
            os.fsync(file.fileno())
        write_json(self.path / "result.json", result)
        self.finished = True
        self._drop_resume_state()

    def _drop_resume_state(self) -> None:
        (self.path / "resume.json").unlink(missing_ok=True)
        shutil.rmtree(self.path / "resume", ignore_errors=True)

    def close(self) -> None:
        """Releases the directory for other processes."""
        for file in getattr(self, "_files", {}).values():
            file.close()
        self._lock.release()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _joined(before: str, now: str) -> str:
    """What made a run so far and what goes on with it, each once in a row: "2.13.0, 2.14.0"."""
    return before if before.split(", ")[-1] == now else f"{before}, {now}"


def _strangers(path: Path) -> list[str]:
    """What a directory holds that no run put there; nothing if it holds a run."""
    names = sorted(os.listdir(path))
    if "config.json" in names:
        return []
    if "snapshots" in names and os.path.isdir(path / "snapshots"):
        names += [f"snapshots/{name}" for name in os.listdir(path / "snapshots")]
    # A notebook that trains here may already lie here with its log and what a sweep says of it, and
    # a run that was killed as it began leaves a temporary file.
    return [
        name
        for name in names
        if name not in (".lock", ".sweep.lock", "sweep.json", "snapshots")
        and not name.startswith((".config.json.", ".sweep.json."))
        and Path(name).suffix not in (".ipynb", ".log")
    ]


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """safetensors, atomically."""
    whole = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        safetensors.torch.save_file(whole, temporary)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """A safetensors file; raises RunError if it is missing or not whole."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} is not a readable safetensors file: {error}") from None
