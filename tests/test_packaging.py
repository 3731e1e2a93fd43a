"""The set-up: one list of versions in three files, and tools/setup.py with its messages."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import json
import os
import queue
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [
    Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
]
FAKE_OLD_PYTHON = f"""#!/bin/sh
exec "{sys.executable}" -c '
import runpy, sys
sys.version_info = (3, 8, 10, "final", 0)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")' "$@"
"""


def pins(lines: list[str]) -> dict[str, str]:
    """Name → version of the lines that pin a version."""
    found = (re.fullmatch(r"([\w.-]+)==(\S+)", line.strip()) for line in lines)
    return {canonicalize_name(match[1]): match[2] for match in found if match}


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text().splitlines())


# --- versions ------------------------------------------------------------------------------------


def test_ranges_admit_the_tested_versions() -> None:
    for requirement in DIRECT:
        version = CONSTRAINTS[canonicalize_name(requirement.name)]
        assert requirement.specifier, f"{requirement.name} has no range"
        assert requirement.specifier.contains(version), f"{requirement} excludes {version}"


def test_python_version() -> None:
    supported = SpecifierSet(PROJECT["requires-python"])
    assert str(supported) == ">=" + ".".join(map(str, load_setup().OLDEST))
    prefix = "Programming Language :: Python :: "
    tried = [line.removeprefix(prefix) for line in PROJECT["classifiers"] if prefix in line]
    assert tried and all(supported.contains(version) for version in tried)
    assert (
        f"python={tried[0]}"
        in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    )


def test_conda_gets_the_same_versions() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"][0] == "conda-forge"
    *conda, last = environment["dependencies"]
    assert [item.split("=")[0] for item in conda] == ["python", "pip"]
    lines = last["pip"]
    assert lines[0] == "-c constraints.txt" and lines[-1] == "-e ."
    pinned = pins(lines)
    assert len(pinned) == len(lines) - 2, "every other line pins one version"
    assert pinned == {name: CONSTRAINTS[name] for name in pinned}
    assert set(pinned) == {canonicalize_name(requirement.name) for requirement in DIRECT}


def test_starcraft_line() -> None:
    text = (ROOT / "environment.yml").read_text()
    commands = [line[2:] for line in text.splitlines() if line.startswith("# pip install")]
    first, second, third = (shlex.split(command)[2:] for command in commands)
    protobuf, smac = map(Requirement, first)
    assert str(protobuf) == "protobuf<3.21"
    assert (smac.name, smac.url) == ("smac", "git+https://github.com/oxwhirl/smac.git")
    assert second == ["--no-deps", "pysc2>=3", str(smac)]
    guide = " ".join((ROOT / "docs" / "starcraft.md").read_text().split())
    assert shlex.join(third) in guide and '--no-deps "pysc2>=3"' in guide
    # `smac` from the package index is another project.
    assert "smac" not in CONSTRAINTS and "smac" not in {item.name for item in DIRECT}


def test_citation_names_project_and_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] and citation["license"] == "MIT"
    (paper,) = citation["references"]
    assert paper["year"] == 2025 and len(paper["authors"]) == 4


# --- tools/setup.py ------------------------------------------------------------------------------


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_tool", ROOT / "tools" / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the set-up's files in a path with spaces."""
    folder = tmp_path / "a path with spaces"
    (folder / "tools").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "tools/setup.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


class Recorder:
    """Stands for `run` of tools/setup.py: notes the commands, makes only .venv/bin/python."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.fail_at = -1
        self.error: BaseException = KeyboardInterrupt()

    def __call__(self, command: list[str]) -> None:
        self.commands.append(command)
        if len(self.commands) - 1 == self.fail_at:
            raise self.error
        if command[1:3] == ["-m", "venv"]:
            shutil.rmtree(".venv", ignore_errors=True)
            os.makedirs(".venv/bin")
            os.symlink(sys.executable, ".venv/bin/python")

    def take(self) -> list[list[str]]:
        taken, self.commands = self.commands, []
        return taken


@pytest.fixture
def tool(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_setup()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PIP_FLAGS", raising=False)
    monkeypatch.setattr(module, "ROOT", str(folder))
    monkeypatch.setattr(module, "NEEDED_GB", 0)
    module.run = Recorder()
    return module


def test_second_set_up_installs_nothing(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FLAGS", "--index-url 'an index'")
    assert tool.main([]) == 0
    venv, torch, uv, rest, first = tool.run.take()
    assert venv == [sys.executable, "-m", "venv", "--clear", ".venv"]
    assert torch[:4] == uv[:4] == [".venv/bin/python", "-m", "pip", "install"]
    assert torch[-4:] == ["--no-deps", "--index-url", "an index", "torch==" + CONSTRAINTS["torch"]]
    assert uv[-1] == "uv==" + CONSTRAINTS["uv"]
    assert rest[:5] == [".venv/bin/python", "-m", "uv", "pip", "install"]
    assert rest[-4:] == ["-c", "constraints.txt", "-e", ".[test]"]
    assert first == [".venv/bin/python", "-c", tool.FIRST]
    assert tool.main([]) == 0
    assert tool.main(["--chosen"]) == 0  # this very Python, named
    assert tool.run.take() == []


@pytest.mark.parametrize("fail_at", [2, 3])
def test_where_uv_cannot_install_pip_does(tool: ModuleType, fail_at: int) -> None:
    tool.run.fail_at, tool.run.error = fail_at, tool.SetupError("no such package")
    assert tool.main([]) == 0
    last = tool.run.take()[-2]
    assert last[:4] == [".venv/bin/python", "-m", "pip", "install"]
    assert last[-4:] == ["-c", "constraints.txt", "-e", ".[test]"]
    assert tool.state(chosen=False) == "ready"


def test_uv_asks_the_index_that_pip_is_told(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://two.invalid/simple")
    assert tool.main([]) == 0
    assert "--default-index" not in tool.run.take()[-2]
    monkeypatch.setenv("PIP_INDEX_URL", "https://one.invalid/simple")
    assert tool.index() == ["--default-index", "https://one.invalid/simple"]


def test_changed_versions_are_installed_over_the_old(tool: ModuleType, folder: Path) -> None:
    tool.main([])
    tool.run.take()
    with open(folder / "constraints.txt", "a") as file:
        file.write("# changed\n")
    assert tool.main([]) == 0
    assert [command[2] for command in tool.run.take()] == ["pip", "pip", "uv", tool.FIRST]
    assert tool.main([]) == 0
    assert tool.run.take() == []


def test_interrupted_set_up_is_repaired(
    tool: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fail_at in range(5):
        shutil.rmtree(folder / ".venv", ignore_errors=True)
        tool.run.fail_at = fail_at
        assert tool.main([]) == 1
        assert "interrupted" in capsys.readouterr().err
        tool.run.fail_at = -1
        tool.run.take()
        assert tool.main([]) == 0
        assert [command[2] for command in tool.run.take()] == [
            "venv",
            "pip",
            "pip",
            "uv",
            tool.FIRST,
        ]
    # An interrupted update leaves half a package as easily as an interrupted installation.
    (folder / "constraints.txt").write_text("torch==0\nuv==0\n")
    tool.run.fail_at = 0
    assert tool.main([]) == 1
    tool.run.fail_at = -1
    tool.run.take()
    assert tool.main([]) == 0
    assert tool.run.take()[0][2] == "venv"


def test_moved_project_and_other_python_are_built_anew(tool: ModuleType, folder: Path) -> None:
    tool.main([])
    stamp = json.loads((folder / tool.STAMP).read_text())
    for change in ({"root": "/elsewhere"}, {"python": "3.10.1"}):
        (folder / tool.STAMP).write_text(json.dumps(stamp | change))
        assert tool.state(chosen=True) == "build"
    # Which Python made .venv matters only to someone who names one.
    assert tool.state(chosen=False) == "ready"
    (folder / ".venv/bin/python").unlink()
    assert tool.state(chosen=False) == "build"


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line written to stderr, which has to be one sentence."""
    line = capsys.readouterr().err.rstrip("\n").split("\n")[-1]
    assert line[0].isupper() and line.endswith(("again.", "the rest.")) and "Traceback" not in line
    return line


def test_no_disk(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(tool, "NEEDED_GB", 4)
    monkeypatch.setattr(tool.shutil, "disk_usage", lambda path: usage(10**11, 10**11, 12 * 10**8))
    assert tool.main([]) == 1
    message = sentence(capsys)
    assert message.startswith("Only 1.2 GB are free on the disk of ") and "4 GB" in message
    assert tool.run.take() == []


def test_no_venv_module(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert tool.main([]) == 1
    assert "apt install python3-venv" in capsys.readouterr().err
    assert tool.run.take() == []


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("print('ERROR: [Errno 28] No space left on device')", "The disk is full"),
        ("print('Collecting x'); print('ERROR: no such version')", "(last message: ERROR: no such"),
        ("pass", "(last message: no output)"),
    ],
)
def test_failed_command(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    script: str,
    expected: str,
) -> None:
    tool = load_setup()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tool, "setup", lambda chosen: tool.run([sys.executable, "-c", script_exit]))
    monkeypatch.setattr(tool, "ROOT", str(folder))
    script_exit = script + "; raise SystemExit(1)"
    assert tool.main([]) == 1
    assert expected in sentence(capsys)


def test_no_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = load_setup()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--retries", "1"]
    closed = ["--index-url", "http://127.0.0.1:9/simple", "ovmse-no-such-package"]
    monkeypatch.setattr(tool, "ROOT", str(folder))
    monkeypatch.setattr(tool, "setup", lambda chosen: tool.run(pip + closed))
    monkeypatch.chdir(folder)
    assert tool.main([]) == 1
    expected = "The packages could not be downloaded (pip: ERROR: No matching distribution found"
    assert sentence(capsys).startswith(expected)
    assert "Retrying" in (folder / tool.LOG).read_text()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "The disk is full: the set-up needs about "),
        (errno.EACCES, "The set-up failed in {folder}: "),
    ],
)
def test_what_the_system_refuses(
    tool: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str], number: int, expected: str
) -> None:
    def refuse(command: list[str]) -> None:
        raise OSError(number, os.strerror(number), ".venv")

    tool.run = refuse
    assert tool.main([]) == 1
    (_, message) = capsys.readouterr().err.splitlines()  # after what it was about to do
    assert message.startswith(expected.format(folder=folder))


def test_a_second_set_up_waits_for_the_first_and_repeats_nothing(
    tool: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / tool.LOG).write_text("of a set-up that failed")
    tool.main([])
    assert not (folder / tool.LOG).exists()
    tool.run.take()
    said: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(tool, "say", said.put)
    with open(folder / tool.LOCK, "w") as lock, ThreadPoolExecutor() as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the first, which is not done yet
        os.rename(tool.STAMP, tool.STAMP + ".part")
        second = pool.submit(tool.main, [])
        try:
            assert said.get(timeout=30).startswith("Another set-up of this project is running")
            with pytest.raises(TimeoutError):
                second.result(0.5)
            os.rename(tool.STAMP + ".part", tool.STAMP)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
        assert second.result(30) == 0
    assert tool.run.take() == [] and said.empty()


# --- make ----------------------------------------------------------------------------------------


def make(folder: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess:
    """Run make in a folder, untouched by the make that may be running this test."""
    own = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    if path:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize("target", ["demo", "test", "lab"])
def test_old_python_is_one_sentence(folder: Path, target: str) -> None:
    script(folder / "old/python3", FAKE_OLD_PYTHON)
    done = make(folder, target, path=folder / "old")
    assert done.returncode == 2 and not (folder / ".venv").exists()
    message, by_make = done.stderr.splitlines()
    assert re.match(r"Python 3\.8\.10 \(.*\) is too old: .* 3\.11 or newer, ", message)
    assert message.endswith("make demo PYTHON=python3.12") and by_make.startswith("make: ***")


def test_missing_python_is_one_sentence(folder: Path) -> None:
    done = make(folder, "demo", "PYTHON=no-such-python")
    message, _ = done.stderr.splitlines()
    assert message.startswith("No program no-such-python was found: install Python 3.11 or newer")


def test_targets_run_from_a_path_with_spaces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = load_setup()
    monkeypatch.chdir(folder)
    script(folder / ".venv/bin/python", '#!/bin/sh\necho "$@" >> calls.txt\n')
    stamp = {"root": os.path.realpath(folder), "python": "3.11.7", "digest": tool.digest()}
    (folder / tool.STAMP).write_text(json.dumps(stamp))
    # An old Python is no obstacle once .venv is there.
    script(folder / "old/python3", FAKE_OLD_PYTHON)
    for target in ("demo", "lab", "test", "check"):
        done = make(folder, target, path=folder / "old")
        assert done.returncode == 0, done.stderr
    calls = (folder / "calls.txt").read_text().splitlines()
    assert calls[0] == "-m analysis.demo"
    assert re.fullmatch(r"-m jupyterlab --ServerApp.root_dir=. .*(--allow-root)?", calls[1])
    assert [call.split()[1] for call in calls[2:]] == ["ruff", "ruff", "mypy", "pytest"] * 2
    assert calls[9] == calls[5] + " -m not slow"  # as one argument: the shell took the quotes


def test_ci_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test"
    assert subprocess.run(["sh", "-n", script]).returncode == 0
