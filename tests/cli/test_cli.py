"""The command line, as typed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from ovmse.cli.app import app, one_sentence
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


def test_an_error_of_ours_keeps_its_traceback() -> None:
    """What numpy and torch raise is no user's sentence."""
    with pytest.raises(ValueError, match="be broadcast"), one_sentence():
        np.zeros(3) + np.zeros(2)
    with pytest.raises(typer.Exit), one_sentence():
        raise UserError("got this, allowed: that")


def test_info_prints_the_statistics(dataset_file: Path) -> None:
    done = CliRunner().invoke(app, ["data", "info", str(dataset_file)])
    assert json.loads(done.stdout)["episodes"] == 24


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
