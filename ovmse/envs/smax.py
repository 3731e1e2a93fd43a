"""SMAX (JaxMARL): StarCraft-like battles that run everywhere, without StarCraft.

Differences from the raw environment, each on purpose:
- rewards are multiplied by 10, so that the best return is 20 as in SMAC (SMAX's is 2: the
  enemies' health as shares of the team, plus 1 for winning);
- positions in the world state are divided by the map size (raw ones run from 0 to 32);
- a battle's last observation is kept when the next battle begins by itself;
- death of a side (``terminated``) and the time limit (``truncated``) are told apart;
- ``episode_limit`` is 101: SMAX tests its limit of 100 before it counts the step;
- agents do not see the enemies' actions, as in SMAC.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ovmse.envs.base import EnvSpec, Frame, Step, Units, require_shape

REWARD_SCALE = 10.0  # SMAX's best return is 2, SMAC's is 20
EPISODE_LIMIT = 101
MOVES = ("north", "east", "south", "west", "stop")  # then one attack for each enemy
OWN_FEATURES = 10  # health, x, y, cooldown and six unit-type bits, for each unit
# JaxMARL's maps of fixed teams, listed here so that settings can be checked without JAX.
SMAX_MAPS = ("2s3z", "3s5z", "5m_vs_6m", "6h_vs_8z", "3m", "8m", "25m", "10m_vs_11m",
             "27m_vs_30m", "3s5z_vs_3s6z", "3s_vs_5z")  # fmt: skip


def _import_jax() -> Any:
    """JAX on one CPU thread, with a compile cache that processes share."""
    if "jax" not in sys.modules:
        # One thread: torch learns on the same cores, and two spinning pools slow each other.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        os.environ.setdefault(
            "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        )
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "ovmse" / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return jax


@contextlib.contextmanager
def _smax_alone() -> Iterator[None]:
    """Lets SMAX be imported by itself. JaxMARL's packages import all their environments, which
    print, draw and compute for seconds as they load; so bare ones stand in for them meanwhile."""
    names = ("jaxmarl", "jaxmarl.environments")
    found = importlib.util.find_spec("jaxmarl") if "jaxmarl" not in sys.modules else None
    if found is None or found.origin is None:  # somebody has the whole already, or it is missing
        yield
        return
    folder = Path(found.origin).parent
    for name, place in zip(names, (folder, folder / "environments"), strict=True):
        sys.modules[name] = module = types.ModuleType(name)
        module.__path__ = [str(place)]
    try:
        yield
    finally:
        for name in names:  # who imports JaxMARL later gets the whole
            sys.modules.pop(name, None)


@functools.cache
def _compiled(task: str, num_envs: int) -> tuple[EnvSpec, Callable, Callable]:
    """``(spec, reset(key), step(carry, actions))``, compiled once per process and batch size."""
    jax = _import_jax()
    import jax.numpy as jnp

    with _smax_alone():
        from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario

        env = HeuristicEnemySMAX(
            scenario=map_name_to_scenario(task),
            use_self_play_reward=False,
            walls_cause_death=True,
            see_enemy_actions=False,
            action_type="discrete",
        )
    allies, units = env.num_allies, env.num_allies + env.num_enemies
    scale = np.ones(env.state_size, np.float32)
    for unit in range(units):
        scale[unit * OWN_FEATURES + 1] = 1.0 / env.map_width
        scale[unit * OWN_FEATURES + 2] = 1.0 / env.map_height
    names = tuple(env.unit_type_names[int(kind)] for kind in env.scenario)

    def decode(state: np.ndarray) -> Units:
        per_unit = (state / scale)[: units * OWN_FEATURES].reshape(units, OWN_FEATURES)
        return Units(
            team=(np.arange(units) >= allies).astype(int),
            unit_type=names,
            position=per_unit[:, 1:3].copy(),
            health=per_unit[:, 0].copy(),
        )

    spec = EnvSpec(
        task=task,
        backend="smax",
        n_agents=allies,
        n_actions=env.num_ally_actions,
        obs_size=env.obs_size,
        state_size=env.state_size,
        episode_limit=EPISODE_LIMIT,
        decoder=decode,
        action_names=(*MOVES, *(f"attack {enemy}" for enemy in range(units - allies))),
    )

    def observe(obs: dict, state: Any) -> dict:
        avail = env.get_avail_actions(state)
        return {
            "obs": jnp.stack([obs[agent] for agent in env.agents]),
            "state": obs["world_state"] * scale,
            "avail": jnp.stack([avail[agent] for agent in env.agents]).astype(bool),
        }

    def reset_one(key: Any) -> tuple:
        key, use = jax.random.split(key)
        obs, state = env.reset(use)
        # A fresh battle carries JAX's weak types, which the first step would settle: settling
        # them here spares a second compile.
        state = jax.tree.map(lambda x: jnp.asarray(x, x.dtype), state)
        return (key, state), observe(obs, state)

    def step_one(carry: tuple, actions: Any) -> tuple:
        key, state = carry
        key, use = jax.random.split(key)
        by_agent = {agent: actions[i] for i, agent in enumerate(env.agents)}
        obs, state, rewards, dones, _ = env.step_env(use, state, by_agent)
        alive = state.state.unit_alive
        ours, theirs = alive[:allies].any(), alive[allies:].any()
        # One array of outcomes: fetching an array costs more than what is in it.
        outcome = jnp.stack(
            [
                rewards[env.agents[0]] * REWARD_SCALE,
                ~ours | ~theirs,  # terminated
                dones["__all__"] & ours & theirs,  # truncated
                ours & ~theirs,  # won
            ]
        )
        return (key, state), observe(obs, state), outcome

    @jax.jit
    def reset(key: Any) -> tuple:
        return jax.vmap(reset_one)(jax.random.split(key, num_envs))

    @jax.jit
    def step(carry: tuple, actions: Any) -> tuple:
        carry, last, outcome = jax.vmap(step_one)(carry, actions)
        done = (outcome[:, 1] + outcome[:, 2]) > 0

        def begin_anew(both: tuple) -> tuple:
            fresh = jax.vmap(reset_one)(both[0][0])
            pick = lambda new, old: jnp.where(  # noqa: E731
                done.reshape((-1,) + (1,) * (new.ndim - 1)), new, old
            )
            return jax.tree.map(pick, fresh, both)

        # Resetting costs as much as a step: do it only on the steps where a battle ended.
        carry, seen = jax.lax.cond(done.any(), begin_anew, lambda both: both, (carry, last))
        return carry, seen, last, outcome

    return spec, reset, step


@functools.cache
def _layout(task: str, num_envs: int) -> tuple[list[tuple[int, ...]], Any]:
    """The shapes of the arrays of ``get_state``, and the tree that they are the leaves of."""
    import jax

    reset = _compiled(task, num_envs)[1]
    carry, _ = jax.eval_shape(reset, jax.random.PRNGKey(0))  # nothing is played
    leaves, tree = jax.tree.flatten(carry)
    return [leaf.shape for leaf in leaves], tree


class SmaxEnv:
    """SMAX battles with a scripted enemy, behind the interface of ``envs/base.py``."""

    exact_state, shares_tests = True, False

    def __init__(self, task: str, num_envs: int, seed: int) -> None:
        self.num_envs = num_envs
        self.spec, self._reset, self._step = _compiled(task, num_envs)
        self._carry: Any = None
        self._seed = seed

    def reset(self, seed: int | None = None) -> Frame:
        """Starts every battle anew. A reset without a seed restarts the stream of the last one."""
        import jax

        self._seed = self._seed if seed is None else seed
        self._carry, seen = self._reset(jax.random.PRNGKey(self._seed))
        return _frame(seen)

    def step(self, actions: np.ndarray) -> Step:
        """actions ``[E, N]`` int. Raises ValueError before ``reset`` and on a wrong shape."""
        if self._carry is None:
            raise ValueError("call reset() before step()")
        require_shape(actions, self.num_envs, self.spec.n_agents)
        self._carry, seen, last, outcome = self._step(self._carry, np.asarray(actions, np.int32))
        reward, terminated, truncated, won = np.asarray(outcome).T
        now = _frame(seen)
        ended = terminated.any() or truncated.any()
        return Step(
            now=now,
            last=_frame(last) if ended else now,
            reward=reward.copy(),
            terminated=terminated > 0,
            truncated=truncated > 0,
            won=won > 0,
        )

    def get_state(self) -> list[np.ndarray]:
        """The battles and their random keys as plain arrays."""
        import jax

        return [np.asarray(leaf) for leaf in jax.tree.leaves(self._carry)]

    def set_state(self, arrays: list[np.ndarray], seed: int | None = None) -> None:
        """Puts back what ``get_state`` returned, for the same task and ``num_envs``. With a seed
        each battle gets a new random key, the first of its arrays."""
        import jax

        if seed is not None:
            keys = jax.random.split(jax.random.PRNGKey(seed), self.num_envs)
            arrays = [np.asarray(keys), *arrays[1:]]
        shapes, tree = _layout(self.spec.task, self.num_envs)
        if shapes != [a.shape for a in arrays]:
            raise ValueError(f"the saved battles are not {self.num_envs} of {self.spec.task}")
        self._carry = jax.tree.unflatten(tree, [jax.numpy.asarray(a) for a in arrays])

    def close(self) -> None:
        """Nothing to free: the battles are arrays."""


def _frame(seen: dict) -> Frame:
    return Frame(
        obs=np.asarray(seen["obs"]),
        state=np.asarray(seen["state"]),
        avail_actions=np.asarray(seen["avail"]),
    )
