"""Tables -> Altair charts. Pure functions: a table in, a chart out, nothing read or written.

Every chart speaks Vega-Lite 5 with nothing newer than 5.6, which is what JupyterLab 4 draws. Names
stand at the ends of their lines instead of in a legend; a click on a name or a line highlights that
algorithm in every panel, a click on empty paper shows all again.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.charts import theme
from analysis.charts.base import (
    HEIGHT,
    WIDTH,
    clock_axis,
    csv_data,
    finish,
    looks,
    panel_title,
    spread,
    stacked,
)
from analysis.tables import CLOCK, WHO, mean_curves, measured, named, reference_return
from ovmse.errors import UserError

LABEL_GAP = 19  # pixels between two names at the ends of lines
MARKS = 6  # point shapes along a line
REFERENCE = "Monte-Carlo return"


def learning_curve(curves: pd.DataFrame) -> alt.TopLevelMixin:
    """Both phases: test win rate over offline updates, then over online steps, then the values.

    A phase or a measure that the table does not hold has no panel: a run from scratch has neither
    an offline phase nor fixed battles.
    """
    panels = []
    if len(measured(curves, "test_win_rate", "offline")):
        panels.append(_win_panel(curves, "Offline: test battles won", "offline"))
    panels.append(_win_panel(curves, "Online: test battles won"))
    if len(measured(curves, "q_ended")):
        panels.append(_q_panel(curves, "Online: value of the fixed battles"))
    title = "From a dataset to battles" if curves.dataset.notna().any() else "From scratch"
    return finish(stacked(panels), title, curves)


def figure1(curves: pd.DataFrame) -> alt.TopLevelMixin:
    """The paper's Figure 1: does online training forget what the pre-trained policy was worth?

    Above: mean `Q_tot` over the fixed battles of the pre-trained policy against online environment
    steps, one thin line for each seed and a bold mean, with the discounted Monte-Carlo return of
    the same battles as a dashed line. Only battles that truly ended count, on both sides: one that
    the time limit cut returned less than it would have, while `Q_tot` values it to its end. Below:
    test win rate (%), and ε and λ. A click in one highlights in both.
    """
    values = _q_panel(curves, "Value of the pre-trained policy's own battles")
    wins = _win_panel(curves, "Test battles won")
    title = "Does online training forget the pre-trained policy?"
    fading = schedules(curves)
    return finish(stacked([values, wins, *([fading] if fading else [])]), title, curves)


def _q_panel(curves: pd.DataFrame, title: str) -> alt.LayerChart:
    values, reference = measured(curves, "q_ended").q_ended, reference_return(curves)
    # From zero (lower only where a young network's values are) to a labelled tick.
    low = min(0.0, 2 * np.floor(values.min() / 2))
    top = max(2.0, 2 * np.ceil(max(values.max(), reference or 0) / 2))
    return panel(curves, "q_ended", "mean Q_tot", [low, top], title, reference)


def _win_panel(curves: pd.DataFrame, title: str, phase: str = "online") -> alt.LayerChart:
    percent = curves.assign(test_win_rate=100 * curves.test_win_rate)
    return panel(percent, "test_win_rate", "test win rate (%)", [0, 100], title, phase=phase)


def panel(
    curves: pd.DataFrame,
    measure: str,
    axis: str,
    domain: list[float],
    title: str,
    reference: float | None = None,
    phase: str = "online",
    reference_name: str = REFERENCE,
    spread_by: str | None = None,
    height: int = HEIGHT,
) -> alt.LayerChart:
    """One panel: thin lines of the seeds, bold means with point shapes, names at their ends.

    measure: a column of the curves; domain: of the axis; reference: the height of a dashed line,
    with its name; spread_by: a column with what stands above and below each mean as a thin bar.
    """
    clock = CLOCK[phase]
    seeds = measured(curves, measure, phase)[[*WHO, "seed", clock, measure]]
    means = mean_curves(curves, measure, phase)
    if means.empty:
        raise UserError(f"no {phase} row carries {measure}: nothing to draw yet")
    names = theme.in_order(means.algorithm)
    seeds, means = _drawn(seeds, clock), _drawn(means, clock)
    means["mark"] = 0
    for i, name in enumerate(means.name.unique()):
        means.loc[_spaced(means.index[means.name == name], i), "mark"] = 1

    pick = alt.selection_point(name="pick", fields=["name"])
    x = alt.X(
        "x:Q",
        title="environment steps (thousands)" if phase == "online" else "updates",
        scale=alt.Scale(domain=[0, float(seeds.x.max()) or 1], nice=False),
        axis=clock_axis(),
    )
    y = alt.Scale(domain=domain, nice=False)
    y_axis = alt.Axis(title=axis)
    scales = looks(names)
    colour = alt.Color("algorithm:N", scale=scales["colour"], legend=None)

    def lit(on: float, off: float) -> Any:
        return alt.condition(pick, alt.value(on), alt.value(off))

    layers = []
    if spread_by:
        bars = _bars(curves, spread_by, means, domain)
        across = alt.Chart(csv_data(bars)).mark_rule(strokeWidth=1.6).encode(
            x="x:Q", y=alt.Y("low:Q", scale=y, axis=y_axis), y2="high:Q", color=colour
        )  # fmt: skip
        layers.append(across.encode(opacity=lit(0.45, 0.06)))
    if reference is not None:
        rule = alt.Chart(
            csv_data(pd.DataFrame({"algorithm": [""], "y": [reference]}).round(3))
        ).encode(y=alt.Y("y:Q", scale=y))
        layers.append(rule.mark_rule(color=theme.REFERENCE, strokeDash=[6, 5], strokeWidth=2))
    y_seed = alt.Y(f"{measure}:Q", scale=y, axis=y_axis)
    thin = alt.Chart(csv_data(seeds[["algorithm", "name", "seed", "x", measure]]))
    each = {"x": x, "y": y_seed, "color": colour, "detail": ["name:N", "seed:N"]}
    layers.append(thin.mark_line(strokeWidth=1.2).encode(**each, opacity=lit(0.4, 0.06)))
    base = alt.Chart(csv_data(means)).encode(
        x=x, y=alt.Y("mean:Q", scale=y, axis=y_axis), color=colour
    )
    dash = alt.condition("datum.variant", alt.value([7, 5]), alt.value([1, 0]))
    bold = base.mark_line(strokeWidth=3.2).encode(detail="name:N", strokeDash=dash)
    layers.append(bold.encode(opacity=lit(1, 0.12)).add_params(pick))
    points = base.transform_filter("datum.mark == 1").encode(
        shape=alt.Shape("algorithm:N", scale=scales["shape"], legend=None), opacity=lit(1, 0.12)
    )
    layers.append(points.mark_point(filled=True, size=100))
    # Unseen discs under the pointer: a line of three pixels is hard to hit.
    tooltip = [
        alt.Tooltip("name:N", title="algorithm"),
        alt.Tooltip("at:Q", title=clock.replace("_", " "), format=","),
        alt.Tooltip("mean:Q", title=f"mean {axis.removeprefix('mean ')}", format=".3~g"),
        alt.Tooltip("low:Q", title="least seed", format=".3~g"),
        alt.Tooltip("high:Q", title="greatest seed", format=".3~g"),
        alt.Tooltip("seeds:Q"),
    ]
    unseen = base.mark_circle(size=260, cursor="pointer")
    layers.append(unseen.encode(opacity=alt.value(0), tooltip=tooltip))
    shape = scales["shape"]
    layers += _names(means, reference, reference_name, domain, colour, shape, lit(1, 0.35))
    layered = alt.layer(*layers).resolve_scale(color="independent")
    return layered.properties(width=WIDTH, height=height, title=panel_title(title))


def _bars(
    curves: pd.DataFrame, spread_by: str, means: pd.DataFrame, domain: list[float]
) -> pd.DataFrame:
    """A bar at each point of the mean curves, those of one step side by side."""
    around = mean_curves(curves, spread_by)[[*WHO, "env_steps", "mean"]]
    around = around.rename(columns={"mean": "around", "env_steps": "at"})
    bars, end = means.merge(around, on=[*WHO, "at"]), float(means.x.max()) or 1
    place = bars.name.map({name: i for i, name in enumerate(bars.name.unique())})
    bars["x"] = (bars.x + place * end / 120).clip(0, end)
    bars["low"] = (bars["mean"] - bars.around).clip(*domain)
    bars["high"] = (bars["mean"] + bars.around).clip(*domain)
    return bars[["algorithm", "name", "x", "low", "high"]].round(3)


def schedules(curves: pd.DataFrame) -> alt.LayerChart | None:
    """What fades meanwhile: ε of exploration, and λ of the runs that have a memory; a line for each
    course that there is, which says whose it is where the algorithms' differ. None where the curves
    do not say."""
    kinds = {"epsilon": "ε, chance to explore", "lambda_memory": "λ, weight of the memory"}
    courses: list[tuple[str, pd.DataFrame, list[str]]] = []  # the last: whose it is
    for name, kind in kinds.items():
        if name not in curves or measured(curves, name).empty:
            continue
        for who, course in mean_curves(curves, name).groupby(list(WHO), sort=False):
            alike = (whose for k, c, whose in courses if k == kind and _same_course(c, course))
            if (whose := next(alike, None)) is None:
                courses.append((kind, course, whose := []))
            whose.append(named(*who))
    if not courses:
        return None
    table = pd.concat(
        course[["mean"]].assign(x=course.env_steps / 1000, kind=kind, of=", ".join(whose))
        for kind, course, whose in courses
    )
    names = [k for k in kinds.values() if k in set(table.kind)]
    differ = "" if len(courses) == len(names) else " (point at a line: whose it is)"
    colour = alt.Color("kind:N", title=None, sort=names, scale=alt.Scale(
        domain=names, range=[theme.QUIET, theme.STYLES["macal_ql"].colour]))  # fmt: skip
    dash = alt.StrokeDash("kind:N", title=None, sort=names, scale=alt.Scale(
        domain=names, range=[[1, 0], [6, 4]]))  # fmt: skip
    base = alt.Chart(csv_data(table.round(4))).encode(
        x=alt.X("x:Q", title="environment steps (thousands)", axis=clock_axis(),
                scale=alt.Scale(domain=[0, float(table.x.max()) or 1], nice=False)),
        y=alt.Y("mean:Q", title="ε and λ", scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(values=[0, 0.5, 1])),
        color=colour, strokeDash=dash, detail="of:N",
        tooltip=["kind:N", alt.Tooltip("x:Q", title="thousand steps"),
                 alt.Tooltip("mean:Q", title="value"), "of:N"],
    )  # fmt: skip
    title = panel_title(f"What fades{differ}", 13)
    return alt.layer(base.mark_line(strokeWidth=2.5)).properties(
        width=WIDTH, height=60, title=title
    )


def _same_course(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two mean curves are one: tests of one schedule fall on slightly different steps."""
    there = np.interp(other.env_steps, one.env_steps, one["mean"])
    return bool(np.allclose(there, other["mean"], atol=0.01))


def _drawn(table: pd.DataFrame, clock: str) -> pd.DataFrame:
    """`table` with plotting columns `x` and `name`, few digits, and OVMSE last, so on top."""
    rank = table.algorithm.map({name: -i for i, name in enumerate(theme.STYLES)})
    table = table.iloc[np.argsort(rank, kind="stable")].rename(columns={clock: "at"})
    x = table["at"] / (1000 if clock == "env_steps" else 1)
    names = [named(*pair) for pair in zip(table.algorithm, table.variant, strict=True)]
    return table.assign(x=x, name=names).round(3).reset_index(drop=True)


def _spaced(rows: pd.Index, shift: int) -> pd.Index:
    """About `MARKS` of the rows of one mean curve, the last among them, shifted line by line."""
    step = max(len(rows) // MARKS, 1)
    kept = {*range((step // 2 + shift) % step, len(rows), step), len(rows) - 1}
    return rows[sorted(kept)]


def _names(
    means: pd.DataFrame,
    reference: float | None,
    reference_name: str,
    domain: list[float],
    colour: alt.Color,
    shapes: alt.Scale,
    lit: Any,
) -> list[alt.Chart]:
    """The names at the ends of the lines, each with its point shape, apart where they overlap."""
    ends = means.groupby("name", sort=False).tail(1)[["algorithm", "name", "x", "mean"]]
    if reference is not None:
        end = {"algorithm": "", "name": reference_name, "x": means.x.max(), "mean": reference}
        ends = pd.concat([ends, pd.DataFrame([end])])
    gap = LABEL_GAP * (domain[1] - domain[0]) / HEIGHT
    ends = ends.assign(y=spread(ends["mean"].to_numpy(), gap, *domain)).round(3)
    base = alt.Chart(csv_data(ends)).encode(x="x:Q", y="y:Q", opacity=lit)
    keys = base.transform_filter("datum.algorithm").encode(
        color=colour, shape=alt.Shape("algorithm:N", scale=shapes, legend=None)
    )
    text = base.mark_text(align="left", baseline="middle", dx=26, cursor="pointer")
    # Vega-Lite lets a layer feel the pointer only if it has a tooltip or the selection itself.
    named = text.encode(text="name:N", tooltip=alt.value("click to highlight"))
    return [keys.mark_point(filled=True, size=100, xOffset=16), named]
