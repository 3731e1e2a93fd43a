"""What the tests of exploration share: a small run of the climb game, and events by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sweeps import SMALL, write_climb_dataset

from ovmse import Config, train


def climb_run(folder: Path, **changes: Any) -> Path:
    """A finished run of the climb game, which writes down its events."""
    dataset = folder / "climb.h5"
    if not dataset.exists():
        write_climb_dataset(dataset)
    given: dict[str, Any] = {"algorithm": "ovmse", "task": "climb_monotone", "seed": 0}
    given |= {"dataset": str(dataset), **SMALL, **changes}
    config = Config.from_parameters(**given)
    path = folder / "runs" / f"{config.algorithm}_{config.exploration}"
    if not path.exists():
        list(train(config, path))
    return path


def line(battle: int, env_steps: int, length: int, explored: list, **changes: Any) -> str:
    """A line of events.jsonl."""
    row = {"env_steps": env_steps, "episode": battle, "length": length, "return": 2.5}
    return json.dumps(row | {"won": True, "explored": explored} | changes) + "\n"
