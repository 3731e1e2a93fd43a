"""The house: rooms stand on floors, and what is read on every start stays light."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import ovmse
from ovmse.runs import code

# Lowest first; a module belongs to the first line that fits its path within ovmse/.
FLOORS: list[tuple[str, ...]] = [
    ("envs/",), ("episodes.py",), ("runs/files.py",), ("method/algorithms.py",),
    ("method/schedules.py",),
    ("config.py",), ("method/",), ("datasets/",), ("runs/",), ("training/",), ("ladders.py",),
    ("sweep/",), ("cli/",),
]  # fmt: skip
LOWEST = 5  # the first five stand side by side: none imports another


def floor(path: str) -> int:
    """Which line of ``FLOORS`` a module is on."""
    return next(n for n, places in enumerate(FLOORS) if path.startswith(places))


def imports(path: Path) -> set[str]:
    """Every module of the project that a file imports, anywhere in it, as a dotted name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] in ("ovmse", "analysis", "notebooks")}


def file_of(module: str) -> Path | None:
    """Where a dotted name is a module or a package of the project."""
    base = ROOT.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.exists()), None)


MODULES = sorted(p for p in (ROOT / "ovmse").rglob("*.py") if p != ROOT / "ovmse/__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT / "ovmse").as_posix())
def test_a_module_imports_only_from_floors_below(path: Path) -> None:
    name = path.relative_to(ROOT / "ovmse").as_posix()
    mine = floor(name)
    for module in imports(path):
        assert module.startswith("ovmse"), f"{name} imports {module}"
        found = file_of(module)
        if found is None or found == ROOT / "ovmse/__init__.py":
            continue  # a name within a module
        theirs = floor(found.relative_to(ROOT / "ovmse").as_posix())
        if FLOORS[theirs][0].split("/")[0] == FLOORS[mine][0].split("/")[0]:
            assert theirs <= mine, f"{name} imports {module}"
        else:
            assert theirs < mine and not (theirs < LOWEST and mine < LOWEST), f"{name}: {module}"


def test_analysis_imports_no_notebook() -> None:
    for path in (ROOT / "analysis").rglob("*.py"):
        assert not {m for m in imports(path) if m.startswith("notebooks")}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("ovmse", "torch jax pandas h5py"),
        ("ovmse.config", "torch jax pandas h5py"),
        ("ovmse.runs.listing", "torch jax pandas"),
        ("ovmse.runs.tables", "torch jax"),
        ("ovmse.sweep.worker", "jax pandas"),
    ],
)
def test_what_is_read_on_every_start_stays_light(module: str, heavy: str) -> None:
    test = f"import sys, {module}; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", test], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_public_name_can_be_had() -> None:
    assert all(callable(getattr(ovmse, name)) or name == "ALGORITHMS" for name in ovmse.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = ovmse.trian


def test_where_a_module_stands_decides_whether_it_makes_another_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "ovmse", tmp_path / "ovmse")
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "ovmse")
    before = code.learning_code_key()
    for name in ("sweep/grid.py", "cli/app.py", "runs/listing.py", "ladders.py"):
        (tmp_path / "ovmse" / name).write_text("# edited")
        assert code.learning_code_key() == before
    for name in (
        "method/targets.py",
        "envs/smax.py",
        "training/replay.py",
        "config.py",
        "method/new.py",
    ):
        (tmp_path / "ovmse" / name).write_text("# edited")
        assert code.learning_code_key() != before
        before = code.learning_code_key()
