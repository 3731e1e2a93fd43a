"""One output that draws everywhere: live, reopened, not trusted, exported, without a network."""

from __future__ import annotations

import base64
import io
from urllib.parse import quote

import altair as alt
import pandas as pd
import vl_convert
from IPython.display import display
from PIL import Image

from analysis.charts import theme
from analysis.charts.base import NATIVE
from analysis.tables import READABLE, Columns, readable

VEGALITE = "application/vnd.vegalite.v5+json"
VEGA = "application/vnd.vega.v5+json"
SAFE = ",;:/()=+*!?@"  # what a data URI need not encode
VL_VERSION = "5.20"  # of the PNG and of the exported page; JupyterLab brings its own


def show(chart: alt.TopLevelMixin) -> None:
    """Display `chart` as one output with a Vega-Lite 5 specification and a small PNG."""
    display(mimebundle(chart), raw=True)


def show_table(table: pd.DataFrame, known: Columns = READABLE) -> None:
    """Display a table for readers (see `analysis.tables.readable`), without row numbers, and its
    values to be saved as CSV: numbers as they are, under their names in the code."""
    values = {}
    for column, (_, text) in known.items():
        for name in (column, f"{column}_min", f"{column}_max"):
            if name in table:
                number = pd.api.types.is_numeric_dtype(table[name])
                values[name] = table[name] if number else table[name].map(text, "ignore")
    _show(readable(table, known), pd.DataFrame(values))


def show_text(table: pd.DataFrame) -> None:
    """Display a table as it is, without row numbers, and to be saved as CSV."""
    _show(table, table)


def _show(table: pd.DataFrame, values: pd.DataFrame) -> None:
    html = table.to_html(index=False, border=0) + "\n" + csv_link(values)
    display({"text/html": html, "text/plain": table.to_string(index=False)}, raw=True)


def csv_link(table: pd.DataFrame) -> str:
    """The HTML of a link that saves `table` as a CSV file, which it holds: it needs neither a
    kernel nor a network. Numbers have six digits."""
    text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    file = f"data:text/csv;charset=utf-8,{quote(text, safe=SAFE)}"
    return f'<p><a download="table.csv" href="{file}">Save as CSV</a></p>'


def mimebundle(chart: alt.TopLevelMixin) -> dict:
    """What `show` displays: the specification (dict) and the same chart as base64 PNG (str)."""
    with alt.data_transformers.enable("default", consolidate_datasets=True):
        spec = chart.to_dict()
    # Text on a canvas could not take the colour of the text around it.
    spec["usermeta"] = {"embedOptions": {"renderer": "svg"}}
    for param in spec.get("params", ()):
        bind = param.get("bind")  # a legend's is a word
        if isinstance(bind, dict) and bind.get("input") == "range":
            bind |= NATIVE | {"input": "Range"}
    return {VEGALITE: spec, "image/png": base64.b64encode(png(spec)).decode()}


def vega_mimebundle(spec: dict) -> dict:
    """The same of a Vega specification."""
    return {VEGA: spec, "image/png": base64.b64encode(vega_png(spec)).decode()}


def png(spec: dict) -> bytes:
    """The chart of `spec` as a PNG in the few inks of the theme: a seventh of vl-convert's own."""
    return _few_inks(vl_convert.vegalite_to_png(theme.on_paper(spec), vl_version=VL_VERSION))


def vega_png(spec: dict) -> bytes:
    """The same of a Vega specification."""
    return _few_inks(vl_convert.vega_to_png(theme.on_paper(spec)))


def _few_inks(raw: bytes) -> bytes:
    picture = Image.open(io.BytesIO(raw)).convert("RGB")
    inks = Image.new("P", (1, 1))
    inks.putpalette([level for ink in theme.inks() for level in ink])
    small = io.BytesIO()
    picture.quantize(palette=inks, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()
