"""What every chart shares: its data as CSV, names that do not overlap, its title and subtitle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.charts import theme

WIDTH, HEIGHT = 470, 210  # of a panel; with axis and names it fits a narrow output area
# Vega copies the attributes of an input that it does not know: `Range`, with a capital, is a native
# slider whose arrow keys JupyterLab leaves alone, and with which Enter sends no form.
NATIVE = {"data-lm-suppress-shortcuts": "true", "form": "none"}


def csv_data(table: pd.DataFrame) -> alt.InlineData:
    """`table` inside the chart as CSV text: a fifth of the size of one object a row. Truth values
    are 0 and 1 there: Vega reads no Python."""
    table = table.astype({c: int for c in table if pd.api.types.is_bool_dtype(table[c])})
    kinds = {c: "number" for c in table if pd.api.types.is_numeric_dtype(table[c])}
    return alt.InlineData(
        values=table.to_csv(index=False, lineterminator="\n"),
        format=alt.CsvDataFormat(type="csv", parse=kinds),
    )


def spread(values: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Positions as near to `values` as they can be (least squares), at least `gap` apart.

    values [n] in any order -> positions [n] within [low, high], where there is room for all.
    """
    order = np.argsort(values, kind="stable")
    blocks: list[list[float]] = []  # pooled means of the values less their share of the gaps
    for value in np.asarray(values, float)[order] - gap * np.arange(len(values)):
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (a, m), (b, n) = blocks[-2], blocks.pop()
            blocks[-1] = [(m * a + n * b) / (m + n), m + n]
    flat = np.concatenate([np.full(int(n), mean) for mean, n in blocks])
    placed = np.clip(flat, low, high - gap * (len(values) - 1)) + gap * np.arange(len(values))
    out = np.empty(len(values))
    out[order] = placed
    return out


def looks(algorithms: Sequence[str], names: Sequence[str] | None = None) -> dict[str, alt.Scale]:
    """The scales `colour` and `shape` of algorithms, which the data call so or by `names`."""
    styles, domain = [theme.style(n) for n in algorithms], list(names or algorithms)
    return {
        "colour": alt.Scale(domain=domain, range=[s.colour for s in styles]),
        "shape": alt.Scale(domain=domain, range=[s.shape for s in styles]),
    }


def stacked(panels: Sequence[alt.LayerChart]) -> alt.VConcatChart:
    """Panels one above the other, each with its own colours and shapes: not all have all lines."""
    whole = alt.vconcat(*panels, spacing=14)
    return whole.resolve_scale(color="independent", shape="independent", strokeDash="independent")


def finish(chart: Any, title: str, curves: pd.DataFrame, lines: bool = True) -> alt.TopLevelMixin:
    """The chart with its title, where its data are from, and the look of the house; with `lines`
    that can be clicked, what these are too."""
    first, seeds = curves.iloc[0], curves.seed.nunique()
    parts = [f"{first.task} ({str(first.backend).upper()})"]
    if len(data := curves.dataset.dropna()):  # runs that learned from none have none
        parts[0] += f", {Path(str(data.iloc[0])).stem} data"
    if lines:
        parts += ["thin: one seed, bold: mean"] if seeds > 1 else []
        parts += ["click a name to highlight it"] if curves.algorithm.nunique() > 1 else []
    elif seeds > 1:
        parts.append(f"means of {seeds} seeds")
    return titled(chart, title, "; ".join(parts))


def titled(chart: Any, title: str, subtitle: str | list[str]) -> alt.TopLevelMixin:
    """The whole chart, in the look of the house; the title of a single panel is its last line."""
    lines = [subtitle] if isinstance(subtitle, str) else [*subtitle]  # the caller keeps its own
    lines += [chart.title.text] if isinstance(chart.title, alt.Title) else []
    one = lines if len(lines) > 1 else lines[0]
    return chart.properties(title=alt.Title(title, subtitle=one)).configure(**theme.config())


def panel_title(text: str, size: int = 16) -> alt.Title:
    """The title of one panel, over its plot."""
    return alt.Title(text, fontSize=size, offset=8, frame="group")


def clock_axis() -> alt.Axis:
    """The axis of steps or updates under a panel: no grid, few ticks."""
    return alt.Axis(grid=False, labelFlush=False, tickCount=WIDTH // 60)
