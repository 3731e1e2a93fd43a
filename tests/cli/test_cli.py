"""The command line, as typed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from conftest import ROOT
from sweeps import require_whole_files, small_disk, write_climb_dataset
from typer.testing import CliRunner

from bench.sweeps import measured
from ovmse.cli.app import app
from ovmse.cli.options import one_sentence
from ovmse.errors import UserError
from ovmse.runs.reading import read_config, read_metrics

TINY = ["--preset", "tiny", "offline_updates=2", "online_steps=256", "num_envs=8"]
TINY += ["test_battles=8", "long_test_battles=8", "fixed_battles=8"]


def test_train_runs_and_a_second_time_only_reads(tmp_path: Path, dataset_file: Path) -> None:
    run = tmp_path / "run"
    command = ["train", str(run), "--dataset", str(dataset_file), "--seed", "7", *TINY]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "online: 256 of 256 environment steps" in done.output
    assert read_config(run)["seed"] == 7
    rows = read_metrics(run)
    assert CliRunner().invoke(app, command).exit_code == 0
    assert read_metrics(run) == rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algorithm", "ovms"], "algorithm: got 'ovms', allowed: 'ovmse'"),
        (["mixing_ratio=2"], "mixing_ratio: got '2', allowed: less than or equal to 1"),
        (["mixing=1"], "there is no setting 'mixing'; did you mean 'mixing_ratio'?"),
        (["mixing_ratio"], "got 'mixing_ratio', allowed: NAME=VALUE"),
        (
            ["--dataset", "none"],
            "dataset: got 'none', allowed for 2s3z on smax: 'medium', 'medium_",
        ),
        (["threads=100000"], "threads: got '100000', allowed: less than or equal to 256"),
        (["num_envs=100000000000000"], "num_envs: got '100000000000000', allowed: less than"),
        (["num_envs=1e14"], "num_envs: got '1e14', allowed: a valid integer from 1 to 4,096"),
        (["num_envs=1.5"], "num_envs: got '1.5', allowed: a valid integer from 1 to 4,096"),
        (["gamma=x"], "gamma: got 'x', allowed: a valid number from 0 to 1"),
        (["algorithm=[ovmse]"], "algorithm: got '[ovmse]', allowed: 'ovmse'"),
        (["--seed", "1", "seed=2"], "seed: got it twice, as --seed and as seed="),
        (["gamma=0.9", "gamma=0.8"], "gamma: got it twice"),
        (["--dataset", "2s3z_medium"], "no 2s3z_2s3z_medium.h5); did you mean 'medium'?"),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["train", str(tmp_path / "run"), *arguments])
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", ["~nosuchuser/x.h5", "a\0b.h5", ""])
@pytest.mark.parametrize(
    "command",
    [
        "train PATH", "train RUN dataset=PATH", "sweep PATH", "sweep GRID --folder PATH",
        "runs PATH", "runs RUN --export PATH", "data make --out PATH",
        "data make --ladder PATH --out RUN.h5",
        "data ladder --out PATH", "data ladder --work-dir PATH", "data info PATH",
    ],
)  # fmt: skip
def test_what_can_be_no_path_is_one_sentence(command: str, path: str, tmp_path: Path) -> None:
    names = {"PATH": path, "RUN": str(tmp_path), "RUN.h5": str(tmp_path / "x.h5"),
             "GRID": str(ROOT / "notebooks/grids/figure1.yaml")}  # fmt: skip
    words = [word.replace("PATH", path) for word in command.split()]
    done = CliRunner().invoke(app, [names.get(word, word) for word in words])
    assert done.exit_code == 2
    assert f" got {path!r}, allowed: a path" in done.stderr
    assert "path: got" not in done.stderr  # nobody typed that name
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    ["data make --episodes 5000000000", "sweep GRID --dry-run --workers 100000",
     "sweep GRID --dry-run --timeout inf", "data make --seed -1", "data make --episodes 1e5",
     "runs --won-above 1.5", "runs --older-than nan", "train RUN --seed five"],
)  # fmt: skip
def test_a_wrong_number_is_named_and_what_is_allowed_said(words: str, tmp_path: Path) -> None:
    grid = str(ROOT / "notebooks/grids/figure1.yaml")
    arguments = [grid if word == "GRID" else word for word in words.split()]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert f"{arguments[-2]}: got '{arguments[-1]}', allowed: a" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_home_is_found_where_a_shell_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["runs", "~/none"])
    assert done.stderr == f"ovmse: there is no folder {tmp_path}/none\n"


KINDS = ("config.json", "events.jsonl", "snapshots/online_", "resume/state_", "fixed.h5")


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_same_command_continues(tmp_path: Path) -> None:
    """Whatever finds no room, a little more each time: settings, lines, weights, battles."""
    data, disk = write_climb_dataset(tmp_path / "climb.h5"), tmp_path / "disk"
    options = ["--task", "climb_monotone", "--dataset", str(data), *TINY[:2], "fixed_battles=64"]
    options += ["offline_updates=2", "online_steps=800", "test_interval=400", "num_envs=8",
                "hidden_size=8", "embed_size=4", "hypernet_size=8"]  # fmt: skip
    assert CliRunner().invoke(app, ["train", str(tmp_path / "whole/run"), *options]).exit_code == 0
    refused = set()
    with small_disk("4k", disk):
        for size in range(8, 1000, 8):
            done = CliRunner().invoke(app, ["train", str(disk / "run"), *options])
            if done.exit_code == 0:
                break
            assert done.exit_code == 2, done.exception
            sentence = done.stderr.splitlines()
            assert len(sentence) == 1 and "No space left on device" in sentence[0]
            assert str(disk) in sentence[0]
            refused |= {word for word in KINDS if word in sentence[0]}
            require_whole_files(disk, least=0)
            left = [file.name for file in disk.rglob(".*") if file.name != ".lock"]
            assert not left
            subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)
        assert refused == set(KINDS)
        assert measured(disk / "run") == measured(tmp_path / "whole/run")


def test_an_error_of_ours_keeps_its_traceback() -> None:
    """What numpy and torch raise is no user's sentence."""
    with pytest.raises(ValueError, match="be broadcast"), one_sentence():
        np.zeros(3) + np.zeros(2)
    with pytest.raises(typer.Exit), one_sentence():
        raise UserError("got this, allowed: that")


def test_info_prints_the_statistics(dataset_file: Path) -> None:
    done = CliRunner().invoke(app, ["data", "info", str(dataset_file)])
    told = json.loads(done.stdout)
    assert told["episodes"] == 24 and told["sizes"]["n_agents"] == 5
    assert told["recorded"]["task"] == "2s3z" and told["recorded"]["backend"] == "smax"
    assert any(warning.startswith("Too few battles: 24") for warning in told["warnings"])


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that can be typed, below a group of them."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, below in command.commands.items():
        yield from commands(below, (*path, name))


def test_help_teaches() -> None:
    """What each command does, and each of its arguments and options."""
    found = dict(commands(typer.main.get_command(app)))
    assert {("train",), ("sweep",), ("runs",), ("data", "make"), ("data", "info")} <= found.keys()
    for path, command in found.items():
        done = CliRunner().invoke(app, [*path, "--help"])
        assert done.exit_code == 0 and command.help.split()[0] in done.stdout
        assert all(parameter.help for parameter in command.params), path
