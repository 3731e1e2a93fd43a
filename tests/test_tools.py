"""tools/ship_results.py on runs that were really trained (test_packaging.py: tools/setup.py)."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import ROOT
from sweeps import SMALL, write_climb_dataset

from analysis.drift import replay
from ovmse import Config, train
from ovmse.runs.reading import read_metrics, snapshot_steps

RUNS = {"ovmse_seed10": 10, "ovmse_seed11": 11, "qmix_seed10": 10}


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ship", ROOT / "tools/ship_results.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_measured_runs_become_what_ships(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, runs = tmp_path / "data", tmp_path / "runs"
    (data / "figure1" / "of an earlier time").mkdir(parents=True)
    climb = write_climb_dataset(tmp_path / "climb.h5")
    for name, seed in RUNS.items():
        given = {**SMALL, "test_interval": 1_000, "episodes_per_update": 32, "seed": seed}
        given |= {"algorithm": name.rsplit("_", 1)[0], "task": "climb_monotone"}
        list(train(Config.from_parameters(**given, dataset=str(climb)), runs / name))
    monkeypatch.setattr(tool, "DATA_DIR", data)
    tool.main(runs)

    rows = list(csv.DictReader((data / "2s3z_medium_results.csv").open()))
    shipped = {(r["algorithm"], int(r["seed"]), int(r["env_steps"])): r for r in rows}
    assert len(shipped) == len(rows) == 3 * 5 and "run" not in rows[0]
    for name, seed in RUNS.items():
        for row in read_metrics(runs / name):
            if row["phase"] == "online":
                found = shipped[name.rsplit("_", 1)[0], seed, row["env_steps"]]
                for measure in ("test_win_rate", "q_fixed"):  # qmix has no fixed battles
                    expected = pytest.approx(row.get(measure, np.nan), rel=1e-3, nan_ok=True)
                    assert float(found[measure] or "nan") == expected

    card = (data / "2s3z_medium_results.md").read_text()
    assert "Seeds 10, 11, none used" in card and "-p algorithm='[ovmse, qmix]'" in card
    assert "| ovmse | 4000 | 2 |" in card and str(tmp_path) not in card
    assert (data / "figure1.png").read_bytes().startswith(b"\x89PNG")

    # Of the first seed, what Figure 1 shows: whole runs to whoever opens them, thinned.
    run = data / "figure1" / "ovmse_seed10"
    assert {p.name for p in run.parent.iterdir()} == {run.name, "pretrain"}
    assert [steps for steps, _ in snapshot_steps(run)] == [0, 2_000, 4_000]
    assert read_metrics(run) == read_metrics(runs / run.name)
    result = json.loads((run / "result.json").read_text())
    kept = {"metrics.jsonl", *(f"snapshots/online_0000{n}000.safetensors" for n in (0, 2, 4))}
    assert result["torch"] and set(result["files"]) == kept
    recorded = {row["env_steps"]: row["q_fixed"] for row in read_metrics(run)[1:]}
    for row in replay(run).itertuples():
        assert row.q_fixed == pytest.approx(recorded[row.env_steps], rel=1e-3)
