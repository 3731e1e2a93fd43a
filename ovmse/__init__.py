"""OVMSE and its baselines: offline-to-online multi-agent reinforcement learning, compact.

Heavy parts load on first use, so that reading a run does not import JAX.
"""

from __future__ import annotations

from ovmse.config import Config
from ovmse.datasets import load_dataset
from ovmse.envs import make_env
from ovmse.training import evaluate, finetune, pretrain, train

__version__ = "0.1.0"
__all__ = ["Config", "evaluate", "finetune", "load_dataset", "make_env", "pretrain", "train"]
