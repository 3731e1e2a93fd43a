"""The battle player as a person has it: in JupyterLab and in the report, by mouse and keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import nbformat
import pandas as pd
import pytest
from browser import MARKS, wait_for, write_notebook
from conftest import ROOT
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from analysis.battles import AT_ONCE, record
from analysis.charts.show import VEGA, csv_link, vega_mimebundle
from analysis.moments import Moments, valued
from analysis.report import write_report
from analysis.snapshots import Snapshots

pytestmark = MARKS


@pytest.fixture(scope="module")
def seen() -> Moments:
    of = Snapshots(ROOT / "data/runs/2s3z/ovmse")
    return valued(of, 10_000, record(of.run, 10_000, epsilon=0.2, battles=AT_ONCE)[:2])


@pytest.fixture(scope="module", params=["report", "lab"])
def page(request, browser, seen, tmp_path_factory):
    """A page with the player: reopened in JupyterLab, not trusted; or in the report."""
    bundle = vega_mimebundle(seen.player().spec)
    file = {"text/html": csv_link(pd.DataFrame({"value": [0.25, 4]}))}
    if request.param == "lab":
        lab = request.getfixturevalue("lab")
        source = write_notebook(lab.folder / "player.ipynb", "x", outputs={0: [bundle, file]})
        notebook = lab.open(browser, source.name)
        assert not notebook.trusted()
        return notebook.page
    folder = tmp_path_factory.mktemp("report")
    source = write_notebook(folder / "a.ipynb", "x", outputs={0: [bundle, file]})
    page = browser.page()
    page.goto(write_report(source, folder / "a.html").as_uri())
    return page


@pytest.fixture
def place(page, browser, seen) -> Iterator[tuple[Any, Any]]:
    """The page and the player in it, at the step at which it begins."""
    said = hear(page)
    browser.refused.clear()
    player = the_player(page)
    player.locator("svg.marks").wait_for()
    set_to(player, "step", seen.start)
    yield page, player
    assert said == []
    assert browser.refused == []


def the_player(page) -> Any:
    return page.locator(".jp-OutputArea-output, figure.chart").filter(
        has=page.get_by_label("step", exact=True)
    )


def set_to(player, name: str, value: int) -> None:
    player.get_by_label(name, exact=True).fill(str(value))


def hear(page, kinds: tuple[str, ...] = ("error", "warning")) -> list[str]:
    """What the page complains about from now on."""
    said: list[str] = []
    page.on("console", lambda m: said.append(m.text) if m.type in kinds else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    return said


def status(player) -> str:
    texts = player.locator("svg.marks text").all_text_contents()
    return next(text for text in texts if re.match(r"Step \d+ of \d+\. ", text))


def shown_step(player) -> int:
    return int(status(player).split()[1])


def rows(player) -> list[str]:
    """The numbers of the what-if panel."""
    texts = player.locator("svg.marks text").all_text_contents()
    return texts[texts.index("OVM target max(y, memory)") + 1 :][:15]


def test_it_waits_plays_pauses_and_steps(place, seen) -> None:
    page, player = place
    slider = player.get_by_label("step", exact=True)
    page.wait_for_timeout(700)
    assert shown_step(player) == seen.start and slider.input_value() == str(seen.start)
    before = player.locator("svg.marks").screenshot()
    player.get_by_role("button", name="Play").click()
    wait_for(lambda: shown_step(player) >= seen.start + 3, "it plays", 15)
    assert player.locator("svg.marks").screenshot() != before
    player.locator(".press path").click()  # the button within the picture
    at = shown_step(player)
    page.wait_for_timeout(700)
    assert shown_step(player) == at, "it pauses"

    slider.focus()
    for key, step in (("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        assert shown_step(player) == step, key
        assert slider.input_value() == str(step)
    page.keyboard.press("Space")
    wait_for(lambda: shown_step(player) >= 3, "the space key plays", 15)
    page.keyboard.press("End")
    length = seen.battles[0].episode.length
    wait_for(lambda: shown_step(player) == length, "the end is shown", 5)
    assert "lost" in status(player) or "won" in status(player)
    page.keyboard.press("x")  # JupyterLab would cut the cell
    page.keyboard.press("ArrowLeft")
    assert shown_step(player) == length - 1


def test_a_mark_of_the_raster_moves_it_there_and_asks_what_if_not(place, seen) -> None:
    _, player = place
    episode = seen.battles[0].episode
    drawn = episode.exploration.explored.nonzero()
    t, i = (int(x[-1]) for x in drawn)
    marks = player.locator(".event path")
    assert marks.count() == len(drawn[0])
    marks.last.click()
    assert shown_step(player) == t
    assert f"{seen.battles[0].agents[i]} did" in " ".join(
        player.locator("svg.marks text").all_text_contents()
    )
    assert player.get_by_label("what if agent").input_value() == str(i + 1)
    player.locator(".slot path").nth(4).click()
    assert shown_step(player) == 4


def test_another_action_and_another_battle_change_the_numbers(place, seen) -> None:
    page, player = place
    bars = player.locator(".cell path")
    assert bars.count() == seen.battles[0].episode.avail_actions[seen.start].sum()
    bars.nth(0).click()
    first = rows(player)
    player.get_by_label("acts (0: best other)").focus()
    page.keyboard.press("ArrowRight")
    second = rows(player)
    assert second != first and second[:5] == first[:5]
    battle, table = seen.battles[0], seen.what_ifs[0]
    numbers = [float(n.replace("\N{MINUS SIGN}", "-")) for n in second[5:10]]
    values = [table.q_agents, table.q_tot, table.memory, table.td_target, table.ovm_target]
    assert numbers == pytest.approx([float(v[seen.start, 0, 1]) for v in values], abs=0.003)

    player.get_by_label("battle", exact=True).focus()
    page.keyboard.press("ArrowUp")
    length = seen.battles[1].episode.length
    wait_for(lambda: status(player).startswith(f"Step 0 of {length}."), "the other battle", 5)
    player.get_by_label("step", exact=True).focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    available = seen.battles[1].episode.avail_actions[3].sum()
    assert player.locator(".cell path").count() == available
    battle = seen.battles[1]
    said = player.locator("svg.marks text").all_text_contents()
    names = [battle.actions[a] for a in battle.episode.actions[3]]
    at = said.index(battle.agents[-1]) + 1
    assert said[at : at + 5] == names


def test_a_table_is_saved_as_a_file(page, request) -> None:
    """JupyterLab takes the file out of a link that it does not trust; the table is still there."""
    if "lab" in request.node.callspec.id:
        pytest.skip("not trusted")
    with page.expect_download() as download:
        page.get_by_text("Save as CSV").click()
    assert download.value.suggested_filename == "table.csv"
    assert download.value.path().read_text() == "value\n0.25\n4\n"


ONE = ["data/runs/2s3z/ovmse"]
SMALL: dict[str, dict[str, Any]] = {
    "02_q_drift": {"runs": ONE},
    "03_exploration": {"runs": ONE, "battles": 2},
}


@pytest.mark.timeout(600)  # what is slow is kept beside the run for the next time
@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs_to_its_end_and_its_battle_is_watched(browser, lab, name) -> None:
    """On a shipped run, small: from the first cell to the last, then by mouse and keyboard."""
    source = load_notebook_node(str(ROOT / "notebooks" / f"{name}.ipynb"))
    source = parameterize_notebook(source, SMALL[name])
    code = [cell for cell in source.cells if cell.cell_type == "code"]
    for cell in code:
        cell.outputs, cell.execution_count = [], None
    nbformat.write(source, lab.folder / f"{name}.ipynb")
    browser.refused.clear()
    notebook = lab.open(browser, f"{name}.ipynb")
    page, said = notebook.page, hear(notebook.page, ("error",))
    notebook.run_all()
    cells = notebook.save().cells
    outputs = [out for cell in cells for out in cell.get("outputs", ())]
    assert not [out.evalue for out in outputs if out.output_type == "error"]
    assert notebook.counts() == list(range(1, len(code) + 1))
    shown = [n for n, c in enumerate(cells) if VEGA in str([*c.get("outputs", ())])]
    page.evaluate("n => window.panel.content.scrollToItem(n, 'start')", shown[0])

    player = the_player(page)
    player.locator("svg.marks").wait_for()
    begun, before = shown_step(player), player.locator("svg.marks").screenshot()
    player.locator(".press path").click()
    wait_for(lambda: shown_step(player) > begun, "it plays", 15)
    assert player.locator("svg.marks").screenshot() != before
    player.get_by_role("button", name="Pause").click()
    player.get_by_label("step", exact=True).focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert shown_step(player) == 1
    marks = player.locator(".event path")
    if name == "03_exploration":
        marks.last.click()
        assert shown_step(player) > 1 and "did" in what_if(player)
    player.locator(".cell path").nth(0).click()
    asked = what_if(player)
    player.get_by_label("acts (0: best other)").focus()
    page.keyboard.press("ArrowRight")
    assert what_if(player) != asked
    assert said == []
    assert browser.refused == []


def what_if(player) -> str:
    """The question of the what-if panel."""
    texts = player.locator("svg.marks text").all_text_contents()
    return next(text for text in texts if "What if" in text)
