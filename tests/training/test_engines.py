"""What an environment may lack, and what it may say: no exact state, shared tests, void battles."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweeps import SMALL, write_climb_dataset

from ovmse import Config, evaluate, train
from ovmse.envs.base import Frame, Step
from ovmse.envs.climb import ClimbEnv
from ovmse.method.learner import DivergedError, Learner, new_q_function
from ovmse.runs.reading import RunError, read_metrics
from ovmse.training.finetuning import NEW_BATTLES
from ovmse.training.phase import Progress

STEPS = 4_000


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


class Failing(Counted):
    """Every fifth step one battle is void: another begins in its place."""

    def step(self, actions: np.ndarray) -> Step:
        assert self._where is not None
        step = super().step(actions)
        self.calls["step"] += 1
        step.void = np.zeros(self.num_envs, np.bool_)
        if self.calls["step"] % 5 == 0:
            slot = self.calls["step"] // 5 % self.num_envs
            self._where[slot] = self._steps[slot] = 0
            step.now = self._observe(self._where)
            step.void[slot] = True
            self.calls["void"] += 1
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


def test_nothing_of_a_void_battle_is_stored_or_counted(tmp_path: Path, playing: Any) -> None:
    made = playing(Failing)
    list(train(config(), tmp_path / "run"))
    rows, kept = read_metrics(tmp_path / "run"), battles(tmp_path / "run")
    online = max(made, key=lambda env: env.calls["step"])
    void = online.calls["void"]
    # Of each vector step 8 battles count; a void one takes back at most the limit of 6 steps.
    counted, played = rows[-1]["env_steps"], 8 * online.calls["step"]
    assert played - 6 * void <= counted <= played - void
    under_way = counted - sum(battle["length"] for battle in kept)
    assert 0 <= under_way < 8 * 6
    assert sum(row.get("void_battles", 0) for row in rows) == void > 50
    assert [row["env_steps"] for row in rows] == sorted({row["env_steps"] for row in rows})


def test_a_test_plays_another_battle_for_each_void_one() -> None:
    env = Failing("climb_monotone", 4, 0)
    q = new_q_function(env.spec, (8, 4, 8), 0)
    assert evaluate(q, env, 40, 1).battles == 40
    assert env.calls["void"] > 5 and env.calls["reset"] == 1


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
    assert made[0].calls["reset"] == 1
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
