"""What happens in a worker: one notebook, by papermill in this very process.

Papermill as a subprocess would outlive a worker that dies; a kernel notices within a second or two
that the process which started it is gone, and ends.
"""

from __future__ import annotations

import errno
import gc
import os
import platform
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from distributed import WorkerPlugin, get_worker
from filelock import FileLock, Timeout
from traitlets.config import Config

from ovmse.runs.code import EXPECTED, CodeChangedError
from ovmse.runs.files import write_json
from ovmse.runs.listing import RECORD, read_record
from ovmse.sweep.fingerprint import difference, fingerprint
from ovmse.sweep.grid import NotebookRun

LOCK = ".sweep.lock"
# The folder is at fault, not the run: whatever is written next would fail as well.
FOLDER_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES)
LONGEST_TEMPORARY = 60  # characters of a folder for sockets; the system allows 107 for their path
START_TIMEOUT = 300  # seconds for a kernel to answer; 60 was too few on a crowded machine

State = Literal["done", "failed", "stopped", "died", "elsewhere", "mismatch", "folder"]
_stopped: set[str] = set()  # the sweeps that ended early


@dataclass(frozen=True)
class Outcome:
    """How a run ended here: ``error`` says why in one line, unless it is done.

    "stopped": with the sweep. "died": the kernel was killed, or a file could not be reached; both
    may go well the next time. "elsewhere": another sweep is running it. "mismatch": this worker
    differs from the submitter. "folder": the disk is full or cannot be written.
    """

    state: State
    error: str = ""
    worker: str = ""


@dataclass(frozen=True)
class Terms:
    """What holds for every run of a sweep.

    sweep: its own name. expected, asked: the submitter's fingerprint and its arguments, compared
    anew before each run, since a kernel imports the code as it stands then. timeout: seconds for a
    whole notebook, or None.
    """

    sweep: str
    expected: dict[str, str]
    asked: tuple[list[str], list[str], str]
    timeout: float | None


def execute(run: NotebookRun, terms: Terms, attempts: int) -> Outcome:
    """Runs one notebook in its folder, unless another process does; records how it ended.

    attempts: how often the run had been tried when this sweep began; if it failed in another one
    since, that is its outcome.

    The executed notebook gets its name only when it is whole. One that fails is kept, cells up to
    the failure executed, under the same name with ``.failed.ipynb``. What the kernel says of itself
    goes to a ``.log`` beside it.
    """
    here = str(get_worker().address)
    try:
        if differs := difference(terms.expected, fingerprint(*terms.asked)):
            return Outcome("mismatch", differs, here)
        run.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(run.folder / LOCK, timeout=0):
            known = read_record(run.folder)
            if known.get("attempts", 0) > attempts and known["state"] in ("done", "failed"):
                return Outcome(known["state"], known["error"], here)
            return _recorded(run, terms, known, here)
    except Timeout:
        return Outcome("elsewhere", worker=here)
    except OSError as error:
        said = _line(type(error).__name__, error)
        return Outcome("folder" if error.errno in FOLDER_ERRORS else "died", said, here)


def _recorded(run: NotebookRun, terms: Terms, known: dict[str, Any], here: str) -> Outcome:
    """Executes under the lock; ``sweep.json`` says before and after how things stand."""
    record = {
        "notebook": run.notebook.name,
        "parameters": run.parameters,
        "host": platform.node(),
        "attempts": known.get("attempts", 0) + 1,
        "seconds": known.get("seconds", 0.0),
    }
    write_json(run.folder / RECORD, {**record, "state": "unfinished", "error": ""})
    began = time.monotonic()
    state, error = _execute(run, terms)
    record["seconds"] = round(record["seconds"] + time.monotonic() - began, 1)
    record["finished"] = time.strftime("%Y-%m-%d %H:%M:%S")
    if state != "folder":
        kept = state if state in ("done", "failed") else "unfinished"
        write_json(run.folder / RECORD, {**record, "state": kept, "error": error})
    return Outcome(state, error, here)


def _execute(run: NotebookRun, terms: Terms) -> tuple[State, str]:
    import papermill

    name = run.notebook.stem
    output = run.folder / f"{name}.ipynb"
    failed = _failed(run)
    partial = run.folder / f".{name}.{os.getpid()}.ipynb"
    for left in run.folder.glob(f".{name}.*.ipynb"):  # of a worker that was killed
        left.unlink()
    # Dask makes its workers give freed memory back at once, and their kernels inherit that: every
    # tensor then faults its pages in anew, which doubled the time of a run.
    os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ[EXPECTED] = run.folder.parent.name.removeprefix("code-")
    with (
        _stderr_to(run.folder / f"{name}.log"),
        _socket_folder() as sockets,
        _Watch(terms) as watch,
    ):
        try:
            papermill.execute_notebook(
                _path(run.notebook),
                _path(partial),
                parameters=run.parameters,
                cwd=str(run.notebook.parent),
                progress_bar=False,
                start_timeout=START_TIMEOUT,
                # Kernels listen on files, not on ports: jupyter_client looks for free ports and has
                # them bound a second later, and a kernel that finds its own taken may hang.
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
                shutdown_kernel="immediate",  # what it wrote is on disk; unloading takes 3 s
            )
            with partial.open("rb") as file:
                os.fsync(file.fileno())  # else its record could outlive it
            os.replace(partial, output)
            failed.unlink(missing_ok=True)
            return "done", ""
        except Exception as error:  # of any kind: the notebook's own, the kernel's, the disk's
            if isinstance(error, papermill.PapermillExecutionError):
                if error.ename == CodeChangedError.__name__:
                    return "mismatch", error.evalue
                said = _line(error.ename, error.evalue)
                blamed = error.evalue
            else:
                said, blamed = _line(type(error).__name__, error), str(error)
            if _blames_folder(blamed, run.folder):
                return "folder", said
            verdict: State = watch.verdict or ("died" if _kernel_died(error) else "failed")
            if verdict != "stopped":
                with suppress(OSError):
                    os.replace(partial, failed)
            return verdict, watch.reason or said
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            # What a notebook leaves refers to itself, and Python would look for that only after
            # hundreds of them.
            gc.collect()


def _socket_folder() -> tempfile.TemporaryDirectory[str]:
    """Only its owner can enter it, and so talk to the kernel."""
    usual = tempfile.gettempdir()
    where = usual if len(usual) <= LONGEST_TEMPORARY else "/tmp"
    for left in Path(where).glob("ovmse-*-*"):  # of a worker that was killed
        pid = left.name.split("-")[1]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    prefix = f"ovmse-{os.getpid()}-"
    return tempfile.TemporaryDirectory(prefix=prefix, dir=where, ignore_cleanup_errors=True)


def _kernel_died(error: Exception) -> bool:
    """Whether the kernel was killed, for want of memory or by a batch system, say."""
    from nbclient.exceptions import DeadKernelError

    starting = isinstance(error, RuntimeError) and "Kernel died" in str(error)
    return isinstance(error, DeadKernelError) or starting


def _blames_folder(said: str, folder: Path) -> bool:
    """Whether an error is about where the run writes; safetensors and h5py name no errno."""
    denied = os.strerror(errno.EACCES)
    if denied in said and str(folder.parent) not in said:
        return False  # something else may not be read
    return any(os.strerror(code) in said for code in FOLDER_ERRORS)


class _Watch:
    """Kills what this process has started since, once time is up or the sweep is stopped.

    Cancelling a Dask future would leave the notebook running.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.verdict: State | None = None
        self.reason = ""

    def __enter__(self) -> _Watch:
        self._before = {process.pid for process in descendants()}
        self._began, self._over = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        limit = self.terms.timeout
        while not self._over.wait(0.1):
            if self.terms.sweep in _stopped:
                self.verdict, self.reason = "stopped", "stopped with the sweep"
            elif limit is not None and time.monotonic() - self._began > limit:
                self.verdict, self.reason = "failed", f"stopped after {limit:g} s (--timeout)"
            if self.verdict is not None:
                kill(p for p in descendants() if p.pid not in self._before)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def stop_notebooks(sweep: str) -> None:
    """Called in a worker: its notebook, if it is of this sweep, is stopped within a second."""
    _stopped.add(sweep)


class IgnoreInterrupt(WorkerPlugin):
    """Ctrl-C in a terminal reaches the workers too; the sweep itself stops them in good order."""

    def setup(self, worker: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def descendants(pid: int | None = None) -> list[psutil.Process]:
    """Every process below this one, or below another."""
    with suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL; a run loses nothing by it."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def recorded(folder: Path) -> float:
    """When a run was last finished, in seconds since the epoch; 0 if it is not."""
    if read_record(folder).get("state") != "done":
        return 0.0
    with suppress(OSError):
        return (folder / RECORD).stat().st_mtime
    return 0.0


def record_failure(run: NotebookRun, error: str) -> None:
    """Notes that a run failed which could not do so itself, unless another sweep has taken it."""
    with suppress(Timeout), FileLock(run.folder / LOCK, timeout=0):
        for partial in run.folder.glob(f".{run.notebook.stem}.*.ipynb"):
            os.replace(partial, _failed(run))
        record = {**read_record(run.folder), "state": "failed", "error": error}
        write_json(run.folder / RECORD, record)


def _failed(run: NotebookRun) -> Path:
    """A notebook that failed, its cells up to the failure executed."""
    return run.folder / f"{run.notebook.stem}.failed.ipynb"


def _path(path: Path) -> str:
    """As papermill wants it: it puts parameters in the place of {names}."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _line(name: str, said: object) -> str:
    return f"{name}: {' '.join(str(said).split())[:300]}"


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Sends this process's standard error, which its kernels inherit, to the end of a file."""
    kept = os.dup(2)
    try:
        with path.open("ab") as log:
            os.dup2(log.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
