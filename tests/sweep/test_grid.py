"""Grid files: what they expand to, and one sentence for each mistake before anything starts."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import h5py
import pytest
import yaml
from conftest import ROOT
from sweeps import write_climb_dataset, write_notebook
from typer.testing import CliRunner

from analysis.results import PLANNED, explorers, n_agents
from ovmse.cli.app import app
from ovmse.errors import UserError
from ovmse.runs.code import (
    EXPECTED,
    CodeChangedError,
    checksums,
    learning_code,
    learning_code_key,
    require_expected_code,
)
from ovmse.runs.files import write_json
from ovmse.runs.reading import RunError
from ovmse.sweep import grid as grids
from ovmse.sweep.engine import _require_answer
from ovmse.sweep.estimate import estimate
from ovmse.sweep.fingerprint import difference
from ovmse.sweep.grid import load_grid, plan
from ovmse.sweep.notebook_source import code_checksum, parameters_cell
from ovmse.sweep.progress import SweepProgress, Watched

SHIPPED = sorted((ROOT / "notebooks/grids").glob("*.yaml"))


def expand(tmp_path: Path, text: str, **options: object) -> list[dict]:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    runs = plan(load_grid(path), tmp_path / "runs", **options).runs  # type: ignore[arg-type]
    return [{k: v for k, v in run.parameters.items() if k != "run_dir"} for run in runs]


def test_lists_are_crossed_ranges_are_inclusive_and_zip_groups_go_in_step(tmp_path: Path) -> None:
    text = """
    notebook: 01_train
    parameters: {algorithm: qmix, seed: 1..3}
    zip:
      - {task: [climb_monotone, climb_penalty], gamma: [0.9, 1]}
    """
    assert expand(tmp_path, text) == [
        {"algorithm": "qmix", "seed": seed, "task": task, "gamma": gamma}
        for seed in (1, 2, 3)
        for task, gamma in (("climb_monotone", 0.9), ("climb_penalty", 1.0))
    ]


def test_the_first_scale_counts_unless_another_is_chosen_and_p_goes_before_both(
    tmp_path: Path,
) -> None:
    text = """
    notebook: 01_train
    parameters: {algorithm: qmix, task: climb_monotone, seed: 0..1}
    scales:
      small: {parameters: {preset: tiny}}
      large: {parameters: {preset: paper, seed: 7}}
    """
    first = expand(tmp_path, text)
    assert [(r["preset"], r["seed"]) for r in first] == [("tiny", 0), ("tiny", 1)]
    assert [r["seed"] for r in expand(tmp_path, text, scale="large")] == [7]
    given = expand(tmp_path, text, scale="large", given={"seed": [3, 4], "preset": "quick"})
    assert [(r["preset"], r["seed"]) for r in given] == [("quick", 3), ("quick", 4)]


def keys(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    return [run.folder.name for run in plan(load_grid(path), tmp_path / "runs").runs]


def test_the_key_is_made_of_what_decides_the_run(tmp_path: Path) -> None:
    start = "{algorithm: qmix, task: climb_monotone, seed: %s}"
    text = "notebook: 01_train\nparameters: " + start
    (base,) = keys(tmp_path, text % "3")
    assert base.startswith("qmix_climb_monotone_seed3_")
    assert keys(tmp_path, text % "'3'") == [base]  # the same setting, written otherwise
    assert keys(tmp_path, text % "3, preset: tiny") == [base]  # the notebook's default, said
    assert keys(tmp_path, text % "3, gamma: null") == [base]
    assert keys(tmp_path, text % "[3, 4]")[0] == base  # what else is in the grid does not matter
    assert keys(tmp_path, text % "3, gamma: 0.9") != [base]
    assert keys(tmp_path, text % "4") != [base]


def test_prose_and_outputs_of_a_notebook_do_not_count_but_its_code_does(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "a.ipynb", "x = 0", "print(x)")
    before, content = code_checksum(path), path.read_text()
    path.write_text(content.replace('"outputs": []', '"outputs": [], "collapsed": true'))
    assert code_checksum(path) == before
    prose = {"cell_type": "markdown", "id": "p", "source": "# A title", "metadata": {}}
    path.write_text(content.replace('"cells": [', f'"cells": [{json.dumps(prose)}, '))
    assert code_checksum(path) == before and "A title" in path.read_text()
    path.write_text(content.replace("print(x)", "print(x + 1)"))
    assert code_checksum(path) != before
    assert parameters_cell(path) == {"x": 0}


def test_the_data_count_too(tmp_path: Path) -> None:
    data = write_climb_dataset(tmp_path / "data.h5")
    text = f"notebook: 01_train\nparameters: {{task: climb_monotone, dataset: {data}}}"
    first = keys(tmp_path, text)
    with h5py.File(data, "a") as file:
        file["reward"][0, 0, 0] += 1
    assert keys(tmp_path, text) != first


def test_data_of_another_task_are_found_before_anything_starts(tmp_path: Path) -> None:
    data = write_climb_dataset(tmp_path / "data.h5")
    text = "notebook: 01_train\nparameters: {task: [climb_monotone, climb_penalty], dataset: %s}"
    with pytest.raises(ValueError, match="of climb_monotone on climb, asked for: climb_penalty on"):
        keys(tmp_path, text % data)
    data.write_bytes(b"not HDF5")
    with pytest.raises(ValueError, match="is not an HDF5 file"):
        keys(tmp_path, text % data)


def test_learning_code_is_what_runs_learn_with() -> None:
    code = set(learning_code())
    learning = ("method/learner.py", "config.py", "envs/smax.py", "training/replay.py")
    assert {f"ovmse/{name}" for name in learning} <= code
    others = ("ovmse/cli", "ovmse/runs", "ovmse/ladders", "ovmse/sweep")
    assert not {name for name in code if name.startswith(others)}


def test_what_an_editor_leaves_is_no_code(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    before = checksums(tmp_path)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints/a-checkpoint.py").write_text("x = 2")
    (tmp_path / ".#a.py").symlink_to("nobody@nowhere.1")
    assert checksums(tmp_path) == before
    (tmp_path / "a.py").write_text("x = 2")
    assert checksums(tmp_path) != before


def test_an_edit_counts_until_everything_is_imported_and_not_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_expected_code.cache_clear()
    monkeypatch.setenv(EXPECTED, "another")
    with pytest.raises(CodeChangedError):
        require_expected_code()
    monkeypatch.setenv(EXPECTED, learning_code_key())
    require_expected_code()
    monkeypatch.setenv(EXPECTED, "another")
    require_expected_code()  # a run whose pre-training is over goes on
    require_expected_code.cache_clear()


def test_the_last_notebooks_look_at_the_runs_of_the_plan_alone(tmp_path: Path) -> None:
    """Else an earlier plan's runs of the same folder would be mixed into the figure."""
    grid = load_grid(ROOT / "notebooks/grids/figure1.yaml")
    plans = [plan(grid, tmp_path, given={"preset": preset}) for preset in ("tiny", "quick")]
    assert plans[0].folder == plans[1].folder
    for planned in plans:
        (last,) = planned.last
        assert last.parameters == {"runs": [str(run.folder) for run in planned.runs]}
    assert plans[0].last[0].folder != plans[1].last[0].folder


def test_an_edited_chart_draws_the_last_notebooks_anew_and_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["cp", "-r", *map(str, (ROOT / "analysis", ROOT / "notebooks")), tmp_path],
                   check=True)  # fmt: skip
    monkeypatch.setattr(grids, "PROJECT", tmp_path)
    grid = load_grid(tmp_path / "notebooks/grids/figure1.yaml")
    before = plan(grid, tmp_path)
    with (tmp_path / "analysis/charts/curves.py").open("a") as file:
        file.write("# another colour")
    after = plan(grid, tmp_path)
    assert [run.folder for run in after.runs] == [run.folder for run in before.runs]
    assert after.last[0].folder != before.last[0].folder


def test_differences_are_named() -> None:
    mine = {
        "torch": "2.13.0",
        "ovmse/method/learner.py": "a",
        "dataset x": "1",
        "run folder /r": "t",
    }
    theirs = {"torch": "2.12.0", "ovmse/method/learner.py": "b", "dataset x": "missing",
              "run folder /r": "missing"}  # fmt: skip
    assert difference(mine, mine) == ""
    assert difference(mine, theirs) == (
        "torch 2.12.0, not 2.13.0, another ovmse/method/learner.py, no dataset x and 1 more"
    )


QMIX = "notebook: 01_train\nparameters: {algorithm: qmix, task: climb_monotone"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got None, allowed: notebook, parameters"),
        ("notebook: [", "is not YAML"),
        ("[" * 20_000, "is not YAML: nested too deeply"),
        ("notebook: 01_train\nnotebook: 02_q_drift", "'notebook' stands twice"),
        ("notebook: 01_train\nparameter: {}", "no entry 'parameter'; did you mean 'parameters'?"),
        ("notebook: 01_tain", "there is no notebook '01_tain' in notebooks/, which holds 00"),
        ("notebook: none.ipynb", "there is no notebook"),
        ("notebook: 3", "notebook: got 3, input should be a valid string"),
        (QMIX + ", sede: 1}", "01_train.ipynb has no parameter 'sede'; did you mean 'seed'?"),
        (QMIX + ", seed: []}", "seed: got an empty list, allowed: at least one value"),
        (QMIX + ", seed: 5..0}", "seed: got '5..0', allowed: a range such as 0..5"),
        (QMIX + ", seed: 0...5}", "seed: got '0...5', allowed: a range such as 0..5"),
        (QMIX + ", seed: [0..5, 7]}", "seed: got a range within a list"),
        (QMIX + ", seed: [1, 1]}", "two of the runs are the same"),
        (QMIX + ", seed: [1, '1']}", "two of the runs are the same"),
        (QMIX + ", seed: {a: 1}}", "seed: got {'a': 1}, allowed: a number, a text or a list"),
        (QMIX + ", seed: five}", "seed: got 'five', allowed: a valid integer"),
        (QMIX + ", gamma: 2}", "gamma: got 2, allowed: less than or equal to 1"),
        (QMIX + ", mixing_ratio: 0.5}", "dataset: got 'medium', allowed for climb_monotone"),
        (QMIX + ", seed: 0..1000000}", "the grid has 1,000,001 runs, allowed: at most 10,000"),
        (QMIX + ", seed: 0..99999999999999999}", "the grid has 100,000,000,000,000,000 runs"),
        (QMIX + ", run_dir: here}", "run_dir is set by the sweep; leave it out of the grid"),
        (QMIX + "}\nzip: [{seed: [1, 2], gamma: [1]}]", "equally long, got seed 2, gamma 1"),
        (QMIX + "}\nzip: [{task: [a]}]", "task is given twice: in a zip group and elsewhere"),
        (QMIX + "}\nzip: [{}]", "must be equally long, got nothing"),
        (QMIX + "}\nzip: {seed: [1]}", "zip: got {'seed': [1]}, input should be a valid list"),
        (QMIX + "}\nzip: [{seed: 0..2, gamma: [1]}]", "equally long, got seed 3, gamma 1"),
        (QMIX + "}\nthen: [01_train]", "then: 01_train.ipynb has no parameter 'runs'"),
        (QMIX + ", seed: 2024-13-45}", "is not YAML"),
        (QMIX + ", seed: !!float abc}", "is not YAML"),
        (QMIX + ", seed: !!bool abc}", "is not YAML"),
        (QMIX + ", seed: !!int ''}", "is not YAML"),
        (QMIX + ", seed: [0, null]}", "two of the runs are the same"),
        (QMIX + ", <<: {seed: 1}, <<: {seed: 2}}", "'<<' stands twice"),
        (QMIX + "}\nthen: [02_q_drift, 02_q_drift]", "then: '02_q_drift' stands twice"),
        (QMIX + ", seed: 1:30}", "seed: got '1:30', allowed: a valid integer"),
        (QMIX + ", gamma: 0:0.9}", "gamma: got '0:0.9', allowed: a valid number"),
        (QMIX + ", seed: [10, 010]}", "two of the runs are the same"),
        (QMIX + "}\nscales: {../../x: {}}", "scales: got the name '../../x', allowed: letters"),
        (QMIX + "}\nscales: {a: {}, b/c: {}}", "scales: got the name 'b/c', allowed: letters"),
        (QMIX + "}\nscales: {'': {}}", "scales: got the name '', allowed: letters, digits"),
        ("notebook: ~nouser/x.ipynb", "notebook: got '~nouser/x.ipynb', allowed: a path; there is"),
        ('notebook: "a\\0b.ipynb"', "notebook: got 'a\\x00b.ipynb', allowed: a path without a"),
        (QMIX + ", dataset: ~nouser/x.h5}", "dataset: got '~nouser/x.h5', allowed: a path; there"),
        (QMIX + ', dataset: "a\\0/b.h5"}', "dataset: got 'a\\x00/b.h5', allowed: a path without a"),
        ("notebook: !!python/object/apply:os.system [ls]", "is not YAML"),
        ("notebook: 01_train\nparameters: {task: 6h_vs_8z}",
         "make it: ovmse data make --task 6h_vs_8z --quality medium"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_before_anything_starts(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    done = CliRunner().invoke(app, ["sweep", str(path), "--folder", str(tmp_path / "runs")])
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_scheduler_at_tls_without_certificates_is_told_what_it_lacks() -> None:
    with pytest.raises(RunError, match=r"\(tls needs certificates .* distributed.comm.tls\)"):
        _require_answer("tls://127.0.0.1:9")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("pipe.yaml", "pipe.ipynb"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "grid.yaml").write_text("notebook: pipe.ipynb")
    for grid, named in (("pipe.yaml", "pipe.yaml"), ("grid.yaml", "pipe.ipynb")):
        with pytest.raises(UserError, match=f"{named} .*Not a regular file"):
            plan(load_grid(tmp_path / grid), tmp_path / "runs")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale", "huge"], "--scale: got 'huge', allowed: quick, demo, paper"),
        (["-p", "seed"], "got 'seed', allowed: NAME=VALUE"),
        (["-p", "seed="], "seed: got no value"),
        (["-p", "seed=1", "-p", "seed=2"], "seed: got it twice; give a list, such as [0, 1]"),
        (["-p", "seed=1:30"], "seed: got '1:30', allowed: a valid integer"),
        (["-p", "seed=[1"], "seed: got '[1', allowed: a value, a range or a list"),
        (["-p", "seed=" + "[" * 20_000], "[[', allowed: a value, a range or a list"),
        (["--folder", str(ROOT / "README.md")], "README.md', allowed: a folder ("),
        (["--folder", "inside"], "allowed: a folder (this lies in the run "),
        (["--folder", "x" * 300], "xxx', allowed: a folder (File name too long)"),
        (["-p", "sed=1"], "has no parameter 'sed'; did you mean 'seed'?"),
        (["--scheduler", "tcp://127.0.0.1:9", "--workers", "2"], "--workers is of this machine"),
        (["--max-runs", "3"], "the grid has 8 runs, allowed: at most 3"),
    ],
)
def test_a_wrong_option_is_one_sentence(tmp_path: Path, options: list[str], message: str) -> None:
    grid = ROOT / "notebooks/grids/figure1.yaml"
    where = ["--folder", str(tmp_path / "runs")]
    if options[-1] == "inside":
        (tmp_path / "run/snapshots").mkdir(parents=True)
        (tmp_path / "run/config.json").write_text("{}")
        options = ["--folder", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["sweep", str(grid), *where, *options, "--dry-run"])
    assert done.exit_code == 2
    assert len(done.stderr) < 400
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def without_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grids can be planned without their datasets: most are made by a command, not shipped."""
    monkeypatch.setattr(grids, "dataset_path", lambda *asked: Path("_".join(asked)))
    monkeypatch.setattr(grids, "file_checksum", lambda name: "x")
    monkeypatch.setattr(grids, "require_source", lambda *source: None)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
@pytest.mark.parametrize("scale", ["quick", "paper"])
def test_shipped_grids_are_valid(
    path: Path, scale: str, tmp_path: Path, without_datasets: None
) -> None:
    planned = plan(load_grid(path), tmp_path, scale)
    runs = {"figure1": (8, 24), "figures_2_3": (27, 216), "ablation": (15, 90),
            "mixing_ratio": (12, 24)}[path.stem]  # fmt: skip
    assert len(planned.runs) == runs[scale == "paper"]
    assert {run.config.preset for run in planned.runs if run.config} == {scale}
    if path.stem == "ablation" and scale == "paper":  # the paper, section 5.3
        mixed = {(r.config.task, r.config.dataset): r.config.mixing_ratio for r in planned.runs}  # type: ignore[union-attr]
        assert mixed == {("2s3z", "medium"): 0, ("6h_vs_8z", "medium"): 0.1,
                         ("6h_vs_8z", "medium_replay"): 0}  # fmt: skip


def test_the_offline_settings_are_chosen_on_tuning_seeds(
    tmp_path: Path, without_datasets: None
) -> None:
    grid = load_grid(ROOT / "notebooks/grids/results/offline_settings.yaml")
    for task in ("6h_vs_8z", "2s3z", "3s5z", "5m_vs_6m"):
        configs = [run.config for run in plan(grid, tmp_path, task).runs if run.config]
        assert {c.task for c in configs} == {task}
        assert {c.seed for c in configs} == {50, 51, 52, 53}
        assert len({json.dumps(c.pretraining) for c in configs}) == len(configs) == 48


def test_the_grids_of_the_results_plan_what_the_pages_say(
    tmp_path: Path, without_datasets: None
) -> None:
    for asked in PLANNED:
        grid = load_grid(ROOT / f"notebooks/grids/results/{asked.item}.yaml")
        configs = [run.config for run in plan(grid, tmp_path, asked.scale).runs if run.config]
        assert len(configs) == asked.runs, asked
        assert {c.seed for c in configs} == set(asked.seeds), asked
        assert {c.online_steps for c in configs} == {asked.online_steps}, asked
        assert {(c.task, c.dataset) for c in configs} == {(asked.task, asked.dataset)}
        tuned = {50, 51, 52, 53} & {c.seed for c in configs}
        assert bool(tuned) == (asked.item == "tuning"), "nothing is tuned on reported seeds"
        if asked.item == "noise":
            agents = n_agents(asked.task)
            one = {explorers(c.exploration, c.epsilon_start, agents) for c in configs}
            assert one <= {0.05, 0.1, 0.25, 0.5, 1, 2, agents}
            assert {explorers(c.exploration, c.epsilon_end, agents) for c in configs} == {0.05}
            assert {c.algorithm for c in configs} <= {"switch_cql", "macql", "ovm", "se", "ovmse"}
        if asked.item == "tuning":  # the same budget for all
            budget = Counter(c.algorithm for c in configs)
            assert budget.pop("ovmse") == 3 * 2 * 12  # with two candidates of our own
            assert set(budget.values()) == {2 * 12} and len(budget) == 8


def test_a_grid_may_set_any_setting_of_config(tmp_path: Path) -> None:
    text = yaml.safe_dump({
        "notebook": "01_train",
        "parameters": {"algorithm": "qmix", "task": "climb_monotone", "online_lr": 1e-3,
                       "hidden_size": [16, 32]},
    })  # fmt: skip
    assert [run["hidden_size"] for run in expand(tmp_path, text)] == [16, 32]


def test_dry_run_prints_every_run_and_writes_nothing(tmp_path: Path) -> None:
    grid = ROOT / "notebooks/grids/figure1.yaml"
    where = ["--folder", str(tmp_path / "runs"), "--dry-run"]
    done = CliRunner().invoke(app, ["sweep", str(grid), *where])
    assert done.exit_code == 0
    assert "new: switch_cql, seed 1 (switch_cql_2s3z_seed1_" in done.stdout
    assert "8 runs, 8 of them left" in done.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("%magic", "the parameters are not plain Python"),
        ("x = {1, 2}", None),
        ("x = open", None),
        ("x = {1: 'a', 'b': (2,)}", None),
    ],
)
def test_odd_notebooks(tmp_path: Path, parameters: str, message: str | None) -> None:
    write_notebook(tmp_path / "odd.ipynb", parameters)
    text = "notebook: odd.ipynb"
    if message is None:
        assert len(expand(tmp_path, text)) == 1
        return
    with pytest.raises(ValueError, match=message):
        expand(tmp_path, text)


def test_a_key_does_not_depend_on_the_order_of_a_set() -> None:
    assert list({0, 8}) != list({8, 0})
    assert grids._key({0, 8}) == grids._key({8, 0}) != grids._key({0, 7})


def test_numbers_and_merged_mappings_are_read_as_yaml_1_2_does(tmp_path: Path) -> None:
    write_notebook(tmp_path / "plain.ipynb", "rate = 0.1\nsize = 1")
    text = """
    notebook: plain.ipynb
    parameters: &base {rate: [1e-3, 2E5], size: 2}
    scales:
      large: {parameters: {<<: *base, size: 3}}
    """
    runs = expand(tmp_path, text, scale="large")
    assert runs == [{"rate": 0.001, "size": 3}, {"rate": 200_000.0, "size": 3}]
    text = "notebook: plain.ipynb\nparameters: {size: [010, 08, -012, 0x10, 1_000, 1:30]}"
    sizes = [run["size"] for run in expand(tmp_path, text)]
    assert sizes == [10, 8, -12, 16, 1000, "1:30"]
    assert [grids.grid_value("seed", text) for text in ("010", "[08]")] == [10, [8]]


def test_the_estimate_is_the_mean_of_the_runs_most_alike(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(QMIX + ", preset: quick, seed: 0..3}")
    planned = plan(load_grid(grid), tmp_path / "runs")
    for run, seconds in zip(planned.runs, (100, 200)):  # two of four are done
        run.folder.mkdir(parents=True)
        record = {"state": "done", "notebook": "01_train.ipynb", "seconds": seconds}
        write_json(run.folder / "sweep.json", record)
        assert run.config
        write_json(run.folder / "config.json", run.config.model_dump())
        (run.folder / "weights").write_bytes(b"0" * 10_000)
    cost = estimate(planned, [tmp_path / "runs"], False)
    assert (cost.left, cost.known, cost.finished) == (2, 2, 2)
    assert cost.core_hours == pytest.approx(2 * 150 / 3600)
    assert cost.size == pytest.approx(2 * 11_000, rel=0.1)
    for number, (seconds, preset) in enumerate(  # damaged: what is of another kind tells nothing
        [("1" + 400 * "0", '"quick"'), ("NaN", '"quick"'), ("-5", '"quick"'), ("1", '["quick"]')]
    ):
        odd = tmp_path / "runs" / f"odd{number}"
        odd.mkdir()
        record = f'{{"state": "done", "notebook": "01_train.ipynb", "seconds": {seconds}}}'
        (odd / "sweep.json").write_text(record)
        (odd / "config.json").write_text(f'{{"preset": {preset}}}')
    again = estimate(planned, [tmp_path / "runs"], False)
    assert (again.known, again.finished, again.core_hours) == (2, 3, cost.core_hours)
    grid.write_text(QMIX + ", preset: paper, seed: 0}")
    paper = plan(load_grid(grid), tmp_path / "runs")
    assert estimate(paper, [tmp_path / "runs"], False).known == 0  # nothing is alike
    assert cost.memory == 0
    games_of = QMIX.replace("climb_monotone", "2s3z") + ", seed: 0..1, backend: smac, num_envs: 3}"
    grid.write_text(games_of)
    games = estimate(plan(load_grid(grid), tmp_path / "runs"), [tmp_path / "runs"], False)
    assert games.memory == 3 * 2**30


def test_the_time_left_counts_a_shared_pre_training_once(tmp_path: Path) -> None:
    grid = load_grid(ROOT / "notebooks/grids/figure1.yaml")
    planned = plan(grid, tmp_path, given={"preset": "tiny", "online_steps": 2_000})  # 8 runs
    state = SweepProgress([Watched(run, False) for run in planned.runs])
    first = state.runs[0]
    first.start()
    first.run.folder.mkdir(parents=True)
    row = {"phase": "online", "env_steps": 1_000, "updates": 9, "test_win_rate": 0.5}
    (first.run.folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    state.began -= 750
    # Half of its online half is left, the other seed is whole, six more share a pre-training:
    # 0.25 + 1 + 6 * 0.5 = 4.25 runs are left after 0.75 in 750 s.
    assert state.summary().startswith("1 running, 7 waiting of 8; 12.5 min so far")
    assert state.summary().endswith("about 71 min left")
