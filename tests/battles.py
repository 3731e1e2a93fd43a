"""Streams of random battles, and whether two of them are the same."""

from __future__ import annotations

import numpy as np

from ovmse.envs.base import Frame, Step, VectorEnv
from ovmse.method.exploration import random_actions


def play(env: VectorEnv, now: Frame, steps: int, seed: int) -> list[Step]:
    """Uniform play: a stream of battles with ends of every kind."""
    rng, out = np.random.default_rng(seed), []
    for _ in range(steps):
        out.append(env.step(random_actions(rng, now.avail_actions)))
        now = out[-1].now
    return out


def assert_same(one: list[Step], other: list[Step]) -> None:
    for a, b in zip(one, other, strict=True):
        for name in ("reward", "terminated", "truncated", "won"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for seen in ("now", "last"):
            for name, array in vars(getattr(a, seen)).items():
                np.testing.assert_array_equal(array, getattr(getattr(b, seen), name))
