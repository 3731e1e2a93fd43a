"""Both phases on real battles at a tiny scale: what they write, and that a kill changes nothing."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from conftest import NUM_ENVS, ROOT
from typer.testing import CliRunner

from ovmse import Config, evaluate, make_env, train
from ovmse.cli.app import app
from ovmse.datasets import load_dataset, write_dataset
from ovmse.datasets.dataset import DatasetError, file_checksum
from ovmse.episodes import EpisodeBatch
from ovmse.method.algorithms import ALGORITHMS
from ovmse.method.learner import Learner, new_q_function
from ovmse.method.networks import QFunction
from ovmse.method.schedules import linear_decay
from ovmse.runs.code import made_by
from ovmse.runs.directory import RunDirectory, _sum_of, read_tensors
from ovmse.runs.reading import RunError, read_config, read_metrics, snapshot_steps
from ovmse.runs.sharing import pretrain_directory
from ovmse.training import phase
from ovmse.training.finetuning import OnlinePhase
from ovmse.training.phase import network_sizes, open_dataset, stream_seed

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
    "long_test_battles": 12,
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
    """An undisturbed run, and what it yielded."""

    config: Config
    path: Path
    pretraining: Path
    events: list


@pytest.fixture(scope="module")
def trained(dataset_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Done]:
    """A run of any algorithm, trained once; a warning is an error. All lie in one folder."""
    folder = tmp_path_factory.mktemp("undisturbed")

    @functools.cache
    def run(algorithm: str) -> Done:
        config, path = tiny(dataset_file, algorithm=algorithm), folder / algorithm
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            events = list(train(config, path))
        return Done(config, path, pretrain_directory(config, folder), events)

    return run


@pytest.fixture(scope="module")
def done(trained: Callable[[str], Done]) -> Done:
    return trained("ovmse")


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
    always |= {"q_ended", "mc_ended"}  # some of these battles truly ended
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
        "dataset_sha256": file_checksum(Path(done.config.dataset)),
        "pretrained": os.path.relpath(done.pretraining, done.path),
        "made_by": made_by(),
    }


def test_progress_counts_updates_and_steps(done: Done) -> None:
    offline = [e for e in done.events if e.phase == "offline"]
    online = done.events[len(offline) :]  # nothing of the offline phase comes after it
    assert {e.phase for e in online} == {"online"}
    assert [e.done for e in offline] == [0, *range(13)]  # shown before it may have to wait
    assert {(e.total, e.unit) for e in offline} == {(12, "updates")}
    assert [e.row for e in offline if e.row] == read_metrics(done.path)[:3]
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
    test = evaluate(q, env, config.long_test_battles, stream_seed(config.seed, "test", 1_000_000))
    assert (test.win_rate, test.mean_return) == (row["test_win_rate"], row["test_return"])
    assert test.battles == config.long_test_battles


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


def test_a_dataset_of_another_map_leaves_nothing(dataset_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is of 2s3z on smax, asked for: 3m on smax$"):
        list(train(tiny(dataset_file, task="3m"), tmp_path / "run"))
    assert not any(tmp_path.iterdir())


def test_a_large_dataset_is_announced_before_it_is_read(
    dataset_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(dataset_file)
    assert phase.reading(config) == ""
    monkeypatch.setattr(phase, "LARGE", 0)
    monkeypatch.setattr(phase, "load_dataset", None)  # is not called before
    events = train(config, tmp_path / "run")
    said = [next(events).note, next(events).note]
    events.close()  # type: ignore[attr-defined]
    assert re.fullmatch(r"Reading random\.h5 \(\d MB\) \.\.\.", said[1]), said


def test_cut_battles_of_the_dataset_can_be_left_out(dataset_file: Path, tmp_path: Path) -> None:
    episodes = load_dataset(dataset_file).episodes
    for episode in episodes[5:]:
        episode.terminated = False
    spec = make_env("2s3z", num_envs=NUM_ENVS).spec
    path = write_dataset(tmp_path / "cut.h5", episodes, spec, {"policy": "random"})
    left = open_dataset(tiny(path, cut_battles=False), spec, 5).episodes
    assert [e.length for e in left] == [e.length for e in episodes[:5]]
    assert len(open_dataset(tiny(path), spec, 5).episodes) == 24
    with pytest.raises(ValueError, match=r"takes 6 episodes .*holds 5 that the time limit did not"):
        list(train(tiny(path, cut_battles=False, batch_size=6), tmp_path / "run"))


# Kills.


@pytest.mark.parametrize("algorithm", ["ovmse", "action_proposal", "wsrl"])
def test_interrupted_anywhere_it_ends_the_same(
    trained: Callable[[str], Done], tmp_path: Path, algorithm: str
) -> None:
    """Left at many random events (as by Ctrl-C in a notebook) and continued."""
    rng, path, undisturbed = random.Random(0), tmp_path / algorithm, trained(algorithm)
    if algorithm == "ovmse":
        # Offline: before the first point, between two, at the last update; then anywhere.
        counts = [3, 7, 4, 8, *(rng.randrange(1, 14) for _ in range(7))]
    else:  # online: after the points at 320 steps, in WSRL's warm-up, and at 640
        (tmp_path / "pretrain").symlink_to(undisturbed.pretraining.parent)
        counts = [6, 6]
    for count in counts:
        stream = train(undisturbed.config, path)
        for _ in range(count):
            next(stream, None)
        stream.close()
    list(train(undisturbed.config, path))
    assert_same_outcome(undisturbed, path)


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
    for goal in (("offline", 6), ("online", 512), None):
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


# Learning that diverges.


@pytest.mark.parametrize(
    ("phase", "at", "message"),
    [
        ("offline", 2, r"\(pre-training\); it has no snapshot yet"),
        ("offline", 6, r"\(pre-training\); its last good snapshot is offline_00000004.safetensors"),
        (
            "online",
            2,
            r"\(environment step (\d+)\); its last good snapshot is online_(\d+).safetensors",
        ),
    ],
)
def test_a_run_that_diverges_stops_in_one_sentence(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, at: int, message: str
) -> None:
    """Every target is not a number from one update on. What was measured stays, and continues."""
    target = Learner.td_target

    def poisoned(self: Learner, *batch: Any) -> torch.Tensor:
        offline = self.settings.decay_updates > 0
        good = self.updates < at or offline != (phase == "offline")
        return target(self, *batch) * (1 if good else torch.nan)

    monkeypatch.setattr(Learner, "td_target", poisoned)
    settings = {"dataset": done.config.dataset, **SMALL}
    command = ["train", str(tmp_path / "run"), *(f"{k}={v}" for k, v in settings.items())]
    if phase == "online":
        (tmp_path / "pretrain").symlink_to(done.pretraining.parent)
    stopped = CliRunner().invoke(app, command)
    assert stopped.exit_code == 2
    what = f"learning diverged at update {at + 1}: the loss is nan, its gradient nan long"
    said = re.fullmatch(rf"ovmse: \S+: {what} {message}\n", stopped.stderr)
    assert said, stopped.stderr
    if phase == "online":
        steps, snapshot = map(int, said.groups())
        assert snapshot <= steps < snapshot + done.config.test_interval
        for row in read_metrics(tmp_path / "run"):
            assert all(np.isfinite(v) for v in row.values() if v != row["phase"])
        monkeypatch.undo()
        assert CliRunner().invoke(app, command).exit_code == 0
        assert_same_outcome(done, tmp_path / "run")


def test_a_device_that_is_not_there_is_named(
    dataset_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^device: got 'cuda', allowed: 'cpu'"):
        list(train(tiny(dataset_file, device="cuda"), tmp_path / "run"))


# Algorithms.


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithm_runs_as_its_row_says(trained: Callable[[str], Done], name: str) -> None:
    run, row = trained(name), ALGORITHMS[name]
    rows = read_metrics(run.path)
    assert rows[-1]["env_steps"] == 1_600 and rows[-1]["updates"] > 0
    assert all(np.isfinite(v) for row in rows for v in row.values() if v != row["phase"])
    last = read_tensors(snapshot_steps(run.path)[-1][1])
    assert all(tensor.isfinite().all() for tensor in last.values())
    assert (rows[0]["phase"] == "offline") == row.pretrained
    assert ("q_fixed" in rows[-1]) == row.pretrained
    names = set().union(*rows)
    assert ("memory_active" in names) == ("lambda_memory" in names) == (row.target == "ovm")


def test_algorithms_of_one_seed_share_the_pretraining(trained: Callable[[str], Done]) -> None:
    """Those with one CQL form train offline once, and start from the very same network."""
    groups: dict[Path, list[str]] = {}
    runs = {name: trained(name) for name in ALGORITHMS}
    for name, run in runs.items():
        stored = read_config(run.path)["pretrained"]
        if ALGORITHMS[name].pretrained:
            assert (run.path / stored).resolve() == run.pretraining.resolve()
            groups.setdefault(run.pretraining, []).append(name)
        else:
            assert stored is None
    calibrated = ["macal_ql", "wsrl"]
    others = [n for n, row in ALGORITHMS.items() if row.pretrained and n not in calibrated]
    assert sorted(groups.values()) == sorted([calibrated, others])
    assert set(runs["ovmse"].pretraining.parent.iterdir()) == set(groups)
    for names in groups.values():
        assert sum(any(e.row for e in runs[n].events if e.phase == "offline") for n in names) == 1
        starts = [snapshot_steps(runs[name].path)[0][1].read_bytes() for name in names]
        assert len(set(starts)) == 1
    first, second = (snapshot_steps(runs[n].path)[0][1].read_bytes() for n in ("macql", "wsrl"))
    assert first != second


def test_wsrl_fills_its_buffer_with_the_offline_policy(trained: Callable[[str], Done]) -> None:
    """Until step 500 greedy battles and no update; the schedules start there."""
    run = trained("wsrl")
    assert run.config.policy_warmup_steps == 500
    rows = read_metrics(run.path)[3:]
    events = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    for row in rows:
        t = row["env_steps"] - 500
        assert row["epsilon"] == (0.0 if t < 0 else linear_decay(1.0, 0.05, 800, t))
    assert [row["updates"] for row in rows[:2]] == [0, 0]
    assert rows[1].get("explorers", 0) == 0 < rows[-1]["explorers"]
    start, early = (file.read_bytes() for _, file in snapshot_steps(run.path)[:2])
    assert start == early  # at step 320 the policy is still the offline one
    moments = []  # environment steps before each exploring step
    for event in events:
        began = event["env_steps"] - NUM_ENVS * event["length"]
        moments += [began + NUM_ENVS * t for t, *_ in event["explored"]]
    assert min(moments) >= 500 and len(moments) > 10
    # Three battles that end after the warm-up make an update; those before made none.
    counted = sum(event["env_steps"] - NUM_ENVS >= 500 for event in events)
    assert rows[-1]["updates"] == counted // 3 < len(events) // 3


def test_a_warm_up_delays_the_schedules(done: Done, tmp_path: Path) -> None:
    config = tiny(Path(done.config.dataset), policy_warmup_steps=500)
    env = make_env("2s3z", num_envs=NUM_ENVS)
    with RunDirectory(tmp_path / "run", config.model_dump()) as run:
        online = OnlinePhase(config, run, done.pretraining, env, env)
    found = []
    for steps in (0, 499, 500, 900, 1300, 5000):
        online.env_steps = steps
        found.append((online.epsilon, online.lambda_memory))
    assert found[:3] == [(0.0, 1.0), (0.0, 1.0), (1.0, 1.0)]
    assert found[3] == (pytest.approx(0.525), pytest.approx(0.55))
    assert found[4] == pytest.approx((0.05, 0.1)) and found[5] == (0.05, 0.1)


def test_proposals_are_the_offline_policys_and_made_once(
    trained: Callable[[str], Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = trained("action_proposal").config
    path, pretraining = tmp_path / "run", trained("action_proposal").pretraining
    batches: list[EpisodeBatch] = []
    proposed: list[int] = []
    update, greedy_actions = Learner.update, QFunction.greedy_actions

    def listen(
        self: Learner, batch: EpisodeBatch, weight: float | None, alpha: float | None, by_it: bool
    ) -> dict:
        assert weight is None and alpha is None and batch.q_offline is None and by_it
        batches.append(batch)
        return update(self, batch, weight, alpha, by_it)

    def count(self: QFunction, batch: EpisodeBatch) -> torch.Tensor:
        proposed.append(len(batch.lengths))
        return greedy_actions(self, batch)

    (tmp_path / "pretrain").symlink_to(pretraining.parent)
    monkeypatch.setattr(Learner, "update", listen)
    monkeypatch.setattr(QFunction, "greedy_actions", count)

    def battles() -> int:
        return len((path / "events.jsonl").read_text().splitlines())

    stream = train(config, path)
    while not (event := next(stream)).row or event.done < 960:
        pass
    stream.close()
    known = battles()
    assert sum(proposed) == 24 + known  # the dataset's and its own
    proposed.clear()
    with RunDirectory(path, read_config(path)) as run:
        _, _, parts = run.load_point()
        assert parts and all("proposal" in part for part in parts)
    list(train(config, path))
    assert sum(proposed) == 24 + battles() - known  # none of those that were resumed with
    monkeypatch.undo()
    # The *online* network as offline training left it, on every history.
    final = read_tensors(pretraining / "snapshots" / "offline_final.safetensors")
    offline = new_q_function(make_env("2s3z", num_envs=NUM_ENVS).spec, network_sizes(config), 0)
    offline.load_state_dict({n[2:]: t for n, t in final.items() if n.startswith("q.")})
    assert batches
    for batch in batches:
        with torch.no_grad():
            values = offline.q_values(batch).masked_fill(~batch.avail_actions, -torch.inf)
        there = torch.arange(values.shape[1]) <= batch.lengths[:, None]
        chosen = values.gather(-1, batch.proposal.unsqueeze(-1)).squeeze(-1)[there]
        torch.testing.assert_close(chosen, values.amax(-1)[there], rtol=0, atol=1e-5)


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

    def listen(
        self: Learner, batch: EpisodeBatch, weight: float | None, alpha: float | None, by_it: bool
    ) -> dict:
        assert not by_it  # action proposals are another algorithm's
        seen.append((batch, weight))
        return update(self, batch, weight, alpha, by_it)

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


def test_a_foreign_resume_state_is_one_sentence(tmp_path: Path, dataset_file: Path) -> None:
    config = Config.from_parameters(algorithm="qmix", dataset=str(dataset_file), **SMALL)
    events = train(config, tmp_path / "run")
    while next(events).row is None:
        pass
    events.close()  # stopped after its first measurement
    point = json.loads((tmp_path / "run" / "resume.json").read_text())
    del point["meta"]["due"]  # as other code may have written it, with a sum that agrees
    del point["sum"]
    (tmp_path / "run" / "resume.json").write_text(json.dumps({**point, "sum": _sum_of(point)}))
    with pytest.raises(RunError, match="are no resume state of this run") as caught:
        list(train(config, tmp_path / "run"))
    assert isinstance(caught.value.__cause__, KeyError)  # a fault of ours can be found
