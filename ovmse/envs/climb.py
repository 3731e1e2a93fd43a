"""Climb: two agents, four ledges and a payoff table per ledge. Small enough to be solved exactly.

It shows what a mixed value can and cannot learn, against ``solve``. At each ledge every agent has
three actions: to rest, to step, or the bold one. Bold is a leap, except on the last ledge: there
the rope hangs beside one agent (a coin decides on arrival), and that agent's bold action is the
rope. So ``rope`` is available to one agent on the last ledge, who cannot leap. Payoffs:

    climb_monotone                       climb_penalty
            rest   step   bold                   rest   step   bold
    rest    -5 *    1      2             rest    -5 *    1    -10 !
    step     1      3      4             step     1      3    -10 !
    bold     2      4      5             bold   -10 !  -10 !    5

``*``: the team freezes and stays where it is; ``!``: who is bold alone falls, and the battle is
lost. Everything else takes the team one ledge up; above the last is the top (won). The best return
is 20, as in SMAC. A battle is cut after ``EPISODE_LIMIT`` steps; the limit is no part of the state.

Without the penalty (and with gamma from 0.95 on) the values rise with each agent's boldness, the
more so the bolder the other is. QMIX's mixer needs both: it is monotone and, as a sum of ELUs,
which are convex, supermodular too. With the penalty no order of the actions fits: fitted to random
play, QMIX steps, for a return of 12. Fitted to its own play it may happen upon 20.

Letters: ``E`` battles, ``S`` states, ``N`` agents, ``A`` actions.
"""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import dataclass

import numpy as np

from ovmse.envs.base import EnvSpec, Frame, Step, require_shape

CLIMB_TASKS = ("climb_monotone", "climb_penalty")
AGENTS = 2
REST, STEP, LEAP, ROPE = range(4)
NAMES = ("rest", "step", "leap", "rope")
LEDGES = 4
EPISODE_LIMIT = 6  # four steps are needed; frozen teams are cut
# States: ledges 0, 1, 2; the last ledge with the rope beside agent 0 or 1; the ends.
LAST = (LEDGES - 1, LEDGES)
TOP, FALLEN = LEDGES + 1, LEDGES + 2
STATES = LEDGES + 3

# Rows and columns: rest, step, bold.
_PAYOFFS = {
    "climb_monotone": ((-5, 1, 2), (1, 3, 4), (2, 4, 5)),
    "climb_penalty": ((-5, 1, -10), (1, 3, -10), (-10, -10, 5)),
}


@dataclass(frozen=True)
class GameTables:
    """A task as tables: avail ``[S, N, A]`` bool, reward ``[S, A, A]``, and the next state
    ``[S, A, A, 2]`` for the coin's two sides. At the ends only resting is left, for nothing."""

    avail: np.ndarray
    reward: np.ndarray
    after: np.ndarray


@functools.cache
def game_tables(task: str) -> GameTables:
    if task not in CLIMB_TASKS:
        raise ValueError(f"task: got {task!r}, allowed: {', '.join(CLIMB_TASKS)}")
    avail = np.zeros((STATES, AGENTS, 4), np.bool_)
    avail[..., REST] = True
    reward = np.zeros((STATES, 4, 4), np.float32)
    after = np.broadcast_to(np.arange(STATES)[:, None, None, None], (STATES, 4, 4, 2)).copy()
    for state in range(TOP):
        bold = [ROPE if state == LAST[agent] else LEAP for agent in range(AGENTS)]
        up = (TOP, TOP) if state in LAST else LAST if state + 1 == LAST[0] else (state + 1,) * 2
        ours, theirs = ((REST, STEP, bold[agent]) for agent in range(AGENTS))
        avail[state, 0, ours] = avail[state, 1, theirs] = True
        for i, j in itertools.product(range(3), repeat=2):
            pair = state, ours[i], theirs[j]
            reward[pair] = _PAYOFFS[task][i][j]
            if (i == 2) != (j == 2) and task == "climb_penalty":
                after[pair] = FALLEN
            elif (i, j) != (0, 0):
                after[pair] = up
    return GameTables(avail, reward, after)


def solve(task: str, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """The optimal values ``Q*`` ``[S, A, A]`` of every joint action and ``V*`` ``[S]``, float64.

    States as in the one-hot state; the ends are worth 0. Joint actions that are not available
    have -inf. By value iteration, which ends exactly: whoever plays best never stays on a ledge.
    Raises ValueError on an unknown task or a gamma outside 0 to 1.
    """
    game = game_tables(task)
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma: got {gamma}, allowed: 0 to 1")
    allowed = game.avail[:, 0, :, None] & game.avail[:, 1, None, :]
    v, before = np.zeros(STATES), np.full(STATES, np.nan)
    while not np.array_equal(v, before):
        q = np.where(allowed, game.reward + gamma * v[game.after].mean(-1), -np.inf)
        v, before = q.max((1, 2)), v
    return q, v


class ClimbEnv:
    """Climbs behind the interface of ``envs/base.py``.

    The state is the one-hot of the ``S`` states. An agent sees the ledge (one-hot) and whether the
    rope hangs beside it; nothing once the battle has ended.
    """

    exact_state, shares_tests = True, False

    def __init__(self, task: str, num_envs: int, seed: int) -> None:
        self._game = game_tables(task)
        self.num_envs, self._seed = num_envs, seed
        self.spec = EnvSpec(
            task, "climb", AGENTS, 4, LEDGES + 1, STATES, EPISODE_LIMIT, action_names=NAMES
        )
        self._obs = np.zeros((STATES, AGENTS, LEDGES + 1), np.float32)
        for state in range(TOP):
            self._obs[state, :, min(state, LAST[0])] = 1
        self._obs[LAST, range(AGENTS), LEDGES] = 1
        self._rng = np.random.default_rng(seed)
        self._where: np.ndarray | None = None  # [E], the states
        self._steps = np.zeros(num_envs, np.int64)

    def reset(self, seed: int | None = None) -> Frame:
        """Starts every battle anew. A reset without a seed restarts the stream of the last one."""
        self._seed = self._seed if seed is None else seed
        self._rng = np.random.default_rng(self._seed)
        self._where, self._steps = np.zeros(self.num_envs, np.int64), np.zeros_like(self._steps)
        return self._observe(self._where)

    def step(self, actions: np.ndarray) -> Step:
        """actions ``[E, N]`` int. Raises ValueError before ``reset``, on a wrong shape and on an
        action that is not available."""
        if self._where is None:
            raise ValueError("call reset() before step()")
        require_shape(actions, self.num_envs, AGENTS)
        actions = np.asarray(actions)
        chosen = actions[..., None] == np.arange(4)
        listed = (chosen & self._game.avail[self._where]).any(-1)
        if not listed.all():
            slot, agent = np.argwhere(~listed)[0]
            raise ValueError(
                f"actions: battle {slot}, agent {agent} takes {actions[slot, agent]}, "
                "which is not available"
            )
        pair = self._where, actions[:, 0], actions[:, 1]
        coin = self._rng.integers(2, size=self.num_envs)  # for all: one stream, whoever arrives
        reward, where = self._game.reward[pair], self._game.after[(*pair, coin)]
        self._steps += 1
        terminated = where >= TOP
        truncated = ~terminated & (self._steps >= EPISODE_LIMIT)
        done = terminated | truncated
        self._where, self._steps = np.where(done, 0, where), np.where(done, 0, self._steps)
        return Step(
            now=self._observe(self._where),
            last=self._observe(where),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            won=where == TOP,
        )

    def get_state(self) -> list[np.ndarray]:
        """State and steps of each battle ``[E]``, and the generator's state (JSON as bytes)."""
        if self._where is None:
            raise ValueError("call reset() before get_state()")
        stream = json.dumps(self._rng.bit_generator.state).encode()
        return [self._where.copy(), self._steps.copy(), np.frombuffer(stream, np.uint8)]

    def set_state(self, arrays: list[np.ndarray], seed: int | None = None) -> None:
        """Puts back what ``get_state`` returned, for the same task and ``num_envs``. With a seed
        the coin is a new one, and its old generator is not looked at."""
        if [np.shape(a) for a in arrays[:-1]] != [(self.num_envs,)] * 2:
            raise ValueError(f"the saved battles are not {self.num_envs} of {self.spec.task}")
        self._where, self._steps = arrays[0].copy(), arrays[1].copy()
        if seed is None:
            self._rng.bit_generator.state = json.loads(arrays[2].tobytes())
        else:
            self._rng = np.random.default_rng(seed)

    def close(self) -> None:
        """Nothing to free: the battles are arrays."""

    def _observe(self, where: np.ndarray) -> Frame:
        return Frame(
            obs=self._obs[where],
            state=np.eye(STATES, dtype=np.float32)[where],
            avail_actions=self._game.avail[where],
        )
