"""The report as a person opens it: from a disk, by keyboard, on a phone, in the dark, on paper."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from browser import MARKS, Browser, dead_links, wait_for
from conftest import ROOT

from analysis.report import write_study
from analysis.report.findings import findings

pytestmark = MARKS
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = ["index", *(path.stem for path in NOTEBOOKS)]
AXE = Path(AXE_FILE_PATH).read_text(encoding="utf-8")
# Of the tables: the words that stand on two lines, and the headings of those that leave the page.
BROKEN = """[...document.querySelectorAll(".dataframe th, .dataframe td")].flatMap(cell => {
  const text = cell.firstChild, range = document.createRange();
  if (text?.nodeType !== Node.TEXT_NODE) return [];
  return [...text.data.matchAll(/[\\p{L}\\p{N}.,_]+/gu)].filter(word => {
    range.setStart(text, word.index);
    range.setEnd(text, word.index + word[0].length);
    return new Set([...range.getClientRects()].map(line => line.top)).size > 1;
  }).map(word => word[0]);
})"""
TOO_WIDE = """[...document.querySelectorAll(".dataframe")]
  .filter(table => table.getBoundingClientRect().right > innerWidth)
  .map(table => table.tHead.textContent)"""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("a report")
    write_study(folder, NOTEBOOKS, findings())
    return folder


PHONE = {"width": 390, "height": 844}


class Opened:
    """A page of the study, with all that it asked for and complained about."""

    def __init__(self, browser: Browser, study: Path, name: str, phone: bool = False) -> None:
        self.page, self.asked, self.said = browser.page(), [], []
        if phone:
            self.page.set_viewport_size(PHONE)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto((study / f"{name}.html").as_uri())
        charts = self.page.locator("figure.chart").count()
        drawn = self.page.locator("figure.chart svg.marks")
        wait_for(lambda: drawn.count() == charts, f"{charts} charts of {name}", 30)

    def _hear(self, message) -> None:
        if message.type == "error":  # a warning says that Vega 6 draws what was made for Vega 5
            self.said.append(message.text)

    def barriers(self, *rules: str) -> list[str]:
        """What axe finds: the rule, how many places, and the first of them."""
        self.page.evaluate(AXE)
        only = {"runOnly": {"type": "rule", "values": rules}} if rules else {}
        # Within a chart axe cannot tell colours, and takes a minute for it.
        self.page.evaluate(
            "document.querySelectorAll('svg.marks').forEach(s => s.textContent = '')"
        )
        found = self.page.evaluate("(options) => axe.run(document, options)", only)
        return [
            f"{one['id']} ({len(one['nodes'])}): {one['nodes'][0]['html'][:200]} "
            f"{one['nodes'][0].get('failureSummary', '')}"
            for one in found["violations"]
        ]


def test_the_folder_is_small(study):
    assert sum(file.stat().st_size for file in study.rglob("*")) < 15e6
    assert {f"{name}.html" for name in PAGES} < {file.name for file in study.iterdir()}


def test_no_link_of_the_study_is_dead(study):
    assert dead_links(study) == []


@pytest.mark.parametrize(
    ("name", "title"),
    [("04_results", "Test battles won"), ("04_results", "Test return"),
     ("05_ablation", "How much noise at the start?")],
)  # fmt: skip
def test_clicks_on_names_pick_what_is_seen(browser, study, name, title):
    chart = Opened(browser, study, name).page.locator("figure.chart", has_text=title)
    faint = chart.locator("svg.marks .mark-line path[opacity='0.05']")
    assert faint.count() == 0
    first, second = (
        chart.locator(".role-legend-label text").filter(has_text=re.compile(f"^{of}$")).first
        for of in ("Switch CQL", "MACQL")
    )
    first.click()
    wait_for(lambda: faint.count() > 3, "the other lines to fade", 10)
    one = faint.count()
    second.click()
    wait_for(lambda: 0 < faint.count() < one, "a second name to be seen too", 10)
    second.click()
    wait_for(lambda: faint.count() == one, "the second to be left out again", 10)
    first.click()
    wait_for(lambda: faint.count() == 0, "all to be seen again", 10)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_for_nothing_outside_and_has_no_barrier_by_day_night_or_phone(
    browser, study, name
):
    opened = Opened(browser, study, name)
    for url in opened.asked:
        parts = urlsplit(url)
        if parts.scheme == "data":
            continue
        assert parts.scheme == "file", url
        assert Path(unquote(parts.path)).parent == study, url
    assert browser.refused == [] and opened.said == []
    assert opened.barriers() == []
    ground = "getComputedStyle(document.body).backgroundColor"
    opened.page.emulate_media(color_scheme="dark")
    assert opened.page.evaluate(ground) == "rgb(22, 24, 26)"
    assert opened.barriers("color-contrast") == []
    opened.page.emulate_media(color_scheme="dark", media="print")
    assert opened.page.evaluate(ground) == "rgb(255, 255, 255)", "paper is white"
    assert not opened.page.locator("nav").is_visible()
    opened.page.set_viewport_size({"width": 680, "height": 960})
    assert opened.page.evaluate(BROKEN) == [], "words and numbers of a printed table stay whole"
    assert opened.page.evaluate(TOO_WIDE) == [], "a printed table is cut"
    opened.page.emulate_media(color_scheme="light", media="screen")
    opened.page.set_viewport_size(PHONE)
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert opened.page.evaluate(wide) <= 1, "a phone scrolls sideways"
    opened.page.context.close()


@pytest.mark.parametrize(
    ("name", "count", "least"),
    [("00_walkthrough", 12, 0.7), ("02_q_drift", 8, 0.7), ("03_exploration", 7, 0.65),
     ("04_results", 11, 0.7), ("05_ablation", 5, 0.7), ("06_datasets", 4, 0.65)],
)  # fmt: skip
def test_on_a_phone_a_chart_is_laid_out_anew_and_not_only_shrunk(
    browser, study, name, count, least
):
    """All but the battle's player, which keeps its own layout."""
    opened = Opened(browser, study, name, phone=True)
    assert opened.said == []
    drawn = "all => all.map(svg => svg.clientWidth / svg.viewBox.baseVal.width)"
    charts = opened.page.locator("figure.chart:not([data-mode=vega]) svg.marks")
    scales = charts.evaluate_all(drawn)
    assert len(scales) == count
    assert min(scales) > least, scales


def test_by_keyboard_from_the_front_page_to_a_slider_that_moves_its_chart(browser, study):
    opened = Opened(browser, study, "index")
    page = opened.page
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "00 walkthrough"
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("00_walkthrough"))
    chart = page.locator("figure.chart").nth(2)
    chart.locator("svg.marks").wait_for()
    before = chart.locator("svg.marks").text_content()
    chart.get_by_label("α, conservative weight").focus()
    page.keyboard.press("ArrowRight")
    wait_for(lambda: "α = 0.5" in chart.locator("svg.marks").text_content() != before, "moves", 5)
    solution = page.locator("details.folded").first
    assert solution.get_attribute("open") is None
    page.get_by_label("show the code").check()
    assert solution.get_attribute("open") is None, "the code is shown, the solutions are not"
    solution.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert solution.get_by_text("Right.").is_visible()
    assert opened.said == []
    page.context.close()
