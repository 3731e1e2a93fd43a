"""What an environment may lack, and what it may say: no exact state, shared tests, void battles."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sweeps import SMALL, write_climb_dataset

from ovmse import Config, evaluate, train
from ovmse.envs.base import Frame, Step
from ovmse.envs.climb import ClimbEnv
from ovmse.episodes import Episode, EpisodeBatch
from ovmse.method.learner import DivergedError, Learner, new_q_function
from ovmse.runs.reading import RunError, read_metrics
from ovmse.training.finetuning import NEW_BATTLES
from ovmse.training.phase import Progress
from ovmse.training.replay import ReplayBuffer
from ovmse.training.rollout import Rollout, collect

pytestmark = pytest.mark.slow

STEPS = 2_400


class Counted(ClimbEnv):
    """Climbs that count what is asked of them."""

    made: list[Counted] = []

    def __init__(self, task: str, num_envs: int, seed: int) -> None:
        super().__init__(task, num_envs, seed)
        self.calls: Counter[str] = Counter()
        type(self).made.append(self)

    def reset(self, seed: int | None = None) -> Frame:
        self.calls["reset"] += 1
        return super().reset(seed)

    def close(self) -> None:
        self.calls["close"] += 1


class Inexact(Counted):
    """Its battles cannot be saved."""

    exact_state = False

    def get_state(self) -> list[np.ndarray]:
        raise AssertionError("asked for a state that it lacks")

    set_state = get_state  # type: ignore[assignment]


class Shared(Inexact):
    """Two at once would cost too much."""

    shares_tests = True


class Broken(Counted):
    """No battle ever counts."""

    def step(self, actions: np.ndarray) -> Step:
        step = super().step(actions)
        step.void = np.ones(self.num_envs, np.bool_)
        return step


@pytest.fixture
def playing(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Counted]], list[Counted]]:
    """Makes both phases play in an environment of the class; returns those that are made."""

    def play(kind: type[Counted]) -> list[Counted]:
        monkeypatch.setattr(kind, "made", [])
        for phase in ("pretraining", "finetuning"):
            monkeypatch.setattr(
                f"ovmse.training.{phase}.make_env", lambda task, backend, n: kind(task, n, 0)
            )
        return kind.made

    return play


def config(**changes: Any) -> Config:
    given = {**SMALL, "algorithm": "qmix", "task": "climb_monotone", "online_steps": STEPS}
    return Config.from_parameters(**{**given, **changes})


def stopped_after(path: Path, steps: int, c: Config) -> None:
    events = train(c, path)
    while not (event := next(events)).row or event.done < steps:
        pass
    events.close()


def battles(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]


def test_an_engine_of_void_battles_alone_is_given_up(tmp_path: Path, playing: Any) -> None:
    playing(Broken)
    with pytest.raises(RunError, match=r"climb declared \d+ battles void in a row"):
        list(train(config(), tmp_path / "run"))


@pytest.mark.parametrize("kind", [Inexact, Shared])
def test_without_an_exact_state_a_run_continues_in_new_battles_and_says_so(
    tmp_path: Path, playing: Any, kind: type[Counted]
) -> None:
    playing(kind)
    run = tmp_path / "run"
    stopped_after(run, 1_600, config())
    events: list[Progress] = list(train(config(), run))
    assert [event.note for event in events if event.note] == [NEW_BATTLES]
    rows, kept = read_metrics(run), battles(run)
    steps = [row["env_steps"] for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] >= STEPS
    # Only steps of battles that were kept, or are under way at the end, count.
    assert 0 <= steps[-1] - sum(battle["length"] for battle in kept) < 8 * 6


def test_tests_may_share_the_battles_of_training(tmp_path: Path, playing: Any) -> None:
    made = playing(Shared)
    list(train(config(), tmp_path / "run"))
    (env,) = made
    tests = len(read_metrics(tmp_path / "run"))
    # A reset for each test, and one for the battles that begin after it, but for the last.
    assert env.calls["reset"] == 2 * tests - 1
    assert env.calls["close"] == 1


def test_one_reset_a_start_and_none_for_an_exact_resume(tmp_path: Path, playing: Any) -> None:
    made = playing(Counted)
    stopped_after(tmp_path / "run", 1_600, config())
    online, tests = made
    assert online.calls["reset"] == 1
    assert tests.calls["reset"] == len(read_metrics(tmp_path / "run")) == 5
    made.clear()
    list(train(config(), tmp_path / "run"))
    assert made[0].calls["reset"] == 0
    assert {env.calls["close"] for env in made} == {1} and len(made) == 2


def test_environments_are_closed_whatever_ends_the_run(
    tmp_path: Path, playing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = playing(Counted)
    data = str(write_climb_dataset(tmp_path / "climb.h5"))
    pretrained = config(algorithm="ovmse", dataset=data)
    stopped_after(tmp_path / "stopped", 400, pretrained)
    assert len(made) == 3 and all(env.calls["close"] == 1 for env in made)

    def diverge(*_: object) -> dict[str, float]:
        raise DivergedError("learning diverged")

    monkeypatch.setattr(Learner, "update", diverge)
    with pytest.raises(RunError, match="learning diverged"):
        list(train(config(), tmp_path / "diverged"))
    assert len(made) == 5 and all(env.calls["close"] == 1 for env in made)


# To the step: the environment keeps a book of its own.


class Noted(Counted):
    """Writes down each battle that ends. Where ``every`` is set, each time that many steps have
    passed one battle is void, and whatever else is said of it is nonsense."""

    every = 0

    def __init__(self, task: str, num_envs: int, seed: int) -> None:
        super().__init__(task, num_envs, seed)
        self.played = 0  # steps of battles that were not lost
        self.book: list[tuple[int, int]] = []  # steps played when a battle ended, its length
        self.lost: list[int] = []  # how long each void battle had lasted

    @property
    def under_way(self) -> int:
        return int(self._steps.sum())

    def step(self, actions: np.ndarray) -> Step:
        assert self._where is not None
        ages = self._steps + 1
        step = super().step(actions)
        self.calls["step"] += 1
        void = np.zeros(self.num_envs, np.bool_)
        if self.every and self.calls["step"] % self.every == 0:
            slot = self.calls["step"] // self.every % self.num_envs
            void[slot] = True
            self._where[slot] = self._steps[slot] = 0
            self.lost.append(int(ages[slot]))
            step.now, step.void = self._observe(self._where), void
            step.reward[slot] = step.last.state[slot] = np.nan
            step.terminated[slot] = step.won[slot] = True
        self.played += self.num_envs - int(ages[void].sum())
        ended = (step.terminated | step.truncated) & ~void
        self.book += [(self.played, int(age)) for age in ages[ended]]
        return step


class Void(Noted):
    every = 3


class NotedInexact(Noted, Inexact):
    pass


@pytest.mark.parametrize("kind", [Noted, Void])
def test_what_is_stored_and_counted_is_what_was_played(
    tmp_path: Path, playing: Any, monkeypatch: pytest.MonkeyPatch, kind: type[Noted]
) -> None:
    stored: list[Episode] = []
    add = ReplayBuffer.add

    def listen(self: ReplayBuffer, episode: Episode) -> None:
        stored.append(episode)
        add(self, episode)

    monkeypatch.setattr(ReplayBuffer, "add", listen)
    made = playing(kind)
    list(train(config(), tmp_path / "run"))
    env, tests = made
    rows, kept = read_metrics(tmp_path / "run"), battles(tmp_path / "run")
    assert [(battle["env_steps"], battle["length"]) for battle in kept] == env.book
    assert [e.length for e in stored] == [length for _, length in env.book]
    assert all(np.isfinite(e.reward).all() and np.isfinite(e.state).all() for e in stored)
    counted = sum(battle["length"] for battle in kept) + env.under_way
    assert rows[-1]["env_steps"] == env.played == counted
    assert [row["env_steps"] for row in rows] == sorted({row["env_steps"] for row in rows})
    found = [row["void_battles"] for row in rows if "void_battles" in row]
    assert sum(found) == len(env.lost)  # those of the tests are not among them
    assert bool(found) == bool(tests.lost) == bool(kind.every)


def test_collect_plays_the_number_asked_and_each_battle_from_its_start() -> None:
    """Neither the hidden state nor the last action of a void battle leaks into the next."""
    env = Void("climb_monotone", 4, 0)
    q = new_q_function(env.spec, (8, 4, 8), 0)
    found = list(collect(q, env, 41, np.random.default_rng(0), epsilon=0.5))
    assert len(found) == 41 and len(env.lost) > 10 and env.calls["reset"] == 1
    for e in found:
        with torch.no_grad():
            values = q.q_values(EpisodeBatch.from_episodes([e]))[0, :-1].numpy()
        masked = np.where(e.avail_actions[:-1], values, -np.inf)
        assert e.exploration is not None
        np.testing.assert_array_equal(e.exploration.greedy, masked.argmax(-1))
        assert np.isfinite(e.reward).all()


def test_a_test_of_void_battles_averages_the_others_alone() -> None:
    env = Void("climb_monotone", 4, 0)
    q = new_q_function(env.spec, (8, 4, 8), 0)
    test = evaluate(q, env, 40, 1)
    again = Void("climb_monotone", 4, 0)
    played = list(collect(q, again, 40, np.random.default_rng(1), seed=1))
    assert len(played) == test.battles == 40 and again.lost == env.lost != []
    assert test.mean_length == np.mean([e.length for e in played])
    assert test.mean_return == pytest.approx(np.mean([e.episode_return for e in played]))


def test_battles_that_are_given_up_leave_nothing_to_the_next() -> None:
    env = Noted("climb_monotone", 4, 0)
    q = new_q_function(env.spec, (8, 4, 8), 0)
    rollout = Rollout(env, np.random.default_rng(0), q.hidden_size)
    assert not rollout.started and rollout.steps_under_way == 0
    rollout.start(3)
    first = [rollout.step(q, "epsilon_greedy", 0.5) for _ in range(3)]
    assert first == [([], [])] * 3 and rollout.steps_under_way == env.under_way == 12
    assert rollout.give_up() == 12
    assert not rollout.started and rollout.steps_under_way == 0
    with pytest.raises(ValueError, match=r"start\(\)"):
        rollout.step(q, "epsilon_greedy", 0.5)
    # What follows is what a stream plays that has never known another battle.
    fresh_env = Noted("climb_monotone", 4, 0)
    fresh = Rollout(fresh_env, np.random.default_rng(5), q.hidden_size)
    rollout.rng = np.random.default_rng(5)
    rollout.start(9)
    fresh.start(9)
    for _ in range(12):
        (one, _), (other, _) = (r.step(q, "epsilon_greedy", 0.5) for r in (rollout, fresh))
        assert [slot for slot, _ in one] == [slot for slot, _ in other]
        for (_, a), (_, b) in zip(one, other):
            np.testing.assert_array_equal(a.actions, b.actions)
            np.testing.assert_array_equal(a.exploration.gap, b.exploration.gap)
    assert fresh_env.book


def test_a_run_that_cannot_save_its_battles_counts_only_those_it_kept(
    tmp_path: Path, playing: Any
) -> None:
    made, run = playing(NotedInexact), tmp_path / "run"
    stopped_after(run, 1_600, config())
    lost = made[0].under_way
    made.clear()
    events = list(train(config(), run))
    rows, kept = read_metrics(run), battles(run)
    first = next(row for row in rows if row["env_steps"] >= 1_600)["env_steps"]
    assert lost > 0 and events[0].note == NEW_BATTLES and events[0].row is None
    assert events[0].done == first - lost == sum(b["length"] for b in kept[: -len(made[0].book)])
    assert rows[-1]["env_steps"] == sum(b["length"] for b in kept) + made[0].under_way


@pytest.mark.parametrize("kind", [Counted, Inexact])
def test_a_run_stopped_at_its_last_test_is_only_finished(
    tmp_path: Path, playing: Any, kind: type[Counted]
) -> None:
    """It has measured all that it was asked for: it neither plays on nor tests again."""
    playing(kind)
    run = tmp_path / "run"
    stopped_after(run, STEPS, config())
    rows = read_metrics(run)
    assert rows[-1]["env_steps"] >= STEPS and not (run / "result.json").exists()
    list(train(config(), run))
    assert read_metrics(run) == rows and (run / "result.json").exists()


def test_a_run_that_shares_its_tests_ends_with_the_last(tmp_path: Path, playing: Any) -> None:
    """The battles given up at the last test do not call for more."""
    playing(Shared)
    measured = [event.row["env_steps"] for event in islice(
        (e for e in train(config(), tmp_path / "run") if e.row), 30)]  # fmt: skip
    assert sum(steps >= STEPS for steps in measured) == 1, measured
    assert measured == sorted(set(measured))
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("algorithm", ["ovmse", "qmix"])
def test_an_engine_that_fails_is_closed_with_all_others(
    tmp_path: Path, playing: Any, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    made = playing(Counted)

    def fail(*_: object) -> Step:
        raise OSError("the engine is gone")

    monkeypatch.setattr(Counted, "step", fail)
    data = str(write_climb_dataset(tmp_path / "climb.h5"))
    with pytest.raises(OSError, match="the engine is gone"):
        list(train(config(algorithm=algorithm, dataset=data), tmp_path / "run"))
    assert [env.calls["close"] for env in made] == ([1] if algorithm == "ovmse" else [1, 1])


def test_pre_training_closes_its_battles_when_it_is_stopped(tmp_path: Path, playing: Any) -> None:
    made = playing(Counted)
    data = str(write_climb_dataset(tmp_path / "climb.h5"))
    events = train(config(algorithm="ovmse", dataset=data), tmp_path / "run")
    while next(events).done < 5:
        pass
    assert [env.calls["close"] for env in made] == [0]
    events.close()
    assert [env.calls["close"] for env in made] == [1]


def test_an_engine_that_cannot_start_leaves_no_other_open(
    tmp_path: Path, playing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = playing(Counted)

    def make(task: str, backend: str, num_envs: int) -> Counted:
        if made:
            raise OSError("no second engine")
        return Counted(task, num_envs, 0)

    monkeypatch.setattr("ovmse.training.finetuning.make_env", make)
    with pytest.raises(OSError, match="no second engine"):
        list(train(config(), tmp_path / "run"))
    assert [env.calls["close"] for env in made] == [1]
