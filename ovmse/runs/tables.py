"""Many runs as one tidy table of all measurements, and that table as a file."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ovmse.config import Config, uses_data
from ovmse.errors import UserError
from ovmse.runs.files import replacing
from ovmse.runs.reading import RunError, read_config, read_metrics

SETTINGS = list(Config.model_fields)
MADE_BY = ["code", "torch", "numpy", "jax", "jaxmarl"]
MEASURES = [
    "test_win_rate",
    "test_return",
    "q_fixed",
    "mc_fixed",
    "q_ended",
    "mc_ended",
    "loss",
    "epsilon",
    "lambda_memory",
    "memory_active",
    "cql_weight",
    "explorers",
    "void_battles",
    "wall_s",
]
COLUMNS = ["run", *SETTINGS, "dataset_sha256", *MADE_BY, "phase", "env_steps", "updates", *MEASURES]


def metrics_table(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Every metrics row of the given run directories, one row for each measurement.

    Columns: `run` (the directory), every setting of the Config, `dataset_sha256` (of the file that
    it learned from), `code` (the key of the learning code), the versions `torch`, `numpy`, `jax`,
    `jaxmarl`, then `phase` ("offline" | "online"), `env_steps`, `updates`, and the measures, NaN
    where a row does not carry one: `test_win_rate` (0..1), `test_return` (0..20), `q_fixed`,
    `mc_fixed`, `q_ended`, `mc_ended`, `loss`, `epsilon`, `lambda_memory`, `memory_active`,
    `cql_weight`, `explorers`, `void_battles`, `wall_s` (seconds).
    `dataset` is missing where a run learned from no data: from scratch, and with none mixed in.
    """
    rows = []
    for path in paths:
        config = read_config(path)
        made_by = config.get("made_by") or {}
        about = {"run": str(path)} | {name: config.get(name) for name in SETTINGS}
        about["dataset_sha256"] = config.get("dataset_sha256")
        about |= {name: made_by.get(name) for name in MADE_BY}
        if not uses_data(config["algorithm"], config["mixing_ratio"]):
            about["dataset"] = None
        about = {name: _text(value) for name, value in about.items()}
        rows += [about | _measured(path, row) for row in read_metrics(path)]
    table = pd.DataFrame(rows)
    table = table.reindex(columns=COLUMNS).astype(dict.fromkeys(MEASURES, float))
    return table.sort_values(["run", "phase", "env_steps", "updates"], ignore_index=True)


def _text(value: Any) -> Any:
    """A path that is not UTF-8 as UTF-8 with escapes: a table holds nothing else."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _measured(path: str | Path, row: dict[str, Any]) -> dict[str, Any]:
    """A row of a run, if its numbers are numbers; else RunError."""
    for name in ("env_steps", "updates", *MEASURES):
        value = row.get(name)
        number = isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
        if not number and (name == "env_steps" or value is not None):
            raise RunError(f"{path}/metrics.jsonl is damaged: {name} is {reprlib.repr(value)}")
    return row


def export(table: pd.DataFrame, path: Path) -> None:
    """Writes a table as Parquet, atomically; raises UserError for another kind of file."""
    if path.suffix != ".parquet":
        raise UserError(f"--export: got {path.name!r}, allowed: a name that ends in .parquet")
    try:
        with replacing(path) as temporary:
            table.to_parquet(temporary, index=False)
    except (OSError, ValueError, TypeError) as error:  # a run's settings may be of any kind
        errno = getattr(error, "errno", None)
        why = os.strerror(errno) if errno else " ".join(str(error).split())
        raise UserError(f"--export: {path} cannot be written ({why})") from None
