"""Environments behind one vector interface (see base.py)."""

from __future__ import annotations

from collections.abc import Callable

from ovmse.envs.base import EnvSpec, Frame, Step, Units, VectorEnv
from ovmse.envs.climb import CLIMB_TASKS, ClimbEnv
from ovmse.envs.smac import SMAC_MAPS, SmacEnv
from ovmse.envs.smax import SMAX_MAPS, SmaxEnv
from ovmse.errors import UserError

# What each backend can play; the first that has a task is the task's default.
MAPS: dict[str, tuple[str, ...]] = {"smax": SMAX_MAPS, "climb": CLIMB_TASKS, "smac": SMAC_MAPS}
BACKENDS = tuple(MAPS)
_MAKERS: dict[str, Callable[[str, int, int], VectorEnv]] = {
    "smax": SmaxEnv,
    "climb": ClimbEnv,
    "smac": SmacEnv,
}


def make_env(task: str, backend: str = "smax", num_envs: int = 16, seed: int = 0) -> VectorEnv:
    """``num_envs`` battles of ``task`` side by side; the caller closes them, also on an exception.

    Raises UserError on an unknown backend or task, and on fewer than one battle.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend: got {backend!r}, allowed: {', '.join(BACKENDS)}")
    if task not in MAPS[backend]:
        raise UserError(f"task: got {task!r}, allowed: {', '.join(MAPS[backend])}")
    if num_envs < 1:
        raise UserError(f"num_envs: got {num_envs}, allowed: 1 or more")
    return _MAKERS[backend](task, num_envs, seed)


__all__ = ["BACKENDS", "MAPS", "EnvSpec", "Frame", "Step", "Units", "VectorEnv", "make_env"]
