"""tools/ship_*.py on runs that were really trained (test_packaging.py: tools/setup.py)."""

from __future__ import annotations

import gzip
import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
from conftest import ROOT
from sweeps import SMALL, write_climb_dataset

from analysis.drift import replay
from analysis.snapshots import Snapshots
from ovmse import Config, train
from ovmse.errors import UserError
from ovmse.runs.reading import read_metrics, snapshot_steps

RUNS = {"ovmse_seed10": 10, "ovmse_seed11": 11, "qmix_seed10": 10}


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    climb = write_climb_dataset(folder / "climb.h5")
    for name, seed in RUNS.items():
        given = {**SMALL, "test_interval": 1_000, "episodes_per_update": 32, "seed": seed}
        given |= {"algorithm": name.rsplit("_", 1)[0], "task": "climb_monotone"}
        list(train(Config.from_parameters(**given, dataset=str(climb)), folder / "runs" / name))
    return folder / "runs"


@pytest.mark.slow
def test_runs_ship_thinned_and_replay_what_they_recorded(runs: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    shutil.copytree(runs, chosen, ignore=shutil.ignore_patterns("*seed11", "qmix*"))
    tool("ship_runs").main([chosen], tmp_path / "runs")
    run = tmp_path / "runs/climb_monotone/ovmse"
    assert {p.name for p in run.parent.iterdir()} == {run.name, "pretrain"}
    assert [steps for steps, _ in snapshot_steps(run)] == [0, 4_000]
    assert read_metrics(run) == read_metrics(runs / "ovmse_seed10")
    with gzip.open(run / "events.jsonl.gz") as events:
        assert events.read() == (runs / "ovmse_seed10/events.jsonl").read_bytes()
    recorded = {row["env_steps"]: row["q_fixed"] for row in read_metrics(run)[1:]}
    for row in replay(run).itertuples():
        assert row.q_fixed == pytest.approx(recorded[row.env_steps], rel=3e-3, abs=3e-3)
    of = Snapshots(run)
    memory, whole = of.memory(), Snapshots(runs / "ovmse_seed10").memory()
    for name, weights in whole.state_dict().items():
        torch.testing.assert_close(memory.state_dict()[name], weights, rtol=1e-3, atol=1e-3)
    card = (tmp_path / "runs.md").read_text()
    assert "| climb_monotone | OVMSE | 10 | 2 |" in card and str(tmp_path) not in card


@pytest.mark.slow
def test_finished_runs_are_added_to_the_results_with_a_card(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship = tool("ship_rows")
    monkeypatch.setattr(ship, "RESULTS", tmp_path)
    for name in ("ovmse_seed10", "qmix_seed10"):
        shutil.copytree(runs / name, tmp_path / "first" / name)
    unfinished = shutil.copytree(runs / "ovmse_seed11", tmp_path / "first/ovmse_seed11")
    (unfinished / "result.json").unlink()
    ship.main("paper_setting", [tmp_path / "first"])
    assert set(pd.read_parquet(tmp_path / "paper_setting.parquet").seed) == {10}
    ship.main("paper_setting", [runs])  # the same two again, and the third
    table = pd.read_parquet(tmp_path / "paper_setting.parquet")
    online = table[table.phase == "online"]
    assert online.groupby("run").size().to_dict() == dict.fromkeys(RUNS, 5)
    for name in RUNS:
        wins = [row["test_win_rate"] for row in read_metrics(runs / name)]
        assert table[table.run == name].test_win_rate.tolist() == wins
    ship.main("paper_setting", [tmp_path / "first", runs])  # what is there, in either folder
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "paper_setting.parquet"), table)
    card = (tmp_path / "paper_setting.md").read_text()
    assert "| OVMSE | 2 | 100 % | " in card and "3 of 242 planned runs" in card
    assert "--scale 2s3z_medium --folder runs/paper_setting/2s3z_medium" in card
    assert "Seeds: 10, 11." in card
    assert (
        f" {table.dataset_sha256.dropna().iloc[0][:8]}.\n" in card.split("Datasets (SHA-256): ")[1]
    )
    before = (tmp_path / "paper_setting.parquet").read_bytes()
    table.assign(code="other").to_parquet(tmp_path / "noise.parquet")
    with pytest.raises(UserError, match="several states of the learning code"):
        ship.main("paper_setting", [runs])
    assert (tmp_path / "paper_setting.parquet").read_bytes() == before
    with pytest.raises(UserError, match="item: got 'nine'"):
        ship.main("nine", [])


@pytest.mark.slow
def test_starts_are_listed_by_the_lowest_of_their_seeds(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship = tool("offline_settings")
    shipped = pd.read_parquet(ship.FILE)
    monkeypatch.setattr(ship, "FILE", tmp_path / "offline_settings.parquet")
    shipped.to_parquet(ship.FILE, index=False)
    unfinished = shutil.copytree(runs / "ovmse_seed10", tmp_path / "runs" / "unfinished")
    (unfinished / "result.json").unlink()
    settings = json.loads((unfinished / "config.json").read_text())
    (unfinished / "config.json").write_text(json.dumps(settings | {"seed": 12}))
    ship.main([runs, tmp_path / "runs"])
    table = pd.read_parquet(ship.FILE)
    assert set(table.run) == set(shipped.run) | set(RUNS)
    card = ship.FILE.with_suffix(".md").read_text()
    rows = [[c.strip() for c in line.split("|")] for line in card.splitlines() if line[:3] == "| 2"]
    whole = [[float(x) for x in row[9:13]] for row in rows if "" not in row[9:13]]
    assert len(whole) >= 4
    assert [min(row) for row in whole] == sorted((min(row) for row in whole), reverse=True)
    best = table[(table.task == "2s3z") & (table.phase == "online") & (table.env_steps == 0)]
    best = best[(best.cql_alpha == 0.5) & (best.offline_updates == 1500) & best.cut_battles]
    best = best[(best.offline_td_lambda == 0.8) & (best.offline_lr == 1e-3)]
    best = best[best.cql_form == "macql"]
    assert whole[0] == best.sort_values("seed").test_win_rate.round(2).tolist()
