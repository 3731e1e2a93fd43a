"""`ovmse runs`: what lies in a folder, and the tidy table that is exported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from fake_runs import write_runs
from filelock import FileLock
from typer.testing import CliRunner

from analysis.tables import curves, summary
from ovmse.cli.app import app
from ovmse.runs.listing import list_runs
from ovmse.runs.tables import metrics_table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight runs written by hand: done, unfinished, failed, and one that failed before it began."""
    runs = write_runs(tmp_path / "runs")
    for run in runs.iterdir():
        (run / "result.json").write_text('{"wall_s": 1}')
    (runs / "se_seed0" / "result.json").unlink()
    (runs / "se_seed1" / "sweep.json").write_text(
        json.dumps({"state": "failed", "error": "KeyError: 'x'"})
    )
    early = runs / "wsrl_2s3z_seed3_0123456789"
    early.mkdir()
    record = {"state": "failed", "error": "ValueError: no", "parameters": {"algorithm": "wsrl",
              "seed": 3, "task": "2s3z"}}  # fmt: skip
    (early / "sweep.json").write_text(json.dumps(record))
    pretrained = runs / "pretrain" / "one"
    pretrained.mkdir(parents=True)
    (pretrained / "config.json").write_text(json.dumps({"seed": 0}))  # no run of its own
    return runs


def listed(*arguments: str) -> list[list[str]]:
    done = CliRunner().invoke(app, ["runs", *arguments])
    assert done.exit_code == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()][1:]


def test_statuses(folder: Path) -> None:
    status = {run.path.name: run.status for run in list_runs(folder)}
    assert status == {
        "macql_seed0": "done", "macql_seed1": "done", "ovmse_seed0": "done", "ovmse_seed1": "done",
        "se_seed0": "unfinished", "se_seed1": "failed", "switch_cql_seed0": "done",
        "switch_cql_seed1": "done", "wsrl_2s3z_seed3_0123456789": "failed",
    }  # fmt: skip
    for damaged in ("", "{}", "null"):  # `train` refuses it too
        (folder / "macql_seed0" / "result.json").write_text(damaged)
        (run,) = (run for run in list_runs(folder) if run.path.name == "macql_seed0")
        assert run.status == "unfinished", damaged
    (folder / "se_seed0" / "result.json").mkdir()  # no result
    assert "se_seed0" in {run.path.name for run in list_runs(folder) if run.status == "unfinished"}
    with FileLock(folder / "se_seed0" / ".lock"):
        (run,) = (run for run in list_runs(folder) if run.path.name == "se_seed0")
        assert run.status == "running"
    with (folder / "macql_seed1" / "metrics.jsonl").open("a") as file:
        file.write("{damaged\n")  # does not hide the others
    assert len(list_runs(folder)) == 9
    (early,) = (run for run in list_runs(folder) if run.algorithm == "wsrl")
    assert (early.seed, early.task, early.env_steps, early.error) == (3, "2s3z", None,
                                                                      "ValueError: no")  # fmt: skip


def test_names_that_no_terminal_shows_stay_on_one_line(folder: Path) -> None:
    odd = folder / os.fsdecode(b"o\xffd\td")
    (folder / "se_seed0").rename(odd)
    (odd / "config.json").write_text(
        json.dumps({"algorithm": "\ud800", "task": "a\n\x1b[31mb", "seed": True})
    )
    command = [sys.executable, "-m", "ovmse.cli", "runs", str(folder)]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, capture_output=True, text=True, env=strict)
    assert done.returncode == 0, done.stderr
    cells = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(cells) == 10 and {len(line) for line in cells} == {8}
    assert [r"o\udcffd\td", "unfinished", r"\ud800", r"a\n\x1b[31mb", ""] in [c[:5] for c in cells]


def test_filters(folder: Path) -> None:
    assert len(listed(str(folder))) == 9
    assert [line[0] for line in listed(str(folder), "--algorithm", "ovmse", "--seed", "1")] == [
        "ovmse_seed1"
    ]
    assert {line[1] for line in listed(str(folder), "--status", "failed")} == {"failed"}
    assert listed(str(folder), "--task", "3s5z") == []
    rates = {r.path.name: r.test_win_rate for r in list_runs(folder)}
    good = {name for name, rate in rates.items() if rate is not None and rate >= 0.5}
    assert 0 < len(good) < 8
    assert {line[0] for line in listed(str(folder), "--won-above", "0.5")} == good
    assert len(listed(str(folder), "--won-below", "0.5")) == 8 - len(good)
    assert len(listed(str(folder), "--newer-than", "60")) == 9
    assert listed(str(folder), "--older-than", "60") == []
    name, status, algorithm, task, seed, steps, wins, age = listed(str(folder))[0]
    last = json.loads((folder / name / "metrics.jsonl").read_text().splitlines()[-1])
    assert (status, algorithm, task, seed) == ("done", "macql", "2s3z", "0")
    assert (steps, wins) == (f"{last['env_steps']:,}", f"{last['test_win_rate']:.0%}")
    assert age.endswith("s ago")


def test_the_export_is_the_table_that_analysis_reads(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "runs.parquet"
    done = CliRunner().invoke(app, ["runs", str(folder), "--export", str(out)])
    assert "measurements of 8 runs" in done.stdout
    pd.testing.assert_frame_equal(curves(out), curves(folder))
    assert len(summary(curves(out), at=[0])) == 4
    only = tmp_path / "one.parquet"
    CliRunner().invoke(app, ["runs", str(folder), "--seed", "1", "--export", str(only)])
    assert set(curves(only).seed) == {1}


DEEP = "[" * 100_000
ODD = {  # what a file may hold; None: a pipe, ...: a directory
    "config.json": ["[1]", "3", DEEP, '{"algorithm": ["x"], "task": {}, "seed": "0"}', None, ...],
    "metrics.jsonl": ["null\n", "3\n", DEEP + "\n", '{"env_steps": "5", "test_win_rate": []}\n',
                      '{"env_steps": -5, "test_win_rate": 2}\n', '{"env_steps": true}\n',
                      '{"env_steps": {}, "test_win_rate": 1%s}\n' % ("0" * 400), None, ...],
    "sweep.json": ['{"state": "nonsense"}',
                   '{"state": ["done"], "parameters": [1], "error": {"a": 1}}', "[1]", DEEP,
                   '{"state": 3, "parameters": "x", "attempts": "y"}', None, ...],
    ".lock": [None, ...],
    "result.json": [None, ...],
}  # fmt: skip


@pytest.mark.parametrize(("name", "content"), [(n, c) for n in ODD for c in ODD[n]])
def test_whatever_lies_there_the_others_are_listed(
    folder: Path, name: str, content: object
) -> None:
    for file in (odd := folder / "se_seed0" / name, odd.with_name("sweep.json")):
        file.unlink(missing_ok=True)
        file.write_text('{"state": "failed"}')  # so that it is a run, whatever config.json is
    odd.unlink()
    if content is None:
        os.mkfifo(odd)
    elif content is ...:
        odd.mkdir()
    else:
        odd.write_text(str(content))
    lines = {line[0]: line for line in listed(str(folder))}
    assert len(lines) == 9
    assert lines["se_seed0"][1] in ("done", "failed", "unfinished")
    if name in ("sweep.json", "result.json"):
        assert lines["se_seed0"][1] != "done"
    if name == "metrics.jsonl":
        assert lines["se_seed0"][5:7] == ["", ""]


def test_a_run_whose_settings_cannot_be_read_is_listed(folder: Path) -> None:
    for damaged in ("", "{", '{"seed": %s}' % ("1" * 5_000)):
        (folder / "se_seed0" / "config.json").write_text(damaged)
        lines = {line[0]: line for line in listed(str(folder))}
        assert len(lines) == 9 and lines["se_seed0"][1:4] == ["unfinished", "", ""]


def test_settings_that_no_table_holds_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    file = folder / "se_seed0" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dataset": "\udcff.h5"}))
    assert set(metrics_table([file.parent]).dataset) == {r"\udcff.h5"}  # a path that is not UTF-8
    file.write_text(json.dumps(json.loads(file.read_text()) | {"task": 5}))
    done = CliRunner().invoke(app, ["runs", str(folder), "--export", str(tmp_path / "x.parquet")])
    assert done.exit_code == 2 and "x.parquet cannot be written (" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "x.parquet").exists()


@pytest.mark.parametrize(
    ("measure", "value"),
    [("loss", 10**400), ("env_steps", 10**400), ("updates", 2**63)],
    ids=["loss", "env_steps", "updates"],
)
def test_a_number_that_no_table_holds_is_one_sentence(
    folder: Path, tmp_path: Path, measure: str, value: int
) -> None:
    row = {"phase": "online", "env_steps": 1, "updates": 1, measure: value}
    (folder / "se_seed0" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    done = CliRunner().invoke(app, ["runs", str(folder), "--export", str(tmp_path / "x.parquet")])
    assert done.exit_code == 2
    assert f"se_seed0/metrics.jsonl is damaged: {measure} is " in done.stderr
    assert len(done.stderr.splitlines()) == 1 and len(done.stderr) < 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["FOLDER", "--status", "dead"], "--status: got 'dead', allowed: done, running"),
        (["FOLDER", "--algorithm", "ovmze"], "--algorithm: got 'ovmze', allowed: ovmse"),
        (["FOLDER", "--won-above", "nan"], "--won-above: got 'nan', allowed: a number from 0 to 1"),
        (["FOLDER", "--won-below", "50"], "--won-below: got '50', allowed: a number from 0 to 1"),
        (
            ["FOLDER", "--older-than", "nan"],
            "--older-than: got 'nan', allowed: a number of",
        ),
        (["FOLDER", "--export", "x.csv"], "got 'x.csv', allowed: a name that ends in .parquet"),
        (["FOLDER", "--export", "/dev/null/x.parquet"], "--export: /dev/null/x.parquet cannot be"),
        (["FOLDER", "--task", "3s5z", "--export", "x.parquet"], "nothing to export"),
    ],
)
def test_mistakes_are_one_sentence(folder: Path, arguments: list[str], message: str) -> None:
    arguments = [str(folder) if a == "FOLDER" else a for a in arguments]
    done = CliRunner().invoke(app, ["runs", *arguments])
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not Path("x.csv").exists()
