"""The notebooks as people use them: stored, under nbval, through papermill, and as make demo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from papermill import execute_notebook
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from analysis.charts.show import VEGALITE
from analysis.drift import replay
from analysis.notebook import parameters, runs_folder
from ovmse.errors import UserError
from ovmse.runs.reading import find_runs, read_config, read_metrics

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """`make demo` with two algorithms at less than the tiny preset, one seed, in a folder with a
    space in its name."""
    folder = tmp_path_factory.mktemp("demo") / "my runs"
    return folder, _demo(folder)


def _demo(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "analysis.demo", "--folder", str(folder)]
    command += ["-p", "preset=tiny", "-p", "seed=0", "-p", "algorithm=[ovmse, macql]"]
    for name, value in {"online_steps": 1_000, "offline_updates": 30, "epsilon_anneal": 500,
                        "memory_anneal": 500, "test_interval": 500}.items():  # fmt: skip
        command += ["-p", f"{name}={value}"]
    command += ["--workers", "2"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_notebooks_are_whole_small_and_without_widget_state(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < 1_000_000
    assert "widgets" not in notebook.metadata
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in code), "run it from top to bottom before a commit"
    assert sum("parameters" in c.metadata.get("tags", []) for c in code) == 1
    outputs = [o.get("data", {}) for c in code for o in c.outputs]
    assert any({VEGALITE, "image/png"} <= set(data) for data in outputs)
    assert str(ROOT) not in path.read_text(), "a path of this machine is stored"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_nbval(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-cell-timeout=300", "-q"]
    command += ["-p", "no:cacheprovider", "--nbval-sanitize-with", "tests/nbval.cfg", str(path)]
    env = {**os.environ, "OVMSE_RUNS": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    if path.stem == "01_train":  # nbval's cells leave no trace in the kernel's history
        assert [folder.name for folder in tmp_path.iterdir()] == ["tiny"]
        [run] = find_runs(tmp_path)
        online = [row for row in read_metrics(run) if row["phase"] == "online"]
        assert online[0]["updates"] == 0  # measured before any online update
        assert online[-1]["env_steps"] >= read_config(run)["online_steps"]
        assert all(0 <= row["test_win_rate"] <= 1 for row in online)
        assert all(row["test_return"] <= 20.001 for row in online)


WRONG = [
    ("00_walkthrough", {"runs": "no such folder"}, "there is no run in"),
    ("01_train", {"sede": 3}, "the notebook has no parameter 'sede'; did you mean 'seed'?"),
    ("01_train", {"seed": "five"}, "seed: got 'five', allowed: a valid integer"),
    ("01_train", {"algorithm": "ovms"}, "algorithm: got 'ovms', allowed: 'ovmse'"),
    ("02_q_drift", {"run": "x"}, "the notebook has no parameter 'run'; did you mean 'runs'?"),
    ("02_q_drift", {"runs": "no such folder"}, "there is no run in"),
    ("03_exploration", {"run": "ovms"}, "run: none of the runs is called 'ovms'"),
    ("03_exploration", {"battles": "many"}, "battles: got 'many', allowed: a whole number"),
    ("03_exploration", {"epsilon": 0.5, "battles": 2}, "epsilon: got 0.5, allowed: above 0"),
    ("04_results", {"runs": "x"}, "the notebook has no parameter 'runs'"),
    ("04_results", {"results": 4}, "results: got 4, allowed: a folder of runs or a Parquet file"),
    ("04_results", {"results": "no such.parquet"}, "there is no file"),
    ("05_ablation", {"results": "no such folder"}, "there is no run in"),
    ("05_ablation", {"runs": "no such folder"}, "there is no run in"),
    ("05_ablation", {"runs": 3}, "runs: got 3, allowed: "),
    ("06_datasets", {"datasets": ["3s5z_medium"]}, "makes it in one to three minutes"),
]


def test_a_wrong_parameter_stops_with_one_sentence(tmp_path: Path) -> None:
    """The cells as papermill would run them, one notebook after another in one kernel."""
    kernel = NotebookClient(nbformat.v4.new_notebook(), resources={"metadata": {"path": tmp_path}})
    with kernel.setup_kernel():
        for name, given, message in WRONG:
            source = load_notebook_node(str(ROOT / "notebooks" / f"{name}.ipynb"))
            kernel.nb = parameterize_notebook(source, given)
            kernel.execute_cell(nbformat.v4.new_code_cell("%reset -f"), 0)
            with pytest.raises(CellExecutionError) as error:
                for number, cell in enumerate(kernel.nb.cells):
                    kernel.execute_cell(cell, number)
            assert message in error.value.evalue
            assert "\n" not in error.value.evalue
            assert list(tmp_path.iterdir()) == []  # nothing half-written


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [("04_results", {"results": "data/results/hard_map.parquet"}, "**5m_vs_6m medium** (one seed)"),
     ("05_ablation", {"results": "data/runs", "runs": "data/runs/6h_vs_8z"}, "memory added to SE")],
)  # fmt: skip
def test_other_results_are_shown_as_they_are(
    tmp_path: Path, name: str, given: dict[str, str], said: str
) -> None:
    """Through papermill itself."""
    out = tmp_path / "out.ipynb"
    execute_notebook(ROOT / f"notebooks/{name}.ipynb", out, given, cwd=tmp_path, progress_bar=False)
    outputs = [o for c in nbformat.read(out, 4).cells for o in c.get("outputs", [])]
    texts = [str(o.data.get("text/markdown", "")) for o in outputs if "data" in o]
    assert said in texts[0] and ("2s3z" in texts[0]) == (given["results"] == "data/runs")
    others = [text for text in texts if text.startswith("**Not of this plan**")]
    assert bool(others) == (given["results"] == "data/runs")
    assert all(
        "6 on 6h_vs_8z medium (paper_setting: seed 50; 60,000 steps)" in text for text in others
    )
    assert any("**Not run**" in text for text in texts)


def test_the_demo_ends_with_where_to_look(demo: tuple) -> None:
    folder, done = demo
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    last = done.stdout.strip().splitlines()[-3:]
    (runs,) = folder.glob("code-*")
    assert last[0] == f"Executed notebooks: {runs}"
    front = folder / "report/index.html"
    assert str(front) in last[1]
    assert "OVMSE keeps " in front.read_text() or "OVMSE had no wins" in front.read_text()
    pages = {path.name: path.read_text() for path in front.parent.glob("0*.html")}
    assert list(sorted(pages)) == [f"{path.stem}.html" for path in NOTEBOOKS]
    own = {name for name, page in pages.items() if str(runs) in page}
    assert own == {"01_train.html", "02_q_drift.html"}
    assert "Monte-Carlo" in (front.parent / "02_q_drift.html").read_text()
    assert f'runs = "{runs}"' in last[2]
    assert len(find_runs(runs)) == 2


def test_pretraining_is_done_once_for_all_algorithms(demo: tuple) -> None:
    folder, _ = demo
    assert len(list(folder.glob("code-*/pretrain/*"))) == 1
    firsts = {}
    for run in find_runs(folder):
        online = [row for row in read_metrics(run) if row["phase"] == "online"]
        assert (online[0]["env_steps"], online[0]["updates"]) == (0, 0)
        firsts[read_config(run)["algorithm"]] = online[0]["q_fixed"]
    assert len(firsts) == 2
    assert len(set(firsts.values())) == 1  # the same network, before any online update


def test_the_replay_of_the_snapshots_agrees_with_what_training_measured(demo: tuple) -> None:
    folder, _ = demo
    table = replay(folder).set_index(["run", "env_steps"]).q_fixed
    recorded = {
        (str(run), row["env_steps"]): row["q_fixed"]
        for run in find_runs(folder)
        for row in read_metrics(run)
        if row["phase"] == "online"
    }
    assert set(table.index) == set(recorded)
    for key, value in recorded.items():
        assert table[key] == pytest.approx(value, abs=1e-4)


def test_a_second_demo_redoes_nothing(demo: tuple) -> None:
    folder, _ = demo
    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("metrics.jsonl")}
    trained = {p: p.stat().st_mtime_ns for p in folder.rglob("01_train.ipynb")}
    assert _demo(folder).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert {p: p.stat().st_mtime_ns for p in trained} == trained


def test_folders_are_found_from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setattr("analysis.notebook.RUNS", ROOT / "runs")
    assert runs_folder("", "tiny/x") == ROOT / "runs/tiny/x"
    assert runs_folder("runs/y", "tiny/x") == ROOT / "runs/y"
    assert runs_folder("/somewhere", "tiny/x") == Path("/somewhere")
    monkeypatch.setattr("analysis.notebook.RUNS", Path("/elsewhere"))  # as OVMSE_RUNS says
    assert runs_folder("", "tiny/x") == Path("/elsewhere/tiny/x")


OWN = "# Parameters of this notebook\n"
KNOWN = ["seed", "lr", "runs"]
LEFT = {"seed": 9, "lr": 0.1, "runs": "old", "x": 2}  # what the kernel still holds


def now(*cells: str) -> dict:
    return parameters({**LEFT, "In": ["", "import os", *cells, "x = 2"]}, KNOWN)


def test_parameters_come_from_their_cells_alone() -> None:
    cell = OWN + "seed: int = 1\nlr: float | None = None\n"
    assert now(cell) == {"seed": 1, "lr": None}
    assert now(cell, "# Parameters\nseed = 3\n") == {"seed": 3, "lr": None}
    for own in ("seed = 4", "seed: int = 4"):  # a cell of somebody's own
        assert now(cell, own) == now(own, cell) == {"seed": 1, "lr": None}
    assert now(cell, OWN + "seed: int = 2\n") == {"seed": 2}  # a line was deleted, run again
    assert now(OWN + "seed = 2") == {"seed": 2}  # no annotation
    assert now(OWN + "seed: int = x + 1") == {"seed": 3}
    assert now(cell, OWN) == {}  # every line was deleted: what the notebook takes for granted
    assert parameters({**LEFT, "In": [""]}, KNOWN) == {"seed": 9, "lr": 0.1, "runs": "old"}


OTHERWISE = ["import os", "print(seed)", '"How I set it."', "if seed: seed = 2", "seed += 1"]
OTHERWISE += ["lr: float", "seed, lr = 1, 2", "runs[0] = ''", "for seed in (1, 2): pass"]


@pytest.mark.parametrize("line", OTHERWISE)
def test_what_is_no_plain_assignment_in_the_cell_of_parameters_is_said(line: str) -> None:
    with pytest.raises(UserError, match="the cell of the parameters holds .*, allowed: NAME = "):
        now(OWN + "seed: int = 1\n" + line + "\nlr: float = 0.1")


def test_a_cell_of_parameters_that_is_unknown_wrong_or_missing_is_said() -> None:
    own, wrong = OWN + "seed: int = 1\n", "# Parameters\nsede = 3\n"
    for cells in ((own, wrong), (own + "sede = 3\n",), (OWN + "sede: int = 3\n",)):
        with pytest.raises(UserError, match="no parameter 'sede'; did you mean 'seed'"):
            now(*cells)
    for cells in ((), ("seed: int = 1",), (wrong,)):
        with pytest.raises(UserError, match="no cell with the line '# Parameters of this"):
            now(*cells)
    with pytest.raises(UserError, match="is not plain Python"):
        now(own, OWN + "seed: int = ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_has_the_line_by_which_its_parameters_are_known(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    [tagged] = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert tagged.source.startswith(OWN.strip())
