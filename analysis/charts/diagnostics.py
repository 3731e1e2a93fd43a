"""Charts of why a value drifts. Tables in, charts out, as in ``curves``.

The tables are curves with what `analysis.diagnostics` measured beside them; algorithms look and
highlight as in Figure 1.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.charts import theme
from analysis.charts.base import HEIGHT, WIDTH, csv_data, finish, looks, panel_title, stacked
from analysis.charts.curves import panel
from analysis.diagnostics.rivals import RIVALS
from analysis.tables import WHO, lines, mean_curves, measured, named

LOW = 150  # of a panel where several questions share a chart


def _domain(values: pd.Series, step: float) -> list[float]:
    """From zero, or lower, to a labelled tick."""
    low, high = min(0.0, float(values.min())), max(step, float(values.max()))
    return [step * np.floor(low / step), step * np.ceil(high / step)]


def _stacked(panels: list[alt.LayerChart]) -> alt.VConcatChart:
    """One above the other, with room for wider numbers at the axis than Figure 1 has."""
    return stacked([p.properties(width=WIDTH - 35) for p in panels])


def calibrated(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Above: bias of ``Q_tot`` (% of the mean return), with the moments' standard deviation as thin
    bars. Below: how well it ranks them."""
    percent = table.assign(bias=100 * table.bias, bias_sd=100 * table.bias_sd)
    rows = measured(percent, "bias")
    ends = pd.concat([rows.bias - rows.bias_sd, rows.bias + rows.bias_sd])
    domain = _domain(pd.concat([ends.clip(-200, 200), rows.bias]), 25)
    said = "Q_tot less the return: mean and spread over moments"
    bias = panel(percent, "bias", "bias (% of the mean)", domain, said, 0,
                 reference_name="no bias", spread_by="bias_sd")  # fmt: skip
    rank = panel(
        table, "rank", "rank correlation", _domain(rows["rank"], 0.5), "Does it rank them?"
    )
    return finish(_stacked([bias, rank]), "Are the values true?", rows)


def moved(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Of each algorithm, what the change of ``Q_tot`` since the start is made of: a hollow piece
    for each agent's values, a full one for the mixer; the dot is the whole change. Greys, since the
    colours are the algorithms'."""
    rows, panels = measured(table, "change"), []
    names = sorted(numbered(table, "part"), key=lambda n: int(n[5:]))
    means = {n: mean_curves(table, n) for n in [*names, "part_mixer", "change"]}
    parts = pd.concat([means[n].assign(part=n) for n in [*names, "part_mixer"]])
    parts["what"] = [
        "the mixer" if p == "part_mixer" else f"agent {p[5:]}'s values" for p in parts.part
    ]
    parts["kind"] = np.where(parts.part == "part_mixer", "the mixer", "each agent's values")
    parts["step"] = parts.env_steps / 1000
    whole = means["change"].assign(step=lambda t: t.env_steps / 1000)
    signed = parts.groupby([*WHO, "step", parts["mean"] > 0])["mean"].sum()
    y = alt.Y("sum(mean):Q", title="change of Q_tot", scale=alt.Scale(domain=_domain(signed, 1)),
              axis=alt.Axis(tickCount=4))  # fmt: skip
    kinds = ["each agent's values", "the mixer"]
    fill = alt.Fill("kind:N", title=None, sort=kinds, scale=alt.Scale(
        domain=kinds, range=["transparent", theme.QUIET]))  # fmt: skip
    title = "environment steps (thousands)"
    whose = lines(rows)
    for who in whose:
        last = alt.Axis(labelAngle=0, title=title) if who == whose[-1] else None
        x = alt.X("step:O", axis=last)
        mine, all_of_it = (t[(t.algorithm == who[0]) & (t.variant == who[1])].round(3)
                           for t in (parts, whole))  # fmt: skip
        bars = alt.Chart(csv_data(mine[["step", "kind", "what", "part", "mean"]]))
        bars = bars.mark_bar(stroke=theme.QUIET, strokeWidth=1.2).encode(
            x=x, y=y, fill=fill, detail="part:N",
            tooltip=["what:N", alt.Tooltip("mean:Q", title="adds", format="+.2f"),
                     alt.Tooltip("step:O", title="thousand steps")],
        )  # fmt: skip
        dots = alt.Chart(csv_data(all_of_it[["step", "mean"]])).encode(x=x, y="mean:Q")
        dots = dots.mark_point(filled=True, size=55, color=theme.AROUND, opacity=1)
        panels.append(alt.layer(bars, dots).properties(
            width=WIDTH, height=90, title=panel_title(named(*who), 14)))  # fmt: skip
    chart = alt.vconcat(*panels, spacing=10)
    return finish(chart, "Which part moved since the start? (dot: all)", rows, lines=False)


def numbered(table: pd.DataFrame, name: str) -> list[str]:
    """The columns `name_1`, `name_2`, ... of a table."""
    return [c for c in table if re.fullmatch(rf"{name}_\d+", c)]


def distances(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Above: the gap of one other action over training. Below: by the number of agents that do
    something else, at the start (dashed grey) and at the end (controls dashed)."""
    rows = measured(table, "gap_1")
    over = panel(table, "gap_1", "gap of Q_tot", _domain(rows.gap_1, 1), "Where one agent does "
                 "something else, over training")  # fmt: skip
    parts = []
    for name in numbered(table, "gap"):
        curves, k = mean_curves(table, name), int(name[4:])
        each = curves.groupby(list(WHO), sort=False)
        parts += [each.tail(1).assign(k=k, when="end"), each.head(1).assign(k=k, when="start")]
    gaps = pd.concat(parts, ignore_index=True)
    gaps["name"] = [named(*pair) for pair in zip(gaps.algorithm, gaps.variant, strict=True)]
    begun = gaps.when == "start"
    if gaps[begun].groupby("k")["mean"].agg(np.ptp).max() < 1e-3:  # of one pre-training: drawn once
        once = gaps[begun].groupby("k").head(1).assign(name="all")
        gaps = pd.concat([gaps[~begun], once], ignore_index=True)
    gaps.loc[gaps.when == "start", "name"] = "start of " + gaps.name
    gaps["control"] = (gaps.variant != "") & (gaps.when == "end")
    base = alt.Chart(csv_data(gaps[["algorithm", "name", "when", "control", "k", "mean"]].round(3)))
    x = alt.X("k:O", title="agents that do something else", axis=alt.Axis(labelAngle=0))
    y = alt.Y("mean:Q", title="gap of Q_tot", scale=alt.Scale(domainMin=0))
    tooltip: list[Any] = ["name:N", "k:O", alt.Tooltip("mean:Q", title="gap", format=".2f")]
    start = base.transform_filter("datum.when == 'start'").encode(x=x, y=y, tooltip=tooltip)
    scales = looks(theme.in_order(gaps.algorithm))
    colour = alt.Color("algorithm:N", legend=None, scale=scales["colour"])
    shape = alt.Shape("algorithm:N", legend=None, scale=scales["shape"])
    end = base.transform_filter("datum.when == 'end'").encode(
        x=x, y=y, color=colour, detail="name:N", tooltip=tooltip
    )
    dash = alt.condition("datum.control", alt.value([7, 5]), alt.value([1, 0]))
    below = alt.layer(
        start.mark_line(strokeDash=[6, 5], strokeWidth=2, color=theme.REFERENCE).encode(
            detail="name:N"
        ),
        end.mark_line(strokeWidth=2.5).encode(strokeDash=dash),
        end.mark_point(filled=True, size=90, opacity=1).encode(shape=shape),
    ).properties(width=WIDTH, height=HEIGHT, title=panel_title(
        "By how many, at the end (grey: at the start; dashed: controls)"))  # fmt: skip
    return finish(_stacked([over, below]), "Which actions are held apart?", rows)


def churned(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Which share of the choices in the fixed battles is made otherwise: than by the pre-trained
    policy, of single agents and of joint actions; and than by the snapshot before."""
    names = {"churn": "Than the pre-trained policy: an agent's choice",
             "churn_joint": "Than the pre-trained policy: the joint action",
             "since": "Than the snapshot before: an agent's choice"}  # fmt: skip
    percent = table.assign(**{n: 100 * table[n] for n in names})
    panels = []
    for n, title in names.items():
        domain = _domain(percent[n].dropna(), 10)
        panels.append(panel(percent, n, "made otherwise (%)", domain, title, height=LOW))
    rows = measured(table, "churn")
    return finish(_stacked(panels), "Does the policy still do the same?", rows)


def left(table: pd.DataFrame) -> alt.TopLevelMixin:
    """How well a classifier tells a run's states from its dataset's: 0.5 is not at all."""
    rows = measured(table, "auc")
    low = min(0.5, float(np.floor(10 * rows.auc.min()) / 10))
    title = "States of its own battles against the dataset's"
    shown = panel(table, "auc", "AUC of a classifier", [low, 1.0], title)
    return finish(shown, "How far from its data does each play?", rows)


def bound(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Of the runs with a memory: how often it binds, how much it lifts the target, and how far what
    it says is from what the policy returns."""
    rows = measured(table, "binds")
    own = table[table.run.isin(rows.run)]
    percent = own.assign(binds=100 * own.binds)
    panels = [
        panel(percent, "binds", "steps (%)", [0, 100], "The memory exceeds the target", height=LOW),
        panel(own, "lift", "λ · (Q_offline − y)", _domain(rows.lift, 0.2),
              "How much it lifts what is learned towards", height=LOW),
    ]  # fmt: skip
    if "remembered_error" in own and own.remembered_error.notna().any():
        domain = _domain(own.remembered_error.dropna(), 1)
        title = "What it says less what the policy returns"
        axis, name = "Q_offline − G", "remembered_error"
        panels.append(panel(own, name, axis, domain, title, 0, reference_name="true", height=LOW))
    return finish(_stacked(panels), "Where does the memory bind?", rows)


def forgotten(numbers: pd.DataFrame, curves: pd.DataFrame) -> alt.TopLevelMixin:
    """From the first win rate (tick) down to the lowest (bar) and back to the last (point); the
    table as from `forgetting`."""
    table = numbers.assign(
        name=[named(*pair) for pair in zip(numbers.algorithm, numbers.variant, strict=True)],
        **{n: 100 * numbers[n] for n in ("first", "lowest", "last")},
    )
    scales = looks(theme.in_order(numbers.algorithm))
    colour = alt.Color("algorithm:N", legend=None, scale=scales["colour"])
    shape = alt.Shape("algorithm:N", legend=None, scale=scales["shape"])
    base = alt.Chart(csv_data(table[["algorithm", "name", "first", "lowest", "last"]].round(1)))
    y = alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=200))
    base = base.encode(y=y, color=colour, tooltip=["name:N", "first:Q", "lowest:Q", "last:Q"])
    x = alt.Scale(domain=[0, 100])
    first = base.mark_tick(thickness=3, size=22).encode(
        x=alt.X("first:Q", title="test win rate (%)", scale=x)
    )
    fall = base.mark_rule(strokeWidth=5, opacity=0.35).encode(x="lowest:Q", x2="first:Q")
    last = base.mark_point(filled=True, size=130, opacity=1).encode(x="last:Q", shape=shape)
    layered = alt.layer(fall, first, last).properties(
        width=WIDTH - 40, height=34 * len(table),
        title=panel_title("Tick: first, bar: down to the lowest, point: last", 13))  # fmt: skip
    return finish(layered, "How far down, and back?", measured(curves, "test_win_rate"),
                  lines=False)  # fmt: skip


def rivals(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Each rival's number against the test win rate, a point a snapshot after the start (controls
    hollow); the table as from `rivals.with_rivals`."""
    rows = measured(table, "test_win_rate")
    rows = rows[rows.env_steps > 0]
    order = theme.in_order(rows.algorithm)
    labels = [theme.label(n) for n in order]
    scales, legend = looks(order, labels), alt.Legend(columns=4)
    colour = alt.Color("name:N", title=None, sort=labels, scale=scales["colour"], legend=legend)
    shape = alt.Shape("name:N", title=None, sort=labels, scale=scales["shape"])
    panels = []
    for rival in RIVALS:
        if rival.number not in rows or rows[rival.number].notna().sum() < 2:
            continue
        some = rows[rows[rival.number].notna()]
        data = pd.DataFrame({
            "name": some.algorithm.map(theme.label), "run": [Path(run).name for run in some.run],
            "number": some[rival.number], "win": 100 * some.test_win_rate,
            "at": some.env_steps, "control": some.variant != "",
        }).round(3)  # fmt: skip
        words = textwrap.wrap(rival.text, 30)
        panels.append(
            alt.Chart(csv_data(data))
            .mark_point(size=80, strokeWidth=2, opacity=1)
            .encode(
                x=alt.X("number:Q", title=words, axis=alt.Axis(tickCount=4, titleFontSize=13)),
                y=alt.Y("win:Q", title="test win rate (%)", scale=alt.Scale(domain=[0, 100])),
                color=colour,
                shape=shape,
                fill=alt.Fill("name:N", legend=None, scale=scales["colour"]),
                fillOpacity=alt.condition("datum.control", alt.value(0), alt.value(0.5)),
                tooltip=["name:N", "run:N", alt.Tooltip("at:Q", format=","), "number:Q", "win:Q"],
            )
            .properties(width=WIDTH // 2 - 10, height=LOW)
        )  # fmt: skip
    chart = alt.concat(*panels, columns=2, spacing=18)
    return finish(
        chart, "What goes with the fall? A point: a snapshot (controls hollow)", rows, lines=False
    )
