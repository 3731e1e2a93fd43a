"""A double of ``smac.env.StarCraft2Env``, since StarCraft II cannot run in tests. It is no game.

What it keeps of the original is its documented interface and its ways to fail: sizes, layouts of
state and observation, the masks of the living and the dead, rewards scaled to 20, a time-out that
looks like a defeat unless ``continuing_episode``, the empty answer ``(0, True, {})`` of an engine
that failed, a reset that hides such a failure and shows the units of the battle before,
``max_reward`` counted twice by a second reset of the first battle (which launches a second game,
too), ``seed()`` without an argument, ``get_stats`` that divides by zero, too few actions accepted.
The game is a real process (``sleep``) of the environment's process group.

``SMAC_DOUBLE`` (JSON) says what goes wrong: ``log`` (a folder for what really happened), ``faults``
(one after another, in each ``every``-th battle of all processes together; with ``later`` never in a
process's first, so that none fails twice in a row), ``limit`` (a shorter episode limit),
``damage`` (of an enemy's hit), ``slow`` (seconds of a slow reset).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ovmse.envs.smac_units import FULL, LIMITS, MAPS, Team

HEALTH = {"stalker": 80, "zealot": 100, "colossus": 200, "marine": 45, "hydralisk": 80,
          "marauder": 125, "medivac": 150,
          "zergling": 35, "baneling": 30, "spine crawler": 300}  # fmt: skip
OTHER_ORDER = {"stalker": 1, "zealot": 0}  # type bits of enemies: zealot before stalker
MIDDLE, PLAYED = np.array([20, 17]), np.array([32, 28])  # of the map, and how much is played on
ATTACK = 6  # the first action that attacks


class ProtocolError(Exception):
    """Stands for pysc2's."""


class StarCraft2Env:
    """See the top of this module."""

    def __init__(
        self, map_name: str = "8m", seed: int | None = None, continuing_episode: bool = False
    ) -> None:
        self._plan = json.loads(os.environ.get("SMAC_DOUBLE", "{}"))
        self._teams: tuple[Team, Team] = MAPS[map_name]
        self.map_name, self._seed, self.continuing_episode = map_name, seed, continuing_episode
        named = [[kind for kind, number in team for _ in range(number)] for team in self._teams]
        self.n_agents, self.n_enemies = map(len, named)
        self.n_actions = ATTACK + self.n_enemies
        self.episode_limit = self._plan.get("limit") or LIMITS[map_name]
        self._kinds = named
        self._full = [np.array([HEALTH[k] for k in kinds], float) for kinds in named]
        self._shields = [np.array([FULL.get(k, (0, 0))[1] for k in ks], float) for ks in named]
        several = len(self._teams[0]) > 1
        self._bits = max(map(len, self._teams)) if several else 0
        self.max_reward = self.n_enemies * 10 + 200.0
        self.map_x = self.map_y = self.max_distance_x = self.max_distance_y = 0
        self._episode_count = self._episode_steps = 0
        self.battles_won = self.battles_game = self.timeouts = self.force_restarts = 0
        self._sc2_proc: subprocess.Popen | None = None
        self._controller: Any = None
        self.last_action = np.zeros((self.n_agents, self.n_actions))
        self._fault = ""
        self._note("made", seed=seed, heavy=[m for m in ("torch", "jax") if m in sys.modules],
                   protobuf=os.environ.get("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"))  # fmt: skip

    # The interface.

    def get_env_info(self) -> dict[str, int]:
        return {
            "state_shape": self._state_size(),
            "obs_shape": self._obs_size(),
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def reset(self) -> tuple[list[np.ndarray], np.ndarray]:
        self._episode_steps = 0
        self._battle, self._fault = self._next_battle()
        if self._fault == "reset":
            raise KeyError(3)
        if self._fault == "tmp":
            raise OSError(errno.ENOSPC, "No space left on device", tempfile.gettempdir())
        self._misbehave("reset")
        if (
            self._fault == "restart" and self._episode_count
        ):  # swallowed; the units are the old ones
            self.full_restart()
            return self.get_obs(), self.get_state()
        if self._fault == "restart":
            raise KeyError(0)  # there are none yet
        if self._fault == "slow reset":
            time.sleep(self._plan.get("slow", 1.0))
        if self._episode_count == 0:
            self._launch()
            self.max_reward += (self._full[1] + self._shields[1]).sum()
        self.last_action = np.zeros((self.n_agents, self.n_actions))
        rng = np.random.default_rng([self._seed or 0, self._episode_count])
        self._where = [
            np.stack([np.full(n, x) + rng.uniform(-1, 1, n), 12 + rng.uniform(0, 8, n)], 1)
            for n, x in ((self.n_agents, 9.0), (self.n_enemies, 23.0))
        ]
        self._health = [full.copy() for full in self._full]
        self._shield = [full.copy() for full in self._shields]
        self._return, self._counts, self._rng = 0.0, False, rng
        return self.get_obs(), self.get_state()

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        actions = [int(a) for a in actions]
        self.last_action = np.eye(self.n_actions)[np.array(actions)]
        for agent, action in enumerate(actions):
            assert self.get_avail_agent_actions(agent)[action] == 1, (
                f"Agent {agent} cannot perform action {action}"
            )
        if self._episode_steps == 2:
            if self._fault == "empty":
                self.full_restart()
                return 0, True, {}
            if self._fault == "raise":
                raise ProtocolError("the engine")
            self._misbehave("")
        self._episode_steps += 1
        reward = self._fight(actions)
        dead = [int((health <= 0).sum()) for health in self._health]
        info: dict[str, Any] = {
            "battle_won": False,
            "dead_allies": dead[0],
            "dead_enemies": dead[1],
        }
        ours, theirs = (bool((health > 0).any()) for health in self._health)
        terminated, cut = not (ours and theirs), False
        if terminated:
            self.battles_game += 1
            if ours:
                self.battles_won += 1
                info["battle_won"] = True
                reward += 200
        elif self._episode_steps >= self.episode_limit:
            terminated = cut = True
            if self.continuing_episode:
                info["episode_limit"] = True
            self.battles_game += 1
            self.timeouts += 1
        reward /= self.max_reward / 20
        self._return += reward
        if terminated:
            self._episode_count += 1
            self._note("battle", number=self._battle, length=self._episode_steps, won=info[
                "battle_won"], cut=cut, total=self._return)  # fmt: skip
        return reward, terminated, info

    def get_obs(self) -> list[np.ndarray]:
        return [self._obs(agent) for agent in range(self.n_agents)]

    def get_avail_actions(self) -> list[list[int]]:
        return [self.get_avail_agent_actions(agent) for agent in range(self.n_agents)]

    def get_avail_agent_actions(self, agent: int) -> list[int]:
        if self._health[0][agent] <= 0:
            return [1] + [0] * (self.n_actions - 1)
        x, y = self._where[0][agent]
        moves = [int(y < 30), int(y > 2), int(x < 30), int(x > 2)]
        away = np.hypot(*(self._where[1] - self._where[0][agent]).T)
        return [0, 1, *moves, *((away <= 6) & (self._health[1] > 0)).astype(int).tolist()]

    def get_state(self) -> np.ndarray:
        parts = []
        for team in (0, 1):
            health, alive = self._health[team] / self._full[team], self._health[team] > 0
            columns = [health]
            if team == 0:  # cooldowns: here they tell battle and step
                told = np.zeros(self.n_agents)
                told[:2] = self._battle % 1024 / 1024, self._episode_steps / 1024
                columns.append(told)
            columns += list(((self._where[team] - MIDDLE) / PLAYED).T)
            if self._teams[team][0][0] in FULL:
                columns.append(self._shield[team] / self._shields[team])
            rows = np.stack(columns, 1)
            if self._bits:
                rows = np.concatenate([rows, np.eye(self._bits)[self._types(team)]], 1)
            rows[~alive] = 0
            parts.append(rows.ravel())
        return np.concatenate([*parts, self.last_action.ravel()]).astype(np.float32)

    def full_restart(self) -> None:
        self._close_game()
        self._launch()
        self.force_restarts += 1

    def close(self) -> None:
        self._close_game()

    def seed(self) -> int | None:
        return self._seed

    def get_stats(self) -> dict[str, float]:
        return {"win_rate": self.battles_won / self.battles_game}

    # Inside.

    def _types(self, team: int) -> list[int]:
        order = [kind for kind, _ in self._teams[team]]
        return [OTHER_ORDER.get(k, 0) if team and "stalker" in order else order.index(k)
                for k in self._kinds[team]]  # fmt: skip

    def _state_size(self) -> int:
        shield = [int(team[0][0] in FULL) for team in self._teams]
        size = self.n_agents * (4 + shield[0] + self._bits)
        size += self.n_enemies * (3 + shield[1] + self._bits)
        return size + self.n_agents * self.n_actions

    def _obs_size(self) -> int:
        shield = [int(team[0][0] in FULL) for team in self._teams]
        ally, enemy = (5 + s + self._bits for s in shield)
        return 4 + self.n_enemies * enemy + (self.n_agents - 1) * ally + 1 + shield[0] + self._bits

    def _obs(self, agent: int) -> np.ndarray:
        obs = np.zeros(self._obs_size(), np.float32)
        if self._health[0][agent] > 0:
            obs[:4] = self.get_avail_agent_actions(agent)[2:6]
            away = (self._where[1] - self._where[0][agent]) / 9
            obs[4 : 4 + 2 * self.n_enemies] = away.ravel()
            obs[-1] = self._health[0][agent] / self._full[0][agent]
        return obs

    def _fight(self, actions: list[int]) -> float:
        before = sum((h + s).sum() for h, s in [(self._health[1], self._shield[1])])
        alive = (self._health[1] > 0).sum()
        for agent, action in enumerate(actions):
            if action >= ATTACK:
                self._hit(1, action - ATTACK, 18.0)
            elif action >= 2:
                step = {2: (0, 2), 3: (0, -2), 4: (2, 0), 5: (-2, 0)}[action]
                self._where[0][agent] += np.array(step) * 0.5
        for enemy in np.flatnonzero(self._health[1] > 0):
            living = np.flatnonzero(self._health[0] > 0)
            if not len(living):
                break
            away = self._where[0][living] - self._where[1][enemy]
            far = np.hypot(*away.T)
            near = int(far.argmin())
            if far[near] <= 5:
                self._hit(0, living[near], self._plan.get("damage", 6.0))
            else:
                self._where[1][enemy] += away[near] / far[near] * 1.5
        killed = alive - (self._health[1] > 0).sum()
        return float(before - (self._health[1] + self._shield[1]).sum() + 10 * killed)

    def _hit(self, team: int, unit: int, damage: float) -> None:
        taken = min(damage, self._shield[team][unit])
        self._shield[team][unit] -= taken
        self._health[team][unit] = max(0.0, self._health[team][unit] - (damage - taken))

    # The engine and its faults.

    def _launch(self) -> None:
        self._sc2_proc = subprocess.Popen(["sleep", "1000"])
        self._note("launched", game=self._sc2_proc.pid, pid=os.getpid(), seed=self._seed)
        ping = SimpleNamespace(game_version="4.10.0.75689")
        self._controller = SimpleNamespace(ping=lambda: ping)
        (self.map_x, self.map_y), (self.max_distance_x, self.max_distance_y) = MIDDLE * 2, PLAYED

    def _close_game(self) -> None:
        if self._sc2_proc is not None:
            self._sc2_proc.kill()
            self._sc2_proc.wait()
            self._sc2_proc = None

    def _misbehave(self, where: str) -> None:
        """Ends or hangs this process, if that is the fault of this battle."""
        said = self._fault.removesuffix(" in reset")
        if (self._fault != said) != (where == "reset"):
            return
        if said == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif said == "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            time.sleep(1000)
        elif said == "spin":
            while True:
                pass

    def _next_battle(self) -> tuple[int, str]:
        """The number of this battle among those of all processes, from 1, and its fault."""
        log, every = self._plan.get("log"), self._plan.get("every")
        if log is None:
            return 0, ""
        with (Path(log) / "counter").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0, os.SEEK_END)
            number = file.tell() + 1
            file.write(".")
            file.flush()
        first = self._plan.get("later") and not self._episode_count
        if not every or number % every or first:
            return number, ""
        faults = self._plan["faults"]
        fault = faults[(number // every - 1) % len(faults)]
        self._note("fault", number=number, fault=fault)
        return number, fault

    def _note(self, what: str, **about: Any) -> None:
        if (log := self._plan.get("log")) is not None:
            with contextlib.suppress(OSError), (Path(log) / f"{os.getpid()}.jsonl").open("a") as f:
                f.write(json.dumps({"what": what, **about}) + "\n")
