"""Environments behind one vector interface (see base.py)."""

from __future__ import annotations

from ovmse.envs.base import EnvSpec, Observation, Step, Units, VectorEnv

BACKENDS = ("smax", "climb")


def make_env(task: str, backend: str = "smax", num_envs: int = 16, seed: int = 0) -> VectorEnv:
    """``num_envs`` battles of ``task`` side by side.

    Raises ValueError on an unknown backend or task. The backend is imported here, because
    importing JAX takes seconds that reading a run does not need.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend: got {backend!r}, allowed: {', '.join(BACKENDS)}")
    if backend == "climb":
        from ovmse.envs.climb import ClimbEnv

        return ClimbEnv(task, num_envs, seed)
    from ovmse.envs.smax import SmaxEnv

    return SmaxEnv(task, num_envs, seed)


__all__ = ["BACKENDS", "EnvSpec", "Observation", "Step", "Units", "VectorEnv", "make_env"]
