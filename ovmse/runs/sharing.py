"""Which runs share a pre-training, and where it lies."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ovmse.config import Config
from ovmse.datasets.dataset import dataset_path, file_checksum
from ovmse.runs.code import made_by


def pretraining_settings(config: Config) -> dict[str, Any]:
    """All that decides a pre-training: its settings, the dataset's content, the learning code."""
    return {
        **config.pretraining,
        "dataset": dataset_checksum(config),
        "code": made_by()["code"],
    }


def dataset_checksum(config: Config) -> str:
    """SHA-256 of the config's dataset; raises DatasetError if it is not there."""
    return file_checksum(dataset_path(config.task, config.dataset, config.backend))


def pretrain_directory(config: Config, folder: str | Path) -> Path:
    """Where the pre-training of a config lies: one place for all configs that agree on it."""
    settings = json.dumps(pretraining_settings(config), sort_keys=True)
    key = hashlib.sha256(settings.encode()).hexdigest()[:10]
    quality = Path(config.dataset).stem
    return Path(folder) / "pretrain" / f"{config.task}_{quality}_seed{config.seed}_{key}"
