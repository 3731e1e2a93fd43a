r"""Turns a folder of measured runs into what ships in data/: picture, table and card.

    .venv/bin/ovmse sweep notebooks/grids/figure1.yaml --folder runs/nine -p seed=10..12 \
        -p online_steps=60000 -p test_interval=2000 \
        -p algorithm='[ovmse, ovm, se, switch_cql, macql, macal_ql, action_proposal, qmix, wsrl]'
    .venv/bin/python tools/ship_results.py runs/nine

Every measurement ships (data/2s3z_medium_results.csv); Figure 1 shows four algorithms. Runs with
their snapshots ship by another tool, ship_runs.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from analysis.charts.curves import figure1
from analysis.charts.show import mimebundle
from analysis.charts.theme import in_order, on_paper
from analysis.drift import replayed_curves
from analysis.tables import readable, summary
from ovmse.runs.files import DATA_DIR, markdown_table
from ovmse.runs.reading import find_runs, read_config

FIGURE = ("ovmse", "se", "switch_cql", "macql")
RESULTS = "2s3z_medium_results"


def main(folder: Path) -> None:
    """Writes data/{RESULTS}.{csv,md} and data/figure1.png."""
    import vl_convert

    table = replayed_curves(folder)
    online = table[table.phase == "online"].drop(columns="run")
    online.to_csv(DATA_DIR / f"{RESULTS}.csv", index=False, float_format="%.5g")
    shown = table[table.algorithm.isin(FIGURE)]
    spec = mimebundle(figure1(shown))["application/vnd.vegalite.v5+json"]

    (DATA_DIR / "figure1.png").write_bytes(
        vl_convert.vegalite_to_png(on_paper(spec), vl_version="5.20", scale=2)
    )
    numbers = readable(summary(table, at=(0, 10_000, 30_000, table.online_steps.max())))
    seeds = sorted(int(s) for s in online.seed.unique())
    first = find_runs(folder)[0]
    config = read_config(first)
    result = json.loads((first / "result.json").read_text())
    (DATA_DIR / f"{RESULTS}.md").write_text(
        f"""# Measured: nine algorithms on 2s3z medium

Seeds {", ".join(map(str, seeds))}, none used for tuning (that was done on seeds 50 and 51);
{config["test_battles"]} greedy battles a test, {config["long_test_battles"]} at the first and
the last, {config["fixed_battles"]} fixed battles a seed; `{config["preset"]}` preset,
{config["online_steps"]:,} online steps.
Mean over the seeds, with the least and the greatest; `Q_tot` and the Monte-Carlo return are means
on the fixed battles that ended.

{markdown_table(list(numbers), numbers.to_numpy().tolist())}

Command: `ovmse sweep notebooks/grids/figure1.yaml -p seed={seeds[0]}..{seeds[-1]}
-p online_steps={config["online_steps"]} -p test_interval={config["test_interval"]}
-p algorithm='[{", ".join(in_order(table.algorithm))}]'`.
Machine: {result["cores"]} shared {result["cpu"]} cores, Python {result["python"]}, torch
{result["torch"]}, one thread a run. `{RESULTS}.csv` holds every measurement.
"""
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
