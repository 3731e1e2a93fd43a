"""A whole run on the double of StarCraft II, by the command line: pre-train, fine-tune, be killed,
go on, be looked at."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import nbformat
import numpy as np
import papermill
import pytest
from conftest import ROOT
from starcraft import Double

from analysis.charts.player.changes import NO_TARGETS
from analysis.charts.show import VEGA
from analysis.drift import replay
from ovmse import Config, train
from ovmse.datasets import load_dataset
from ovmse.envs import make_env
from ovmse.episodes import Episode
from ovmse.method.learner import new_q_function
from ovmse.runs.reading import read_config, read_metrics
from ovmse.training.finetuning import NEW_BATTLES
from ovmse.training.rollout import collect

SETTINGS = ("backend=smac", "preset=tiny", "num_envs=2", "offline_updates=4", "fixed_battles=4",
            "offline_test_interval=4", "online_steps=400", "test_interval=100", "test_battles=2",
            "long_test_battles=2", "batch_size=4", "epsilon_anneal=200", "hidden_size=8",
            "embed_size=4", "hypernet_size=8")  # fmt: skip
SHORT = {"limit": 24, "damage": 30.0}  # battles: most are lost before that, some are cut


def test_tests_are_played_in_the_games_of_the_training(double: Double, tmp_path: Path) -> None:
    """A game takes 1 GB: one for each battle of the training, and no more."""
    double.plan(**SHORT)
    given = dict(setting.split("=") for setting in SETTINGS) | {"algorithm": "qmix", "task": "2s3z"}
    for _ in train(Config.from_parameters(**given), tmp_path / "run"):
        pass
    assert len(read_metrics(tmp_path / "run")) > 2
    assert len(double.noted("launched")) == 2


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


def shown(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """All that a notebook says, and its Vega specifications, after it ran without an error."""
    outputs = [o for cell in nbformat.read(path, 4).cells for o in cell.get("outputs", [])]
    data = [o.data for o in outputs if "data" in o]
    said = [str(d.get("text/markdown", d.get("text/html", d.get("text/plain", "")))) for d in data]
    return "\n".join(said), [d[VEGA] for d in data if VEGA in d]


def began_a_test_interval(run: Path) -> bool:
    """Whether battles are saved as past: a run killed before that begins the same games again."""
    saved = run / "resume.json"
    return saved.exists() and any(
        int(found) for found in re.findall(r"online_(\d+)", saved.read_text())
    )


@pytest.mark.slow
def test_a_whole_run_that_is_killed_goes_on_and_is_looked_at(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.plan(**SHORT)
    with closing(make_env("2s3z", "smac", 2)) as env:
        q = new_q_function(env.spec, (8, 4, 8), 0)
        made = list(collect(q, env, 8, np.random.default_rng(0), epsilon=1.0, seed=0))
        data = cfcql(tmp_path / "2s3z_public.h5", made, env.spec.episode_limit + 1)
        assert len(load_dataset(data, env.spec).episodes) == 8
    double.plan(**SHORT, every=11, later=True, faults=["empty", "reset"])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]]))
    run = tmp_path / "runs" / "ovmse_0"
    command = [sys.executable, "-m", "ovmse.cli", "train", str(run), "--dataset", str(data)]
    with subprocess.Popen([*command, *SETTINGS]) as first:
        until = time.monotonic() + 120
        while not began_a_test_interval(run):
            assert first.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    assert not double.living(12)
    before = read_metrics(run)
    done = subprocess.run([*command, *SETTINGS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert NEW_BATTLES in done.stdout and not double.living()
    rows, engine = read_metrics(run), read_config(run)["engine"]
    assert rows[: len(before) - 1] == before[:-1] and rows[-1]["env_steps"] >= 400
    assert sum(row.get("void_battles", 0) for row in rows) > 0
    assert engine["game"] == "4.10.0.75689" and len(engine["seeds"]) == 2
    seeds = [seed for of_slot in engine["seeds"] for seed in of_slot]
    assert len(set(seeds)) == len(seeds) >= 4  # of both starts
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    truth = {(n["length"], round(n["total"], 4)) for n in double.noted("battle")}
    assert all((e["length"], e["return"]) in truth for e in events)
    # Two notebooks: every snapshot replayed, what cannot be shown said, the player at the end.
    double.plan(**SHORT)
    looked = {}
    given = {"02_q_drift": {}, "03_exploration": {"battles": 2, "snapshot": 400}}
    for name, parameters in given.items():
        papermill.execute_notebook(
            ROOT / "notebooks" / f"{name}.ipynb", executed := tmp_path / f"{name}.ipynb",
            {"runs": str(run), **parameters}, cwd=tmp_path, progress_bar=False,
        )  # fmt: skip
        said, pictures = shown(executed)
        (player,) = (p for p in pictures if "The units of both teams" in p["description"])
        assert {"stalker", "zealot"} <= set(re.findall("stalker|zealot", json.dumps(player)))
        assert NO_TARGETS in json.dumps(player)
        looked[name] = said
    assert "smac cannot put a battle back" in looked["02_q_drift"]
    assert "exceeds the target at" in looked["02_q_drift"]
    assert "Not shown here" not in looked["03_exploration"]
    assert "moves the value of the fixed battles" in looked["03_exploration"]
    assert "Where nobody explores" in looked["03_exploration"]
    measured = [row for row in rows if row["phase"] == "online"]
    assert [row["env_steps"] for row in measured] == sorted(replay([run]).env_steps)
    assert not double.living()
