"""The ladders that ship, the datasets collected from them, and all algorithms on all maps."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from starcraft import Double
from typer.testing import CliRunner

from ovmse.cli.app import app
from ovmse.config import Config
from ovmse.datasets import load_dataset
from ovmse.datasets.dataset import ladder_folder
from ovmse.ladders import (
    MEDIUM_EPSILON,
    PINNED,
    RETURN_TOLERANCE,
    RUNG_BATTLES,
    RUNGS,
    WIN_TOLERANCE,
    make_dataset,
    make_ladder,
    medium_rung,
    read_ladder,
)
from ovmse.method.algorithms import ALGORITHMS
from ovmse.runs.reading import RunError, read_metrics
from ovmse.training import train

pytestmark = pytest.mark.slow

MAPS = ("2s3z", "3s5z", "5m_vs_6m", "6h_vs_8z")
BATTLES = 32
LADDER = ladder_folder("2s3z")


@pytest.fixture(scope="module", params=MAPS)
def collected(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A map, and a folder with a small dataset of each quality, collected from its ladder."""
    task, folder = request.param, tmp_path_factory.mktemp(request.param)
    for quality in ("medium", "medium_replay"):
        for _ in make_dataset(task, quality, folder / f"{quality}.h5", None, BATTLES, seed=7):
            pass
    return task, folder


def test_both_qualities_agree_with_the_ladder(collected: tuple[str, Path]) -> None:
    task, folder = collected
    ladder = read_ladder(ladder_folder(task))
    rungs = ladder["rungs"][: ladder["medium"] + 1]
    for quality, chosen in (("medium", rungs[-1:]), ("medium_replay", rungs)):
        episodes = load_dataset(folder / f"{quality}.h5").episodes
        assert len(episodes) == BATTLES
        key = quality.removeprefix("medium_")
        expected = np.mean([rung[key]["return"] for rung in chosen])
        returns = np.array([e.episode_return for e in episodes])
        # Four standard errors of 32 battles, and the ladder's own.
        error = 4 * returns.std() * np.sqrt(1 / BATTLES + 1 / RUNG_BATTLES)
        assert abs(returns.mean() - expected) < error


def test_every_algorithm_runs_on_every_map(collected: tuple[str, Path]) -> None:
    task, folder = collected
    for algorithm in ALGORITHMS:
        config = Config.from_parameters(
            algorithm=algorithm, task=task, dataset=str(folder / "medium_replay.h5"),
            preset="tiny", seed=5, offline_updates=3, online_steps=1_600, test_interval=1_600,
            num_envs=16, fixed_battles=16, batch_size=4, episodes_per_update=2, mixing_ratio=0.25,
            policy_warmup_steps=320 if algorithm == "wsrl" else None,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in train(config, folder / "runs" / algorithm):
                pass
        rows = [r for r in read_metrics(folder / "runs" / algorithm) if r["phase"] == "online"]
        assert rows[-1]["updates"] > 0
        for row in rows:
            values = [v for v in row.values() if isinstance(v, float)]
            assert np.isfinite(values).all(), row
            assert row["test_return"] <= 20.01


@pytest.mark.parametrize("task", MAPS)
def test_a_shipped_ladder_is_whole(task: str) -> None:
    ladder = read_ladder(ladder_folder(task))
    rungs = ladder["rungs"]
    assert len(rungs) == RUNGS + 1 and rungs[0]["env_steps"] == 0
    steps = [rung["env_steps"] for rung in rungs]
    assert steps == sorted(set(steps)) and ladder["medium_epsilon"] == MEDIUM_EPSILON
    if task in PINNED:
        assert steps[ladder["medium"]] == PINNED[task]
    else:
        assert ladder["medium"] == medium_rung(rungs) > 0
    files = {path.name for path in ladder_folder(task).iterdir()}
    assert files == {rung["file"] for rung in rungs} | {"ladder.json"}
    assert sum((ladder_folder(task) / name).stat().st_size for name in files) < 6_000_000


@pytest.mark.parametrize(
    ("scores", "medium"),
    [
        ([(0.0, 1.0), (0.1, 14.0), (0.45, 9.0), (0.8, 17.0), (0.7, 18.0)], 2),  # by wins
        ([(0.0, 1.0), (0.0, 6.5), (0.0, 4.4), (0.09, 8.0)], 2),  # nobody wins a tenth: by returns
        ([(0.0, 1.9), (0.0, 7.0), (0.0, 6.9), (0.0, 4.0)], 3),
        ([(0.0, 3.5), (0.0, 7.0), (0.0, 6.9)], 2),  # never the untrained one
    ],
)
def test_medium_is_the_rung_nearest_to_half_of_the_best(
    scores: list[tuple[float, float]], medium: int
) -> None:
    rungs = [{"greedy": {"win_rate": wins, "return": returns}} for wins, returns in scores]
    assert medium_rung(rungs) == medium


def test_medium_is_pinned_on_smax_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ladder of another backend, or of another seed, that has a rung at the same step."""
    recipe = {"online_steps": 640, "test_interval": 64, "num_envs": 16, "epsilon_anneal": 320,
              "test_battles": 8, "long_test_battles": 8}  # fmt: skip
    config = Config.from_parameters(algorithm="qmix", task="climb_monotone", **recipe)
    monkeypatch.setattr("ovmse.ladders.ladder_config", lambda *_: config)
    monkeypatch.setattr("ovmse.ladders.RUNG_BATTLES", 16)
    list(make_ladder("climb_monotone", tmp_path / "ladder", tmp_path / "work"))
    half = read_ladder(tmp_path / "ladder")["medium"]
    pin = {"climb_monotone": 64 if half != 1 else 128}
    monkeypatch.setattr("ovmse.ladders.PINNED", pin)
    list(make_ladder("climb_monotone", tmp_path / "again", tmp_path / "work"))
    assert read_ladder(tmp_path / "again")["medium"] == half


def test_a_ladder_is_trained_measured_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {"online_steps": 640, "test_interval": 64, "num_envs": 16, "epsilon_anneal": 320,
              "test_battles": 8, "long_test_battles": 8}  # fmt: skip
    config = Config.from_parameters(algorithm="qmix", task="2s3z", **recipe)
    monkeypatch.setattr("ovmse.ladders.ladder_config", lambda *_: config)
    monkeypatch.setattr("ovmse.ladders.RUNG_BATTLES", 16)
    monkeypatch.setattr("ovmse.ladders.PINNED", {})
    for _ in make_ladder("2s3z", tmp_path / "ladder", tmp_path / "work"):
        pass
    ladder = read_ladder(tmp_path / "ladder")
    assert [rung["env_steps"] for rung in ladder["rungs"]] == list(range(0, 641, 64))
    assert [rung["epsilon"] for rung in ladder["rungs"]][:3] == [1.0, 0.81, 0.62]
    stamp = (tmp_path / "work" / "metrics.jsonl").stat().st_mtime_ns
    for _ in make_ladder("2s3z", tmp_path / "again", tmp_path / "work"):
        pass
    assert read_ladder(tmp_path / "again")["rungs"] == ladder["rungs"]
    assert (tmp_path / "work" / "metrics.jsonl").stat().st_mtime_ns == stamp  # trained once


def test_a_ladder_and_a_dataset_of_starcraft(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the double: what the engine loses is in no rung and in no file."""
    double.plan(limit=8, every=7, later=True, faults=["empty", "reset"])
    recipe = {"online_steps": 200, "test_interval": 20, "num_envs": 2, "epsilon_anneal": 100,
              "test_battles": 2, "long_test_battles": 2, "hidden_size": 8, "embed_size": 4,
              "hypernet_size": 8, "batch_size": 4}  # fmt: skip
    config = Config.from_parameters(algorithm="qmix", task="2s3z", backend="smac", **recipe)
    monkeypatch.setattr("ovmse.ladders.ladder_config", lambda *_: config)
    monkeypatch.setattr("ovmse.ladders.RUNG_BATTLES", 2)
    ladder, file = tmp_path / "ladder", tmp_path / "2s3z_medium_replay.h5"
    list(make_ladder("2s3z", ladder, tmp_path / "work", backend="smac"))
    assert read_ladder(ladder)["backend"] == "smac" and len(read_ladder(ladder)["rungs"]) == 11
    monkeypatch.setattr("ovmse.ladders.RUNG_BATTLES", 256)
    before = len(double.noted("battle"))
    list(make_dataset("2s3z", "medium_replay", file, ladder, 22, backend="smac"))
    read = load_dataset(file)
    truth = {(note["length"], round(note["total"], 4)) for note in double.noted("battle")}
    assert len(read.episodes) == 22 <= len(double.noted("battle")) - before
    assert {(e.length, round(e.episode_return, 4)) for e in read.episodes} <= truth
    assert read.attrs["backend"] == "smac" and "--backend smac" in read.attrs["command"]
    engine = json.loads(read.attrs["engine"])
    assert engine["game"] == "4.10.0.75689" and len(engine["seeds"]) == 2
    assert double.noted("fault") and not double.living()
    with pytest.raises(RunError, match="is a ladder on smac, not on smax"):
        list(make_dataset("2s3z", "medium", file, ladder, 2))


@pytest.mark.parametrize(
    ("measure", "off"), [("return", 2 * RETURN_TOLERANCE), ("win_rate", 2 * WIN_TOLERANCE)]
)
def test_battles_that_do_not_fit_the_ladder_are_not_written(
    tmp_path: Path, measure: str, off: float
) -> None:
    shutil.copytree(ladder_folder("2s3z"), tmp_path / "ladder")
    file = tmp_path / "ladder" / "ladder.json"
    ladder = json.loads(file.read_text())
    ladder["rungs"][ladder["medium"]]["medium"][measure] -= off
    file.write_text(json.dumps(ladder))
    with pytest.raises(RunError, match="was not written: its battles win"):
        list(make_dataset("2s3z", "medium", tmp_path / "x.h5", tmp_path / "ladder", RUNG_BATTLES))
    assert not (tmp_path / "x.h5").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quality", "expert"], "quality: got 'expert', allowed: medium, medium_replay"),
        (["--task", "3m"], "task: got '3m', allowed: 2s3z, 3s5z, 5m_vs_6m, 6h_vs_8z"),
        (["--ladder", "no such"], "no such is no ladder of policies"),
        (
            ["--task", "3s5z", "--ladder", str(ladder_folder("2s3z"))],
            "is a ladder of 2s3z, not of 3s5z",
        ),
        (["--out", "x.csv"], "out: got 'x.csv', allowed: a file that ends in .h5"),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--out" not in arguments:
        arguments = [*arguments, "--out", "x.h5"]
    done = CliRunner().invoke(app, ["data", "make", *arguments])
    assert done.exit_code == 2 and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_policy_of_another_map_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ladder_folder("2s3z"), tmp_path / "ladder")
    ladder, other = read_ladder(tmp_path / "ladder"), read_ladder(ladder_folder("3s5z"))
    name = ladder["rungs"][ladder["medium"]]["file"]
    shutil.copyfile(ladder_folder("3s5z") / other["rungs"][1]["file"], tmp_path / "ladder" / name)
    with pytest.raises(RunError, match="is a snapshot of another map"):
        list(make_dataset("2s3z", "medium", tmp_path / "x.h5", tmp_path / "ladder", 4))


def test_a_rung_above_medium_is_checked_too(tmp_path: Path) -> None:
    """The best of all rungs stands in the card of a dataset that medium and those below made."""
    whole = json.loads((ladder_folder("2s3z") / "ladder.json").read_text())
    for broken in (whole | {"medium": -1}, whole | {"rungs": [*whole["rungs"], {"file": "x"}]}):
        (tmp_path / "ladder.json").write_text(json.dumps(broken))
        with pytest.raises(RunError, match="is no ladder of policies"):
            read_ladder(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", pytest.param("[" * 100_000, id="deep"), '{"rungs": [1], "medium": 0}',
     '{"task": "2s3z", "rungs": [{}], "medium": 0}', pytest.param(None, id="pipe")],
)  # fmt: skip
def test_a_damaged_ladder_is_one_sentence(text: str | None, tmp_path: Path) -> None:
    if text is None:
        os.mkfifo(tmp_path / "ladder.json")  # reading one would wait for ever
    else:
        (tmp_path / "ladder.json").write_text(text)
    with pytest.raises(RunError, match="is no ladder of policies"):
        read_ladder(tmp_path)
