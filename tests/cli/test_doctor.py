"""`ovmse doctor`: what it finds on a broken machine, and that it is quick."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from starcraft import Double
from sweeps import write_climb_dataset
from typer.testing import CliRunner

from ovmse.cli import doctor
from ovmse.cli.app import app
from ovmse.datasets.dataset import file_checksum


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch and JAX take seconds to import: what they say is put in."""

    def ask(code: str, protobuf: str = "") -> str:
        return code

    def answer(code: str, until: float) -> tuple[str, str]:
        if "torch" in code:
            return "2.13.0 2 False None", ""
        return (
            ("0.10.2 cpu", "") if "jax" in code else ("", "ModuleNotFoundError: No module 'smac'")
        )

    monkeypatch.setattr(doctor, "_ask", ask)
    monkeypatch.setattr(doctor, "_answer", answer)


def found() -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in doctor.doctor()}


def test_a_damaged_dataset_a_full_disk_and_a_folder_that_is_none(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for end in ("h5", "md"):
        shutil.copy(ROOT / "data" / f"2s3z_medium.{end}", tmp_path)
    monkeypatch.setattr(doctor, "DATA_DIR", tmp_path)
    (tmp_path / "3m_x.h5").symlink_to(tmp_path / "a disk that is not there")
    assert found()["2s3z_medium.h5"].state == doctor.OK
    assert found()["3m_x.h5"].state == doctor.WRONG and "disk" in found()["3m_x.h5"].todo
    with (tmp_path / "2s3z_medium.h5").open("ab") as file:
        file.write(b"x")
    (tmp_path / "file").touch()
    monkeypatch.setattr(doctor, "RUNS", tmp_path / "file" / "runs")
    monkeypatch.setattr(doctor, "DISK_BYTES", 2**70)
    seen = found()
    assert seen["2s3z_medium.h5"].state == doctor.WRONG
    assert seen["runs"].state == seen["disk"].state == doctor.WRONG
    assert all(f.todo for f in seen.values() if f.state == doctor.WRONG)


def test_a_vault_is_compared_with_its_card(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "DATA_DIR", tmp_path)
    vault = tmp_path / "smac" / "3m.vlt" / "Good"
    (vault / "d").mkdir(parents=True)
    (vault / "manifest.ocdbt").write_bytes(b"1")
    (vault / "d" / "part").write_bytes(b"22")
    vault.with_suffix(".md").write_text(f"| SHA-256 | `{file_checksum(vault)}` |")
    assert found()["smac/3m.vlt/Good"].state == doctor.OK
    (vault / "d" / "part").write_bytes(b"23")
    assert found()["smac/3m.vlt/Good"].state == doctor.WRONG


def test_what_takes_too_long_to_sum_and_what_has_no_card_is_a_note(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "DATA_DIR", tmp_path)
    (tmp_path / "smac" / "3m.vlt" / "Good").mkdir(parents=True)
    (tmp_path / "smac" / "3m.vlt" / "Good" / "manifest.ocdbt").touch()
    bare = tmp_path / "smac" / "2s3z_medium.h5"  # as it is published: no card
    write_climb_dataset(bare)
    shutil.copy(bare, tmp_path / "big.h5")
    (tmp_path / "big.md").write_text("SHA-256")
    monkeypatch.setattr(doctor, "SECONDS", 0.0)
    monkeypatch.setattr(doctor, "LEAST_SECONDS", 0.0)
    seen = found()
    assert seen["big.h5"].state == seen["smac/2s3z_medium.h5"].state == doctor.NOTE
    assert "too much to sum" in seen["big.h5"].found and "sha256sum" in seen["big.h5"].todo
    assert seen["smac/3m.vlt/Good"].state == doctor.NOTE  # no card
    done = CliRunner().invoke(app, seen["smac/2s3z_medium.h5"].todo.split()[1:])
    assert done.exit_code == 0, done.output
    monkeypatch.undo()
    assert bare.with_suffix(".md").read_text().count(hashlib.sha256(bare.read_bytes()).hexdigest())


def test_starcraft_is_wrong_only_where_it_was_asked_for(
    quick: None, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = found()
    assert seen["StarCraft: game"].found.startswith("4.10 at")
    assert seen["StarCraft: maps"].found == "3 of 22 SMAC maps"
    assert seen["StarCraft: smac"].state == doctor.WRONG  # SC2PATH is set
    assert "oxwhirl/smac" in seen["StarCraft: smac"].todo
    monkeypatch.delenv("SC2PATH")
    monkeypatch.setenv("HOME", str(double.folder))
    seen = found()
    assert {seen[f"StarCraft: {what}"].state for what in ("smac", "game")} == {doctor.NOTE}


def test_json_and_the_exit_code(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    listed = json.loads(done.stdout)
    assert done.exit_code == any(one["state"] == "wrong" for one in listed)
    assert {"Python", "CUDA", "Dask", "ports", "memory"} <= {one["what"] for one in listed}

    def broken() -> None:
        raise OSError("no /proc")

    monkeypatch.setattr(doctor, "_machine", broken)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1 and "OSError: no /proc" in done.stdout


@pytest.mark.slow
def test_as_a_person_calls_it_it_takes_less_than_ten_seconds(tmp_path: Path) -> None:
    """With what it really asks of this machine; of torch, that it is broken."""
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch is missing')")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "ovmse.cli", "doctor", "--json"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert time.monotonic() - start < 10
    seen = {one["what"]: one for one in json.loads(done.stdout)}
    assert done.returncode == 1 and seen["torch"]["state"] == "wrong"
    assert "libtorch is missing" in seen["torch"]["found"] and seen["torch"]["todo"] == "make setup"
    assert seen["Python"]["state"] == "ok" and seen["JAX"]["state"] in ("ok", "note")
