"""The battle player as a person has it: in JupyterLab and in the report, by mouse and keyboard."""

from __future__ import annotations

import re

import pytest
from browser import Lab, executable, open_browser, wait_for, write_notebook
from conftest import ROOT

from analysis.charts.show import vega_mimebundle
from analysis.moments import Moments, watch
from analysis.report import write_report
from analysis.snapshots import Snapshots

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(executable() is None, reason="install Chromium (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def seen() -> Moments:
    return watch(Snapshots(ROOT / "data/runs/2s3z/ovmse"), 10_000, epsilon=0.2, battles=2)


@pytest.fixture(params=["report", "lab"])
def place(request, browser, seen, tmp_path):
    """The page and the player in it: reopened in JupyterLab, not trusted; or in the report."""
    bundle = vega_mimebundle(seen.player().spec)
    source = write_notebook(tmp_path / "a.ipynb", "show(player)", "1 + 1", outputs={0: [bundle]})
    said: list[str] = []
    browser.refused.clear()
    if request.param == "lab":
        lab = Lab(tmp_path)
        request.addfinalizer(lab.close)
        notebook = lab.open(browser, source.name)
        assert not notebook.trusted()
        page, player = notebook.page, notebook.page.locator(".jp-OutputArea-output .vega-embed")
        hear(page, said)
    else:
        page = browser.page()
        hear(page, said)
        page.goto(write_report(source, tmp_path / "a.html").as_uri())
        player = page.locator("figure.chart")
    player.locator("svg.marks").wait_for()
    yield page, player
    assert said == []
    assert browser.refused == []


def hear(page, said: list[str]) -> None:
    """What the page complains about from now on."""
    page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))


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
    player.get_by_label("acts (0: greedily)").focus()
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
