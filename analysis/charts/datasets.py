"""Charts of datasets. Tables in, charts out, as in ``curves``."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from analysis.charts import theme
from analysis.charts.base import WIDTH, csv_data, panel_title, titled

BLUE, ORANGE, GREEN = (theme.STYLES[n].colour for n in ("ovmse", "switch_cql", "ovm"))
ENDS = {"won": BLUE, "lost": ORANGE, "cut": theme.QUIET, "unknown": GREEN}
SHADES = (0.0, 0.2, 0.35, 0.6, 0.8)


def histograms(table: pd.DataFrame, measure: str, words: str, title: str) -> alt.TopLevelMixin:
    """How many battles have which `return` or `length`, a panel a dataset, by how they ended; the
    table as from `datasets.returns`. Counted here: a chart needs no row for each battle."""
    low, high = table[measure].min(), table[measure].max()
    edges = np.linspace(low, high, 41)
    if pd.api.types.is_integer_dtype(table[measure]):
        step = int(np.ceil((high + 1 - low) / 40))
        edges = np.arange(low, high + 1 + step, step)  # the last edge lies above the greatest
    panels = []
    ends = [end for end in ENDS if (table.end == end).any()]
    for name, part in table.groupby("dataset", sort=False):
        counts = [
            pd.DataFrame({"low": edges[:-1], "high": edges[1:], "end": end,
                          "battles": np.histogram(part[measure][part.end == end], edges)[0]})
            for end in ends
        ]  # fmt: skip
        rows = pd.concat(counts).query("battles > 0").round(3)
        bars = (
            alt.Chart(csv_data(rows))
            .mark_bar(binSpacing=1)
            .encode(
                x=alt.X("low:Q", bin=alt.BinParams(binned=True), title=words,
                        axis=alt.Axis(grid=False),
                        scale=alt.Scale(domain=[float(edges[0]), float(edges[-1])], nice=False)),
                x2="high:Q",
                y=alt.Y("battles:Q", title="battles", stack="zero"),
                color=alt.Color("end:N", title=None, sort=ends, scale=alt.Scale(
                    domain=ends, range=[ENDS[e] for e in ends])),
                tooltip=["end:N", "battles:Q", "low:Q", "high:Q"],
            )
            .properties(width=WIDTH, height=150, title=panel_title(str(name)))
        )  # fmt: skip
        panels.append(alt.layer(bars))
    return titled(alt.vconcat(*panels, spacing=14), title, "a battle that is cut ran into the "
                  "time limit")  # fmt: skip


def action_use(table: pd.DataFrame) -> alt.TopLevelMixin:
    """How often each agent takes each action, of the steps at which it was offered; the table as
    from `datasets.action_use`."""
    table = table.dropna().assign(
        said=lambda t: [f"{100 * s:.0f}" if s else "never" for s in t.share],
        shade=lambda t: np.array(SHADES)[np.digitize(t.share, (1e-9, 0.1, 0.3, 0.6))],
    )
    panels = []
    for name, part in table.groupby("dataset", sort=False):
        base = alt.Chart(csv_data(part.drop(columns="dataset").round(4))).encode(
            x=alt.X("action:N", sort=None, title=None,
                    axis=alt.Axis(orient="top", labelAngle=-40, grid=False)),
            y=alt.Y("agent:N", sort=None, title="agent", axis=alt.Axis(grid=False)),
            tooltip=["agent:N", "action:N", alt.Tooltip("share:Q", format=".1%"),
                     alt.Tooltip("offered:Q", title="steps offered", format=",")],
        )  # fmt: skip
        cells = base.mark_rect(color=BLUE, stroke=theme.QUIET, strokeWidth=0.5).encode(
            fillOpacity=alt.FillOpacity("shade:Q", scale=None, legend=None)
        )
        text = base.mark_text(fontSize=12).encode(text="said:N")
        rows, columns = part.agent.nunique(), part.action.nunique()
        panels.append(
            alt.layer(cells, text).properties(
                width=44 * columns, height=28 * rows, title=panel_title(str(name))
            )
        )
    said = "% of the steps at which the action was offered to the agent"
    return titled(alt.vconcat(*panels, spacing=14), "Which actions are in the data", said)


def outside(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Steps that no other battle of the dataset holds; the table as from `datasets.outside`."""
    kinds = {"states": "coarse state is new", "joint": "joint action is new"}
    rows = table.rename(columns=kinds).melt("whose", var_name="kind", value_name="share")
    rows["share"] = (100 * rows.share).round(2)
    bars = (
        alt.Chart(csv_data(rows))
        .mark_bar()
        .encode(
            y=alt.Y("kind:N", title=None, sort=list(kinds.values())),
            yOffset=alt.YOffset("whose:N", sort=None),
            x=alt.X("share:Q", title="steps (%)", axis=alt.Axis(tickCount=5)),
            color=alt.Color("whose:N", title=None, sort=None, scale=alt.Scale(
                domain=list(table.whose), range=[BLUE, theme.QUIET])),
            tooltip=["whose:N", "kind:N", "share:Q"],
        )
        .properties(width=WIDTH - 120, height=120)
    )  # fmt: skip
    return titled(bars, "How far outside of the data", "steps that none of the other battles hold")
