"""StarCraft II behind the vector interface: a double of it, in real child processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import smac_double
from conftest import ROOT
from starcraft import Double

from ovmse.envs import make_env, smac_game
from ovmse.envs.base import Frame, Step
from ovmse.envs.smac import SmacEnv
from ovmse.envs.smac_units import LIMITS, MAPS, state_size
from ovmse.errors import UserError
from ovmse.method.exploration import random_actions
from ovmse.method.learner import new_q_function
from ovmse.training.rollout import Rollout, collect

pytestmark = pytest.mark.slow


def play(env: SmacEnv, seen: Frame, steps: int, seed: int = 0) -> list[Step]:
    rng, out = np.random.default_rng(seed), []
    for _ in range(steps):
        out.append(env.step(random_actions(rng, seen.avail_actions)))
        seen = out[-1].now
    return out


def charge(seen: Frame) -> np.ndarray:
    """Attack what is within reach, else go east: wins most battles."""
    reach = seen.avail_actions[..., 6:]
    east = np.where(seen.avail_actions[..., 4], 4, np.where(seen.avail_actions[..., 1], 1, 0))
    return np.where(reach.any(-1), 6 + reach.argmax(-1), east)


def told(episode_state: np.ndarray) -> int:
    """The number of a battle, which the double hides in a cooldown (state: 16 bits)."""
    return round(float(episode_state[1]) * 1024)


def test_sizes_names_and_frames_are_those_of_the_map(double: Double) -> None:
    with closing(make_env("2s3z", "smac", 2, seed=3)) as env:
        spec = env.spec
        sizes = spec.n_agents, spec.obs_size, spec.state_size, spec.n_actions, spec.episode_limit
        assert sizes == (5, 80, 120, 11, 120)
        assert spec.action_names[:6] == ("no-op", "stop", "north", "south", "east", "west")
        assert spec.action_names[6:] == tuple(f"attack {j}" for j in range(5))
        seen = env.reset(3)
        assert (seen.obs.shape, seen.obs.dtype) == ((2, 5, 80), np.float32)
        assert (seen.state.shape, seen.avail_actions.shape) == ((2, 120), (2, 5, 11))
        assert seen.avail_actions.dtype == np.bool_
        units = spec.decode_state(seen.state[0])
        assert units.unit_type == ("stalker",) * 2 + ("zealot",) * 6 + ("stalker",) * 2
        assert units.health.tolist() == [1] * 10 and units.team.tolist() == [0] * 5 + [1] * 5
        assert (abs(units.position[:5, 0] - 9) <= 1).all()
        assert (abs(units.position[5:, 0] - 23) <= 1).all()
    assert not double.living()


# Agents, enemies, the limit; and the length of a state, by hand from its documented layout.
SIZES = {
    "2s3z": (5, 5, 120, 120), "3s5z": (8, 8, 150, 216), "5m_vs_6m": (5, 6, 70, 98),
    "6h_vs_8z": (6, 8, 150, 140), "3m": (3, 3, 60, 48), "8m": (8, 8, 120, 168),
    "25m": (25, 25, 150, 950), "8m_vs_9m": (8, 9, 120, 179), "10m_vs_11m": (10, 11, 150, 243),
    "27m_vs_30m": (27, 30, 180, 1170), "MMM": (10, 10, 150, 290), "MMM2": (10, 12, 180, 322),
    "3s5z_vs_3s6z": (8, 9, 170, 230), "3s_vs_3z": (3, 3, 150, 54), "3s_vs_4z": (3, 4, 200, 61),
    "3s_vs_5z": (3, 5, 250, 68), "2m_vs_1z": (2, 1, 150, 26), "corridor": (6, 24, 400, 282),
    "2s_vs_1sc": (2, 1, 300, 27), "so_many_baneling": (7, 32, 100, 397),
    "bane_vs_bane": (24, 24, 200, 984), "2c_vs_64zg": (2, 64, 400, 342),
}  # fmt: skip


@pytest.mark.parametrize("task", MAPS)
def test_maps_have_the_sizes_of_smac_and_the_double_plays_them(task: str) -> None:
    agents, enemies, limit, size = SIZES[task]
    assert [sum(n for _, n in team) for team in MAPS[task]] == [agents, enemies]
    assert (LIMITS[task], state_size(task, 6 + enemies)) == (limit, size)
    about = smac_double.StarCraft2Env(task).get_env_info()
    assert (about["n_agents"], about["n_actions"]) == (agents, 6 + enemies)
    assert (about["episode_limit"], about["state_shape"]) == (limit, size)


def test_the_dead_and_their_kinds(double: Double) -> None:
    with closing(make_env("2s3z", "smac", 1)) as env:
        state = env.reset(0).state[0].copy()
        rows = state[5 * 7 : 5 * 7 + 5 * 6].reshape(5, 6)
        rows[0] = 0  # a zealot
        rows[1, 0], rows[1, 3] = 0.5, 0  # another, half its health, no shield
        units = env.spec.decode_state(state)
        assert units.unit_type[5:] == ("zealot",) * 3 + ("stalker",) * 2
        np.testing.assert_allclose(units.health[5:], [0, 50 / 150, 1, 1, 1], rtol=0, atol=1e-6)
        assert units.position[5].tolist() == [20, 17]  # the middle of the double's map
        assert (abs(env.spec.decode_state(state).position[1:5, 1] - 16) <= 4).all()


def test_children_are_light_side_by_side_and_each_has_its_seed(double: Double) -> None:
    with closing(make_env("2s3z", "smac", 2)) as env:
        env.reset(7)
        made, launched = double.noted("made"), double.noted("launched")
        assert all(note["heavy"] == [] and note["protobuf"] == "python" for note in made)
        seeds = [seed for slot in env.engine()["seeds"] for seed in slot]
        assert len(set(seeds)) == 2 and sorted(n["seed"] for n in launched) == sorted(seeds)
        assert env.engine()["game"] == "4.10.0.75689"
    with closing(make_env("2s3z", "smac", 2)) as again:
        again.reset(7)
        assert [seed for slot in again.engine()["seeds"] for seed in slot] == seeds


def test_ends_are_told_apart(double: Double) -> None:
    double.plan(limit=30, damage=0.5)
    with closing(make_env("2s3z", "smac", 2)) as env:
        seen, ends, returns = env.reset(1), Counter(), np.zeros(2)
        for _ in range(200):
            actions = charge(seen)
            actions[1] = np.where(seen.avail_actions[1, :, 1], 1, 0)  # the second team only waits
            step = env.step(actions)
            assert not (step.terminated & step.truncated).any() and step.void is None
            returns += step.reward
            for slot in np.flatnonzero(step.terminated | step.truncated):
                ends[slot, bool(step.terminated[slot]), bool(step.won[slot])] += 1
                # The last frame of the old battle, not the first of the new one.
                health = env.spec.decode_state(step.last.state[slot]).health
                assert bool(health[5:].any()) != bool(step.won[slot])
                if step.won[slot]:
                    assert returns[slot] == pytest.approx(20, abs=1e-3)
                returns[slot] = 0
            seen = step.now
        assert ends[0, True, True] > 2 and not ends[0, False, False]
        assert ends[1, False, False] > 2 and not ends[1, True, False]
    cut = [note for note in double.noted("battle") if note["cut"]]
    assert {note["length"] for note in cut} == {30}
    assert sum(n for (_, terminated, _), n in ends.items() if not terminated) == len(cut)
    assert not double.living()


def test_a_reset_within_the_first_battle_makes_the_game_anew(double: Double) -> None:
    """SMAC itself would launch a second game and count the enemies' health twice."""
    with closing(make_env("2s3z", "smac", 2)) as env:
        play(env, env.reset(0), 5)
        assert env.reset().state[0, 1] > 0
        play(env, env.reset(), 0)  # no step since: nothing is made anew
        assert len(double.noted("launched")) == 4
        assert len(double.living(0)) == 2 + 2
        seen, returns = env.reset(), 0.0
        while True:
            step = env.step(charge(seen))
            returns, seen = returns + step.reward[0], step.now
            if step.terminated[0]:
                break
        assert step.won[0] and returns == pytest.approx(20, abs=1e-3)
    assert not double.living()


FAULTS = ["empty", "raise", "die", "reset", "tmp", "die in reset", "restart", "hang",
          "hang in reset", "spin"]  # fmt: skip
BEFORE_IT_BEGINS = {"reset", "tmp", "die in reset", "restart", "hang in reset"}


def test_every_kind_of_failure_is_one_void_battle(
    double: Double,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In every third battle of one game, one kind after another."""
    monkeypatch.setattr(smac_game, "STEP_SECONDS", 2.0)
    monkeypatch.setattr(smac_game, "LAUNCH_SECONDS", 6.0)
    double.plan(every=3, faults=FAULTS, limit=5)
    found, ended = [], 0
    with closing(make_env("3m", "smac", 1)) as env:
        seen, rng = env.reset(0), np.random.default_rng(0)
        while len(found) < len(FAULTS):
            step = env.step(random_actions(rng, seen.avail_actions))
            seen = step.now
            ended += int((step.terminated | step.truncated).sum())
            if step.void is not None:
                assert not (step.terminated | step.truncated).any() and not step.reward.any()
            found += ["void"] * (step.void is not None) + ["no start"] * step.failed_starts
    assert found == ["no start" if f in BEFORE_IT_BEGINS else "void" for f in FAULTS]
    noted = sorted(double.noted("fault"), key=lambda note: note["number"])
    assert [note["fault"] for note in noted] == FAULTS
    assert ended == len(double.noted("battle")) == 2 * len(FAULTS)
    assert not double.living()


def test_a_slow_reset_holds_no_other_up(double: Double) -> None:
    double.plan(every=6, faults=["slow reset"], slow=1.5, limit=8)
    with closing(make_env("2s3z", "smac", 2)) as env:
        seen, rng, waits, longest = env.reset(0), np.random.default_rng(0), 0, 0.0
        waiting: np.ndarray | None = None
        for _ in range(150):
            start = time.monotonic()
            step = env.step(random_actions(rng, seen.avail_actions))
            seen = step.now
            before, waiting = waiting, step.waiting
            if waiting is None or waiting.all():
                continue
            slot = int(waiting.argmax())
            other_plays = before is None or not before[1 - slot]
            if other_plays and not (step.terminated | step.truncated)[1 - slot]:
                waits += 1
                longest = max(longest, time.monotonic() - start)
                assert not seen.obs[slot].any()
                assert seen.avail_actions[slot].sum(-1).tolist() == [1] * 5
        assert waits > 5 and longest < 1.0


def test_a_game_that_always_fails_ends_the_run_in_a_sentence(double: Double) -> None:
    double.plan(every=1, faults=["tmp"])
    with closing(make_env("2s3z", "smac", 1)) as env:
        with pytest.raises(UserError, match=r"failed 5 times in a row .*No space left on device"):
            env.reset(0)
        double.plan()
    assert not double.living()
    with closing(make_env("2s3z", "smac", 1)) as env:  # mended, it goes on
        play(env, env.reset(0), 3)


def test_a_thousand_battles_with_a_fault_in_each_hundredth(
    double: Double,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(smac_game, "STEP_SECONDS", 3.0)
    double.plan(every=100, faults=FAULTS[:-2], limit=3)
    with closing(make_env("3m", "smac", 8)) as env:
        q = new_q_function(env.spec, (8, 4, 8), 0)
        rollout = Rollout(env, np.random.default_rng(0), q.hidden_size)
        rollout.start(0)
        episodes, lost = [], 0
        while len(double_counter(double)) < 1000:
            finished, void = rollout.step(q, "epsilon_greedy", 1.0)
            episodes += [episode for _, episode in finished]
            lost += len(void)
        seeds = [seed for slot in env.engine()["seeds"] for seed in slot]
    assert not double.living()
    faults, truth = double.noted("fault"), {n["number"]: n for n in double.noted("battle")}
    assert len(faults) >= 10 and lost in (len(faults), len(faults) - 1)  # one may be under way
    assert not {note["number"] for note in faults} & truth.keys()
    assert len(truth) - 8 <= len(episodes) <= len(truth)
    seen = Counter()
    for episode in episodes:
        number = told(episode.state[0])
        seen[number] += 1
        steps = [round(float(row[4 + 1]) * 1024) for row in episode.state if row[4]]  # marine 1
        note = truth[number]
        assert episode.length == note["length"] and episode.won == note["won"]
        assert episode.terminated == (not note["cut"])
        assert episode.episode_return == pytest.approx(note["total"], abs=1e-3)
        assert steps == list(range(len(steps)))
    assert max(seen.values()) == 1
    assert len(set(seeds)) == len(seeds) >= 8 + len(faults) - 3


def double_counter(double: Double) -> str:
    return (double.log / "counter").read_text()


def test_collect_plays_its_number_however_much_fails(double: Double) -> None:
    double.plan(every=6, faults=["empty", "reset"], limit=6)
    with closing(make_env("3m", "smac", 3)) as env:
        q = new_q_function(env.spec, (8, 4, 8), 0)
        found = list(collect(q, env, 20, np.random.default_rng(0), epsilon=0.5, seed=1))
    assert len(found) == 20 and len({told(e.state[0]) for e in found}) == 20


# Whatever ends the parent leaves nobody behind.

PARENT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
import numpy as np
from contextlib import closing
from ovmse.envs import make_env
with closing(make_env("3m", "smac", 2)) as env:
    env.reset(0)
    print("ready", flush=True)
    if sys.argv[1] == "raise":
        raise RuntimeError("mine")
    while sys.argv[1] == "play":
        time.sleep(0.01)
    while True:  # the third step hangs
        env.step(np.ones((2, 3), int))
"""
ENDS = [("raise", None), ("play", signal.SIGINT), ("play", signal.SIGTERM),
        ("play", signal.SIGKILL), ("hang", signal.SIGKILL), ("hang", signal.SIGTERM)]  # fmt: skip


def test_no_orphan_whatever_ends_the_parent(tmp_path: Path) -> None:
    """All at once, each with a double of its own: some must be waited for."""
    with ExitStack() as stack:
        started = []
        for number, (how, sign) in enumerate(ENDS):
            environment = dict(os.environ)
            double = Double(tmp_path / str(number), environment.__setitem__)
            if how == "hang":
                double.plan(every=1, faults=["hang"])
            environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment["PYTHONPATH"]])
            parent = subprocess.Popen(
                [sys.executable, "-c", PARENT, how], stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, env=environment, text=True,
            )  # fmt: skip
            stack.enter_context(parent)
            stack.callback(parent.kill)
            started.append((how, sign, double, parent))
        for _, _, _, parent in started:
            assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        time.sleep(0.3)  # those that are to hang do
        for how, sign, double, parent in started:
            if sign is not None:
                assert len(double.living(0)) == 4, (how, sign)
                parent.send_signal(sign)
        for how, sign, double, parent in started:
            parent.wait(20)
            assert not double.living(12), (how, sign)


def test_after_a_step_that_was_interrupted_comes_a_reset(double: Double) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    double.plan(every=1, faults=["hang"])
    with closing(make_env("3m", "smac", 1)) as env:
        seen = env.reset(0)
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 1.0)
            with pytest.raises(KeyboardInterrupt):
                play(env, seen, 3)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        with pytest.raises(ValueError, match="reset"):
            env.step(np.ones((1, 3), int))
        double.plan()
        play(env, env.reset(), 5)
    assert not double.living()


def test_a_game_that_is_killed_takes_its_battle_alone(double: Double) -> None:
    with closing(make_env("2s3z", "smac", 2)) as env:
        seen = env.reset(0)
        (victim, *_) = [note["pid"] for note in double.noted("launched")]
        os.kill(victim, signal.SIGKILL)
        (step,) = play(env, seen, 1)
        assert step.void is not None and step.void.sum() == 1
        play(env, step.now, 20)
        env.reset()
        assert len(double.living(0)) == 4  # its game is gone too
    assert not double.living()


# What a person must install.


def broken(double: Double, source: str) -> str:
    (double.package / "env" / "__init__.py").write_text(source)
    return sentence()


def sentence() -> str:
    with pytest.raises(UserError) as caught:
        closing(make_env("2s3z", "smac", 1)).__enter__().reset(0)
    (line,) = str(caught.value).splitlines()
    return line


def test_every_missing_thing_is_one_sentence(
    double: Double,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "protobuf<3.21" in broken(
        double, 'raise TypeError("Descriptors cannot be created directly.\\nIf this call ...")'
    )
    assert "another project" in broken(double, "x = 1")
    assert "lacks pysc2" in broken(double, "import pysc2")
    shutil.rmtree(double.package / "env")
    (double.package / "facade.py").touch()
    assert "another project" in sentence()
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    assert "git+https://github.com/oxwhirl/smac.git" in sentence()


def test_a_missing_game_or_map_is_one_sentence(
    double: Double,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (double.game / "Maps" / "SMAC_Maps" / "2s3z.SC2Map").unlink()
    assert "the map 2s3z is missing" in sentence()
    (double.game / "Versions" / "Base75689").rmdir()
    assert "holds no game" in sentence()
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    assert "SC2PATH names" in sentence()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SC2PATH")
    assert "SC2PATH is not set" in sentence()
    assert not double.living()


def test_mistakes_are_named(double: Double) -> None:
    with closing(make_env("3m", "smac", 2)) as env:
        with pytest.raises(ValueError, match="reset"):
            env.step(np.zeros((2, 3), int))
        env.reset(0)
        with pytest.raises(ValueError, match=r"\(2, 2\).*\(2, 3\)"):
            env.step(np.zeros((2, 2), int))
        with pytest.raises(ValueError, match="battle 0, agent 0 takes 0"):
            env.step(np.zeros((2, 3), int))
        with pytest.raises(ValueError, match="agent 2 takes 9"):
            env.step(np.array([[1, 1, 9]] * 2))
        assert env.step(np.ones((2, 3), int)).void is None  # nothing was lost by it
    env.close()
    with contextlib.suppress(ValueError):
        env.step(np.ones((2, 3), int))
    assert not double.living()
