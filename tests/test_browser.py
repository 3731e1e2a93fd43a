"""What a person sees: the report, the notebook run, reopened and live, in a real browser."""

from __future__ import annotations

import re

import pytest
import sweeps
from browser import MARKS, pixels, wait_for, write_notebook
from fake_runs import STORY, write_runs

from analysis.charts.curves import figure1
from analysis.charts.show import VEGALITE, mimebundle
from analysis.charts.theme import STYLES
from analysis.report import write_report
from analysis.tables import curves

pytestmark = MARKS
COLOURS = {name: STYLES[name].colour for name in STORY}
SHOW = """
from analysis.charts.curves import figure1
from analysis.charts.show import show
from analysis.tables import curves
show(figure1(curves({runs!r})))
"""
SLOW = """
import time
from analysis.widgets.live import follow
from ovmse.training.phase import Progress

def train():
    for step in range(0, 60_001, 500):
        row = None
        if step % 5_000 == 0:
            row = {"test_win_rate": step / 80_000, "q_ended": 10.5 - step / 20_000, "mc_ended": 8.7}
        yield Progress("online", step, 60_000, "environment steps", row)
        time.sleep(0.06)

rows = follow(train(), "OVMSE on 2s3z medium", "ovmse")
"""
SWEEP = """
from analysis.widgets.sweeps import follow_sweep
from ovmse.sweep.grid import load_grid, plan
from ovmse.sweep.engine import sweep

state = follow_sweep(sweep(plan(load_grid({grid!r}), {runs!r}), workers=1), "Three <b>waits</b>")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def bundle(runs):
    return mimebundle(figure1(curves(runs)))


def drawn(locator) -> bytes:
    """A screenshot of a chart once all its algorithms' lines are on it."""

    def look():
        locator.scroll_into_view_if_needed()
        picture = locator.screenshot()
        return picture if all(pixels(picture, c) > 200 for c in COLOURS.values()) else None

    return wait_for(look, "lines in the colours of all algorithms")


def test_an_outside_address_is_refused_and_counted(browser):
    page = browser.page()
    page.set_content('<img src="http://example.com/a.png">')
    wait_for(lambda: browser.refused == ["http://example.com/a.png"], "the refusal", 10)


def test_report_draws_and_answers_without_a_network(browser, bundle, tmp_path):
    source = write_notebook(tmp_path / "a.ipynb", "show(chart)", outputs={0: [bundle]})
    page = browser.page()
    browser.refused.clear()
    page.goto(write_report(source, tmp_path / "a.html").as_uri())
    chart = page.locator("figure.chart")
    chart.locator("svg.marks").wait_for()
    before = drawn(chart)
    chart.get_by_text("Switch CQL").first.click()
    page.mouse.move(5, 5)  # leaves no tooltip over the lines

    def dimmed():
        after = chart.screenshot()
        kept = pixels(after, COLOURS["switch_cql"]) > 0.8 * pixels(before, COLOURS["switch_cql"])
        gone = pixels(after, COLOURS["ovmse"]) < 0.1 * pixels(before, COLOURS["ovmse"])
        return kept and gone

    wait_for(dimmed, "a click on one name dims the other lines", 15)
    assert browser.refused == []


def test_report_shows_its_picture_without_javascript(browser, bundle, tmp_path):
    source = write_notebook(tmp_path / "a.ipynb", "show(chart)", outputs={0: [bundle]})
    page = browser.page(javascript=False)
    page.goto(write_report(source, tmp_path / "a.html").as_uri())
    drawn(page.locator("figure.chart img"))


def test_lab_runs_the_notebook_and_draws(browser, lab, runs):
    write_notebook(lab.folder / "run.ipynb", "1 + 1", SHOW.format(runs=str(runs)))
    notebook = lab.open(browser, "run.ipynb")
    browser.refused.clear()
    notebook.run_all()
    assert notebook.counts() == [1, 2]
    drawn(notebook.page.locator(".jp-OutputArea-output .vega-embed"))
    assert browser.refused == []
    [output] = notebook.save().cells[1].outputs
    assert set(output.data) == {VEGALITE, "image/png"}


def test_lab_draws_what_is_stored_though_not_trusted(browser, lab, bundle):
    write_notebook(lab.folder / "stored.ipynb", "show(chart)", outputs={0: [bundle]})
    notebook = lab.open(browser, "stored.ipynb")
    assert not notebook.trusted()
    drawn(notebook.page.locator(".jp-OutputArea-output .vega-embed"))
    assert notebook.counts() == [1]


def test_live_curves_move_and_leave_no_widget(browser, lab):
    write_notebook(lab.folder / "live.ipynb", SLOW)
    notebook = lab.open(browser, "live.ipynb")
    notebook.run_all(wait=False)
    canvas = notebook.page.locator(".jp-OutputArea-output canvas")
    canvas.wait_for()
    blue = STYLES["ovmse"].colour
    first = wait_for(lambda: pixels(canvas.screenshot(), blue), "a curve")
    wait_for(lambda: pixels(canvas.screenshot(), blue) > 1.5 * first, "the curve grows", 20)
    wait_for(lambda: notebook.counts() == [1], "the run ends")
    wait_for(lambda: canvas.count() == 0, "the widget goes")
    saved = notebook.save()
    [output] = saved.cells[0].outputs
    assert set(output.data) == {"text/plain"}
    assert "60,000 of 60,000 environment steps, win rate 75 %" in output.data["text/plain"]
    [state] = saved.metadata.widgets.values()  # there only because this server saves widgets
    assert state["state"] == {}


def test_a_sweep_is_a_table_that_moves_and_leaves_no_widget(browser, lab, tmp_path):
    """Dask, papermill and kernels below the notebook's own kernel, as a person would have it."""
    sweeps.write_notebook(tmp_path / "wait.ipynb", "n = 0", "import time", "time.sleep(2)\n1 / n")
    grid = sweeps.write_grid(tmp_path / "grid.yaml", "wait.ipynb", {"n": "0..2"})
    source = SWEEP.format(grid=str(grid), runs=str(tmp_path / "runs"))
    write_notebook(lab.folder / "sweep.ipynb", source)
    notebook = lab.open(browser, "sweep.ipynb")
    notebook.run_all(wait=False)
    table = notebook.page.locator(".jp-OutputArea-output table")
    table.wait_for(timeout=60_000)
    assert "Three <b>waits</b>" in notebook.page.locator(".jp-OutputArea-output").first.inner_text()

    def last_one_runs():
        """The states in the table, once one run is left; which one comes last is Dask's choice."""
        states = dict(re.findall(r"n (\d)\s+(\w+)", table.inner_text()))
        left = [state for state in states.values() if state not in ("done", "failed")]
        return states if left == ["running"] else None

    ends = {"0": "failed", "1": "done", "2": "done"}
    states = wait_for(last_one_runs, "the last one runs", 120)
    last = next(n for n, state in states.items() if state == "running")
    assert states == ends | {last: "running"}
    wait_for(lambda: notebook.counts() == [1], "the sweep ends")
    wait_for(lambda: table.count() == 0, "the widget goes")
    summary, failures = notebook.save().cells[0].outputs
    assert set(summary.data) == {"text/plain"}
    assert "2 done, 1 failed of 3" in summary.data["text/plain"]
    assert "failed: n 0: ZeroDivisionError" in failures.text
