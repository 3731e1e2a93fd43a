"""OVMSE and its baselines: offline-to-online multi-agent reinforcement learning, compact.

JAX loads with the first environment: reading a run does not need it.
"""

from __future__ import annotations

from ovmse.config import Config
from ovmse.datasets import load_dataset
from ovmse.envs import make_env
from ovmse.training import evaluate, finetune, pretrain, train

__version__ = "0.1.0"
__all__ = ["Config", "evaluate", "finetune", "load_dataset", "make_env", "pretrain", "train"]
