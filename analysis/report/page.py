"""A notebook -> one HTML page that needs nothing but a browser: charts stay interactive offline."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import nbformat
import vl_convert
from jinja2 import pass_context
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from analysis.charts import theme
from analysis.charts.show import VEGA, VEGALITE, VL_VERSION
from analysis.report.markdown import Link, to_html
from analysis.widgets.progress import OVER
from ovmse import __version__
from ovmse.runs.code import made_by
from ovmse.runs.files import PROJECT, replacing

EXPOSE = "window.vegaEmbed = vegaEmbed;"
CHARTS = (VEGALITE, VEGA)
TEMPLATES = Path(__file__).with_name("templates")
NOTEBOOKS = PROJECT / "notebooks"


@dataclass(frozen=True)
class Entry:
    """A line of the navigation: where it leads, what it says, and the whole title."""

    to: str
    name: str
    title: str


def write_report(notebook_path: str | Path, html_path: str | Path) -> Path:
    """Write the stored outputs of a notebook as one HTML file; nothing is run.

    The code is folded away, and so is what is folded in JupyterLab; formulas are MathML. Charts are
    drawn by a Vega that the page carries (0.9 MB, once) with their PNG where there is no
    JavaScript; it needs no other file and no host. It is readable on a phone, on a projector and on
    paper, in light and in dark. Its foot says when and by which state of the code it was made and
    how long the notebook ran, and links the notebook. The file appears whole or not at all; its
    path is returned. Raises `FileNotFoundError` or nbformat's `NotJSONError` where there is no
    notebook.
    """
    source, target = Path(notebook_path), Path(html_path)
    notebook = nbformat.read(source, as_version=4)

    def beside(url: str) -> str | None:
        return follow(url, source.parent, lambda place: _address(place, target))

    text = render(
        notebook,
        title(notebook) or source.stem,
        beside,
        made(notebook),
        path=source.parent,
        links={
            "the notebook": _address(source, target),
            "the folder it lies in": _address(source.parent, target) + "/",
        },
    )
    return write(target, text)


def write(target: Path, text: str) -> Path:
    """The page, whole or not at all."""
    with replacing(target) as part:
        part.write_text(text, encoding="utf-8")
    return target


def render(
    notebook: nbformat.NotebookNode,
    name: str,
    link: Link,
    foot: str,
    path: Path = NOTEBOOKS,
    links: dict[str, str] | None = None,
    navigation: Sequence[Entry] = (),
    here: str = "",
    vega: str = "",
) -> str:
    """The page of a notebook as HTML.

    link: see `markdown.to_html`; path: where the notebook's own pictures lie; links: what the foot
    leads to. Of a folder of pages: its navigation, which of its addresses is `here`, and the file
    from which all take Vega; without one the page carries it.
    """
    charts = any(not data.keys().isdisjoint(CHARTS) for data in outputs(notebook))
    resources = {
        "page_title": name,
        "vega_type": VEGA,
        "vegalite_type": VEGALITE,
        "style": f"--ink: {theme.INK}; --quiet: {theme.QUIET}; --font: {theme.FONT};",
        "code_css": HtmlFormatter().get_style_defs(".highlight"),
        "dark_code_css": HtmlFormatter(style="github-dark").get_style_defs(".highlight"),
        "vega_file": vega if charts else "",
        "vega": library() if charts and not vega else "",
        "metadata": {"path": str(path)},
        "made": foot,
        "links": links or {},
        "navigation": navigation,
        "here": here,
        "coded": any(c.cell_type == "code" for c in notebook.cells),
    }
    exporter = _exporter()
    exporter.link = link
    return exporter.from_notebook_node(_readers(notebook), resources)[0]


def _readers(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what only concerned the person who ran it: how long a bar took."""
    notebook = deepcopy(notebook)
    for cell in notebook.cells:
        for output in list(cell.get("outputs", ())):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            if OVER.fullmatch(text):
                cell.outputs.remove(output)
    return notebook


def outputs(*of: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    """The data of the outputs of cells, or of notebooks, in order."""
    for one in of:
        for cell in one.get("cells", [one]):
            for output in cell.get("outputs", ()):
                yield output.get("data", {})


@cache  # seconds
def library() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    return vl_convert.javascript_bundle(EXPOSE, vl_version=VL_VERSION)


class _Exporter(HTMLExporter):
    """nbconvert with the template of this folder, and Markdown as `analysis.report.markdown`."""

    link: Link

    def __init__(self) -> None:
        config = Config()
        config.NbConvertBase.display_data_priority = [
            *CHARTS,
            "text/html",
            "text/markdown",
            "image/svg+xml",
            "image/png",
            "image/jpeg",
            "text/plain",
        ]
        super().__init__(
            config=config,
            template_name="report",
            extra_template_basedirs=[str(TEMPLATES)],
            exclude_input_prompt=True,
            exclude_output_prompt=True,
        )
        self.register_filter("folded", folded)
        self.register_filter("description", description)

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        path = context.get("resources", {}).get("metadata", {}).get("path", "")
        return to_html(source, self.link, path, context.get("cell", {}).get("attachments"))


@cache  # each compiles its templates anew
def _exporter() -> _Exporter:
    return _Exporter()


def folded(cell: nbformat.NotebookNode) -> str:
    """What stands over a cell whose output is folded in JupyterLab, as that of a solution is: the
    comment that it begins with, or "Output"; empty for any other."""
    if not cell.metadata.get("jupyter", {}).get("outputs_hidden"):
        return ""
    comment = re.match(r"# *(.+)", cell.source)
    return comment[1] if comment else "Output"


def description(spec: dict[str, Any]) -> str:
    """What a chart is, for those who do not see it: its title and subtitle."""
    title = spec.get("title") or spec.get("description") or ""
    texts = [title.get("text"), title.get("subtitle")] if isinstance(title, dict) else [title]
    lines = [" ".join(text) if isinstance(text, list) else text for text in texts]
    return ". ".join(line for line in lines if line and isinstance(line, str)) or "chart"


def follow(url: str, folder: Path, address: Callable[[Path], str | None]) -> str | None:
    """Where a page leads for a link of a text that lies in `folder`.

    An address of elsewhere and a place within the text stay as they are; a file's is what `address`
    says. None where there is no such file. What a run executed lies elsewhere than the project's
    own notebook, from whose folder links count as well.
    """
    parts = urlsplit(url)
    if parts.scheme or parts.netloc or not parts.path:
        return url
    for base in (folder, NOTEBOOKS):
        if (place := (base / unquote(parts.path)).resolve()).exists():
            to = address(place)
            return f"{to}#{parts.fragment}" if to and parts.fragment else to
    return None


def made(notebook: nbformat.NotebookNode, source: Path | None = None) -> str:
    """`24 November 2026, 14:02 UTC, by ovmse 0.1.0, commit 2fce123, learning code ee413a25, Python
    3.11.2, torch 2.13.0, jax 0.10.2, jaxmarl 0.1.0; the notebook ran for 43 s`."""
    now = datetime.now(UTC)
    said = [f"{now.day} {now:%B %Y, %H:%M} UTC, by ovmse {__version__}"]
    if commit := _git("describe", "--always", "--dirty=+", "--exclude=*"):
        said.append(f"commit {commit}")
    with_ = made_by()
    said += [f"learning code {with_['code']}", f"Python {with_['python']}"]
    said += [f"{name} {with_[name]}" for name in ("torch", "jax", "jaxmarl")]
    text = ", ".join(said)
    if spent := notebook.metadata.get("papermill", {}).get("duration"):
        text += f"; the notebook ran for {spent:.0f} s"
    elif source and (stored := _git("log", "-1", "--format=%h of %cs", "--", str(source))):
        what = "outputs were stored in" if source.suffix == ".ipynb" else "text is of"
        text += f"; its {what} commit {stored}"
    return text


def _git(*arguments: str) -> str:
    """What git says of this project; empty outside of git."""
    command = ["git", "-C", str(PROJECT), *arguments]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        return done.stdout.strip()
    return ""


def _address(place: Path, page: Path) -> str:
    """The address of a file from a page, in percent-encoding."""
    return quote(Path(os.path.relpath(place, page.parent)).as_posix())


def title(notebook: nbformat.NotebookNode) -> str | None:
    """The first heading of the notebook, as plain text."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := re.search(r"^# +(.+)$", cell.source, re.M)):
            return re.sub(r"[*_`]", "", found[1]).strip()
    return None
