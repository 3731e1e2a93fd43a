"""A whole run on the double of StarCraft II, by the command line: pre-train, fine-tune, be killed,
go on, be looked at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT
from starcraft import Double

from analysis.battles import record
from analysis.drift import replay
from ovmse.datasets import load_dataset
from ovmse.envs import make_env
from ovmse.episodes import Episode
from ovmse.method.learner import new_q_function
from ovmse.runs.reading import read_config, read_metrics
from ovmse.training.finetuning import NEW_BATTLES
from ovmse.training.rollout import collect

SETTINGS = ("backend=smac", "preset=tiny", "num_envs=2", "offline_updates=4", "fixed_battles=4",
            "offline_test_interval=4", "online_steps=900", "test_interval=100", "test_battles=2",
            "long_test_battles=2", "batch_size=4", "epsilon_anneal=400")  # fmt: skip


def cfcql(path: Path, episodes: list[Episode], rows: int) -> Path:
    """A file in CFCQL's layout, `probs` included, written without our own writer."""
    n, (agents, actions) = len(episodes), episodes[0].avail_actions.shape[1:]
    shapes = {
        "state": ((episodes[0].state.shape[1],), "f4"),
        "obs": (episodes[0].obs.shape[1:], "f4"),
        "actions": ((agents, 1), "i8"),
        "avail_actions": ((agents, actions), "i4"),
        "probs": ((agents, actions), "f4"),
        "reward": ((1,), "f4"),
        "terminated": ((1,), "u1"),
        "filled": ((1,), "i8"),
    }
    arrays = {name: np.zeros((n, rows, *tail), kind) for name, (tail, kind) in shapes.items()}
    for i, e in enumerate(episodes):
        end = e.length
        for name in ("state", "obs", "avail_actions"):
            arrays[name][i, : end + 1] = getattr(e, name)
        arrays["actions"][i, :end, :, 0] = e.actions
        arrays["reward"][i, :end, 0] = e.reward
        arrays["terminated"][i, end - 1] = e.terminated
        arrays["filled"][i, : end + 1] = 1
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


@pytest.mark.slow
def test_a_whole_run_that_is_killed_and_goes_on(double: Double, tmp_path: Path) -> None:
    double.plan(limit=25)
    with closing(make_env("2s3z", "smac", 2)) as env:
        q = new_q_function(env.spec, (8, 4, 8), 0)
        made = list(collect(q, env, 8, np.random.default_rng(0), epsilon=1.0, seed=0))
        data = cfcql(tmp_path / "2s3z_public.h5", made, env.spec.episode_limit + 1)
        assert len(load_dataset(data, env.spec).episodes) == 8
    double.plan(limit=25, every=11, faults=["empty", "reset"])
    run = tmp_path / "runs" / "ovmse_0"
    command = [sys.executable, "-m", "ovmse.cli", "train", str(run), "--dataset", str(data)]
    path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen([*command, *SETTINGS], env=environment) as first:
        until = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() or len(read_metrics(run)) < 4:
            assert first.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    assert not double.living(12)
    before = read_metrics(run)
    done = subprocess.run([*command, *SETTINGS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert NEW_BATTLES in done.stdout and not double.living()
    rows, engine = read_metrics(run), read_config(run)["engine"]
    assert rows[: len(before) - 1] == before[:-1] and rows[-1]["env_steps"] >= 900
    assert sum(row.get("void_battles", 0) for row in rows) > 0
    assert engine["game"] == "4.10.0.75689" and len(engine["seeds"]) == 2
    seeds = [seed for of_slot in engine["seeds"] for seed in of_slot]
    assert len(set(seeds)) == len(seeds) >= 4  # of both starts
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    truth = {(n["length"], round(n["total"], 4)) for n in double.noted("battle")}
    assert all((e["length"], e["return"]) in truth for e in events)
    # What the notebooks look at.
    assert len(replay([run])) == sum(row["phase"] == "online" for row in rows)
    double.plan(limit=25)
    (battle,) = record(run, rows[-1]["env_steps"], battles=1)
    assert len(battle.units) == battle.episode.length + 1
    assert set(battle.units[0].unit_type) == {"stalker", "zealot"}
    assert not double.living()
