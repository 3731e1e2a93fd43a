r"""Adds the finished runs of a grid of results to what ships: data/results/ITEM.parquet, its card.

    .venv/bin/ovmse sweep notebooks/grids/results/paper_setting.yaml --scale 2s3z_medium \
        --folder runs/paper_setting/2s3z_medium
    .venv/bin/python tools/ship_rows.py paper_setting runs/paper_setting

Without a folder only the card is written anew. A run that is there already is replaced.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import pandas as pd
import typer

from analysis import results
from analysis.tables import RESULTS as KNOWN
from analysis.tables import readable
from ovmse.cli.options import one_sentence
from ovmse.errors import UserError
from ovmse.runs.files import PROJECT, SHIPPED_DATA, markdown_table, replacing
from ovmse.runs.reading import find_runs, read_result
from ovmse.runs.tables import COLUMNS, metrics_table

RESULTS = SHIPPED_DATA / "results"
VARIED = {"mixing_ratio": ["mixing_ratio"], "noise": ["explorers"]}  # lines of their own
MEASURES = ["start", "lowest", "end", "mean"]
CARD = """# {title}

{about}

{finished} of {planned} planned runs are here. {what}

{table}

Every test of every run, with all settings, the code's key and the versions: `{item}.parquet`.

{commands}
    python tools/ship_rows.py {item} runs/{item}  # adds their rows to the file and this card

Machine: {machines}; one thread a run. Code: {code}. Seeds: {seeds}.
Datasets (SHA-256): {files}.
"""


MEDIANS = """Of each line the median over the seeds (least to
greatest) of the share of test battles won: at the start, at the lowest test, at the end, and as a
mean over the online steps."""
BEST_ONES = """Of each line the best of its settings, by the mean win
rate over the online steps, on the seeds all whose settings are finished."""


def main(item: str, folders: list[Path]) -> None:
    """Adds what is new, writes file and card."""
    if item not in results.ITEMS:
        raise UserError(f"item: got {item!r}, allowed: {', '.join(results.ITEMS)}")
    file = RESULTS / f"{item}.parquet"
    parts = [pd.read_parquet(file)] if file.is_file() else []
    for folder in folders:
        done = {path: result for path in find_runs(folder) if (result := read_result(path))}
        table = metrics_table(done)
        where = {str(path): f"{r['cpu']}, {r['cores']} cores, Python {r['python']}, torch "
                 f"{r['torch']}" for path, r in done.items()}  # fmt: skip
        table = table.assign(machine=table.run.map(where))
        new = table.assign(run=[Path(run).name for run in table.run])
        parts = [*(older[~older.run.isin(new.run)] for older in parts), new]
    if not parts:
        raise UserError(f"there are no rows of {item} yet; give a folder of its runs")
    table = pd.concat(parts, ignore_index=True).sort_values(COLUMNS[:1], kind="stable")
    with TemporaryDirectory() as whole:  # nothing is written that its pages would refuse
        for other in RESULTS.glob("*.parquet"):
            shutil.copy(other, whole)
        table.to_parquet(Path(whole, file.name), index=False)
        found = results.only(results.runs(results.finished(results.read(whole))), item)
    with replacing(file) as temporary:
        table.to_parquet(temporary, index=False)
    file.with_suffix(".md").write_text(card(item, table, found))


def card(item: str, table: pd.DataFrame, found: pd.DataFrame) -> str:
    """What was asked, what came out, and what makes it anew; of the rows and their runs."""
    by = VARIED.get(item, [])
    if item == "tuning":
        what, words = BEST_ONES, readable(results.chosen(found), KNOWN)
    else:
        what = MEDIANS
        lines = results.ranges(found, MEASURES, by).sort_values(["task", "dataset", "name", *by])
        words = readable(lines[["task", "dataset", "name", *by, "seeds"]], KNOWN)
        for name in MEASURES:
            three = (100 * lines[[name, f"{name}_min", f"{name}_max"]]).to_numpy()
            words[KNOWN[name][0]] = [
                f"{m:.0f} %" + (f" ({a:.0f} to {b:.0f})" if f"{a:.0f}" != f"{b:.0f}" else "")
                for m, a, b in three
            ]
    names = ["task", "dataset", "dataset_sha256"]
    files = set(table[names].dropna().itertuples(index=False, name=None))
    plans = [plan for plan in results.PLANNED if plan.item == item]
    sweeps = [f"{plan.command} --folder runs/{item}/{plan.scale or item}" for plan in plans]
    then, now = [], []
    if set(table.code) <= set(results.COMMITS) and table.code.nunique() == 1:
        then = [results.CHECKOUT.format(results.COMMITS[table.code.iloc[0]])]
        now = ["git checkout @{-1}"]
    grid = (PROJECT / f"notebooks/grids/results/{item}.yaml").read_text().split("notebook:")[0]
    return CARD.format(
        title=item.replace("_", " ").capitalize(),
        about="\n".join(line.removeprefix("# ") for line in grid.strip().splitlines()),
        finished=table.run.nunique(),
        planned=sum(plan.runs for plan in plans),
        what=what,
        table=markdown_table(list(words), words.to_numpy().tolist()),
        item=item,
        commands="\n".join(f"    {line}" for line in [*then, *sweeps, *now]),
        machines="; ".join(sorted(table.machine.dropna().unique())),
        code=", ".join(
            f"{code} (commit {results.COMMITS[code]})" if code in results.COMMITS else code
            for code in sorted(table.code.unique())
        ),
        seeds=", ".join(map(str, sorted(table.seed.unique()))),
        files="; ".join(f"{task} {data} {sha[:8]}" for task, data, sha in sorted(files)) or "none",
    )


def command(item: str, folders: Annotated[list[Path] | None, typer.Argument()] = None) -> None:
    """Adds the finished runs of the folders to what ships of the item, or writes its card anew."""
    with one_sentence("ship_rows"):
        main(item, folders or [])


if __name__ == "__main__":
    typer.run(command)
