"""Run folders written by hand, field by field: an independent check of the format on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ovmse.config import Config

# Per algorithm: Q_tot of the fixed battles and test win rate at thousands of online steps.
STORY = {
    "ovmse": ([0, 30, 60], [10.4, 10.6, 10.6], [0, 10, 20, 60], [0.69, 0.68, 0.70, 0.76]),
    "se": ([0, 30, 60], [10.4, 10.1, 9.8], [0, 10, 20, 30, 60], [0.69, 0.25, 0.13, 0.40, 0.58]),
    "switch_cql": ([0, 5, 12, 25, 60], [10.4, 13.1, 11, 8, 5.5], [0, 4, 60], [0.69, 0, 0]),
    "macql": ([0, 5, 12, 25, 60], [10.4, 11.3, 9.5, 8, 6], [0, 6, 60], [0.69, 0, 0]),
}


def write_runs(folder: Path, seeds=(0, 1), steps: int = 60_000, every: int = 2_500) -> Path:
    """One run directory for each algorithm of `STORY` and seed; tests at slightly uneven steps."""
    for name, (q_at, q, win_at, win) in STORY.items():
        for seed in seeds:
            rng = np.random.default_rng([len(name), seed])
            run = folder / f"{name}_seed{seed}"
            run.mkdir(parents=True)
            config = Config.from_parameters(algorithm=name, seed=seed, preset="quick").model_dump()
            config |= {"made_by": {"code": "c0de0000"}}
            (run / "config.json").write_text(json.dumps(config))
            lines = []
            for number, step in enumerate(range(0, steps + 1, every)):
                at = step + (int(rng.integers(80)) if step else 0)
                noise = rng.normal(0, 0.1) if step else 0.0
                rate = float(np.clip(np.interp(at / 1000, win_at, win) + 0.2 * noise, 0, 1))
                row = {"phase": "online", "env_steps": at, "updates": 30 * number}
                row |= {"test_win_rate": round(rate, 4), "test_return": round(8 + 12 * rate, 3)}
                row |= {"q_ended": round(float(np.interp(at / 1000, q_at, q)) + noise, 4)}
                row |= {"mc_ended": 8.7 + 0.1 * seed, "loss": 0.2, "wall_s": 2.0 * number}
                lines.append(json.dumps(row))
            (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder
