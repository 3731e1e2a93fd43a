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
VERSIONS = ["torch", "jax"]  # others may draw other random numbers
# Where every digit was the same. Elsewhere sums round otherwise, and a battle may turn on one: with
# the weights at the start changed by a millionth, six times, nothing moved by more than 5 %.
SAME = {"AMD EPYC, AVX2", "AMD EPYC, AVX512"}


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
    # of any build of torch
    here, there = (t[VERSIONS].iloc[0].str.split("+").str[0] for t in (made, ships))
    if (here != there).any() or platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"made on x86-64 with {dict(there)}: here {platform.machine()}, {dict(here)}")
    apart = {"run", "code", "processor", *VERSIONS, *MEASURES}
    same = [name for name in ships if name not in apart]
    pd.testing.assert_frame_equal(made[same], ships[same], check_dtype=False)
    exact, battle = processor() in SAME, 1 / ships.test_battles.max()
    for name in set(MEASURES) - {"wall_s"}:
        rtol, atol = (1e-4, 1e-5) if exact else (0.1, battle if name == "test_win_rate" else 1e-5)
        np.testing.assert_allclose(made[name], ships[name], rtol, atol, err_msg=name)
