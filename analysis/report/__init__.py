"""A notebook -> one HTML page that needs nothing but a browser: charts stay interactive offline."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import nbformat
import vl_convert
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from analysis.charts import theme
from analysis.charts.show import VEGA, VEGALITE, VL_VERSION
from ovmse import __version__
from ovmse.runs.files import PROJECT, replacing

EXPOSE = "window.vegaEmbed = vegaEmbed;"
CHARTS = (VEGALITE, VEGA)
TEMPLATES = Path(__file__).with_name("templates")


def write_report(notebook_path: str | Path, html_path: str | Path) -> Path:
    """Write the stored outputs of a notebook as one HTML file; nothing is run.

    The code is folded away. Charts are drawn by a Vega that the page carries (0.9 MB, once) with
    their PNG where there is no JavaScript; it needs no other file and no host. It is readable on a
    phone and on a projector, in light and in dark. Its foot says when and by which state of the
    code it was made and how long the notebook ran, and links the notebook. The file appears whole
    or not at all; its path is returned. Raises `FileNotFoundError` or nbformat's `NotJSONError`
    where there is no notebook.
    """
    source, target = Path(notebook_path), Path(html_path)
    notebook = nbformat.read(source, as_version=4)
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
    exporter = HTMLExporter(
        config=config,
        template_name="report",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        embed_images=True,
    )
    drawn = any(
        not out.get("data", {}).keys().isdisjoint(CHARTS)
        for c in notebook.cells
        for out in c.get("outputs", ())
    )
    resources = {
        "page_title": _title(notebook) or source.stem,
        "vega_type": VEGA,
        "vegalite_type": VEGALITE,
        "style": f"--ink: {theme.INK}; --quiet: {theme.QUIET}; --font: {theme.FONT};",
        "code_css": HtmlFormatter().get_style_defs(".highlight"),
        "dark_code_css": HtmlFormatter(style="github-dark").get_style_defs(".highlight"),
        "vega": vl_convert.javascript_bundle(EXPOSE, vl_version=VL_VERSION) if drawn else "",
        "metadata": {"path": str(source.parent)},  # where the notebook's own pictures lie
        "made": _made(notebook),
        "links": {
            "the notebook": _link(source, target),
            "the folder it lies in": _link(source.parent, target) + "/",
        },
    }
    page, _ = exporter.from_notebook_node(notebook, resources)
    with replacing(target) as part:
        part.write_text(page, encoding="utf-8")
    return target


def _made(notebook: nbformat.NotebookNode) -> str:
    """`24 November 2026, 14:02 UTC, by ovmse 0.1.0, commit 2fce123; the notebook ran for 43 s`."""
    now = datetime.now(UTC)
    made = f"{now.day} {now:%B %Y, %H:%M} UTC, by ovmse {__version__}"
    if commit := _commit():
        made += f", commit {commit}"
    if spent := notebook.metadata.get("papermill", {}).get("duration"):
        made += f"; the notebook ran for {spent:.0f} s"
    return made


def _commit() -> str:
    """The commit of this project, with a plus where files differ from it; empty outside of git."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty=+", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        return done.stdout.strip()
    return ""


def _link(place: Path, page: Path) -> str:
    """The address of a file from a page, in percent-encoding."""
    return quote(Path(os.path.relpath(place, page.parent)).as_posix())


def _title(notebook: nbformat.NotebookNode) -> str | None:
    """The first heading of the notebook, as plain text."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := re.search(r"^# +(.+)$", cell.source, re.M)):
            return re.sub(r"[*_`]", "", found[1]).strip()
    return None
