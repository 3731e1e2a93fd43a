"""SMAC: battles in StarCraft II itself, each game in a process of its own (``smac_worker.py``).

What differs from a loop over ``StarCraft2Env``, each on purpose:
- a battle cut by the time limit is truncated, not lost;
- a battle that the engine loses (an empty answer, an exception, a dead or silent process) is void,
  and its process is replaced, game and all;
- a game that is slow to begin its next battle holds no other up: that battle is ``waiting``;
- no child or game outlives this process, however it ends.

The same seed gives the games the same seeds. A seed acts when a game is created; later resets
begin new battles in the games that run. Which battles wait depends on the machine's speed.
"""

from __future__ import annotations

import select
import time
from typing import Any

import numpy as np

from ovmse.envs import smac_worker as wire
from ovmse.envs.base import Frame, Step, require_shape
from ovmse.envs.smac_game import ACTING, IDLE, READY, STARTING, Failed, Game
from ovmse.envs.smac_setup import versions
from ovmse.envs.smac_units import MAPS, PLAIN_MAP, task_spec
from ovmse.errors import UserError

SMAC_MAPS = tuple(MAPS)
CLOSE_SECONDS = 10.0  # for all games together to end by themselves
MOST_FAILURES = 5  # of one game, in a row: without a battle played to its end in between


class SmacEnv:
    """Battles of StarCraft II behind the interface of ``envs/base.py``.

    Raises UserError where the game, a map or a package is missing, and where one game fails too
    often in a row.
    """

    exact_state, shares_tests = False, True

    def __init__(self, task: str, num_envs: int, seed: int) -> None:
        self.num_envs, self.task, self._seed = num_envs, task, seed
        self.seeds: list[list[int]] = [[] for _ in range(num_envs)]  # of each slot's games
        self._seeded = [0] * num_envs  # seeds that each slot has used
        self._failures = [0] * num_envs  # of each slot, in a row
        self._failed_starts = 0  # not reported yet
        self._version, self._geometry = "", list(PLAIN_MAP)
        self._sizes: dict[str, int] = {}
        self._games: list[Game | None] = [None] * num_envs
        self._started = False
        try:
            for slot in range(num_envs):  # side by side
                self._games[slot] = Game(task)
            for slot in range(num_envs):
                self._hear(slot)
        except Failed as error:
            self.close()
            raise UserError(f"StarCraft II cannot be started: {error}") from None
        except BaseException:
            self.close()
            raise
        self.spec = task_spec(task, self._sizes, self._geometry)
        record = wire.record_type(self._sizes)
        self._raw = np.zeros((num_envs, record.itemsize), np.uint8)
        self._views = [row.data for row in self._raw]
        self._record = self._raw.view(record)[:, 0]

    def reset(self, seed: int | None = None) -> Frame:
        """Begins every battle anew and waits for all. The seed is that of games created from now
        on; those that run are kept."""
        if seed is not None:
            self._seed, self._seeded = seed, [0] * self.num_envs
        self._started = True
        for slot, game in enumerate(self._games):
            if game is None or game.stage == ACTING:  # closed, or interrupted within a step
                self._renew(slot)
            elif game.stage in (IDLE, READY):
                try:
                    self._begin(slot)
                except Failed as error:
                    self._failed_starts += 1
                    self._lose(slot, str(error))
        while waiting := self._waiting():
            self._listen(waiting, block=True)
        return self._frame()

    def step(self, actions: np.ndarray) -> Step:
        """actions ``[E, N]`` int. Raises ValueError before ``reset`` and after a step that was
        interrupted, on a wrong shape and on an action that is not available; UserError where a game
        has failed too often in a row."""
        if not self._started or any(game and game.stage == ACTING for game in self._games):
            raise ValueError("call reset() before step()")
        actions = np.asarray(actions)
        require_shape(actions, self.num_envs, self.spec.n_agents)
        acting = [s for s, game in enumerate(self._games) if game and game.stage == READY]
        self._require_available(actions, acting)
        bodies = np.zeros((self.num_envs, wire.command_size(self._sizes) - 1), np.uint8)
        bodies[:, : self.spec.n_agents] = actions
        lost: dict[int, str] = {}
        for slot in acting:
            try:
                self._game(slot).act(bodies[slot].tobytes())
            except Failed as error:
                lost[slot] = str(error)
        for slot in acting:
            try:
                if slot not in lost:
                    self._game(slot).receive(self._views[slot])
            except Failed as error:
                lost[slot] = str(error)
        for slot, reason in lost.items():
            self._lose(slot, reason)
        return self._outcome([slot for slot in acting if slot not in lost], list(lost))

    def _outcome(self, played: list[int], lost: list[int]) -> Step:
        """The step that the records tell of, and the battles that begin after it."""
        last, record = self._frame(), self._record
        went = _mask(self.num_envs, played)
        reward = np.where(went, record["reward"], 0).astype(np.float32)
        terminated, truncated, won = (
            record[name] & went for name in ("terminated", "truncated", "won")
        )
        for slot in np.flatnonzero(terminated | truncated).tolist():
            self._failures[slot] = 0
            self._game(slot).begins()
        now = last
        if waiting := self._waiting():
            # Where nothing else is to be done, until a battle begins or fails to.
            self._listen(waiting, block=len(waiting) == self.num_envs)
            now, waiting = self._frame(), self._waiting()
        failed, self._failed_starts = self._failed_starts, 0
        return Step(
            now=now,
            last=last,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            won=won,
            void=_mask(self.num_envs, lost) if lost else None,
            waiting=_mask(self.num_envs, waiting) if waiting else None,
            failed_starts=failed,
        )

    def get_state(self) -> list[np.ndarray]:
        """A game under way cannot be saved."""
        raise ValueError("StarCraft II cannot save battles under way")

    def set_state(self, arrays: list[np.ndarray], seed: int | None = None) -> None:
        """Nor put back."""
        raise ValueError("StarCraft II cannot continue saved battles")

    def engine(self) -> dict[str, Any]:
        """What stands beside a run: the versions of the game and its packages, and for each slot
        the seeds of the games that were created."""
        found: dict[str, Any] = versions()
        seeds = [list(of_slot) for of_slot in self.seeds]
        return {**found, "game": self._version or found["game"], "seeds": seeds}

    def close(self) -> None:
        """Ends every child and its game, and returns when none is left."""
        games = [game for game in self._games if game is not None]
        self._games = [None] * self.num_envs
        self._started = False
        for game in games:
            game.ask_to_end()
        deadline = time.monotonic() + CLOSE_SECONDS
        for game in games:
            game.wait_for_end(deadline)
        for game in games:
            game.kill()

    # Inside.

    def _renew(self, slot: int) -> None:
        """Another process in the place of this one, which begins a battle as soon as it can."""
        if (game := self._games[slot]) is not None:
            self._games[slot] = None
            game.kill()
        self._games[slot] = Game(self.task)

    def _begin(self, slot: int) -> None:
        words = np.random.SeedSequence([self._seed, slot, self._seeded[slot]]).generate_state(1)
        self._game(slot).begin(int(words[0]) >> 1, wire.command_size(self._sizes))

    def _lose(self, slot: int, reason: str) -> None:
        """Counts a failure and begins anew; raises UserError where it is one too many."""
        self._failures[slot] += 1
        if self._failures[slot] >= MOST_FAILURES:
            raise UserError(
                f"{self.task}: a game of StarCraft II failed {MOST_FAILURES} times in a row (the "
                f"last time: {reason}); what is saved stays, and the same command continues"
            )
        self._renew(slot)

    def _game(self, slot: int) -> Game:
        game = self._games[slot]
        assert game is not None
        return game

    def _waiting(self) -> list[int]:
        """The battles that have not begun."""
        return [s for s, game in enumerate(self._games) if game and game.stage < READY]

    def _listen(self, waiting: list[int], block: bool) -> None:
        """Hears what has come; where ``block``, until a battle has begun or a start has failed."""
        while True:
            games = {self._game(slot).channel: slot for slot in waiting}
            first = min(self._game(slot).deadline for slot in waiting)
            timeout = max(0.0, first - time.monotonic()) if block else 0
            readable = select.select(list(games), [], [], timeout)[0]
            changed = False
            for channel, slot in games.items():
                game = self._game(slot)
                try:
                    if channel in readable:
                        self._hear(slot)
                        changed |= game.stage == READY
                    else:
                        game.require_time()
                except Failed as error:
                    changed = True
                    self._failed_starts += 1
                    self._lose(slot, str(error))
            if changed or not block:
                return

    def _hear(self, slot: int) -> None:
        """What a child says that starts or begins a battle."""
        game = self._game(slot)
        if game.stage != STARTING:
            game.receive(self._views[slot])
            record = self._record[slot]
            if record["created"]:
                self.seeds[slot].append(game.seed)
                self._seeded[slot] += 1
            self._version = record["version"].decode() or self._version
            if record["map"].all():
                self._geometry[:] = record["map"].tolist()
            return
        sizes = game.hello()
        if self._sizes not in ({}, sizes):
            raise Failed(f"its sizes are {sizes}, before they were {self._sizes}")
        self._sizes = sizes
        if self._started:
            self._begin(slot)

    def _frame(self) -> Frame:
        """Every battle as its record has it; one that has not begun sees nothing, and its agents
        can only do nothing."""
        record = self._record
        frame = Frame(record["obs"].copy(), record["state"].copy(), record["avail"].copy())
        if waiting := self._waiting():
            frame.obs[waiting] = frame.state[waiting] = 0
            frame.avail_actions[waiting] = np.arange(self.spec.n_actions) == 0
        return frame

    def _require_available(self, actions: np.ndarray, acting: list[int]) -> None:
        """SMAC asserts, and the battle would seem to be lost by the engine."""
        avail = self._record["avail"]
        known = (actions >= 0) & (actions < self.spec.n_actions)
        index = np.where(known, actions, 0)[..., None]
        wrong = ~known | ~np.take_along_axis(avail, index, 2)[..., 0]
        if wrong.any() and wrong[acting].any():
            slot, agent = next((s, a) for s, a in np.argwhere(wrong).tolist() if s in acting)
            raise ValueError(
                f"actions: battle {slot}, agent {agent} takes {actions[slot, agent]}, "
                "which is not available"
            )


def _mask(size: int, slots: list[int]) -> np.ndarray:
    mask = np.zeros(size, np.bool_)
    mask[slots] = True
    return mask
