"""Charts of 04_results and 05_ablation. Tables of `analysis.results` in, charts out.

Every seed is a mark of its own; what stands out is the median, never an interval alone. Maps and
datasets are panels; clicks on names of a legend show those lines alone, in a page without a kernel
too.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.charts import theme
from analysis.charts.base import csv_data, panel_title, titled
from analysis.results import LINE, QUESTION
from analysis.tables import named

WIDTH = 360  # of a panel with names beside it
ROW = 22  # pixels a name
# Whole, a control's as in every chart, and those of a second and a third control.
DASHES: tuple[list[float], ...] = ([1, 0], [7, 5], [2, 4], [9, 3, 2, 3])
NOT_SC2 = "× the paper's number, of StarCraft II, with the paper's data and steps"


def panel(row: Any) -> str:
    """The name of a question's panel."""
    return f"{row.task} {row.dataset}"


def learning(curves: pd.DataFrame, title: str, axis: str, top: float) -> alt.TopLevelMixin:
    """Small multiples map × dataset: thin every seed, bold the median. Controls, which are no
    algorithm as it is, have a panel of their own: nine lines are enough for one. curves as from
    `results.seed_curves`; axis: the measure with its unit; top: the end of its axis."""
    curves = curves.assign(panel=[panel(row) for row in curves.itertuples()])
    panels = [p for name in curves.panel.unique() for p in (name, f"{name}, controls")]
    curves["panel"] += np.where(curves.variant == "", "", ", controls")
    curves = curves.sort_values("panel", key=lambda of: of.map(panels.index), kind="stable")
    keys, digits = ["panel", *LINE], 0 if top > 50 else 1
    wide = curves.assign(x=(curves.env_steps / 1000).round(1))
    wide["step"] = wide.groupby([*keys, "seed"]).cumcount()
    table = wide.pivot_table(index=[*keys, "step"], columns="seed", values="value", sort=False)
    table = table.sort_index(axis="columns").rename(columns=lambda seed: f"s{seed}")
    middle = table.median(axis=1).round(digits + 1)
    short = table.round(digits).map(lambda value: "" if pd.isna(value) else f"{value:g}")
    table = short.assign(median=middle, x=wide.groupby([*keys, "step"], sort=False).x.mean())
    table = table.reset_index()
    few = (table.step > 5) & (table.step % 2 == 1)  # thin lines in fewer steps, but for the fall
    table.loc[few, list(short)] = ""
    table["x"] = table.x.round(1)
    table = table.drop(columns=["step", "algorithm", "variant"])
    names = _in_order(curves)
    # by number, as its name in every row would be half of the file
    known = {"panel": list(dict.fromkeys(curves.panel)), "name": list(names)}
    table = table.assign(**{of: table[of].map(all_.index) for of, all_ in known.items()})
    spelled = {of: f"{all_}[datum.{of}]" for of, all_ in known.items()}
    pick = _picker()
    x = alt.X("x:Q", title="environment steps (thousands)", axis=alt.Axis(grid=False, tickCount=4),
              scale=alt.Scale(domain=[0, float(table.x.max())], nice=False))  # fmt: skip
    scale = alt.Scale(domain=[0, top], nice=False)
    colour, dash = _line_look(names)
    base = alt.Chart().encode(x=x, color=colour)
    thin = base.transform_fold(list(short), as_=["seed", "value"])
    thin = thin.transform_filter("datum.value !== ''").mark_line(strokeWidth=0.8)
    thin = thin.encode(
        y=alt.Y("value:Q", title=axis, scale=scale),
        detail="seed:N",
        opacity=alt.condition(pick, alt.value(0.3), alt.value(0)),
    )
    bold = base.mark_line(strokeWidth=2.8).encode(
        y=alt.Y("median:Q", title=axis, scale=scale),
        strokeDash=dash,
        opacity=alt.condition(pick, alt.value(1), alt.value(0.05)),
        tooltip=[alt.Tooltip("name:N"), alt.Tooltip("x:Q", title="thousand steps"),
                 alt.Tooltip("median:Q", format=".3~g")],
    )  # fmt: skip
    # Legends of layers merge into the first one's: a parameter of another would hear no click.
    both = alt.layer(thin.add_params(pick), bold, data=csv_data(table))
    alone = table.panel.nunique() == 1
    each = both.properties(width=540 if alone else 250, height=280 if alone else 170)
    facets = each.facet(_panels(curves), columns=2, spacing=18).resolve_axis(x="independent")
    return titled(
        facets.transform_calculate(**spelled),
        title,
        "thin: one seed, bold: median; click names above to see only those",
    )


def win_rates(curves: pd.DataFrame) -> alt.TopLevelMixin:
    """The paper's Figure 2; the values in per cent."""
    return learning(curves, "Test battles won", "test win rate (%)", 100)


def returns(curves: pd.DataFrame) -> alt.TopLevelMixin:
    """The paper's Figure 3."""
    return learning(curves, "Test return", "return (at most 20)", 20)


def stories(found: pd.DataFrame) -> alt.TopLevelMixin:
    """Each run as its first test, its lowest one and its last: a thin line a seed, the median bold.
    found as from `results.runs`, of one map and dataset."""
    parts = ["start", "lowest", "end"]
    each = found.melt([*LINE, "seed"], parts, "part", "won").assign(won=lambda t: 100 * t.won)
    middle = each.groupby([*LINE, "part"], sort=False).won.median().reset_index().assign(seed=-1)
    each = _coloured(pd.concat([each, middle]).round(1))
    names = _in_order(found)
    x = alt.X("part:N", sort=parts, title=None, axis=alt.Axis(labelAngle=0, grid=False))
    y = alt.Y("won:Q", title="test win rate (%)", scale=alt.Scale(domain=[0, 100], nice=False))
    colour = alt.Color("colour:N", scale=None, legend=None)
    base = alt.Chart().encode(x=x, y=y, color=colour, detail="seed:N")
    thin = base.transform_filter("datum.seed >= 0").mark_line(strokeWidth=1, opacity=0.55)
    bold = base.transform_filter("datum.seed < 0").mark_line(strokeWidth=3, point={"size": 70})
    bold = bold.encode(tooltip=["name:N", "part:N", alt.Tooltip("won:Q", title="median (%)")])
    cells = alt.layer(thin, bold, data=csv_data(each.drop(columns=["algorithm", "variant"])))
    whole = cells.properties(width=130, height=110).facet(_by_name(names), columns=4, spacing=12)
    whole = whole.resolve_axis(x="independent")
    said = "test battles won at the start, at the lowest point and at the end"
    return titled(whole, panel(found.iloc[0]), said)


def final_win_rates(found: pd.DataFrame, paper: pd.DataFrame) -> alt.TopLevelMixin:
    """The paper's Table 1 with every seed of ours."""
    theirs = paper.assign(name=[named(a, "") for a in paper.algorithm], variant="")
    return strips(found, "end", "test win rate at the end (%)", "Final win rates", theirs)


def regret(found: pd.DataFrame) -> alt.TopLevelMixin:
    """1 - mean win rate over the online steps."""
    return strips(found, "regret", "regret (%)", "Regret: what always winning would have won more")


def retention(found: pd.DataFrame) -> alt.TopLevelMixin:
    """Lowest over first win rate."""
    title = "Retention: what is left of the first win rate"
    return strips(found, "retention", "lowest / first win rate (%)", title)


def at_its_best(found: pd.DataFrame, beside: pd.DataFrame) -> alt.TopLevelMixin:
    """Final win rates with tuned settings, and in the paper's setting; beside as from
    `results.side_by_side`."""
    before = beside.assign(value=beside.end_before).dropna(subset="value")
    said = "○ the median in the paper's setting, of the seeds that both have"
    return strips(found, "end", "test win rate at the end (%)", "Each at its best", before, said)


def strips(
    found: pd.DataFrame, measure: str, axis: str, title: str,
    other: pd.DataFrame | None = None, sign: str = NOT_SC2,
) -> alt.TopLevelMixin:  # fmt: skip
    """A row a line, best median first, a panel a question: every seed as a point, the median as a
    bar, least to greatest seed as a thin rule, and what it stands beside as a sign.

    found as from `results.runs`; measure: a share 0..1 of it; other: the shares (`value`) beside;
    sign: how these are drawn, and what they are.
    """
    rows = _with_other(found, measure, other)
    drawn = []
    for name in dict.fromkeys(rows.panel):
        mine = rows[rows.panel == name]
        medians = mine[mine.kind == "seed"].groupby("name", sort=False).value.median()
        rest = mine[~mine.name.isin(medians.index)].groupby("name", sort=False).value.max()
        order = [*medians.sort_values(ascending=measure == "regret", kind="stable").index,
                 *rest.sort_values(ascending=False).index]  # fmt: skip
        drawn.append(_strip(mine, order, axis, name, sign))
    below = ["a point is a seed, the bar their median"]
    below += [sign] * bool((rows.kind == "other").any())
    return titled(alt.vconcat(*drawn, spacing=16), title, below)


def _with_other(found: pd.DataFrame, measure: str, other: pd.DataFrame | None) -> pd.DataFrame:
    rows = found.assign(value=100 * found[measure].astype(float), kind="seed")
    columns = ["task", "dataset", *LINE, "value", "kind", "seed"]
    if other is not None:
        other = other.assign(value=100 * other.value, kind="other", seed=-1)
        rows = pd.concat([rows, other]) if len(rows) else other
    rows = rows[columns].reset_index(drop=True)
    return rows.assign(panel=[panel(row) for row in rows.itertuples()])


def _strip(rows: pd.DataFrame, order: list[str], axis: str, name: str, sign: str) -> alt.LayerChart:
    table = _coloured(rows)[["name", "value", "kind", "seed", "colour"]].round(2)
    x = alt.X("value:Q", title=axis, scale=alt.Scale(domain=[0, 100], nice=False))
    y = alt.Y("name:N", sort=order, title=None,
              axis=alt.Axis(labelLimit=260, grid=True, ticks=False, labelPadding=9))  # fmt: skip
    colour = alt.Color("colour:N", scale=None, legend=None)
    base = alt.Chart().encode(x=x, y=y, color=colour)
    seeds = base.transform_filter("datum.kind == 'seed'")
    spread = seeds.mark_rule(strokeWidth=1.2, opacity=0.6).encode(
        x=alt.X("min(value):Q", title=axis), x2="max(value):Q"
    )
    middle = seeds.mark_tick(thickness=4, size=16).encode(
        x=alt.X("median(value):Q", title=axis),
        tooltip=["name:N", alt.Tooltip("median(value):Q", title="median", format=".3~g"),
                 alt.Tooltip("count():Q", title="seeds")],
    )  # fmt: skip
    points = seeds.mark_circle(size=42, opacity=0.6).encode(
        tooltip=["name:N", "seed:Q", alt.Tooltip("value:Q", format=".3~g")]
    )
    what = alt.Tooltip("value:Q", title=sign[2:].partition(",")[0], format=".4~g")
    signs = alt.Chart().transform_filter("datum.kind == 'other'")
    signs = signs.mark_text(text=sign[0], fontSize=20, color=theme.AROUND).encode(
        x=x, y=y, tooltip=["name:N", what]
    )
    layers = alt.layer(spread, points, middle, signs, data=csv_data(table))
    said = name if (rows.kind == "seed").any() else f"{name}: not run"
    return layers.properties(width=WIDTH, height=ROW * len(order), title=panel_title(said))


def from_ovmse(table: pd.DataFrame) -> alt.TopLevelMixin:
    """`results.differences`."""
    return differences(table, "difference in mean win rate (points)", "Away from OVMSE")


def part_by_part(table: pd.DataFrame) -> alt.TopLevelMixin:
    """`results.effects`."""
    return differences(table, "change of the mean win rate (points)", "What each part adds")


def differences(table: pd.DataFrame, axis: str, title: str) -> alt.TopLevelMixin:
    """Paired differences, ordered by effect: every seed that both lines have as a point, the mean
    as a bar with its t interval as a rule. table as from `results.differences` or
    `results.effects`, where the rows of each part stand together."""
    drawn = []
    reach = [*table.each.explode().dropna(), *table.low.dropna(), *table.high.dropna()]
    # One scale: maps are compared by eye. An interval of two seeds may reach beyond the possible.
    edge = 105 * min(1.0, max(map(abs, reach), default=1.0))
    scale = alt.Scale(domain=[-edge, edge], nice=False)
    for key, mine in table.groupby(QUESTION, sort=False):
        parts = "part" in mine
        if parts:
            mine = mine.sort_values(["part", "mean"], ascending=[True, False])
        label = mine.part + ", added to " + mine.beside if parts else mine.name
        algorithm = mine.part.map(PART_LOOK) if parts else mine.algorithm
        mine = mine.assign(label=list(label), colour=[_colour(a) for a in algorithm])
        drawn.append(_difference(mine, axis, f"{key[1]} {key[2]}", scale))
    below = "a point is one seed of both lines, the bar the mean; the rule: its t interval (95 %)"
    return titled(alt.vconcat(*drawn, spacing=16), title, below)


PART_LOOK = {"memory": "ovm", "SE": "se", "CQL": "macql"}


def _difference(mine: pd.DataFrame, axis: str, name: str, scale: alt.Scale) -> alt.LayerChart:
    order = list(mine.label)
    means = mine[["label", "colour", "mean", "low", "high", "p", "holm", "seeds"]].copy()
    means[["mean", "low", "high"]] *= 100
    pairs = mine[["label", "colour", "each"]].explode("each").dropna()
    pairs = pairs.assign(value=100 * pairs.pop("each").astype(float))
    y = alt.Y("label:N", sort=order, title=None,
              axis=alt.Axis(labelLimit=420, grid=True, ticks=False))  # fmt: skip
    colour = alt.Color("colour:N", scale=None, legend=None)
    base = alt.Chart(csv_data(means.round(3))).encode(y=y, color=colour)
    rule = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, clip=True)
    rule = rule.encode(x=alt.X("low:Q", title=axis, scale=scale), x2="high:Q")
    tick = base.mark_tick(thickness=4, size=16).encode(
        x=alt.X("mean:Q", title=axis, scale=scale),
        tooltip=["label:N", alt.Tooltip("mean:Q", format="+.1f"), "seeds:Q",
                 alt.Tooltip("p:Q", title="sign-flip p", format=".3f"),
                 alt.Tooltip("holm:Q", title="p (Holm)", format=".3f")],
    )  # fmt: skip
    points = alt.Chart(csv_data(pairs.round(2))).mark_circle(size=42, opacity=0.6)
    points = points.encode(y=y, color=colour, x=alt.X("value:Q", title=axis, scale=scale))
    zero = alt.Chart(csv_data(pd.DataFrame({"x": [0]}))).mark_rule(
        color=theme.REFERENCE, strokeDash=[5, 4]
    )
    layers = alt.layer(zero.encode(x=alt.X("x:Q", scale=scale)), rule, points, tick)
    return layers.properties(width=WIDTH, height=ROW * len(mine), title=panel_title(name))


def noise(found: pd.DataFrame) -> alt.TopLevelMixin:
    """The map of noise: mean win rate over the online steps against the agents expected to explore
    at a step at the start. Points are seeds, lines their medians."""
    rows = found.assign(won=100 * found["mean"], panel=[panel(row) for row in found.itertuples()])
    names = _in_order(rows)
    table = rows[["panel", "name", "explorers", "won", "seed"]].round(2)
    pick = _picker()
    colour, dash = _line_look(names)
    levels = [float(v) for v in sorted(rows.explorers.unique())]
    x = alt.X("explorers:Q", title="agents expected to explore at a step, at the start",
              scale=alt.Scale(type="log", domain=[levels[0] * 0.85, levels[-1] * 1.15], nice=False),
              axis=alt.Axis(values=levels, tickCount=len(levels), grid=False, labelOverlap=False,
                            labelExpr="format(datum.value, '~g')"))  # fmt: skip
    y = alt.Scale(domain=[0, 100], nice=False)
    base = alt.Chart().encode(x=x, color=colour)
    points = base.mark_circle(size=46).encode(
        y=alt.Y("won:Q", title="mean win rate online (%)", scale=y),
        opacity=alt.condition(pick, alt.value(0.6), alt.value(0)),
        tooltip=["name:N", "explorers:Q", "seed:Q", alt.Tooltip("won:Q", format=".0f")],
    )
    lines = base.mark_line(strokeWidth=2.8).encode(
        y=alt.Y("median(won):Q", title="mean win rate online (%)", scale=y),
        strokeDash=dash,
        opacity=alt.condition(pick, alt.value(1), alt.value(0.05)),
    )  # fmt: skip
    both = alt.layer(points, lines.add_params(pick), data=csv_data(table))
    facets = both.properties(width=470, height=230).facet(_panels(rows), columns=1)
    facets = facets.resolve_axis(x="independent")
    said = "a point is a seed, a line their median; SE and OVMSE explore one at a time"
    return titled(facets, "How much noise at the start?", said)


def mixing(found: pd.DataFrame, paper: pd.DataFrame) -> alt.TopLevelMixin:
    """Table 2: the last test's return by the share of offline data, a panel an algorithm; found of
    one map and dataset."""
    if len(found):
        same = (paper.task == found.task.iloc[0]) & (paper.dataset == found.dataset.iloc[0])
        paper = paper[same]
    theirs = paper.assign(name=[named(a, "") for a in paper.algorithm], last_return=paper.value)
    columns = ["name", "algorithm", "variant", "mixing_ratio", "last_return", "kind"]
    rows = theirs.assign(kind="paper", variant="")[columns]
    if len(found):
        rows = pd.concat([found.assign(kind="seed")[columns], rows])
    names = _in_order(rows)
    x = alt.X("mixing_ratio:O", title="mixing ratio", axis=alt.Axis(labelAngle=0, grid=False))
    y = alt.Y("last_return:Q", title="return at the last test (at most 20)",
              axis=alt.Axis(values=[0, 5, 10, 15, 20]),
              scale=alt.Scale(domain=[0, 21], nice=False))  # fmt: skip
    colour = alt.Color("colour:N", scale=None, legend=None)
    base = alt.Chart().encode(x=x, y=y)
    seeds = base.transform_filter("datum.kind == 'seed'").encode(color=colour)
    layers = [seeds.mark_circle(size=46, opacity=0.6),
              seeds.mark_tick(thickness=4, size=22).encode(y="median(last_return):Q"),
              base.transform_filter("datum.kind == 'paper'").mark_text(
                  text="×", fontSize=20, color=theme.AROUND).encode(
                  tooltip=[alt.Tooltip("last_return:Q", title="the paper's")])]  # fmt: skip
    table = _coloured(rows).drop(columns=["algorithm", "variant"]).round(3)
    cells = alt.layer(*layers, data=csv_data(table)).properties(width=130, height=190)
    whole = cells.facet(_by_name(names), columns=4, spacing=12)
    where = f": {panel(found.iloc[0])}" if len(found) else ""
    said = NOT_SC2 if len(paper) else "a point is a seed, the bar their median"
    return titled(whole, f"Offline data in an online batch{where}", said)


def profiles(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Performance profiles over all maps; table as from `results.profiles`."""
    names = _in_order(table)
    colour, _ = _line_look(names)
    rows = table.assign(score=100 * table.score, share=100 * table.share).round(2)
    chart = alt.Chart(csv_data(rows.drop(columns="algorithm"))).encode(
        x=alt.X("score:Q", title="mean win rate online (%)", axis=alt.Axis(grid=False)),
        y=alt.Y("share:Q", title="runs above it (%)", scale=alt.Scale(domain=[0, 100])),
        color=colour,
        tooltip=["name:N", "score:Q", "share:Q"],
    )
    line = chart.mark_line(interpolate="step-after", strokeWidth=2.8)
    return titled(line.properties(width=470, height=210), "All maps together", "higher is better")


def _picker() -> alt.Parameter:
    """Each click on a name adds its lines to those that are seen, or takes them away again; with
    none picked all are seen. So fingers can pick several, who have no shift key."""
    return alt.selection_point(name="pick", fields=["name"], bind="legend", toggle="true")


def _in_order(rows: pd.DataFrame) -> dict[str, str]:
    """name -> algorithm, in the order of the table of algorithms."""
    who = dict(zip(rows.name, rows.algorithm, strict=True))
    order = theme.in_order(who.values())
    return dict(sorted(who.items(), key=lambda pair: (order.index(pair[1]), pair[0])))


def _panels(rows: pd.DataFrame) -> alt.Facet:
    header = alt.Header(labelFontSize=16, labelFontWeight="bold", labelColor=theme.AROUND)
    return alt.Facet("panel:N", sort=list(dict.fromkeys(rows.panel)), title=None, header=header)


def _by_name(names: dict[str, str]) -> alt.Facet:
    header = alt.Header(labelFontSize=14, labelColor=theme.AROUND, labelLimit=160)
    return alt.Facet("name:N", sort=list(names), title=None, header=header)


def _line_look(names: dict[str, str]) -> tuple[alt.Color, alt.StrokeDash]:
    """Colour of the algorithm and dashes of what was changed of it (`DASHES`), in one legend."""
    legend = alt.Legend(columns=3, symbolType="stroke", symbolStrokeWidth=3, symbolSize=220)
    colours = [_colour(algorithm) for algorithm in names.values()]
    order: dict[str, Any] = {"sort": list(names), "title": None, "legend": legend}
    colour = alt.Color("name:N", scale=alt.Scale(domain=list(names), range=colours), **order)
    dashes: dict[str, list[float]] = {}
    for name, algorithm in names.items():
        first = 2 if "with CQL" in name else int("with" in name)
        taken = [dashes[other] for other in dashes if names[other] == algorithm]
        free = [d for d in (*DASHES[first:], *DASHES[1:]) if d not in taken]
        dashes[name] = free[0] if free else DASHES[first]
    dash = alt.Scale(domain=list(names), range=list(dashes.values()))
    return colour, alt.StrokeDash("name:N", scale=dash, **order)


def _coloured(rows: pd.DataFrame) -> pd.DataFrame:
    """With `colour` itself: panels side by side would mix up the domains of a scale."""
    return rows.assign(colour=[_colour(algorithm) for algorithm in rows.algorithm])


def _colour(algorithm: str) -> str:
    return theme.style(algorithm).colour
