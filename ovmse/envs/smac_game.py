"""One game of StarCraft II in a child process (``smac_worker.py``), as its parent sees it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from ovmse.envs import smac_worker as wire
from ovmse.errors import UserError

STEP_SECONDS = 60.0  # a game that is silent for longer within a step hangs
LAUNCH_SECONDS = 300.0  # or while it starts, or begins a battle
MODULE = "ovmse.envs.smac_worker"
# A child: starts; waits for its first command; begins a battle; waits for actions; plays a step.
STARTING, IDLE, BEGINNING, READY, ACTING = range(5)
_BAD = wire.FAILED, wire.MISSING


class Failed(Exception):
    """A battle is lost; says why."""


class Game:
    """One child process: what it is at (``stage``), until when (``deadline``), and the
    seed of its game.

    What sends or reads raises Failed where the child says so, has ended or is silent for too long,
    and UserError where it says what a person must install.
    """

    def __init__(self, task: str) -> None:
        self.stage, self.seed = STARTING, 0
        self.deadline = time.monotonic() + LAUNCH_SECONDS
        self._patience = 0.0  # the channel's time-out; setting it costs a system call
        self.channel, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", MODULE, str(theirs.fileno()), task],
                    stdin=subprocess.PIPE,  # the life line
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # a group of its own: the game dies with it
                    env=_environment(),
                )
            except BaseException:
                self.channel.close()
                raise

    def hello(self) -> dict[str, int]:
        """The sizes that a child says once it has started."""
        head = bytearray(1 + wire.LENGTH.size)
        self._read(memoryview(head), LAUNCH_SECONDS)
        said = bytearray(*wire.LENGTH.unpack_from(head, 1))
        self._read(memoryview(said), LAUNCH_SECONDS)
        self.stage = IDLE
        return json.loads(said)

    def begin(self, seed: int, command_size: int) -> None:
        """Begins a battle; the seed is that of the game, if one is created for it."""
        self.seed = seed
        command = wire.RESET + wire.LENGTH.pack(seed)
        self._send(command.ljust(command_size, b"\0"), BEGINNING, LAUNCH_SECONDS)

    def begins(self) -> None:
        """A battle has ended; the child begins the next one by itself."""
        self.stage, self.deadline = BEGINNING, time.monotonic() + LAUNCH_SECONDS

    def act(self, actions: bytes) -> None:
        """Plays one step."""
        self._send(wire.STEP + actions, ACTING, STEP_SECONDS)

    def receive(self, view: memoryview) -> None:
        """The record that the battle is ready with. Past the deadline it is no longer waited for:
        a game that is silent makes the others' silence last no longer."""
        late = time.monotonic() > self.deadline
        self._read(view, 1e-3 if late else STEP_SECONDS)
        self.stage = READY

    def require_time(self) -> None:
        """Raises Failed where a battle should have begun by now."""
        if time.monotonic() > self.deadline:
            raise Failed(f"it began no battle within {LAUNCH_SECONDS:g} s")

    def ask_to_end(self) -> None:
        """The child closes its game and ends; see ``wait_for_end``."""
        with contextlib.suppress(OSError):
            self.channel.shutdown(socket.SHUT_WR)

    def wait_for_end(self, deadline: float) -> None:
        """Until the child has closed its side, or to the deadline."""
        with contextlib.suppress(OSError):
            while (left := deadline - time.monotonic()) > 0:
                self.channel.settimeout(left)
                if not self.channel.recv(65536):
                    break

    def kill(self) -> None:
        """The child and whatever game it started; the group is killed before the child is reaped,
        so that its number still means them."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self.channel.close()

    def _send(self, command: bytes, stage: int, seconds: float) -> None:
        self.stage, self.deadline = stage, time.monotonic() + seconds
        try:
            self._wait(STEP_SECONDS)
            self.channel.sendall(command)
        except OSError:
            raise Failed("its process has ended") from None

    def _read(self, view: memoryview, seconds: float) -> None:
        """Fills the view."""
        try:
            self._wait(seconds)
            if (got := wire.receive(self.channel, view)) == len(view) and view[:1] not in _BAD:
                return
            said = bytes(view[:got])
            while more := self.channel.recv(65536):
                said += more
        except TimeoutError:
            raise Failed("it has stopped answering") from None
        except OSError as error:
            raise Failed(f"its process has ended ({error.strerror})") from None
        text = said[1:].decode(errors="replace")
        if said[:1] == wire.MISSING:
            raise UserError(text)
        if said[:1] == wire.FAILED:
            raise Failed(text)
        raise Failed("its process has ended")

    def _wait(self, seconds: float) -> None:
        """What is sent and read next may take so long."""
        if seconds != self._patience:
            self.channel.settimeout(seconds)
            self._patience = seconds


def _environment() -> dict[str, str]:
    """StarCraft's protocol needs protobuf's Python form beside a newer protobuf (JaxMARL's)."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    extra = {"PYTHONPATH": path, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    return {**os.environ, **extra, "OMP_NUM_THREADS": "1"}
