"""Made-up rows for every run that the grids of the results plan: they say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from conftest import ROOT

from analysis.results import PLANNED, explorers, n_agents
from ovmse.config import Config
from ovmse.method.algorithms import ALGORITHMS
from ovmse.runs.tables import COLUMNS
from ovmse.sweep import grid as grids

START = {"2s3z": 0.65, "3s5z": 0.35, "6h_vs_8z": 0.55, "5m_vs_6m": 0.1}


def configs(monkeypatch: Any, items: tuple[str, ...], **given: Any) -> list[tuple[str, Config]]:
    """(item, settings) of each planned run; six of the datasets are made by a command."""
    monkeypatch.setattr(grids, "dataset_path", lambda *asked: Path("_".join(asked)))
    monkeypatch.setattr(grids, "file_checksum", lambda name: "x")
    monkeypatch.setattr(grids, "require_source", lambda *source: None)
    found = []
    for asked in PLANNED:
        if asked.item in items:
            grid = grids.load_grid(ROOT / f"notebooks/grids/results/{asked.item}.yaml")
            runs = grids.plan(grid, "/none", asked.scale, given).runs
            found += [(asked.item, run.config) for run in runs if run.config]
    return found


def rows(config: Config, every: int = 10_000) -> list[dict[str, Any]]:
    """The online tests of one run: it starts as its seed and map do, falls the more the more agents
    explore, less with memory and conservative term, and climbs back."""
    algorithm, c = ALGORITHMS[config.algorithm], config
    rng = np.random.default_rng([c.seed, len(c.algorithm), int(100 * c.epsilon_start)])
    start = START[c.task] + np.random.default_rng([c.seed, len(c.task)]).normal(0, 0.05)
    noise = explorers(c.exploration, c.epsilon_start, n_agents(c.task))
    held = 0.4 * (algorithm.target == "ovm") + 1.2 * c.online_cql
    fall = 1 - np.exp(-noise / (0.5 + held))
    about = c.model_dump() | {"code": "c0de0000", "run": f"{c.algorithm}_{abs(hash(c))}"}
    about |= {"dataset": c.dataset if c.uses_data else None, "phase": "online"}
    out = []
    for number, at in enumerate(range(0, c.online_steps + 1, every)):
        win = start * (1 - fall * np.exp(-(((at - 20_000) / 60_000) ** 2))) if at else start
        win += 0.2 * at / 300_000
        if not algorithm.pretrained:
            win = 0.7 * at / 300_000
        win = float(np.clip(win + rng.normal(0, 0.03) * (at > 0), 0, 1))
        step = at + (int(rng.integers(80)) if at else 0)
        out.append(about | {"env_steps": step, "updates": 3 * number, "test_win_rate": win,
                            "test_return": 6 + 14 * win})  # fmt: skip
    return out


def write(folder: Path, found: list[tuple[str, Config]]) -> Path:
    """One Parquet file an item, as data/results has them."""
    folder.mkdir(parents=True, exist_ok=True)
    for item in dict.fromkeys(item for item, _ in found):
        table = pd.DataFrame([row for of, config in found if of == item for row in rows(config)])
        table.reindex(columns=COLUMNS).to_parquet(folder / f"{item}.parquet", index=False)
    return folder
