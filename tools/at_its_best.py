r"""Writes notebooks/grids/results/at_its_best.yaml: each algorithm with the best of its tuning.

    .venv/bin/python tools/at_its_best.py [TUNING.parquet or folder of its runs]

The settings are those with the highest mean win rate over the online steps of the tuning seeds
(`analysis.results.best`); the runs are of seeds that nothing was tuned on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
import yaml

from analysis import results
from ovmse.cli.options import one_sentence
from ovmse.errors import UserError
from ovmse.runs.files import PROJECT, SHIPPED_DATA, replacing

GRID = PROJECT / "notebooks" / "grids" / "results" / "at_its_best.yaml"
TUNING = SHIPPED_DATA / "results" / "tuning.parquet"
SEEDS = {"2s3z": "20..29"}  # ten, elsewhere six
TEXT = """\
# Each at its best, second half: every algorithm with the settings that tuning.yaml found, on seeds
# that nothing was tuned on. Written by tools/at_its_best.py from the runs of the tuning: {tuned}.
# Cost: 300,000 steps take about 3 minutes on a quiet core, half as much again with the conservative
# term: 6.5 core hours on 2s3z (ten seeds), 4 on another map (six).
"""


def grid(found: pd.DataFrame) -> str:
    """The grid file of the best settings; raises UserError if no tuning seed is whole."""
    if (whole := results.whole(found)).empty:
        said = results.tuned_on(found) or "there is none"
        raise UserError(f"of no tuning seed all settings are finished: {said}")
    seeds = whole.groupby("task").seed.unique()
    tuned = "; ".join(
        f"{task} seed{'s' * (len(s) > 1)} {', '.join(map(str, sorted(s)))}"
        for task, s in seeds.items()
    )
    table, scales = results.best(found), {}
    for task, rows in table.groupby("task", sort=True):
        settings = {"algorithm": [str(a) for a in rows.algorithm]}
        for name in results.TUNED:
            settings[name] = [None if pd.isna(v) else v for v in rows[name].tolist()]
        settings["cql_anneal"] = [None if v is None else int(v) for v in settings["cql_anneal"]]
        given = {"task": task, "seed": SEEDS.get(str(task), "20..25")}
        scales[str(task)] = {"parameters": given, "zip": [settings]}
    fixed = {"preset": "quick", "dataset": "medium", "mixing_ratio": 0, "online_steps": 300_000}
    fixed |= {"test_interval": 10_000, "test_battles": 64, "long_test_battles": 640}
    content = {"notebook": "01_train", "parameters": fixed, "scales": scales}
    listed = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=98)
    return TEXT.format(tuned=tuned) + listed


def main(source: Annotated[str, typer.Argument()] = str(TUNING)) -> None:
    """Writes the file."""
    with one_sentence("at_its_best"):
        text = grid(results.runs(results.finished(results.read(source))))
        with replacing(GRID) as temporary:
            Path(temporary).write_text(text)
        print(f"The grid is {GRID}.")


if __name__ == "__main__":
    typer.run(main)
