"""A run beside the earlier ones of its folder: which are compared, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path

from fake_runs import write_runs

from analysis.earlier import with_earlier


def finished(run: Path, **changed: object) -> Path:
    """The run as it is when it has ended, with other settings."""
    file = run / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    (run / "result.json").write_text('{"wall_s": 1}')
    return run


def test_finished_runs_of_the_same_settings_stand_beside_it(tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "runs")
    table, said = with_earlier(folder / "ovmse_seed0")
    assert table.run.nunique() == 1 and said == "There is no other finished run in this folder yet."
    finished(folder / "se_seed0")
    finished(folder / "ovmse_seed1")
    finished(folder / "macql_seed0", gamma=0.5)  # another question
    table, said = with_earlier(folder / "ovmse_seed0")
    names = [Path(run).name for run in table.run.unique()]
    assert names[0] == "ovmse_seed0" and set(names[1:]) == {"se_seed0", "ovmse_seed1"}
    assert said.startswith("Beside it: 2 of 3 finished runs of this folder; the others have")
    (folder / "se_seed0" / "result.json").write_text("")  # damaged
    assert with_earlier(folder / "ovmse_seed0")[1].startswith("Beside it: 1 of 2 finished runs")


def test_the_same_run_anew_is_not_averaged_with_itself(tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "runs", seeds=(0,))
    again = write_runs(tmp_path / "again", seeds=(0,)) / "ovmse_seed0"
    finished(again).rename(folder / "ovmse_again")
    table, said = with_earlier(folder / "ovmse_seed0")
    assert table.run.nunique() == 1 and "or a seed that is there already" in said
