"""``ovmse doctor``: everything that a person can get wrong, each line with what to do about it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ovmse.cli import STARTED
from ovmse.envs import smac_setup
from ovmse.envs.smac_units import MAPS
from ovmse.runs.code import package_version
from ovmse.runs.files import DATA_DIR, RUNS

OK, NOTE, WRONG = "ok", "note", "wrong"
# For all imports together, side by side, and for the sums of files: since this program started, so
# that it ends in less than ten seconds on a busy machine too.
SECONDS, LEAST_SECONDS = 7.5, 1.0
SLOW = "was not imported within its time"
DISK_BYTES, MEMORY_BYTES = 5 * 2**30, 4 * 2**30  # below these a run of the `quick` preset is tight
TEMPORARY_BYTES = 2**29  # StarCraft II and Jupyter write there


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, ``ok``, ``note`` (only some will miss it) or ``wrong``, what
    was found, and what to do where there is something."""

    what: str
    state: str
    found: str
    todo: str = ""


def doctor() -> list[Finding]:
    """All findings, in the order of an installation. A check that fails itself is a finding."""
    # What imports slowly is asked of other processes, side by side and beside the sums of files.
    until = max(STARTED + SECONDS, time.monotonic() + LEAST_SECONDS)
    smac = _ask("from smac.env import StarCraft2Env", "python")
    torch = _ask(
        "import torch; print(torch.__version__, torch.get_num_threads(), "
        "torch.cuda.is_available(), torch.version.cuda)"
    )
    jax = _ask("import jax, jaxmarl; print(jax.__version__, jax.default_backend())")

    def datasets() -> Iterator[Finding]:
        return _datasets(until)

    def imported_torch() -> Iterator[Finding]:
        return _torch(_answer(torch, until))

    def imported_jax() -> Iterator[Finding]:
        return _jax(_answer(jax, until))

    def starcraft() -> Iterator[Finding]:
        return _starcraft(_answer(smac, until))

    answers = (imported_torch, imported_jax, starcraft)
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python, imported_torch, imported_jax, _packages, datasets, _dask, _browser, starcraft,
        _machine,
    )  # fmt: skip
    found: dict[Callable, list[Finding]] = {}
    for check in sorted(checks, key=lambda check: check in answers):  # these may keep one waiting
        try:
            found[check] = list(check())
        except Exception as error:
            what, told = check.__name__.strip("_"), f"{type(error).__name__}: {error}"
            found[check] = [Finding(what, WRONG, told, "report this")]
    return [finding for check in checks for finding in found[check]]


def as_text(findings: list[Finding]) -> str:
    """A line for each, and a last one that sums up."""
    mark = {OK: "ok   ", NOTE: "note ", WRONG: "WRONG"}
    width = max(len(f.what) for f in findings)
    lines = []
    for f in findings:
        todo = f"\n{'':{width + 8}}→ {f.todo}" if f.todo else ""
        lines.append(f"{mark[f.state]} {f.what:<{width}}  {f.found}{todo}")
    wrong = sum(f.state == WRONG for f in findings)
    end = f"{wrong} of {len(findings)} checks are wrong." if wrong else "Nothing is wrong."
    return "\n".join([*lines, end])


def as_json(findings: list[Finding]) -> str:
    """A list of objects with ``what``, ``state``, ``found`` and ``todo``."""
    return json.dumps([asdict(finding) for finding in findings], indent=1)


# The checks.


def _python() -> Iterator[Finding]:
    version, fine = platform.python_version(), sys.version_info >= (3, 11)
    todo = "" if fine else "install Python 3.11 or newer: make setup PYTHON=python3.11"
    yield Finding("Python", OK if fine else WRONG, f"{version} at {sys.executable}", todo)


def _torch(answer: tuple[str, str]) -> Iterator[Finding]:
    said, error = answer
    if error:
        yield _not_imported("torch", error, "make setup")
        return
    version, threads, cuda, built = said.split()
    yield Finding("torch", OK, version)
    many = int(threads) > 1
    yield Finding(
        "torch threads", NOTE if many else OK,
        f"{threads} by default, 1 while a run learns (setting `threads`)",
        "OMP_NUM_THREADS=1 where several runs share the machine" if many else "",
    )  # fmt: skip
    if cuda == "True":
        yield Finding("CUDA", OK, f"a device is there (CUDA {built})")
    else:
        lacks = built == "None" and shutil.which("nvidia-smi")
        todo = "the installed torch has no CUDA: install its CUDA build" if lacks else ""
        yield Finding("CUDA", NOTE, "no device: the networks learn on the CPU (enough)", todo)


def _jax(answer: tuple[str, str]) -> Iterator[Finding]:
    said, error = answer
    if error:
        yield _not_imported("JAX", error, "make setup (battles of backend smax need it)")
    else:
        version, backend = said.split()[-2:]
        yield Finding("JAX", OK, f"{version} on {backend}, JaxMARL {package_version('jaxmarl')}")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or base / "ovmse" / "jax")
    yield _writable("JAX's cache", cache, "set JAX_COMPILATION_CACHE_DIR to a folder of yours")


def _packages() -> Iterator[Finding]:
    names = ("numpy", "h5py", "safetensors", "pandas", "jupyterlab", "altair", "papermill")
    missing = [name for name in names if package_version(name) == "missing"]
    found = f"{', '.join(missing)} missing" if missing else f"{', '.join(names)} are installed"
    yield Finding("packages", WRONG if missing else OK, found, "make setup" if missing else "")


def _datasets(until: float) -> Iterator[Finding]:
    from ovmse.datasets.dataset import dataset_size, is_vault

    files = sorted(DATA_DIR.glob("*.h5")) + sorted(DATA_DIR.glob("*/*.h5"))
    if not files:
        todo = "ovmse data make --task 2s3z --quality medium, or set OVMSE_DATA"
        yield Finding("datasets", WRONG, f"{DATA_DIR} holds none", todo)
    there = [path for path in files if path.is_file()]
    there += filter(is_vault, DATA_DIR.glob("*/*.vlt/*"))
    for path in set(files) - set(there):  # a link to a disk that is not there, say
        todo = "bring its disk back, or remove the name"
        yield Finding(str(path.relative_to(DATA_DIR)), WRONG, "is no file", todo)
    for path in sorted(there, key=dataset_size):
        card = path.with_suffix(".md")
        said = card.read_text(errors="replace") if card.is_file() else ""
        size = f"{dataset_size(path) / 1e6:.1f} MB"
        name = str(path.relative_to(DATA_DIR))
        if "SHA-256" not in said:
            yield Finding(name, NOTE, f"{size}, no card", f"ovmse data card {path}")
        elif (total := _sum(path, until)) is None:
            how = "sha256sum" if path.is_file() else "ovmse data card"
            todo = f"to compare its sum: {how} {path}, and {card.name}"
            yield Finding(name, NOTE, f"{size}, too much to sum within its time", todo)
        elif total in said:
            yield Finding(name, OK, f"{size}, as its card says")
        else:
            yield Finding(name, WRONG, f"{size}, not what its card says", "get or make it anew")


def _sum(path: Path, until: float) -> str | None:
    """SHA-256 of a file or, as cards have it, of a vault's files in order; None where that takes
    too long: public datasets are some GB."""
    from ovmse.datasets.dataset import dataset_files

    if path.is_dir():
        files = dataset_files(path)
        sums = {file.relative_to(path).as_posix(): _sum(file, until) for file in files}
        listed = "\n".join(f"{name} {total}" for name, total in sums.items())
        return None if None in sums.values() else hashlib.sha256(listed.encode()).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            if time.monotonic() > until:
                return None
            digest.update(block)
    return digest.hexdigest()


def _dask() -> Iterator[Finding]:
    version = package_version("distributed")
    state = WRONG if version == "missing" else OK
    todo = "make setup (sweeps need it)" if state == WRONG else ""
    yield Finding("Dask", state, f"distributed {version}", todo)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        found = f"127.0.0.1 gives free ones (such as {one.getsockname()[1]})"
    taken = [port for port in (8786, 8787, 8888) if not _free(port)]
    if taken:
        found += f"; in use: {', '.join(map(str, taken))}"
    todo = "only a scheduler or JupyterLab that asks for that very port minds" if taken else ""
    yield Finding("ports", NOTE if taken else OK, found, todo)


def _browser() -> Iterator[Finding]:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    todo = "" if path else "only the browser tests need it: apt-get install chromium"
    yield Finding("browser", OK if path else NOTE, path or "no Chromium", todo)


def _starcraft(answer: tuple[str, str]) -> Iterator[Finding]:
    installed = smac_setup.versions()
    asked = bool(os.environ.get("SC2PATH")) or installed["smac"] != "missing"
    state = WRONG if asked else NOTE  # who has asked for nothing misses nothing
    error = answer[1]
    if error == SLOW:
        yield _not_imported("StarCraft: smac", error, "")
    elif error:
        kind, _, text = error.partition(": ")
        raised: Exception = TypeError(text)
        if kind in ("ModuleNotFoundError", "ImportError"):
            name = text.split("'")[1] if "'" in text else None
            lost = kind == "ModuleNotFoundError"
            raised = (ModuleNotFoundError if lost else ImportError)(text, name=name)
        todo = smac_setup.import_problem(raised) or error
        yield Finding("StarCraft: smac", state, f"smac {installed['smac']}", todo)
    else:
        told = ", ".join(f"{k} {v}" for k, v in installed.items() if k != "game")
        yield Finding("StarCraft: smac", OK, told)
    problem = smac_setup.game_problem()
    folder = smac_setup.game_folder()
    if problem:
        yield Finding("StarCraft: game", state, f"not at {folder}", problem)
        return
    version = installed["game"]
    todo = "" if version == "4.10" else "the paper's numbers are of 4.10; others do not compare"
    yield Finding("StarCraft: game", NOTE if todo else OK, f"{version} at {folder}", todo)
    missing = [task for task in MAPS if smac_setup.map_file(task) is None]
    held = f"{len(MAPS) - len(missing)} of {len(MAPS)} SMAC maps"
    todo = smac_setup.game_problem(missing[0]) or "" if missing else ""
    yield Finding("StarCraft: maps", state if missing else OK, held, todo)


def _machine() -> Iterator[Finding]:
    import psutil

    yield _writable("runs", RUNS, "set OVMSE_RUNS to a folder of yours")
    free = shutil.disk_usage(_existing(RUNS)).free
    tight = free < DISK_BYTES
    todo = "make room, or set OVMSE_RUNS to another disk" if tight else ""
    yield Finding("disk", WRONG if tight else OK, f"{free / 1e9:.0f} GB free for runs", todo)
    temporary = tempfile.gettempdir()
    free = shutil.disk_usage(temporary).free
    tight = free < TEMPORARY_BYTES
    todo = "make room there, or set TMPDIR to a folder on another disk" if tight else ""
    found = f"{free / 1e9:.0f} GB free in {temporary}"
    yield Finding("temporary files", WRONG if tight else OK, found, todo)
    memory, cores = psutil.virtual_memory().available, os.cpu_count()
    tight = memory < MEMORY_BYTES
    games = int(memory / smac_setup.GAME_BYTES)
    yield Finding(
        "memory", NOTE if tight else OK,
        f"{memory / 1e9:.0f} GB free, {cores} cores (StarCraft: at most {games} games at once)",
        "end other programs, or lower num_envs and buffer_episodes" if tight else "",
    )  # fmt: skip


# How they look.


def _ask(code: str, protobuf: str = "") -> subprocess.Popen:
    """Runs a line of Python without waiting for it."""
    extra = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": protobuf} if protobuf else {}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **extra},
    )  # fmt: skip


def _answer(asked: subprocess.Popen, until: float) -> tuple[str, str]:
    """What it printed, and why it failed (the last line of its traceback), else nothing."""
    try:
        out, err = asked.communicate(timeout=max(0.01, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        asked.kill()
        asked.communicate()
        return "", SLOW
    if asked.returncode:
        last = [line for line in err.splitlines() if line and not line.startswith(" ")]
        errors = [line for line in last if "Error" in line.split(":")[0]]
        return "", (errors or last or ["it cannot be imported"])[-1]
    return out.strip().splitlines()[-1] if out.strip() else "", ""


def _not_imported(what: str, error: str, todo: str) -> Finding:
    if error == SLOW:
        return Finding(what, NOTE, error, "try again when the machine is less busy")
    return Finding(what, WRONG, error, todo)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _writable(what: str, folder: Path, todo: str) -> Finding:
    """Whether a folder can be written to, or made."""
    if os.access(_existing(folder), os.W_OK) and _existing(folder).is_dir():
        return Finding(what, OK, str(folder))
    return Finding(what, WRONG, f"{folder} cannot be written to", todo)


def _free(port: int) -> bool:
    with socket.socket() as one:
        one.settimeout(0.2)
        return one.connect_ex(("127.0.0.1", port)) != 0
