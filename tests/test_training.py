"""Both phases on real battles at a tiny scale: what they write, and that a kill changes nothing."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from conftest import NUM_ENVS, ROOT

from ovmse import Config, evaluate, make_env, train
from ovmse.algorithms import ALGORITHMS
from ovmse.datasets import load_dataset
from ovmse.episodes import EpisodeBatch
from ovmse.learner import Learner, new_q_function
from ovmse.runs import (
    RunError,
    read_config,
    read_metrics,
    read_tensors,
    snapshot_steps,
)
from ovmse.schedules import linear_decay
from ovmse.training import network_sizes, pretrain_directory, stream_seed

SMALL = {
    "preset": "tiny",
    "num_envs": NUM_ENVS,
    "hidden_size": 16,
    "embed_size": 8,
    "hypernet_size": 16,
    "batch_size": 4,
    "offline_updates": 12,
    "offline_test_interval": 4,
    "online_steps": 1_600,
    "epsilon_anneal": 800,
    "memory_anneal": 800,
    "test_interval": 320,
    "test_battles": 8,
    "final_battles": 12,
    "fixed_battles": 10,
    "episodes_per_update": 3,
    "online_target_interval": 5,
    "buffer_episodes": 20,  # so small that old battles, and old resume parts, are dropped
    "mixing_ratio": 0.25,
}


def tiny(dataset: Path, **changes: Any) -> Config:
    return Config.from_parameters(dataset=str(dataset), **{**SMALL, **changes})


@dataclasses.dataclass
class Done:
    """An undisturbed run of ovmse, and what it yielded."""

    config: Config
    path: Path
    pretraining: Path
    events: list


@pytest.fixture(scope="module")
def done(dataset_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    path = tmp_path_factory.mktemp("undisturbed") / "ovmse"
    config = tiny(dataset_file)
    events = list(train(config, path))
    return Done(config, path, pretrain_directory(config, path.parent), events)


def without_time(path: Path) -> list[dict]:
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "wall_s"} for row in rows]


def assert_same_outcome(one: Done, path: Path) -> None:
    """Bit for bit, but for the wall time."""
    pretraining = pretrain_directory(one.config, path.parent)
    for a, b in ((one.pretraining, pretraining), (one.path, path)):
        assert (b / "result.json").exists()
        assert without_time(a) == without_time(b)
        names = sorted(p.name for p in (a / "snapshots").iterdir())
        assert names == sorted(p.name for p in (b / "snapshots").iterdir())
        for name in ("events.jsonl", *(f"snapshots/{name}" for name in names)):
            assert (a / name).read_bytes() == (b / name).read_bytes(), name
        assert not (b / "resume").exists() and not (b / "resume.json").exists()
    assert (one.pretraining / "fixed.h5").read_bytes() == (pretraining / "fixed.h5").read_bytes()


# What a run leaves behind.


def test_rows_say_what_was_measured(done: Done) -> None:
    rows = read_metrics(done.path)
    offline = [row for row in rows if row["phase"] == "offline"]
    online = [row for row in rows if row["phase"] == "online"]
    assert rows == offline + online
    assert [row["updates"] for row in offline] == [4, 8, 12]
    assert offline == read_metrics(done.pretraining)
    assert [row["env_steps"] for row in online] == [0, 320, 640, 960, 1280, 1600]
    updates = [row["updates"] for row in online]
    assert updates == sorted(updates) and updates[0] == 0 < updates[-1]
    common = {"phase", "env_steps", "updates", "test_win_rate", "test_return", "wall_s"}
    assert all(row.keys() == common | {"loss"} for row in offline)
    always = common | {"epsilon", "lambda_memory", "q_fixed", "mc_fixed"}
    assert online[0].keys() == always
    assert all(row.keys() >= always for row in online)
    assert set().union(*online) == always | {"loss", "memory_active", "explorers"}
    for row in online:
        t = row["env_steps"]
        assert row["epsilon"] == linear_decay(1.0, 0.05, 800, t)
        assert row["lambda_memory"] == linear_decay(1.0, 0.1, 800, t)
        assert 0 <= row["test_win_rate"] <= 1 and 0 <= row["test_return"] <= 20
        assert 0 <= row.get("explorers", 0) <= 5 and 0 <= row.get("memory_active", 0) <= 1
        assert row["mc_fixed"] == online[0]["mc_fixed"]
    assert read_config(done.path) == {
        **done.config.model_dump(),
        "pretrained": os.path.relpath(done.pretraining, done.path),
    }


def test_progress_counts_updates_and_steps(done: Done) -> None:
    offline = [e for e in done.events if e.phase == "offline" and e.unit == "updates"]
    online = [e for e in done.events if e.phase == "online"]
    counts = [e.done for e in offline]
    first = counts[: counts.index(12) + 1]
    assert first == sorted(first) and set(first) == set(range(13))
    assert {e.total for e in offline} == {12}
    steps = [e.done for e in online]
    assert steps == sorted(steps) and steps[0] == 0 and steps[-1] == 1600
    assert {(e.total, e.unit) for e in online} == {(1600, "environment steps")}
    assert [e.row for e in online if e.row] == read_metrics(done.path)[3:]


def test_events_describe_every_online_battle(done: Done) -> None:
    events = [json.loads(line) for line in (done.path / "events.jsonl").read_text().splitlines()]
    assert [e["episode"] for e in events] == list(range(1, len(events) + 1))
    steps = [e["env_steps"] for e in events]
    assert steps == sorted(steps)
    assert 1600 - NUM_ENVS * 101 < sum(e["length"] for e in events) <= 1600
    explored = [row for e in events for row in e["explored"]]
    assert explored
    for event in events:
        assert isinstance(event["won"], bool) and 0 <= event["return"] <= 20
        for t, agent, action, greedy, gap in event["explored"]:
            assert 0 <= t < event["length"] and 0 <= agent < 5
            assert 0 <= action < 10 and 0 <= greedy < 10
            assert gap >= 0 and (gap == 0 or action != greedy)
    # ``explorers``: agents exploring per step, mean over the battles that ended since the last row.
    for before, row in itertools.pairwise(read_metrics(done.path)[3:]):
        since = [e for e in events if before["env_steps"] < e["env_steps"] <= row["env_steps"]]
        count = sum(len(e["explored"]) for e in since)
        if since:
            expected = count / sum(e["length"] for e in since)
            assert row["explorers"] == pytest.approx(expected)
        else:
            assert "explorers" not in row


def test_the_first_online_row_is_the_pretrained_network(done: Done) -> None:
    config, row = done.config, read_metrics(done.path)[3]
    final = read_tensors(done.pretraining / "snapshots" / "offline_final.safetensors")
    start = read_tensors(done.path / "snapshots" / "online_00000000.safetensors")
    assert start and all(torch.equal(start[name], final[f"q.{name}"]) for name in start)
    env = make_env(config.task, num_envs=NUM_ENVS)
    q = new_q_function(env.spec, network_sizes(config), 77)
    q.load_state_dict(start)
    test = evaluate(q, env, config.final_battles, stream_seed(config.seed, "test", 1_000_000))
    assert (test.win_rate, test.mean_return) == (row["test_win_rate"], row["test_return"])
    assert test.battles == config.final_battles


def test_fixed_trajectories_are_greedy_battles_of_the_pretrained_network(done: Done) -> None:
    env = make_env("2s3z", num_envs=NUM_ENVS)
    fixed = load_dataset(done.pretraining / "fixed.h5", env.spec).episodes
    assert len(fixed) == done.config.fixed_battles
    params = params_of_snapshot(done.path / "snapshots" / "online_00000000.safetensors")
    for episode in fixed[:4]:
        values = reference.agent_values(params, episode)[:-1]
        best = np.where(episode.avail_actions[:-1], values, -np.inf).max(-1)
        taken = np.take_along_axis(values, episode.actions[..., None].astype(int), -1)[..., 0]
        # The battle was played on float32 observations and is stored in half precision.
        np.testing.assert_allclose(taken, best, rtol=0, atol=1e-2)
        assert episode.won is not None


def params_of_snapshot(path: Path) -> reference.Params:
    return {name: t.numpy().astype(np.float64) for name, t in read_tensors(path).items()}


def test_q_fixed_and_mc_fixed_equal_a_slow_loop(done: Done) -> None:
    fixed = load_dataset(done.pretraining / "fixed.h5").episodes
    rows = {row["env_steps"]: row for row in read_metrics(done.path)[3:]}
    returns = []
    for episode in fixed:
        for t in range(episode.length):
            later = enumerate(episode.reward[t:].tolist())
            returns.append(sum(done.config.gamma**k * reward for k, reward in later))
    for steps, snapshot in snapshot_steps(done.path)[::5]:
        params = params_of_snapshot(snapshot)
        values = np.concatenate([reference.q_tot_taken(params, episode) for episode in fixed])
        assert rows[steps]["q_fixed"] == pytest.approx(values.mean(), abs=1e-5)
        assert rows[steps]["mc_fixed"] == pytest.approx(np.mean(returns), abs=1e-6)
    assert rows[0]["q_fixed"] != rows[1600]["q_fixed"]


def test_a_finished_run_is_not_done_again(done: Done) -> None:
    def stamps() -> dict[Path, int]:
        folder = done.path.parent
        return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != ".lock"}

    before = stamps()
    events = list(train(done.config, done.path))
    assert [(e.phase, e.done, e.total) for e in events] == [("online", 1600, 1600)]
    assert stamps() == before


def test_a_run_with_other_settings_is_refused(done: Done) -> None:
    other = tiny(Path(done.config.dataset), epsilon_end=0.01)
    with pytest.raises(RunError, match=r"other settings: epsilon_end 0.05 not 0.01;"):
        list(train(other, done.path))


def test_too_small_a_dataset_is_refused(dataset_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^batch_size: .*25 episodes.*holds 24$"):
        list(train(tiny(dataset_file, batch_size=25), tmp_path / "run"))


# Kills.


def test_interrupted_anywhere_it_ends_the_same(done: Done, tmp_path: Path) -> None:
    """Left at many random events (as by Ctrl-C in a notebook) and continued."""
    rng, path = random.Random(0), tmp_path / "ovmse"
    # Offline: before the first point, between two, at the last update; then anywhere.
    for count in (3, 7, 4, 8, *(rng.randrange(1, 14) for _ in range(7))):
        stream = train(done.config, path)
        for _ in range(count):
            next(stream, None)
        stream.close()
    list(train(done.config, path))
    assert_same_outcome(done, path)


CHILD = """
import sys
from ovmse import Config, train
for event in train(Config.from_parameters(**{parameters}), sys.argv[1]):
    print(event.phase, event.done, flush=True)
"""


def test_sigkill_in_both_phases_changes_nothing(done: Done, tmp_path: Path) -> None:
    rng, path = random.Random(1), tmp_path / "ovmse"
    code = CHILD.format(parameters=done.config.model_dump())
    # Each child is killed a random moment after it has come this far.
    for goal in (("offline", 6), ("online", 256), ("online", 1152), None):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        reached = []
        for line in child.stdout:
            phase, count = line.split()
            reached.append((phase, int(count)))
            if goal and phase == goal[0] and int(count) >= goal[1]:
                try:
                    child.wait(rng.uniform(0, 0.05))
                except subprocess.TimeoutExpired:
                    child.send_signal(signal.SIGKILL)
                break
        code_ = child.wait(60)
        child.stdout.close()
        assert code_ == (-signal.SIGKILL if goal else 0), reached
        assert not goal or not (path / "result.json").exists()
    assert_same_outcome(done, path)


# Algorithms.


def test_algorithms_of_one_seed_share_the_pretraining(done: Done, tmp_path: Path) -> None:
    """Every algorithm of the table runs, without a warning; those that start offline train once."""
    pretraining: set[str | None] = set()
    for number, name in enumerate(ALGORITHMS):
        # Long enough for every slot to end a battle.
        config = tiny(Path(done.config.dataset), algorithm=name, online_steps=1_280)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            events = list(train(config, tmp_path / name))
        rows = read_metrics(tmp_path / name)
        assert rows[-1]["env_steps"] == 1_280 and rows[-1]["updates"] > 0
        assert all(np.isfinite(v) for row in rows for v in row.values() if v != row["phase"])
        row = ALGORITHMS[name]
        trained_offline = any(e.row for e in events if e.phase == "offline")
        assert trained_offline == (number == 0)
        assert (rows[0]["phase"] == "offline") == row.pretrained
        names = set().union(*rows)
        assert ("memory_active" in names) == ("lambda_memory" in names) == row.memory
        assert ("q_fixed" in rows[-1]) == row.pretrained
        pretraining.add(read_config(tmp_path / name)["pretrained"])
        if number == 0:
            (directory,) = (tmp_path / "pretrain").iterdir()
            first = {p: p.stat().st_mtime_ns for p in directory.rglob("*") if p.name != ".lock"}
    assert pretraining == {os.path.join("..", "pretrain", directory.name), None}
    assert list((tmp_path / "pretrain").iterdir()) == [directory]
    assert {p: p.stat().st_mtime_ns for p in first} == first
    starts = [read_metrics(tmp_path / n)[3] for n, row in ALGORITHMS.items() if row.pretrained]
    assert {(r["env_steps"], r["q_fixed"], r["test_return"]) for r in starts} == {
        (0, starts[0]["q_fixed"], starts[0]["test_return"])
    }


@pytest.mark.parametrize(("ratio", "offline_count"), [(0.0, 0), (0.25, 1), (0.4, 2), (1.0, 4)])
def test_updates_get_the_mixture_the_schedule_and_the_memory(
    done: Done,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    offline_count: int,
) -> None:
    """What every online update is given, seen by a listener that passes it on."""
    seen: list[tuple[EpisodeBatch, float | None]] = []
    update = Learner.update

    def listen(self: Learner, batch: EpisodeBatch, weight: float | None = None) -> dict:
        seen.append((batch, weight))
        return update(self, batch, weight)

    (tmp_path / "pretrain").symlink_to(done.pretraining.parent)
    monkeypatch.setattr(Learner, "update", listen)
    config = tiny(Path(done.config.dataset), mixing_ratio=ratio)
    list(train(config, tmp_path / "run"))
    assert len(seen) == read_metrics(tmp_path / "run")[-1]["updates"] > 0
    # The frozen *target* network as offline training left it, which its 12 updates never copied.
    final = read_tensors(done.pretraining / "snapshots" / "offline_final.safetensors")
    memory = new_q_function(make_env("2s3z", num_envs=NUM_ENVS).spec, network_sizes(config), 0)
    memory.load_state_dict({n[7:]: t for n, t in final.items() if n.startswith("target.")})
    episodes = load_dataset(config.dataset).episodes
    offline = {e.state[0].astype(np.float32).tobytes() for e in episodes}
    for batch, _ in seen:
        from_offline = [row.numpy().tobytes() in offline for row in batch.state[:, 0]]
        assert (len(from_offline), sum(from_offline)) == (config.batch_size, offline_count)
        assert len({row.numpy().tobytes() for row in batch.state[:, 0]}) == config.batch_size
        torch.testing.assert_close(batch.q_offline, memory.q_tot_taken(batch), rtol=0, atol=1e-5)
    weights = [weight for _, weight in seen]
    assert weights == sorted(weights, reverse=True)
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    moments = [json.loads(line)["env_steps"] for line in lines]  # updates follow finished battles
    assert set(weights) <= {linear_decay(1.0, 0.1, 800, t) for t in moments}
    assert weights[-1] == 0.1


def test_the_optimizer_can_be_carried_over(done: Done, tmp_path: Path) -> None:
    (tmp_path / "pretrain").symlink_to(done.pretraining.parent)
    config = tiny(Path(done.config.dataset), optimizer_carry_over=True)
    list(train(config, tmp_path / "run"))
    carried, fresh = snapshot_steps(tmp_path / "run"), snapshot_steps(done.path)
    assert carried[0][1].read_bytes() == fresh[0][1].read_bytes()
    assert carried[-1][1].read_bytes() != fresh[-1][1].read_bytes()


def test_the_same_seed_evaluates_the_same_battles(done: Done) -> None:
    env = make_env("2s3z", num_envs=NUM_ENVS)
    q = new_q_function(env.spec, (8, 4, 8), 0)
    one = evaluate(q, env, 20, 3)
    env.step(np.full((NUM_ENVS, 5), 4))
    assert evaluate(q, env, 20, 3) == one
    assert evaluate(q, env, 20, 4) != one


def test_another_seed_trains_otherwise(done: Done, tmp_path: Path) -> None:
    config = tiny(Path(done.config.dataset), seed=1, online_steps=8, algorithm="qmix")
    list(train(config, tmp_path / "one"))
    again = tiny(Path(done.config.dataset), seed=2, online_steps=8, algorithm="qmix")
    list(train(again, tmp_path / "two"))
    one, two = (
        read_tensors(tmp_path / name / "snapshots" / "online_00000000.safetensors")
        for name in ("one", "two")
    )
    assert not any(torch.equal(one[name], two[name]) for name in one)
