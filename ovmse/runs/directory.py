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
snapshots; nothing that the run did not write itself is removed. ``resume.json`` and ``result.json``
hold the SHA-256 of what lies beside them, taken when it was written, and damage is named. Nothing
here is ever pickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from filelock import FileLock, Timeout
from torch import Tensor

from ovmse.config import with_defaults
from ovmse.runs.code import made_by
from ovmse.runs.files import (
    named_path,
    naming,
    read_json,
    replacing,
    require_regular,
    run_around,
    write_json,
)
from ovmse.runs.reading import (
    RunError,
    read_metrics,
    read_object,
    read_result,
    stored_config,
    written_sums,
)

LINES = ("metrics.jsonl", "events.jsonl")
# What a run itself writes, and so may remove; whatever else lies there is somebody's.
_SNAPSHOT = re.compile(r"(online|offline)_(\d{8}|final)\.safetensors")
_RESUME = re.compile(r"(state|part)_\d+\.safetensors")
_OURS = rf"(config|resume|result)\.json|fixed\.h5|{_SNAPSHOT.pattern}|{_RESUME.pattern}"
_TEMPORARY = re.compile(rf"\.({_OURS})\.\d+")
# In config.json beside the settings: what is noted when the run begins, and never compared.
NOTED = ("pretrained", "made_by", "continue_with_other_code", "engine")


class RunDirectory:
    """One run's directory, locked while it is open.

    config: the settings, which decide whether this is the run that lies there. notes: what else is
    written down when it begins. Raises RunError if another process has it open (after ``wait``
    seconds; -1 waits for ever), if it holds a run with other settings, if it is unfinished and was
    begun by other learning code (``continue_with_other_code`` among the settings allows that), or
    if the path is not a directory of ours, or lies inside that of another run.
    """

    def __init__(
        self,
        path: str | Path,
        config: dict[str, Any],
        wait: float = 0,
        notes: dict[str, Any] | None = None,
    ) -> None:
        self.path = named_path(path, "run_dir")
        if outer := run_around(self.path):
            raise RunError(f"{self.path} lies inside the run in {outer}; choose one beside it")
        if self.path.is_dir() and (strangers := _strangers(self.path)):
            raise RunError(f"{self.path} is not empty and not a run: it holds {strangers[0]}")
        try:
            (self.path / "snapshots").mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            places = (self.path / "snapshots", self.path, *self.path.parents)
            file = next(p for p in places if p.exists() and not p.is_dir())
            raise RunError(f"{file} is a file, not a directory for a run") from None
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
        known, self.said = self.path / "config.json", ""  # what a person should know
        self.finished = self._has_result()
        self._point = {} if self.finished else self._read_point()
        if known.exists() and (self.finished or self._measured()):
            self._require_same(config)
        else:  # nothing to lose: corrected settings take the place of the first ones
            write_json(known, {**config, **notes, "made_by": made_by()})
        for folder in (self.path, self.path / "snapshots", self.path / "resume"):
            for left in folder.glob(".*"):
                if _TEMPORARY.fullmatch(left.name):  # of a killed process
                    left.unlink()
        if self.finished:
            require_whole(self.path, LINES)
            self._drop_resume_state()
            return
        self._keep_snapshots(self._point["snapshots"])
        self._files, self._sums = {}, {}
        self._snapshot_sums = {n: s for n, s in self._point["sums"].items() if "/" in n}
        for name in LINES:
            size = self._point["bytes"].get(name, 0)
            require_regular(self.path / name)
            file = (self.path / name).open("a+b")
            self._files[name] = file
            file.seek(0)
            before = file.read(size)
            self._sums[name] = hashlib.sha256(before)
            said = self._point["sums"].get(name)
            if len(before) < size:
                raise RunError(f"{self.path / name} is shorter than its resume point: it was cut")
            if said is not None and self._sums[name].hexdigest() != said:
                raise RunError(f"{self.path / name} is {_lost(self.path / name)}")
            file.truncate(size)
            file.seek(0, os.SEEK_END)

    def _has_result(self) -> bool:
        """Whether the run has ended; RunError if what it lists, or should list, is not there."""
        if not (result := read_result(self.path)):
            return False
        file, listed = self.path / "result.json", result.get("files", {})
        if not listed and (self.path / "resume.json").exists():  # an earlier version removed it
            raise RunError(f"{file} is damaged: it lists no file, and resume.json is still there")
        _require_there(self.path, listed)
        return True

    def _measured(self) -> bool:
        """Whether the run has left anything that its settings decide."""
        return self.begun or any(_filled(self.path / name) for name in LINES)

    def _keep_snapshots(self, listed: Sequence[str]) -> None:
        """Snapshots after the last whole point go, and every one before it must be whole."""
        for name in listed:
            file = self.path / "snapshots" / name
            if not file.exists():
                raise RunError(f"{file} is missing, and resume.json lists it")
            _require_sum(file, self._point["sums"].get(f"snapshots/{name}"))
        for snapshot in _snapshots(self.path):
            if snapshot.name not in listed:
                snapshot.unlink()

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
        path, folder = self.path / "resume.json", self.path / "resume"
        if path.exists():
            point = read_object(path)
            said = point.pop("sum", None)
            if said != _sum_of(point):
                raise RunError(f"{path} is damaged: it is not what the run wrote")
            return point
        # A process that died at its first point leaves that one's files, rows and snapshot.
        held = [f"resume/{f.name}" for f in folder.glob("*_*.safetensors")]
        if held:  # or its resume.json was deleted
            self.said = f"{held[0]} stands without a resume.json: the run begins anew"
        held = [name for name in held if not name.endswith("_1.safetensors")]
        if len(taken := _snapshots(self.path)) > 1:
            held.append(f"snapshots/{max(file.name for file in taken)}")
        if (self.path / LINES[0]).exists():
            rows = [row for row in read_metrics(self.path) if row.get("phase") == "online"]
            held += [f"{len(rows)} online rows of {LINES[0]}"] if len(rows) > 1 else []
        held += [LINES[1]] if _filled(self.path / LINES[1]) else []  # no battle ends before it
        if held:
            raise RunError(
                f"{path} is missing, but {self.path} holds {held[0]}: put it back with its "
                "resume/, or move the folder away to begin anew"
            )
        return {"number": 0, "bytes": {}, "snapshots": [], "parts": [], "sums": {}, "meta": None}

    # Writing.

    def append(self, name: str, record: dict[str, Any]) -> None:
        """One line to ``metrics.jsonl`` or ``events.jsonl``."""
        line = json.dumps(record, allow_nan=False, separators=(", ", ": "))
        written = line.encode() + b"\n"
        with naming(self.path / name):
            self._files[name].write(written)
            self._files[name].flush()
        self._sums[name].update(written)

    def snapshot(self, name: str, tensors: dict[str, Tensor]) -> None:
        """``snapshots/{name}.safetensors``."""
        file = self.path / "snapshots" / f"{name}.safetensors"
        write_tensors(file, tensors)
        self._snapshot_sums[f"snapshots/{file.name}"] = checksum(file)

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
        state = f"state_{number}.safetensors"
        if part is not None:
            write_tensors(folder / f"part_{number}.safetensors", part)
            parts = [*parts, number]
        write_tensors(folder / state, tensors)
        names = [f"part_{p}.safetensors" for p in parts]
        known = self._point["sums"]
        sums = dict(self._snapshot_sums)
        sums |= {name: known.get(name) or checksum(folder / name) for name in names}
        sums[state] = checksum(folder / state)
        sizes = {}
        for name, file in self._files.items():
            os.fsync(file.fileno())
            sizes[name], sums[name] = file.tell(), self._sums[name].hexdigest()
        point = {
            "number": number,
            "bytes": sizes,
            "snapshots": sorted(p.name for p in _snapshots(self.path)),
            "parts": parts,
            "sums": sums,
            "meta": meta,
        }
        point = json.loads(json.dumps(point))
        write_json(self.path / "resume.json", {**point, "sum": _sum_of(point)})
        self._point = point
        for old in folder.iterdir():
            if _RESUME.fullmatch(old.name) and old.name not in (state, *names):
                old.unlink()

    def load_point(
        self,
    ) -> tuple[dict[str, Any], dict[str, Tensor], list[dict[str, Tensor]]] | None:
        """``(meta, tensors, parts)`` of the last whole point, or None at the very start."""
        point, folder = self._point, self.path / "resume"
        if point["meta"] is None:
            return None
        names = [f"part_{p}.safetensors" for p in point["parts"]]
        state, *parts = (
            self._whole(folder / name) for name in (f"state_{point['number']}.safetensors", *names)
        )
        return point["meta"], state, parts

    def _whole(self, path: Path) -> dict[str, Tensor]:
        """A part of the resume state, if it is what the run wrote."""
        _require_sum(path, self._point["sums"].get(path.name, ""))
        return read_tensors(path)

    def finish(self, result: dict[str, Any]) -> None:
        """Marks the run finished and drops the resume state.

        Raises RunError, and the run stays unfinished, if a snapshot is no longer as it was written.
        """
        for file in self._files.values():
            os.fsync(file.fileno())
        kept = [self.path / name for name in LINES]
        kept += [*_snapshots(self.path), *self.path.glob("*.h5")]
        sums = {file.relative_to(self.path).as_posix(): checksum(file) for file in kept}
        for name, said in self._snapshot_sums.items():
            if sums.get(name) != said:
                raise RunError(f"{self.path / name} is {_lost(self.path / name)}")
        write_json(self.path / "result.json", {**result, "files": sums})
        self.finished = True
        self._drop_resume_state()

    def _drop_resume_state(self) -> None:
        (self.path / "resume.json").unlink(missing_ok=True)
        folder = self.path / "resume"
        for file in folder.glob("*"):
            if _RESUME.fullmatch(file.name):
                file.unlink()
        with contextlib.suppress(OSError):  # it is not there, or holds something else
            folder.rmdir()

    def close(self) -> None:
        """Releases the directory for other processes."""
        for file in getattr(self, "_files", {}).values():
            with contextlib.suppress(OSError):  # of a line that found no room: it is cut off anyway
                file.close()
        self._lock.release()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _joined(before: str, now: str) -> str:
    """What made a run so far and what goes on with it, each once in a row: "2.13.0, 2.14.0"."""
    return before if before.split(", ")[-1] == now else f"{before}, {now}"


def _filled(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _strangers(path: Path) -> list[str]:
    """What a directory holds that no run put there; nothing if it holds a run."""
    names = sorted(os.listdir(path))
    if "config.json" in names:
        begun = [n for n in ("result.json", "resume.json", *LINES) if _filled(path / n)]
        # Every run has noted who made it, since it writes that down at all.
        mine = begun or isinstance(read_json(path / "config.json").get("made_by"), dict)
        return [] if mine else ["a config.json that no run wrote"]
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


def require_whole(path: Path, names: Iterable[str] | None = None) -> None:
    """Raises RunError if a file of a run, by default any, is not as it was written.

    ``result.json`` says what a finished run wrote, ``resume.json`` what an unfinished one did until
    its last point. Runs of earlier versions did not write down what their files should be.
    """
    said = written_sums(path)
    sums = {} if said else read_json(path / "resume.json").get("sums")
    if isinstance(sums, dict):
        said = said or {name: one for name, one in sums.items() if "/" in name}
    for name in said if names is None else [n for n in names if n in said]:
        _require_there(path, [name])
        _require_sum(path / name, said[name])


def _require_there(path: Path, listed: Iterable[str]) -> None:
    for name in listed:
        if not (path / name).is_file():
            raise RunError(f"{path / name} is missing, and result.json lists it")


def _require_sum(file: Path, said: str | None) -> None:
    if said is not None and not (file.is_file() and checksum(file) == said):
        raise RunError(f"{file} is {_lost(file)}")


def _lost(file: Path) -> str:
    return "damaged: it is not what the run wrote" if file.exists() else "missing"


def checksum(path: Path) -> str:
    """SHA-256 of a regular file, in hexadecimal; raises OSError."""
    require_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sum_of(point: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()


def _snapshots(path: Path) -> list[Path]:
    return [f for f in (path / "snapshots").iterdir() if _SNAPSHOT.fullmatch(f.name)]


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """safetensors, atomically."""
    whole = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(whole, temporary)
        except safetensors.SafetensorError as error:  # such as a full disk
            raise RunError(f"{path} cannot be written ({error})") from error


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """A safetensors file; raises RunError if it is missing or not whole."""
    try:
        require_regular(Path(path))
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} is not a readable safetensors file: {error}") from None
