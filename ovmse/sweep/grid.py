"""A grid file: a notebook, and the parameters it is run with.

notebook: 01_train                  # in notebooks/, or the path of one, from the grid file
parameters:                         # lists are crossed with each other
  algorithm: [ovmse, macql]
  seed: 0..5                        # 0, 1, 2, 3, 4 and 5
zip:                                # the lists of one group go in step
  - {task: [2s3z, 6h_vs_8z], mixing_ratio: [0, 0.1]}
scales:                             # --scale NAME; the first one if none is chosen
  quick: {parameters: {preset: quick, seed: 0..1}}
  paper: {parameters: {preset: paper}}
then: [02_q_drift]                  # run once at the end, with `runs` = the directories of all runs
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ovmse.config import Config, did_you_mean
from ovmse.datasets.dataset import DatasetError, dataset_path, file_checksum, ladder_folder
from ovmse.datasets.hdf5 import require_source
from ovmse.errors import UserError
from ovmse.runs.code import checksums, learning_code_key
from ovmse.runs.files import PROJECT, from_project, named_path, read_text, run_around
from ovmse.sweep import MAX_RUNS
from ovmse.sweep.fingerprint import fingerprint
from ovmse.sweep.notebook_source import code_checksum, parameters_cell

DEEPEST = 30  # levels of a grid file, which needs six
# PyYAML lets pass on what its tags stumble over: `!!int ''`, `!!bool x`.
YAML_ERRORS = (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError)


class Scale(BaseModel):
    """What a scale says otherwise than the grid itself."""

    model_config = ConfigDict(extra="forbid")
    parameters: dict[str, Any] = {}
    zip: list[dict[str, Any]] | None = None


class Grid(Scale):
    """The grid file, read and found well-formed. Its values are checked by ``plan``."""

    notebook: str = Field(min_length=1)
    scales: dict[str, Scale] = {}
    then: list[str] = []
    path: Path  # of the file


@dataclass(frozen=True)
class NotebookRun:
    """One notebook with its parameters, and the folder that is its own."""

    label: str  # what a person reads: the parameters that vary
    notebook: Path
    folder: Path
    parameters: dict[str, Any]
    config: Config | None = None  # of a notebook that trains


@dataclass(frozen=True)
class Plan:
    """Every run of a grid. ``last`` come when all others are done, and whenever one was since."""

    folder: Path
    runs: list[NotebookRun]
    last: list[NotebookRun] = field(default_factory=list)
    datasets: tuple[str, ...] = ()

    def fingerprint(self) -> dict[str, str]:
        """What this process has of all that a worker must have alike."""
        return fingerprint(*self.asked())

    def asked(self) -> tuple[list[str], list[str], str]:
        """The arguments of ``fingerprint`` for this plan."""
        notebooks = sorted({str(run.notebook) for run in [*self.runs, *self.last]})
        return notebooks, list(self.datasets), str(self.folder)


def load_grid(path: str | Path) -> Grid:
    """Reads a grid file; raises UserError with one sentence if it is not well-formed."""
    path = named_path(path, "grid")
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error})") from None
    try:
        content = yaml.load(text, _StrictLoader)
    except YAML_ERRORS as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: got {_short(content)}, allowed: notebook, parameters, zip, ...")
    for name in content:
        if name not in set(Grid.model_fields) - {"path"}:
            known = sorted(set(Grid.model_fields) - {"path"})
            raise UserError(f"{path}: there is no entry {name!r}{did_you_mean(str(name), known)}")
    try:
        grid = Grid(**content, path=path)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: {where}: got {_short(first['input'])}, {first['msg'].lower()}"
        ) from None
    for name in grid.scales:  # a part of the name of the folder that the runs go to
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(
                f"{path}: scales: got the name {_short(name)}, allowed: letters, digits, _, - and ."
            )
    return grid


def grid_value(name: str, text: str) -> Any:
    """A value as the grid file would say it: `0.1`, `0..5`, `[2s3z, 3s5z]`."""
    try:
        return yaml.load(text, _StrictLoader)
    except YAML_ERRORS:
        said = _short(text)
        raise UserError(f"{name}: got {said}, allowed: a value, a range or a list") from None


def plan(
    grid: Grid,
    folder: str | Path,
    scale: str | None = None,
    given: dict[str, Any] | None = None,
    max_runs: int = MAX_RUNS,
) -> Plan:
    """Every run of the grid, each found valid; nothing is written.

    folder: where the runs go, below a folder of their own for each state of the learning code, so
    that they share a pre-training. given: parameters that go before those of the file. Raises
    ValueError with one sentence that names the parameter, its value and what is allowed.
    """
    chosen = _scale(grid, scale)
    parameters = {**grid.parameters, **chosen.parameters, **(given or {})}
    groups = (grid.zip if chosen.zip is None else chosen.zip) or []
    axes = _axes(parameters, groups)
    count = math.prod(len(axis) for axis in axes)
    if count > max_runs:
        raise UserError(
            f"{grid.path}: the grid has {count:,} runs, allowed: at most {max_runs:,} "
            "(--max-runs allows more)"
        )
    code = learning_code_key()
    home = _usable(named_path(folder, "folder")) / f"code-{code}"
    builder = _Builder(_find_notebook(grid.notebook, grid.path), home, code)
    varied = [name for axis in axes if len(axis) > 1 for name in axis[0]]
    runs = []
    for combination in itertools.product(*axes):
        settings = {k: v for part in combination for k, v in part.items()}
        label = ", ".join(_say(name, settings[name]) for name in varied)
        runs.append(builder.run(settings, label))
    if len({run.folder for run in runs}) < len(runs):
        raise UserError(f"{grid.path}: two of the runs are the same; give every value once")
    for name in _twice(grid.then):
        raise UserError(f"{grid.path}: then: {name!r} stands twice")
    last = [_last_run(name, grid.path, runs, code) for name in grid.then]
    return Plan(home, runs, last, tuple(sorted(builder.datasets)))


def _usable(folder: Path) -> Path:
    """The folder as an absolute path, if it is one or can become one; else UserError."""
    whole = folder.resolve()
    try:
        there = next(path for path in (whole, *whole.parents) if path.exists())
        why = "" if there.is_dir() else f"{there} is none"
        if outer := run_around(whole / "runs"):
            why = f"this lies in the run {outer}"
    except OSError as error:  # such as a name that is too long
        why = str(error.strerror)
    if why:
        raise UserError(f"folder: got {_short(str(folder))}, allowed: a folder ({why})")
    return whole


class _Builder:
    """Makes runs of one notebook; reads the notebook and each dataset once."""

    def __init__(self, notebook: Path, home: Path, code: str) -> None:
        self.notebook, self.home = notebook, home
        self.defaults = parameters_cell(notebook)
        self.trains = "run_dir" in self.defaults
        self.base = [code_checksum(notebook), code]
        self.datasets: dict[str, str] = {}  # path -> checksum
        self.sources: dict[tuple[str, str, str], str] = {}  # task, dataset, backend -> path

    def run(self, settings: dict[str, Any], label: str) -> NotebookRun:
        known = [*self.defaults, *(Config.model_fields if self.trains else [])]
        for name in settings:
            if name == "run_dir" and self.trains:
                raise UserError(f"{name} is set by the sweep; leave it out of the grid")
            if name not in known:
                raise UserError(
                    f"{self.notebook.name} has no parameter {name!r}{did_you_mean(name, known)}"
                )
        parameters = {**self.defaults, **settings}
        config, data = None, ""
        if self.trains:
            given = {k: v for k, v in parameters.items() if k in Config.model_fields}
            config = Config.from_parameters(**from_project(given))
            # 5, "5" and 5.0 are one setting: what Config made of it counts.
            coerced = config.model_dump(include={k for k, v in settings.items() if v is not None})
            settings = {**settings, **coerced}
            parameters |= config.model_dump()  # what null and a preset stand for
            if config.uses_data:
                data = self._checksum(config)
        # All parameters, so that naming a default in the grid runs nothing anew.
        key = _key(*self.base, data, parameters)
        if config is not None:
            name = f"{config.algorithm}_{config.task}_seed{config.seed}"
        else:
            name = self.notebook.stem
        folder = self.home / f"{name}_{key}"
        if self.trains:
            settings = {**settings, "run_dir": str(folder)}
        return NotebookRun(label or name, self.notebook, folder, settings, config)

    def _checksum(self, config: Config) -> str:
        """Of a dataset that is there and of the run's task."""
        asked = config.task, config.dataset, config.backend
        try:
            if asked not in self.sources:
                path = dataset_path(*asked)
                require_source(path, config.task, config.backend)
                self.sources[asked] = str(path.resolve())
                self.datasets[self.sources[asked]] = file_checksum(path)
        except DatasetError as error:
            raise UserError(f"{error}{_how_to_make(config)}") from None
        return self.datasets[self.sources[asked]]


def _key(*content: Any) -> str:
    text = json.dumps(_ordered(content))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _ordered(value: Any) -> Any:
    """A notebook's default may be of any kind; sets come in another order in each process."""
    if isinstance(value, list | tuple):
        return [_ordered(v) for v in value]
    if isinstance(value, dict | set):
        pairs = value.items() if isinstance(value, dict) else ((v, None) for v in value)
        return sorted([repr(k), _ordered(v)] for k, v in pairs)
    return value if isinstance(value, str | int | float | None) else repr(value)


def _how_to_make(config: Config) -> str:
    known = ladder_folder(config.task, config.backend).is_dir()
    if known and config.dataset in ("medium", "medium_replay"):
        made = f"; make it: ovmse data make --task {config.task} --quality {config.dataset}"
        return made if config.backend == "smax" else f"{made} --backend {config.backend}"
    return ""


def _last_run(name: str, grid: Path, runs: list[NotebookRun], code: str) -> NotebookRun:
    """A notebook over these runs. What it shows is made by ``analysis`` too, so that counts."""
    notebook = _find_notebook(name, grid)
    if "runs" not in parameters_cell(notebook):
        raise UserError(f"then: {notebook.name} has no parameter 'runs'")
    shows = code_checksum(notebook), checksums(PROJECT / "analysis")
    key = _key(*shows, code, [run.folder.name for run in runs])
    folder = runs[0].folder.parent / f"{notebook.stem}_{key}"
    given = {"runs": [str(run.folder) for run in runs]}
    return NotebookRun(notebook.stem, notebook, folder, given)


def _find_notebook(name: str, grid: Path) -> Path:
    if name.endswith(".ipynb"):
        return (grid.parent / named_path(name, "notebook")).resolve()
    folder = PROJECT / "notebooks"
    if not (folder / f"{name}.ipynb").exists():
        known = sorted(p.stem for p in folder.glob("*.ipynb"))
        raise UserError(
            f"there is no notebook {name!r} in notebooks/, which holds {', '.join(known)}"
            " (a path that ends in .ipynb is allowed too)"
        )
    return folder / f"{name}.ipynb"


def _scale(grid: Grid, name: str | None) -> Scale:
    if name is None:
        return next(iter(grid.scales.values()), Scale())
    if name not in grid.scales:
        known = ", ".join(grid.scales) or "none: the grid has no scales"
        raise UserError(f"--scale: got {name!r}, allowed: {known}")
    return grid.scales[name]


def _axes(
    parameters: dict[str, Any], groups: list[dict[str, Any]]
) -> list[Sequence[dict[str, Any]]]:
    """What is crossed: one axis for each parameter and for each zip group."""
    axes: list[Sequence[dict[str, Any]]] = []
    seen: set[str] = set()
    for group in groups:
        columns = {name: _values(name, values) for name, values in group.items()}
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) != 1:
            said = ", ".join(f"{name} {n}" for name, n in lengths.items()) or "nothing"
            raise UserError(f"zip: lists of a group must be equally long, got {said}")
        for name in group:
            if name in parameters or name in seen:
                raise UserError(f"{name} is given twice: in a zip group and elsewhere")
        seen |= set(group)
        axes.append(_Axis(columns))
    return [_Axis({name: _values(name, v)}) for name, v in parameters.items()] + axes


class _Axis(Sequence[dict[str, Any]]):
    """Values that go in step, as a sequence that is not written out."""

    def __init__(self, columns: dict[str, Sequence[Any]]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, at: Any) -> Any:
        return {name: values[at] for name, values in self.columns.items()}


def _values(name: str, value: Any) -> Sequence[Any]:
    """The values of a parameter: of a list, of a range such as 0..5, or a single one."""
    if isinstance(value, list):
        if not value:
            raise UserError(f"{name}: got an empty list, allowed: at least one value")
        if any(isinstance(_range(name, v), range) for v in value):
            raise UserError(f"{name}: got a range within a list, allowed: one or the other")
        return [_scalar(name, v) for v in value]
    span = _range(name, value)
    return span if isinstance(span, range) else [_scalar(name, value)]


def _range(name: str, value: Any) -> range | None:
    if not isinstance(value, str) or ".." not in value or "/" in value:
        return None
    ends = re.fullmatch(r"\s*(\d{1,18})\s*\.\.\s*(\d{1,18})\s*", value)
    if not ends or int(ends[1]) > int(ends[2]):
        raise UserError(f"{name}: got {value!r}, allowed: a range such as 0..5")
    return range(int(ends[1]), int(ends[2]) + 1)


def _scalar(name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, str | int | float | bool):
        raise UserError(f"{name}: got {_short(value)}, allowed: a number, a text or a list of them")
    return value


def _say(name: str, value: Any) -> str:
    return str(value) if isinstance(value, str) else f"{name} {value}"


def _short(value: Any) -> str:
    return reprlib.repr(value)  # cuts: aliases can make a small file an endless text


class _StrictLoader(yaml.SafeLoader):
    """Safe, and a name that stands twice is an error: the first would be lost without a word."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > DEEPEST:  # PyYAML would take seconds to run out of stack
            raise yaml.composer.ComposerError(None, None, "nested too deeply")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [
            key.value if key.tag == "tag:yaml.org,2002:merge" else self.construct_object(key, True)
            for key, _ in node.value
        ]
        for name in _twice(names):
            raise yaml.constructor.ConstructorError(
                None, None, f"{name!r} stands twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


# 1e-3 is a number, as in Python and in YAML 1.2; YAML 1.1 asks for 1.0e-3.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _number(loader: yaml.SafeLoader, node: Any) -> Any:
    """010 is ten, as `seed=010` is everywhere else, and 1:30 a text; YAML 1.1 reads 8 and 90."""
    if ":" in node.value:
        return node.value
    if re.fullmatch(r"[-+]?[0-9_]+", node.value):
        return int(node.value.replace("_", ""))
    name = node.tag.rpartition(":")[2]
    return getattr(loader, f"construct_yaml_{name}")(node)


for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _StrictLoader.add_constructor(_tag, _number)
# 08 too, which YAML 1.1 takes for a text: 8 is no octal digit.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+$"), list("-+0123456789")
)


def _twice(names: list[Any]) -> Iterator[Any]:
    return (name for number, name in enumerate(names) if name in names[:number])
