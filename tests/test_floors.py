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
    ("errors.py",), ("envs/",), ("episodes.py",), ("runs/files.py",), ("method/algorithms.py",),
    ("method/schedules.py",),
    ("config.py",), ("method/",), ("datasets/",), ("runs/",), ("training/",), ("ladders.py",),
    ("sweep/",), ("cli/",),
]  # fmt: skip
SIDE_BY_SIDE = range(1, 6)  # none of these imports another


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
            beside = theirs in SIDE_BY_SIDE and mine in SIDE_BY_SIDE
            assert theirs < mine and not beside, f"{name}: {module}"


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
        ("ovmse.sweep.worker", "torch jax pandas"),
        ("ovmse.cli.app", "torch jax pandas h5py distributed"),
        ("ovmse.cli.doctor", "torch jax pandas h5py distributed"),
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


# What `imports` leaves out: it drops the dots of a relative import, and a name taken from the
# package itself is no file.


@pytest.mark.parametrize("folder", ["ovmse", "analysis"])
def test_every_import_names_the_whole_path_of_its_module(folder: str) -> None:
    """Relative imports, and `from ovmse import train`, would pass by the floors unseen."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            assert node.level == 0, where
            if folder == "ovmse" and node.module == "ovmse":
                assert {a.name for a in node.names} <= {"__version__"}, where


@pytest.mark.parametrize("heavy", ["jax", "pandas"])
def test_a_worker_starts_without_what_only_its_kernels_need(heavy: str) -> None:
    test = f"import sys, ovmse.sweep.worker; print({heavy!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", test], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.slow
def test_the_learning_code_is_all_that_learning_loads() -> None:
    """Whatever `ovmse.training` loads, but for what keeps runs, decides a number."""
    test = (
        "import sys, ovmse.training, ovmse.envs.smax\n"
        "print(*[m.__file__ for n, m in sys.modules.items() if n.startswith('ovmse.')], sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", test], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {Path(line).relative_to(ROOT).as_posix() for line in done.stdout.splitlines()}
    learning = set(code.learning_code())
    assert {name for name in loaded if not name.startswith("ovmse/runs/")} <= learning
    some = {"config.py", "method/learner.py", "envs/smax.py", "datasets/hdf5.py"}
    assert {f"ovmse/{name}" for name in some | {"training/replay.py"}} <= loaded & learning
    apart = ("ovmse/cli/", "ovmse/sweep/", "ovmse/runs/", "ovmse/ladders", "ovmse/__init__")
    assert not [name for name in learning if name.startswith(apart)]


def test_a_learning_module_that_goes_makes_another_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "ovmse", tmp_path / "ovmse")
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "ovmse")
    before = code.learning_code_key()
    (tmp_path / "ovmse/method/.#learner.py").write_text("# what an editor leaves")
    assert code.learning_code_key() == before
    hdf5 = tmp_path / "ovmse/datasets/hdf5.py"
    hdf5.rename(hdf5.with_name("files.py"))
    assert code.learning_code_key() != before
