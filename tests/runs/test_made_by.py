"""What made a run is written down, and no run goes on with other code or other data in silence."""

from __future__ import annotations

import json
import platform
import re
from importlib.metadata import version
from pathlib import Path

import h5py
import pytest
from sweeps import SMALL, write_climb_dataset

from ovmse import Config, train
from ovmse.datasets.dataset import file_checksum
from ovmse.runs.code import learning_code_key, made_by
from ovmse.runs.reading import RunError, find_runs, read_config
from ovmse.runs.sharing import pretrain_directory
from ovmse.runs.tables import metrics_table

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path: Path) -> Config:
    data = write_climb_dataset(tmp_path / "climb.h5")
    short = {**SMALL, "online_steps": 800}
    return Config.from_parameters(task="climb_monotone", dataset=str(data), **short)


def begin(config: Config, run: Path) -> None:
    """A run that was stopped after its first online test."""
    events = train(config, run)
    while not ((event := next(events)).row and event.phase == "online"):
        pass
    events.close()


def edit(run: Path, **changes: object) -> None:
    """Changes what ``config.json`` says; None takes a name out."""
    stored = json.loads((run / "config.json").read_text()) | changes
    kept = {name: value for name, value in stored.items() if value is not None}
    (run / "config.json").write_text(json.dumps(kept))


def test_a_run_says_what_made_it(config: Config, tmp_path: Path) -> None:
    begin(config, tmp_path / "run")
    stored = read_config(tmp_path / "run")
    assert stored["made_by"]["code"] == learning_code_key()
    for name in ("torch", "numpy", "jax", "jaxmarl"):
        assert stored["made_by"][name] == version(name)
    assert stored["dataset_sha256"] == file_checksum(Path(config.dataset))
    table = metrics_table([tmp_path / "run"])
    assert set(Config.model_fields) <= set(table) and set(table.code) == {learning_code_key()}


def test_other_code_continues_a_run_only_if_it_is_allowed_to(
    config: Config, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    begin(config, run)
    edit(run, made_by={"code": "0ther000"})
    sentence = f"begun by other learning code (0ther000, here {learning_code_key()})"
    with pytest.raises(RunError, match=re.escape(sentence)) as caught:
        list(train(config, run))
    assert "\n" not in str(caught.value)
    list(train(config.model_copy(update={"continue_with_other_code": True}), run))
    assert read_config(run)["made_by"]["code"] == f"0ther000, {learning_code_key()}"
    edit(run, made_by={"code": "0ther000"})
    assert len(list(train(config, run))) == 1  # finished: it is only read


def test_a_setting_that_is_new_does_not_make_older_runs_unreadable(
    config: Config, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    list(train(config, run))
    edit(run, cql_end=None, continue_with_other_code=None, dataset_sha256=None, made_by=None)
    assert "cql_end" not in (run / "config.json").read_text()
    assert len(list(train(config, run))) == 1
    assert set(metrics_table(find_runs(run)).cql_end) == {0.0}
    with pytest.raises(RunError, match="other settings: cql_end 0.0 not 0.1"):
        list(train(config.model_copy(update={"cql_end": 0.1}), run))


def test_a_run_does_not_go_on_with_other_data(config: Config, tmp_path: Path) -> None:
    begin(config, tmp_path / "run")
    with h5py.File(config.dataset, "a") as file:
        file["reward"][0, 0, 0] += 1
    with pytest.raises(RunError, match="other settings: dataset_sha256"):
        list(train(config, tmp_path / "run"))


def test_a_pre_training_belongs_to_the_code_that_made_it(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = pretrain_directory(config, tmp_path)
    assert mine == pretrain_directory(config.model_copy(update={"online_lr": 1e-5}), tmp_path)
    monkeypatch.setattr("ovmse.runs.sharing.made_by", lambda: {"code": "0ther000"})
    assert mine != pretrain_directory(config, tmp_path)


def test_the_python_that_made_a_run_is_written_down(config: Config, tmp_path: Path) -> None:
    begin(config, tmp_path / "run")
    stored = read_config(tmp_path / "run")["made_by"]
    assert stored.pop("python") == platform.python_version()
    assert stored.keys() == {"code", "torch", "numpy", "jax", "jaxmarl"}


def test_other_code_is_named_once_however_often_it_continues(
    config: Config, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    begin(config, run)
    edit(run, made_by={"code": "0ther000"})
    allowed = config.model_copy(update={"continue_with_other_code": True})
    for _ in range(2):
        begin(allowed, run)
        assert read_config(run)["made_by"]["code"] == f"0ther000, {learning_code_key()}"
    assert read_config(run)["continue_with_other_code"]


def test_another_version_of_torch_is_written_down(config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(config, run)
    made = read_config(run)["made_by"]
    edit(run, made_by=made | {"torch": "2.0.0"})
    begin(config, run)
    assert read_config(run)["made_by"] == made | {"torch": f"2.0.0, {made['torch']}"}


def test_a_run_that_does_not_say_what_made_it_is_not_continued(
    config: Config, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    begin(config, run)
    edit(run, made_by=None)
    with pytest.raises(RunError, match=rf"\(unknown, here {learning_code_key()}\)"):
        begin(config, run)


LACKS = {"cql_anneal": None, "cql_end": None, "dataset_sha256": None, "made_by": None}


@pytest.mark.parametrize("missing", ["cql_anneal", "continue_with_other_code"])
def test_a_default_of_today_fills_in_what_a_finished_run_lacks(
    config: Config, tmp_path: Path, missing: str
) -> None:
    """Taken out of the file itself: ``edit`` cannot tell a missing name from one that is null."""
    run = tmp_path / "run"
    list(train(config, run))
    stored = json.loads((run / "config.json").read_text())
    assert missing in stored
    kept = {n: v for n, v in stored.items() if n not in {*LACKS, missing}}
    (run / "config.json").write_text(json.dumps(kept))
    assert [event.done for event in train(config, run)] == [config.online_steps]
    table = metrics_table([run])
    default = Config.model_fields[missing].default
    assert table[missing].isna().all() if default is None else (table[missing] == default).all()
    with pytest.raises(RunError, match="other settings: cql_anneal None not 500"):
        list(train(config.model_copy(update={"cql_anneal": 500}), run))
    assert "cql_end" not in (run / "config.json").read_text()  # reading changes nothing


def test_other_code_may_go_on_with_a_pre_training_too(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run stopped while it was pre-training measured nothing: other code pre-trains itself."""
    run = tmp_path / "run"
    events = train(config, run)
    while next(events).done < 5:
        pass
    events.close()
    other = {**made_by(), "code": "0ther000"}
    for place in ("sharing", "directory"):
        monkeypatch.setattr(f"ovmse.runs.{place}.made_by", lambda: other)
    list(train(config, run))
    assert (run / "result.json").exists() and read_config(run)["made_by"] == other
    first, second = (tmp_path / "pretrain").iterdir()  # each belongs to the code that made it
    assert sum((place / "result.json").exists() for place in (first, second)) == 1


def test_a_run_under_way_does_not_take_another_pre_training(config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(config, run)
    before = (run / "config.json").read_bytes()
    (tmp_path / "pretrain").rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="which is no longer there whole: put it back"):
        list(train(config, run))
    assert (run / "config.json").read_bytes() == before
    (tmp_path / "elsewhere").rename(tmp_path / "pretrain")
    list(train(config, run))


@pytest.mark.parametrize("made", ["abc", [1], {"code": None}, 3])
def test_a_damaged_record_of_what_made_a_run_is_one_sentence(
    config: Config, tmp_path: Path, made: object
) -> None:
    run = tmp_path / "run"
    begin(config, run)
    edit(run, made_by=made)
    with pytest.raises(RunError, match="made_by is .*, allowed: an object of texts"):
        begin(config, run)
    with pytest.raises(RunError, match="made_by is .*, allowed: an object of texts"):
        metrics_table([run])


@pytest.mark.parametrize("name", ["fixed.h5", "snapshots/offline_final.safetensors"])
def test_a_damaged_pre_training_is_refused(config: Config, tmp_path: Path, name: str) -> None:
    list(train(config, tmp_path / "one"))
    (pretrained,) = (tmp_path / "pretrain").iterdir()
    file = pretrained / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(RunError, match=rf"{name} is damaged"):
        list(train(config, tmp_path / "two"))
    result = (pretrained / "result.json").read_bytes()
    (pretrained / "result.json").write_text("{}")  # says of no file what it should be
    with pytest.raises(RunError, match=r"result.json is damaged: it is not what a finished run"):
        list(train(config, tmp_path / "two"))
    (pretrained / "result.json").write_bytes(result)
    file.unlink()
    with pytest.raises(RunError, match=rf"{name} is missing, and result.json lists it"):
        list(train(config, tmp_path / "two"))
