"""The form of 01_train in JupyterLab: it writes the cell, starts, stops, and is found again."""

from __future__ import annotations

from pathlib import Path

import nbformat
from browser import MARKS, Notebook, wait_for
from conftest import ROOT
from papermill.iorw import load_notebook_node

from ovmse.runs.listing import list_runs

pytestmark = MARKS
FORM, CELL = 1, 2  # where they stand in the notebook


class Form:
    """The form of a notebook that was just opened, after its cell was run."""

    def __init__(self, notebook: Notebook) -> None:
        self.page = notebook.page
        self.page.evaluate(
            """async (n) => {
                window.panel.content.activeCellIndex = n;
                await window.jupyterapp.commands.execute('notebook:run-cell');
            }""",
            FORM,
        )
        self.node = self.page.locator(".jp-OutputArea-output").filter(
            has=self.page.get_by_role("button", name="Start")
        )
        self.node.get_by_label("algorithm").wait_for()

    def source(self) -> str:
        """The cell of the parameters."""
        return self.page.evaluate(
            "(n) => window.panel.content.widgets[n].model.sharedModel.source", CELL
        )

    def put(self, source: str) -> None:
        """Makes this the whole cell."""
        self.page.evaluate(
            "([n, text]) => window.panel.content.widgets[n].model.sharedModel.setSource(text)",
            [CELL, source],
        )

    def write(self, text: str) -> None:
        """Puts the text at the end of that cell, as a person would type it."""
        self.put(f"{self.source()}\n{text}")

    def says(self, text: str, seconds: float = 30) -> None:
        status = self.node.get_by_role("status")
        wait_for(lambda: text in status.inner_text(), f"the form says {text!r}", seconds)

    def press(self, name: str) -> None:
        button = self.node.get_by_role("button", name=name)
        wait_for(button.is_enabled, f"{name} can be pressed")
        button.click()


def test_a_training_is_written_started_found_again_and_stopped(
    browser, lab, tmp_path: Path
) -> None:
    nbformat.write(
        load_notebook_node(str(ROOT / "notebooks/01_train.ipynb")), lab.folder / "train.ipynb"
    )
    notebook = lab.open(browser, "train.ipynb")
    form = Form(notebook)
    form.says("of memory")
    form.node.get_by_label("algorithm").select_option("qmix")
    form.node.get_by_label("seed").fill("")
    form.node.get_by_label("seed").blur()
    form.node.get_by_label("seed").fill("3")
    form.node.get_by_label("seed").blur()
    wait_for(lambda: "\nseed: int = 3  # one seed" in form.source(), "the cell is written")
    assert '\nalgorithm: str = "qmix"  # ovmse ovm' in form.source()
    form.write('task = "climb_monotone"\nsede = 1')
    form.says("no parameter 'sede'; did you mean 'seed'?")
    form.press("Start")  # and nothing comes of it
    form.page.evaluate(
        """(n) => { const text = window.panel.content.widgets[n].model.sharedModel;
                    text.setSource(text.source.replace('\\nsede = 1', '')); }""",
        CELL,
    )
    form.says("of memory")
    assert form.node.get_by_label("task").input_value() == "climb_monotone"
    form.write(f'online_steps = 1_000_000\nrun_dir = "{tmp_path}/long"')
    assert not list(tmp_path.iterdir())
    form.press("Start")
    form.says("QMIX on climb_monotone, seed 3")
    wait_for(lambda: [r.status for r in list_runs(tmp_path)] == ["running"], "it trains")
    notebook.save()
    notebook.page.close()

    form = Form(lab.open(browser, "train.ipynb"))  # the page anew, on the kernel that still runs
    form.node.locator("canvas").wait_for()
    assert form.node.get_by_role("button", name="Start").is_disabled()
    form.press("Stop")
    form.says("stopped; Start continues it")
    assert [run.status for run in list_runs(tmp_path)] == ["unfinished"]
    assert form.node.locator("canvas").count() == 0

    form.write(f'online_steps = 2_000\nrun_dir = "{tmp_path}/short"')
    form.press("Start")
    form.says("QMIX (seed 3) won", 90)
    assert {run.path.name: run.status for run in list_runs(tmp_path)}["short"] == "done"


ODD = [  # a last line that a form could spoil, and how it ends once the form says 7
    ("seed = 3  # one", "seed = 7  # one"),
    ("seed: int = 3", "seed: int = 7"),
    ("seed = [\n1,\n2]", "seed = [\n1,\n2]\nseed = 7"),
    ("seed = (\n3\n)", "seed = (\n3\n)\nseed = 7"),
    ("seed = \\\n 3", "seed = \\\n 3\nseed = 7"),
    ("seed = lr_seed = 3", "seed = lr_seed = 3\nseed = 7"),
    ("seed = 1 + 2", "seed = 1 + 2\nseed = 7"),
    ("seed = 1\nseed = 1 + 2", "seed = 1\nseed = 1 + 2\nseed = 7"),
    ("seed == 3", "seed == 3\nseed = 7"),
    ("", "\nseed = 7"),
]


def test_no_cell_is_spoilt_and_what_is_shown_is_what_trains(browser, lab) -> None:
    path = lab.folder / "odd.ipynb"
    nbformat.write(load_notebook_node(str(ROOT / "notebooks/01_train.ipynb")), path)
    form = Form(lab.open(browser, path.name))
    form.says("of memory")
    seed, preset = (form.node.get_by_label(name) for name in ("seed", "preset"))
    own = form.source().splitlines()[0]

    def put(text: str) -> None:
        form.put(f"{own}\n{text}")

    put('preset = "tiny"')
    wait_for(lambda: preset.input_value() == "tiny", "the form follows")
    put("seed = 4")
    wait_for(lambda: preset.input_value() == "quick", "what is not said is what trains")
    assert seed.input_value() == "4"
    for before, after in ODD:
        put(before)
        seed.fill("007")
        seed.blur()
        assert form.source() == f"{own}\n{after}"
    for wrong in ("1.5", "-1"):
        put("seed = 4")
        seed.fill(wrong)
        seed.blur()
        assert form.source() == f"{own}\nseed = 4"
