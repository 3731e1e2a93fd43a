"""Pages: formulas, folds and links; and the folder of the whole study with its front page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pandas as pd
import pytest
from browser import dead_links, write_notebook
from bs4 import BeautifulSoup
from conftest import ROOT
from fake_runs import write_runs

from analysis.charts.curves import figure1
from analysis.charts.show import VEGALITE, mimebundle
from analysis.report import pictures, write_report, write_study
from analysis.report.findings import beside, findings, who_keeps
from analysis.report.markdown import mathml, to_html
from analysis.tables import curves
from ovmse.errors import UserError

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TEXT = r"""
# A *title*: of $Q$

Inline $a < b$ and \$5, in code `$x$`, and a block:

$$y = r + \gamma \max_{a'} Q_\text{tot}(s', a')$$

```
echo $HOME $PATH
```
"""


def html(text: str) -> BeautifulSoup:
    return BeautifulSoup(text, "html.parser")


def test_formulas_are_mathml_and_dollars_elsewhere_stay() -> None:
    page = html(to_html(TEXT, lambda url: url))
    inline, second, block = page("math")
    assert [m["display"] for m in (inline, second, block)] == ["inline", "inline", "block"]
    assert [part.name for part in second.mrow("mi")] == ["mi", "mi"]
    assert second.mo.text == "<"
    assert block.munder.text.startswith("max") and "a" in block.munder.text
    assert {"γ", "r"} <= {part.text for part in block("mi")}
    assert page.find("code").text == "$x$"
    assert page.pre.text.strip() == "echo $HOME $PATH"
    assert "$5" in page.get_text() and "$$" not in page.get_text()
    assert page.h1["id"].startswith("a-title-of")


def formulas(text: str) -> list[str]:
    code = re.compile(r"```.*?```|`[^`\n]+`", re.S)
    return re.findall(r"\$\$(.+?)\$\$|(?<![$\\])\$([^$\n]+?)\$", code.sub("", text), re.S)


def test_every_formula_of_the_notebooks_is_read() -> None:
    found = [
        next(filter(None, pair))
        for path in NOTEBOOKS
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown"
        for pair in formulas(cell.source)
    ]
    assert len(found) > 30
    for latex in found:
        tree = ElementTree.fromstring(mathml(latex, "inline"))
        assert tree.tag.endswith("}math")
        assert "\\" not in "".join(tree.itertext()), latex


def test_a_formula_that_cannot_be_read_stands_as_it_was_typed() -> None:
    assert mathml(r"a_b_c < 1", "inline") == "<code>a_b_c &lt; 1</code>"


def folds(path: Path, out: Path) -> list:
    return html(write_report(path, out / "page.html").read_text())("details", "folded")


def test_what_is_folded_in_jupyterlab_is_folded_here(tmp_path: Path) -> None:
    source = write_notebook(tmp_path / "a.ipynb", "# Solution\nx = 4", "y = 5", "z = 6")
    notebook = nbformat.read(source, as_version=4)
    for cell in notebook.cells:
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"said {cell.source}")]
    notebook.cells[0].metadata["jupyter"] = {"outputs_hidden": True, "source_hidden": True}
    notebook.cells[1].metadata["jupyter"] = {"outputs_hidden": True}
    nbformat.write(notebook, source)
    first, second = folds(source, tmp_path)
    assert [fold.summary.text for fold in (first, second)] == ["Solution", "Output"]
    assert not first.has_attr("open") and "said # Solution" in first.text
    assert first.find("details", "code").has_attr("open")  # one click shows all of it
    assert "said y" in second.text and "said z" not in second.text


def test_the_solutions_of_the_exercises_are_folded(tmp_path: Path) -> None:
    found = folds(ROOT / "notebooks/00_walkthrough.ipynb", tmp_path)
    assert [fold.summary.text for fold in found] == ["Solution"] * 6 + ["Output"]
    assert all("Right" in fold.text for fold in found[:6])
    page = html((tmp_path / "page.html").read_text())
    for fold in page("details", "folded"):
        fold.decompose()
    assert "Right" not in page.main.text and "solution =" not in page.main.text


# The folder.


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two notebooks, one with charts; they link each other, the project's texts and its code."""
    folder = tmp_path_factory.mktemp("study")
    bundle = mimebundle(figure1(curves(write_runs(folder / "runs"))))
    first = "# First\n\n[b](01_b.ipynb#why), [gone](gone.md), [away](https://a.org/x)"
    second = "# Second\n\n**Question: is it\nso?**\n\n## Why\n\n[t](../docs/teaching.md), "
    second += "[r](../README.md#measured), [code](../ovmse/config.py)"
    for name, outputs, text in (("00_a", {}, first), ("01_b", {0: [bundle] * 2}, second)):
        path = write_notebook(folder / f"{name}.ipynb", "1", "2", outputs=outputs)
        notebook = nbformat.read(path, as_version=4)
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(text))
        data = {"text/markdown": "**Answer.** It is *so*."}
        notebook.cells[2].outputs = [nbformat.v4.new_output("display_data", data=data)]
        nbformat.write(notebook, path)
    front = write_study(folder / "out", folder.glob("*.ipynb"), ["It *is*.", "Is it?"])
    assert front == folder / "out" / "index.html"
    return folder / "out"


def pages(study: Path) -> dict[str, BeautifulSoup]:
    return {path.name: html(path.read_text()) for path in study.glob("*.html")}


def test_the_front_page_has_the_answer_and_a_card_for_each_notebook(study: Path) -> None:
    front = pages(study)["index.html"]
    assert [item.text for item in front.ol("li")] == ["It is.", "Is it?"]
    first, second = front("article")
    assert first.a["href"] == "00_a.html" and not first.img
    assert second.h3.a["href"] == second.find("div", "picture").a["href"] == "01_b.html"
    assert second.find("div", "picture").a.img
    assert "Is it so?" in second.text and second.em.text == "so"
    assert second.img["alt"].startswith("Does online training forget the pre-trained policy?. 2s3z")
    assert "Zhong" in front.text and "@inproceedings" in front.text


def test_every_page_leads_to_every_other_and_says_where_it_is(study: Path) -> None:
    for name, page in pages(study).items():
        links = {a["href"]: a.get("aria-current") for a in page.nav("a")}
        assert list(links) == ["index.html", "00_a.html", "01_b.html"]
        assert [to for to, here in links.items() if here] == [name] * (name in links)
        assert "commit" in page.footer.text and "torch" in page.footer.text


def test_no_link_is_dead_and_none_leads_out_of_the_folder(study: Path) -> None:
    found = pages(study)
    assert {"docs-teaching.html", "docs-settings.html", "data-runs.html"} <= set(found)
    assert dead_links(study) == []
    first, second = found["00_a.html"].main, found["01_b.html"].main
    assert [a["href"] for a in first("a")] == ["01_b.html#why", "https://a.org/x"]
    assert [a["href"] for a in second("a")] == ["docs-teaching.html", "index.html"]
    assert "gone" in first.text and "code" in second.text


def test_pages_with_charts_share_one_vega(study: Path) -> None:
    assert (study / "vega.js").read_text().count("window.vegaEmbed=") == 1
    for name, page in pages(study).items():
        scripts = [tag["src"] for tag in page("script") if tag.has_attr("src")]
        assert scripts == (["vega.js"] if name == "01_b.html" else [])
        assert len((study / name).read_text()) < 200_000


# What the front page answers.


def test_who_keeps_by_hand() -> None:
    """Seed 3 of one line alone counts for none; a test at 9,990 is the one of 10,000 steps."""
    wins = {
        ("OVMSE", 1): [0.6, 0.5, 0.7], ("OVMSE", 2): [0.7, 0.3, 0.6], ("OVMSE", 3): [0, 0, 0],
        ("SE", 1): [0.5, 0.2, 0.9], ("SE", 2): [0.5, 0.1, 0.8],
        ("WSRL", 1): [0.4, 0.6, 0.1], ("WSRL", 2): [0.4, 0.3, 0.2],
    }  # fmt: skip
    rows = [
        {
            "name": name,
            "seed": seed,
            "task": "2s3z",
            "dataset": "medium",
            "env_steps": step,
            "test_win_rate": win,
        }
        for (name, seed), tests in wins.items()
        for step, win in reversed([*zip((0, 9_990, 300_000), tests, strict=True)])
    ]
    assert who_keeps(pd.DataFrame(rows)) == (
        "On 2s3z medium, OVMSE wins 65 % of its test battles before it plays, 40 % after 10,000 "
        "online steps (WSRL, the best of 2 others, 45 %) and 65 % after 300,000 (SE, the best of 2 "
        "others, 85 %; means of 2 seeds)."
    )


def test_two_lines_beside_each_other_are_what_their_runs_measured() -> None:
    runs = {"MACQL": "macql", "MACQL with SE": "macql_with_se"}
    expected = []
    for folder in runs.values():
        lines = (ROOT / f"data/runs/2s3z/{folder}/metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        wins = [row["test_win_rate"] for row in rows if row["phase"] == "online"]
        expected += [f"{100 * wins[-1]:.0f} %", f"{100 * min(wins):.0f} %"]
        start = f"{100 * wins[0]:.0f} %"
    said = beside(curves(ROOT / "data/runs/2s3z"), *runs, "one explores")
    assert said.startswith("On 2s3z medium, from")
    assert re.findall(r"\d+ %", said) == [start, *expected]
    assert len(findings()) == 3


def test_a_picture_of_the_first_panels_has_no_others() -> None:
    whole, first = (pictures.chart("05_ablation", VEGALITE, panels) for panels in (None, 1))
    assert len(whole["vconcat"]) > 1 and first["vconcat"] == whole["vconcat"][:1]
    assert first["title"] == whole["title"]
    with pytest.raises(UserError, match="00_walkthrough holds no chart of application/x"):
        pictures.chart("00_walkthrough", "application/x")
