r"""Turns the runs of notebooks/grids/results/shipped.yaml into data/runs, small enough to ship.

    .venv/bin/ovmse sweep notebooks/grids/results/shipped.yaml --folder runs/shipped
    .venv/bin/python tools/ship_runs.py runs/shipped

Of each run: settings, metrics, result, every exploration event (gzip), and five snapshots in half
precision; of each pre-training the fixed battles and the memory. Nothing else is changed.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path
from textwrap import fill

import torch
from safetensors.torch import load_file, save_file

from analysis.tables import curves, named
from ovmse.runs.files import SHIPPED_DATA, markdown_table, read_json, write_json
from ovmse.runs.reading import find_runs, read_config, snapshot_steps
from ovmse.training.phase import FINAL_SNAPSHOT, FIXED_FILE

KEPT = (0, 4_000, 10_000, 30_000, 60_000)


def main(folders: list[Path], target: Path = SHIPPED_DATA / "runs") -> None:
    """Writes `target` and its card, `target`.md, anew."""
    table = curves([run for folder in folders for run in find_runs(folder)])
    shutil.rmtree(target, ignore_errors=True)
    rows = []
    for run, part in table[table.phase == "online"].groupby("run", sort=False):
        first, last = part.iloc[0], part.iloc[-1]
        name = named(first.algorithm, first.variant)
        to = target / first.task / name.lower().replace(" ", "_").replace("ε", "epsilon")
        _copy_run(Path(run), to)
        lowest = part.test_win_rate.min()
        q_tot = (first.q_ended, last.q_ended)
        numbers = (first.test_win_rate, lowest, last.test_win_rate, *q_tot)
        kept = len(list((to / "snapshots").iterdir()))
        rows.append(
            [first.task, name, first.seed, kept, *(round(v, 2) for v in numbers), first.code]
        )
    result = read_json(Path(table.run.iloc[0]) / "result.json")
    config = read_config(table.run.iloc[0])
    columns = ["task", "run", "seed", "snapshots", "win at 0", "lowest win", "win at the end"]
    about = (
        f"`{config['preset']}` preset with {config['offline_updates']:,} offline updates, "
        f"{config['online_steps']:,} online steps, "
        f"{config['test_battles']} battles a test ({config['long_test_battles']} at the first and "
        f"the last), {config['fixed_battles']} fixed battles. One seed a map: they show mechanics, "
        "not who is better (the tables of results do). The snapshots are in half precision, so "
        "replayed values differ from the recorded ones in the third digit. Every exploration event "
        "is there (`events.jsonl.gz`), and the offline network, which is the memory "
        "(`pretrain/`). A name alone says the algorithm as it is on that map: OVMSE keeps the "
        "conservative term online on 2s3z and not on 6h_vs_8z. The two maps were made by two "
        "states of the code (last column), which differ in what the first map does not use."
    )
    made = (
        "Command: `ovmse sweep notebooks/grids/results/shipped.yaml --folder runs/shipped`, then "
        f"`python tools/ship_runs.py runs/shipped`. Machine: {result['cores']} shared "
        f"{result['cpu']} cores, Python {result['python']}, torch {result['torch']}, "
        "one thread a run."
    )
    lines = markdown_table([*columns, "Q at 0", "Q at the end", "code"], rows)
    parts = ["# Runs that ship", fill(about, 100), lines, fill(made, 100)]
    target.with_suffix(".md").write_text("\n\n".join(parts) + "\n")


def _copy_run(run: Path, target: Path) -> None:
    (target / "snapshots").mkdir(parents=True)
    shutil.copyfile(run / "metrics.jsonl", target / "metrics.jsonl")
    result = read_json(run / "result.json")
    result.pop("files")  # their checksums: what ships is thinned
    write_json(target / "result.json", result)
    for steps, file in snapshot_steps(run):
        if steps in KEPT:
            _halve(file, target / "snapshots" / file.name)
    with gzip.GzipFile(target / "events.jsonl.gz", "wb", mtime=0) as packed:
        packed.write((run / "events.jsonl").read_bytes())

    config = json.loads((run / "config.json").read_text())
    pretraining = (run / config["pretrained"]).resolve()
    to = target.parent / "pretrain" / pretraining.name
    write_json(target / "config.json", config | {"pretrained": f"../pretrain/{pretraining.name}"})
    if not to.exists():
        (to / "snapshots").mkdir(parents=True)
        shutil.copyfile(pretraining / FIXED_FILE, to / FIXED_FILE)
        name = f"snapshots/{FINAL_SNAPSHOT}.safetensors"
        _halve(pretraining / name, to / name, "target.")  # the memory; Adam's moments stay behind


def _halve(file: Path, target: Path, prefix: str = "") -> None:
    tensors = {n: t.half() for n, t in load_file(file).items() if n.startswith(prefix)}
    assert all(torch.isfinite(t).all() for t in tensors.values())
    save_file(tensors, target)


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
