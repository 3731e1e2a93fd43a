"""The rows of data/results/check.parquet made anew: all that is measured, from grid to table."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

from ovmse import train
from ovmse.runs.tables import MEASURES, metrics_table
from ovmse.sweep.grid import load_grid, plan

SHIPPED = ROOT / "data/results/check.parquet"
WHERE = ["torch", "jax", "processor"]  # what may make the battles go otherwise


def processor() -> str:
    """Its name, and the instructions that torch uses: another kind rounds otherwise."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.machine()])[0]}, {torch.backends.cpu.get_cpu_capability()}"


@pytest.mark.slow
def test_a_small_grid_made_anew_is_what_ships(tmp_path: Path) -> None:
    grid = load_grid(ROOT / "notebooks/grids/results/check.yaml")
    planned = plan(grid, tmp_path)
    for run in planned.runs:
        assert run.config is not None
        list(train(run.config, run.folder))
    made, ships = metrics_table(run.folder for run in planned.runs), pd.read_parquet(SHIPPED)
    key = ["algorithm", "seed", "phase", "env_steps", "updates"]
    made, ships = (t.sort_values(key, ignore_index=True) for t in (made, ships))
    assert len(made) == len(ships) > 10
    here = made.assign(processor=processor())[WHERE].iloc[0]
    if (here != ships[WHERE].iloc[0]).any():
        pytest.skip(f"made with other versions, or on another kind of processor: here {dict(here)}")
    apart = {"run", "code", "processor", *MEASURES}
    same = [name for name in ships if name not in apart]
    pd.testing.assert_frame_equal(made[same], ships[same], check_dtype=False)
    for name in set(MEASURES) - {"wall_s"}:
        np.testing.assert_allclose(made[name], ships[name], rtol=1e-4, atol=1e-5, err_msg=name)
