"""OVMSE and its baselines: offline-to-online multi-agent reinforcement learning, compact.

The public names load on first use: reading settings or a run needs neither torch nor JAX.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovmse.config import Config
    from ovmse.datasets import load_dataset
    from ovmse.envs import make_env
    from ovmse.method.algorithms import ALGORITHMS
    from ovmse.training import evaluate, finetune, pretrain, train

__version__ = "0.1.0"
__all__ = [
    "ALGORITHMS",
    "Config",
    "evaluate",
    "finetune",
    "load_dataset",
    "make_env",
    "pretrain",
    "train",
]
_HOMES = {
    "ALGORITHMS": "ovmse.method.algorithms",
    "Config": "ovmse.config",
    "load_dataset": "ovmse.datasets",
    "make_env": "ovmse.envs",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ovmse' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "ovmse.training")), name)
