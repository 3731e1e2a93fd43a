r"""Results as the JSON of marl-eval (Gorsane et al. 2022), for those who plot with that package.

    python -m analysis.marl_eval SOURCE FOLDER

SOURCE: a folder of runs, a Parquet file or a folder of such; FOLDER gets one file an item. It wants
as many steps and seeds of every algorithm on every map, so a file holds the steps of the shortest
run and, of each map and dataset, the seeds that every line has.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from analysis import results
from ovmse.cli.options import one_sentence
from ovmse.runs.files import replacing

METRICS = {"win_rate": "test_win_rate", "return": "test_return"}


def marl_eval(lines: pd.DataFrame) -> dict[str, Any]:
    """environment -> "map dataset" -> line -> "seed_20" -> "step_0", ... and `absolute_metrics`.

    lines: as from `results.finished`, of one item. Win rates are 0..1, returns 0..20, a list of one
    value each: means over the battles of a test. The absolute metric is the last test, of
    `long_test_battles` battles: it is of the last policy, not of the best one seen.
    """
    tests = int(lines.groupby(["task", "dataset", "run"]).size().min())
    out: dict[str, Any] = {}
    for (backend, task, dataset, name, seed), run in lines.groupby(
        ["backend", "task", "dataset", "name", "seed"], sort=False
    ):
        run = run.sort_values("env_steps")
        steps: dict[str, Any] = {}
        for number, row in enumerate(run[["env_steps", *METRICS.values()]][:tests].itertuples()):
            values = {metric: [float(getattr(row, of))] for metric, of in METRICS.items()}
            steps[f"step_{number}"] = {"step_count": int(row.env_steps), **values}
        last = {metric: [float(run[of].iloc[-1])] for metric, of in METRICS.items()}
        where = out.setdefault(str(backend), {}).setdefault(f"{task} {dataset}", {})
        where.setdefault(str(name), {})[f"seed_{seed}"] = {**steps, "absolute_metrics": last}
    return out


def main(source: str, folder: str) -> None:
    """Writes FOLDER/ITEM.json for every item of the source that compares algorithms."""
    with one_sentence("marl_eval"):
        lines = results.finished(results.read(source))
        compared = results.only(lines, *results.COMPARED, results.BEST)
        for item, mine in results.shared(compared).groupby("item", sort=False):
            path = Path(folder) / f"{item}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(marl_eval(mine), indent=1))
            print(f"{mine.run.nunique()} runs are in {path}.")
        if compared.empty:
            print("There is no finished run that compares algorithms.")


if __name__ == "__main__":
    typer.run(main)
