"""One StarCraft II battle after another in a process of its own (the child of ``smac.py``).

    python -P -m ovmse.envs.smac_worker FD TASK

``FD`` is a socket. The child says its sizes (``hello``), then obeys commands of ``command_size``
bytes: ``RESET`` and a seed, for a game if one is created; or ``STEP`` and the actions. It answers
with one record a frame (``record_type``); a battle that ends is followed by the next one's first
frame, unasked. Whatever goes wrong is its last answer: ``FAILED`` or, where a person must mend it,
``MISSING``, and a sentence. The parent then kills the process group, game included, and starts
another: an environment is never reused after a failure. (SMAC would count the enemies' health twice
into ``max_reward`` after a failure in its first battle, or a reset within it.)

Standard input is the life line: when it ends the parent is gone, however it went.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping
from typing import NoReturn

import numpy as np

from ovmse.envs.smac_setup import game_problem, import_problem

RESET, STEP = b"r", b"s"
HELLO, FRAME, FAILED, MISSING = b"h", b"f", b"e", b"m"
LENGTH = struct.Struct("<I")
GRACE = 5.0  # seconds to close the game once the parent is gone


class Gone(Exception):
    """The other side has closed the channel."""


class Lost(Exception):
    """The engine lost the battle."""


class Missing(Exception):
    """Something that a person must install."""


def command_size(sizes: Mapping[str, int]) -> int:
    """Bytes of a command: its letter, and the actions or a seed."""
    return 1 + max(sizes["n_agents"], LENGTH.size)


def record_type(sizes: Mapping[str, int]) -> np.dtype:
    """One frame and what led to it, as both sides read it. ``created``: a game was made for it;
    ``map``: width and height, of the map and of its playable part."""
    agents, floats = sizes["n_agents"], np.dtype("<f4")
    return np.dtype(
        [
            ("kind", "S1"), ("terminated", "?"), ("truncated", "?"), ("won", "?"),
            ("reward", floats), ("created", "?"), ("version", "S31"), ("map", floats, (4,)),
            ("state", floats, (sizes["state_size"],)),
            ("obs", floats, (agents, sizes["obs_size"])),
            ("avail", "?", (agents, sizes["n_actions"])),
        ]
    )  # fmt: skip


def receive(channel: socket.socket, view: memoryview) -> int:
    """Fills the view; returns how much came before the other side closed."""
    got = 0
    while got < len(view):
        count = channel.recv_into(view[got:])
        if not count:
            break
        got += count
    return got


class _Battles:
    """``StarCraft2Env`` and what must be known of it to use it rightly."""

    def __init__(self, task: str) -> None:
        try:
            from smac.env import StarCraft2Env
        except Exception as error:
            raise Missing(import_problem(error) or f"{type(error).__name__}: {error}") from error
        self._make = lambda seed: StarCraft2Env(map_name=task, seed=seed, continuing_episode=True)
        self.task, self.env = task, self._make(None)  # for its sizes; no game runs yet
        self._began = self._ended = self._fresh = False
        info = self.env.get_env_info()
        self.sizes = {
            "n_agents": int(info["n_agents"]),
            "n_actions": int(info["n_actions"]),
            "obs_size": int(info["obs_shape"]),
            "state_size": int(info["state_shape"]),
            "episode_limit": int(info["episode_limit"]),
        }
        self.records = np.zeros(1, record_type(self.sizes))
        self._record = self.records[0]

    def reset(self, seed: int | None = None) -> None:
        """Begins a battle; one that has not taken a step yet is as good as new."""
        record = self._record
        record["kind"], record["reward"], record["created"] = FRAME, 0, False
        record["terminated"] = record["truncated"] = record["won"] = False
        if self._fresh:
            return
        if not self._ended:
            # Also where the first battle is under way: a reset would launch a game beside its own.
            if problem := game_problem(self.task):
                raise Missing(problem)
            self.env.close()
            self.env, record["created"] = self._make(seed), True
        restarts = self._restarts()
        self.env.reset()
        if self._restarts() != restarts:  # it shows the units of the battle before
            raise Lost("the engine failed within a reset")
        if not self._began:
            self._began = True
            record["version"], record["map"] = self._version(), self._map()
        self._fresh = True
        self._observe()

    def step(self, actions: list[int]) -> bool:
        """Whether the battle ended; raises Lost where the engine failed."""
        reward, over, info = self.env.step(actions)
        if "battle_won" not in info:
            raise Lost("the engine failed within a step")
        cut = bool(over and info.get("episode_limit"))
        record = self._record
        record["reward"], record["truncated"] = reward, cut
        record["terminated"], record["won"] = over and not cut, info["battle_won"]
        self._observe()
        self._fresh, self._ended = False, self._ended or bool(over)
        return bool(over)

    def _restarts(self) -> int:
        """How often SMAC has launched its game anew by itself."""
        return int(getattr(self.env, "force_restarts", 0))

    def _observe(self) -> None:
        self._record["obs"] = self.env.get_obs()
        self._record["state"] = self.env.get_state()
        self._record["avail"] = self.env.get_avail_actions()

    def _version(self) -> bytes:
        """The game's own, as far as it says; SMAC has no public way to ask."""
        with contextlib.suppress(Exception):
            return str(self.env._controller.ping().game_version).encode()
        return b""

    def _map(self) -> list[float]:
        names = "map_x", "map_y", "max_distance_x", "max_distance_y"
        return [float(getattr(self.env, name, 0)) for name in names]


def serve(channel: socket.socket, battles: _Battles) -> NoReturn:
    """Answers commands until the parent closes the channel (raises Gone)."""
    hello = json.dumps(battles.sizes).encode()
    channel.sendall(HELLO + LENGTH.pack(len(hello)) + hello)
    command = bytearray(command_size(battles.sizes))
    view, agents = memoryview(command), battles.sizes["n_agents"]
    raw = battles.records.view(np.uint8).data
    while True:
        if receive(channel, view) < len(command):
            raise Gone
        if command[:1] == STEP:
            over = battles.step(list(view[1 : 1 + agents]))
            channel.sendall(raw)
            if over:
                battles.reset()
                channel.sendall(raw)
        else:
            battles.reset(*LENGTH.unpack_from(command, 1))
            channel.sendall(raw)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Serves; ends with the parent, or after saying what failed, and takes the game with it."""
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, lambda *_: sys.exit())
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)  # or the game would hold it open
    threading.Thread(target=_end_with_parent, daemon=True).start()
    battles = None
    try:
        battles = _Battles(sys.argv[2])
        serve(channel, battles)
    except (Gone, ConnectionError, SystemExit):
        pass
    except BaseException as error:
        kind = MISSING if isinstance(error, Missing) else FAILED
        known = isinstance(error, Missing | Lost)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            channel.sendall(kind + text.encode(errors="replace"))
            channel.shutdown(socket.SHUT_WR)
    finally:
        with contextlib.suppress(BaseException):
            if battles is not None:
                battles.env.close()
        os.killpg(0, signal.SIGKILL)  # whatever a game has left; this process is done


if __name__ == "__main__":
    main()
