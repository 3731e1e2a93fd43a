"""The SMAX backend: sizes, ends of battles, rewards, determinism, exact resume."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import jax
import numpy as np
import pytest
from battles import assert_same, play
from conftest import NUM_ENVS, ROOT

from ovmse.envs import Step, VectorEnv, make_env

pytestmark = pytest.mark.slow

UP, RIGHT, DOWN, LEFT, STOP, FIRST_ATTACK = range(6)
ALLIES = 5  # of ten units

SIZES = {  # agents, obs, state, actions
    "2s3z": (5, 127, 120, 10),
    "3s5z": (8, 205, 192, 13),
    "5m_vs_6m": (5, 140, 132, 11),
    "6h_vs_8z": (6, 179, 168, 13),
}


def stop(env: VectorEnv) -> np.ndarray:
    return np.full((env.num_envs, env.spec.n_agents), STOP)


def change(env: VectorEnv, name: str, alter: Callable[[np.ndarray], None]) -> None:
    """Alters one field of the battles' state (``unit_health [E, U]``, ``step [E]``, ...)."""
    leaves = jax.tree_util.tree_leaves_with_path(env._carry)
    (index,) = (i for i, (path, _) in enumerate(leaves) if str(path[-1]) == f".{name}")
    arrays = [array.copy() for array in env.get_state()]
    alter(arrays[index])
    env.set_state(arrays)


def put(where: object, value: float) -> Callable[[np.ndarray], None]:
    def alter(array: np.ndarray) -> None:
        array[where] = value

    return alter


def to_the_wall(env: VectorEnv, slots: list[int], units: slice) -> None:
    """Walls kill whoever touches them, on the next step."""

    def alter(position: np.ndarray) -> None:
        for slot in slots:
            position[slot, units] = 0.0

    change(env, "unit_positions", alter)


OURS, THEIRS, ALL = slice(0, ALLIES), slice(ALLIES, None), slice(None)


@pytest.mark.parametrize("task", SIZES)
def test_sizes_of_the_papers_maps(task: str) -> None:
    env = make_env(task, num_envs=2)
    spec = env.spec
    assert (spec.n_agents, spec.obs_size, spec.state_size, spec.n_actions) == SIZES[task]
    assert (spec.episode_limit, spec.task, spec.backend) == (101, task, "smax")
    # Traced, not compiled: the arrays that a reset really makes.
    _, seen = jax.eval_shape(env._reset, jax.random.PRNGKey(0))
    agents, obs, state, actions = SIZES[task]
    assert seen["obs"].shape == (2, agents, obs)
    assert seen["state"].shape == (2, state)
    assert seen["avail"].shape == (2, agents, actions)


def test_types_and_shapes_of_a_step(env: VectorEnv) -> None:
    first = env.reset(0)
    step = env.step(stop(env))
    for seen in (first, step.now, step.last):
        assert seen.obs.shape == (NUM_ENVS, 5, 127) and seen.obs.dtype == np.float32
        assert seen.state.shape == (NUM_ENVS, 120) and seen.state.dtype == np.float32
        assert seen.avail_actions.shape == (NUM_ENVS, 5, 10)
        assert seen.avail_actions.dtype == np.bool_
    assert step.reward.shape == (NUM_ENVS,) and step.reward.dtype == np.float32
    for flags in (step.terminated, step.truncated, step.won):
        assert flags.shape == (NUM_ENVS,) and flags.dtype == np.bool_
    np.testing.assert_array_equal(step.now.obs, step.last.obs)


def test_a_battle_that_nobody_wins_lasts_101_steps(env: VectorEnv) -> None:
    env.reset(1)
    change(env, "unit_health", put((ALL, OURS), 1e9))
    for t in range(101):
        step = env.step(stop(env))
        assert not step.terminated.any() and not step.won.any()
        assert step.truncated.all() == step.truncated.any() == (t == 100)
    assert env.spec.decode_state(step.last.state[0]).health[THEIRS].tolist() == [1] * 5


def approach(env: VectorEnv, state: np.ndarray) -> list[int]:
    """Each ally's move towards its nearest enemy, from the state of one battle."""
    units = env.spec.decode_state(state)
    targets = units.position[THEIRS][units.health[THEIRS] > 0]
    moves = []
    for own in units.position[OURS]:
        x, y = min(targets - own, key=lambda way: (way**2).sum())
        moves.append((RIGHT if x > 0 else LEFT) if abs(x) > abs(y) else (UP if y > 0 else DOWN))
    return moves


def test_the_best_return_is_20(env: VectorEnv) -> None:
    """Allies that cannot die walk up to the enemy and shoot whom they can reach."""
    seen = env.reset(2)
    change(env, "unit_health", put((ALL, OURS), 1e9))
    returns, running = np.zeros(NUM_ENVS), np.ones(NUM_ENVS, bool)
    for _ in range(101):
        can = seen.avail_actions[..., FIRST_ATTACK:]
        moves = np.array([approach(env, state) for state in seen.state])
        moves = np.where(seen.avail_actions[..., UP], moves, STOP)  # a new battle's may die
        step = env.step(np.where(can.any(-1), FIRST_ATTACK + can.argmax(-1), moves))
        assert (step.reward >= 0).all()
        returns += step.reward * running
        won = step.won & running
        assert (step.reward[won] > 10).all()  # the bonus, and the last health
        assert (step.reward[running & ~won] < 10).all()
        running &= ~step.won
        seen = step.now
        if not running.any():
            break
    assert not running.any()
    np.testing.assert_allclose(returns, 20, rtol=0, atol=1e-4)


def end_of_every_kind(env: VectorEnv) -> Step:
    """Slots: 0 won, 1 lost, 2 both dead, 3 cut, 4 won at the limit, 5 lost at it; 6, 7 go on."""
    env.reset(3)
    to_the_wall(env, [0, 2, 4], THEIRS)
    to_the_wall(env, [1, 2, 5], OURS)
    change(env, "step", put([3, 4, 5], 100))
    change(env, "step", put([7], 99))
    return env.step(stop(env))


def test_the_ends_of_a_battle_are_told_apart(env: VectorEnv) -> None:
    step = end_of_every_kind(env)
    assert np.flatnonzero(step.won).tolist() == [0, 4]
    assert np.flatnonzero(step.terminated).tolist() == [0, 1, 2, 4, 5]
    assert np.flatnonzero(step.truncated).tolist() == [3]
    # A win takes all the enemies' health (10) and the bonus (10); a draw has no bonus.
    np.testing.assert_allclose(step.reward[[0, 4]], 20, rtol=0, atol=1e-4)
    np.testing.assert_allclose(step.reward[[1, 2, 3, 5, 6]], [0, 10, 0, 0, 0], rtol=0, atol=1e-4)


def test_the_last_observation_of_a_battle_is_kept(env: VectorEnv) -> None:
    step = end_of_every_kind(env)
    health = [env.spec.decode_state(state).health for state in step.last.state]
    assert not health[0][THEIRS].any() and health[0][OURS].all()
    assert not health[1][OURS].any() and health[1][THEIRS].all()
    assert not health[2].any()
    assert step.last.avail_actions[1].tolist() == [[a == STOP for a in range(10)]] * 5
    begun = step.terminated | step.truncated
    for slot in range(NUM_ENVS):
        now = env.spec.decode_state(step.now.state[slot])
        same = np.array_equal(step.now.state[slot], step.last.state[slot])
        assert same == (not begun[slot])
        assert np.array_equal(step.now.obs[slot], step.last.obs[slot]) == same
        if begun[slot]:
            assert now.health.tolist() == [1] * 10
            assert (now.position[OURS, 0] < 16).all() and (now.position[THEIRS, 0] > 16).all()
    # New battles are new: no two begin alike, and they last as long as any.
    starts = {step.now.state[slot].tobytes() for slot in np.flatnonzero(begun)}
    assert len(starts) == begun.sum()
    assert not env.step(stop(env)).truncated[3:6].any()


def test_the_same_seed_and_actions_give_the_same_battles(env: VectorEnv) -> None:
    first = env.reset(5)
    one = play(env, first, 60, 0)
    assert any(step.terminated.any() for step in one)
    other = make_env("2s3z", num_envs=NUM_ENVS, seed=5)
    again = other.reset()
    np.testing.assert_array_equal(again.state, first.state)
    assert_same(one, play(other, again, 60, 0))
    assert len({state.tobytes() for state in first.state}) == NUM_ENVS  # slots differ
    assert not np.array_equal(env.reset(6).state, first.state)
    assert np.array_equal(other.reset().state, first.state)


def test_a_saved_state_continues_exactly(env: VectorEnv) -> None:
    now = play(env, env.reset(7), 25, 0)[-1].now
    saved = [array.copy() for array in env.get_state()]
    one = play(env, now, 60, 1)
    assert any(step.terminated.any() for step in one)
    other = make_env("2s3z", num_envs=NUM_ENVS, seed=99)
    other.set_state(saved)
    assert_same(one, play(other, now, 60, 1))


def test_a_state_of_other_battles_is_refused(env: VectorEnv) -> None:
    env.reset(0)
    with pytest.raises(ValueError, match=f"not {NUM_ENVS} of 2s3z"):
        env.set_state([array[:2] for array in env.get_state()])


def test_decoded_units(env: VectorEnv) -> None:
    seen = env.reset(8)
    assert seen.state.min() >= 0 and seen.state[:, : 10 * 10].max() <= 1  # positions are scaled
    change(env, "unit_health", put((0, 2), 75.0))  # a zealot at half its health of 150
    change(env, "unit_health", put((0, 3), 0.0))
    units = env.spec.decode_state(env.step(stop(env)).last.state[0])
    assert units.team.tolist() == [0] * 5 + [1] * 5
    assert units.unit_type == ("stalker", "stalker", "zealot", "zealot", "zealot") * 2
    np.testing.assert_allclose(units.health[:4], [1, 1, 0.5, 0])
    leaves = jax.tree_util.tree_leaves_with_path(env._carry)
    (raw,) = (leaf for path, leaf in leaves if str(path[-1]) == ".unit_positions")
    alive = units.health > 0
    np.testing.assert_allclose(units.position[alive], raw[0][alive], rtol=1e-5)
    assert (units.position[alive] > 0).all() and (units.position[alive] < 32).all()
    with pytest.raises(ValueError, match=r"\(120,\).*\(119,\)"):
        env.spec.decode_state(np.zeros(119))


def test_only_stopping_is_left_to_the_dead_and_attacks_need_reach(env: VectorEnv) -> None:
    seen = env.reset(9)
    assert seen.avail_actions[..., :FIRST_ATTACK].all()
    assert not seen.avail_actions[..., FIRST_ATTACK:].any()  # the teams begin far apart
    change(env, "unit_health", put((ALL, 1), 0.0))
    seen = env.step(stop(env)).now
    assert seen.avail_actions[0, 1].tolist() == [a == STOP for a in range(10)]
    assert not seen.obs[:, 1].any()

    def meet(position: np.ndarray) -> None:
        position[:, 0], position[:, 7] = (16, 16), (18, 16)

    change(env, "unit_positions", meet)
    seen = env.step(stop(env)).now
    assert seen.avail_actions[:, 0, FIRST_ATTACK + 2].all()  # enemy 2 is unit 7


def test_actions_do_what_their_names_say(env: VectorEnv) -> None:
    names = env.spec.action_names
    assert len(names) == env.spec.n_actions and names[STOP] == "stop"
    env.reset(9)

    def apart(position: np.ndarray) -> None:
        position[:, :ALLIES] = 10 * np.arange(1, 3 * ALLIES, 3)[:, None] / ALLIES
        position[:, ALLIES + 2] = position[:, 0] + (1, 0)  # enemy 2 within reach of unit 0

    change(env, "unit_positions", apart)
    actions = stop(env)
    actions[0, :3] = [names.index(name) for name in ("attack 2", "north", "west")]
    actions[1, 1:3] = [names.index(name) for name in ("south", "east")]
    before = env.spec.decode_state(env.step(stop(env)).now.state[0])
    first, second = (env.spec.decode_state(s) for s in env.step(actions).now.state[:2])
    moved = [(u.position - before.position)[i] for u in (first, second) for i in (1, 2)]
    assert np.round(np.sign(np.round(moved, 3))).tolist() == [[0, 1], [-1, 0], [0, -1], [1, 0]]
    assert first.health[ALLIES + 2] < 1 and (np.delete(first.health[ALLIES:], 2) == 1).all()


def test_enemy_actions_are_not_seen(env: VectorEnv) -> None:
    """A seen unit is 13 numbers, of which 3 to 5 are its last move and target."""
    of_enemies, of_allies = 0.0, 0.0
    for step in play(env, env.reset(10), 40, 2):
        others = step.last.obs[..., : 13 * 9].reshape(NUM_ENVS, 5, 9, 13)
        of_allies += abs(others[:, :, :4, 3:6]).sum()
        of_enemies += abs(others[:, :, 4:, 3:6]).sum()
    assert of_allies > 0
    assert of_enemies == 0


def test_mistakes_are_named(env: VectorEnv) -> None:
    with pytest.raises(ValueError, match="reset"):
        make_env("2s3z", num_envs=NUM_ENVS).step(np.zeros((NUM_ENVS, 5), int))
    env.reset(0)
    with pytest.raises(ValueError, match=rf"\({NUM_ENVS}, 4\).*\({NUM_ENVS}, 5\)"):
        env.step(np.zeros((NUM_ENVS, 4), int))
    with pytest.raises(ValueError, match=r"num_envs: got 0"):
        make_env("2s3z", num_envs=0)
    with pytest.raises(ValueError, match=r"task: got '4s9z', allowed: .*2s3z"):
        make_env("4s9z")
    with pytest.raises(ValueError, match=r"backend: got 'sc2', allowed: smax"):
        make_env("2s3z", backend="sc2")


@pytest.mark.slow
def test_starting_prints_nothing_and_imports_smax_alone() -> None:
    code = f"""import sys, ovmse
ovmse.make_env('2s3z', num_envs={NUM_ENVS}).reset()
print('done', 'jaxmarl.environments.storm' in sys.modules, 'jaxmarl' in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done False False\n", "")
