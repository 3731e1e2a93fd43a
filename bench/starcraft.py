"""What the interface to StarCraft II costs by itself: a stand-in that answers at once."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from ovmse.envs.smac import SmacEnv

BATTLES = 8
# 2s3z's sizes and constants, nothing else; a battle lasts a thousand steps.
STAND_IN = """
import numpy as np


class StarCraft2Env:
    def __init__(self, map_name, seed=None, continuing_episode=False):
        self.map_x = self.map_y = self.max_distance_x = self.max_distance_y = 32
        self.obs = [np.zeros(80, np.float32)] * 5
        self.state = np.zeros(120, np.float32)
        self.avail = [[0] + [1] * 10] * 5

    def get_env_info(self):
        return dict(n_agents=5, n_actions=11, obs_shape=80, state_shape=120, episode_limit=1000)

    def reset(self):
        self.steps = 0
        return self.obs, self.state

    def step(self, actions):
        self.steps += 1
        over = self.steps == 1000
        return 0.0, over, {"battle_won": False, "episode_limit": over}

    def get_obs(self):
        return self.obs

    def get_state(self):
        return self.state

    def get_avail_actions(self):
        return self.avail

    def close(self):
        pass
"""


def step_times(steps: int) -> np.ndarray:
    """Seconds of so many vector steps of ``BATTLES`` battles, wall time."""
    with stand_in(), closing(SmacEnv("2s3z", BATTLES, 0)) as env:
        env.reset(0)
        actions = np.ones((BATTLES, 5), np.int64)
        times = []
        for _ in range(steps + 20):
            start = time.perf_counter()
            env.step(actions)
            times.append(time.perf_counter() - start)
    return np.array(times[20:])


@contextmanager
def stand_in() -> Iterator[None]:
    """The stand-in where children look for the package, and a folder that passes for a game."""
    with tempfile.TemporaryDirectory() as folder:
        package, game = Path(folder) / "smac" / "env", Path(folder) / "game"
        for made in (package, game / "Versions" / "Base75689", game / "Maps"):
            made.mkdir(parents=True)
        (package.parent / "__init__.py").touch()
        (package / "__init__.py").write_text(STAND_IN)
        (game / "Maps" / "2s3z.SC2Map").touch()
        before = dict(os.environ)
        os.environ |= {"PYTHONPATH": folder, "SC2PATH": str(game)}
        try:
            yield
        finally:
            os.environ.clear()
            os.environ |= before
