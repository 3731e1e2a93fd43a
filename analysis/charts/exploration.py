"""Charts of who explored, and of what it cost. Tables in, charts out, as in ``curves``.

Every mark of the raster carries its battle's number and its step, as `battle` and `step`.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from analysis.charts import theme
from analysis.charts.base import HEIGHT, WIDTH, clock_axis, csv_data, panel_title, titled
from analysis.exploration import OPENING, THIRDS
from analysis.statistics import wilson
from analysis.tables import EXPLORATION_NAMES as NAMES

BLUE, ORANGE, GREEN = (theme.STYLES[n].colour for n in ("ovmse", "switch_cql", "ovm"))
SHADES = (0.2, 0.35, 0.6, 0.8, 1.0)  # opacities: more is more, on white and on black
RANKS = ["the greedy action", "lowest third", "middle third", "greatest third"]


def raster(density: pd.DataFrame, some: pd.DataFrame, subtitle: str) -> alt.TopLevelMixin:
    """Above: how often each agent explored, over training. Below: every event of some battles, by
    the rank of the gap ``Q_i(greedy) - Q_i(taken)`` among all of the run.

    density as from `exploration.density`, some as from `exploration.some_battles`.
    """
    rows = density.assign(
        begin=density.begin / 1000, end=density.end / 1000, agent=density.agent + 1
    )
    top = max(float(rows.share.max()), 0.01)
    bands = (
        alt.Chart(csv_data(rows.round(4)))
        .mark_rect(color=BLUE)
        .encode(
            x=alt.X("begin:Q", title="environment steps (thousands)", axis=clock_axis(),
                    scale=alt.Scale(domain=[0, float(rows.end.max())], nice=False)),
            x2="end:Q",
            y=alt.Y("agent:O", title="agent"),
            opacity=alt.Opacity(
                "share:Q",
                title="share of its steps at which it explored",
                scale=alt.Scale(type="quantize", domain=[0, top], range=list(SHADES)),
                legend=alt.Legend(
                    format=".0%", symbolType="square", symbolFillColor=BLUE, titleLimit=400
                ),
            ),
            tooltip=[alt.Tooltip("agent:O"), alt.Tooltip("share:Q", format=".1%"),
                     alt.Tooltip("begin:Q", title="from (thousand steps)", format=".3~f"),
                     alt.Tooltip("end:Q", title="to", format=".3~f")],
        )
    )  # fmt: skip
    agents = int(density.agent.max()) + 1
    above = bands.properties(width=WIDTH, height=22 * agents, title=panel_title("Over training"))
    below = _battles(some, agents)
    stacked = alt.vconcat(above, below, spacing=14).resolve_legend(
        color="independent", opacity="independent"
    )
    return titled(stacked, "Who explored when", subtitle)


def _battles(some: pd.DataFrame, agents: int) -> alt.LayerChart:
    each = 5 if agents > 5 else 6  # pixels
    space = agents + 1.5
    there = some.dropna()
    events = there.assign(
        y=there.row * space + there.agent,
        agent=there.agent + 1,
        kind=[RANKS[r] for r in there["rank"]],
    )
    events = events.drop(columns=["row", "rank", "length", "won", "at_once"]).astype(
        {"step": int, "action": int, "greedy": int, "env_steps": int, "agent": int}
    )
    heads = some.drop_duplicates("row")
    ends = pd.DataFrame(
        {
            "name": [f"battle {b:,}" for b in heads.battle],
            "length": heads.length,
            "y": heads.row * space + (agents - 1) / 2,
            "low": heads.row * space - 0.7,
            "high": heads.row * space + agents - 0.3,
            "end": ["won" if w else "lost" for w in heads.won],
            "begin": 0,
        }
    )
    rows = int(heads.row.max()) + 1
    scale = alt.Scale(domain=[rows * space - 1, -1], nice=False)
    y = alt.Y("y:Q", scale=scale, axis=None)
    x = alt.X("begin:Q", title="step of the battle", axis=alt.Axis(grid=False),
              scale=alt.Scale(domain=[0, int(heads.length.max())], nice=False))  # fmt: skip
    base = alt.Chart(csv_data(ends))
    ground = base.mark_rect(color=theme.QUIET, opacity=0.13).encode(
        x=x, x2="length:Q", y=alt.Y("low:Q", scale=scale, axis=None), y2="high:Q"
    )
    names = base.mark_text(align="right", dx=-6, fontSize=12).encode(x=x, y=y, text="name:N")
    said = base.mark_text(align="left", dx=5, fontSize=12).encode(
        x=alt.X("length:Q"), y=y, text="end:N"
    )
    marks = (
        alt.Chart(csv_data(events.round(3)))
        .mark_square(size=each**2, xOffset=each / 2)
        .encode(
            x=alt.X("step:Q"),
            y=y,
            color=alt.Color(
                "kind:N",
                title="gap of Q_i",
                sort=RANKS,
                scale=alt.Scale(domain=RANKS, range=[theme.QUIET, *_SHADED]),
                legend=alt.Legend(columns=4, symbolType="square", symbolOpacity=1),
            ),
            opacity=alt.value(1),
            tooltip=["battle:Q", "step:Q", "agent:Q", "action:Q",
                     alt.Tooltip("greedy:Q", title="greedy action"),
                     alt.Tooltip("gap:Q", title="gap of Q_i"),
                     alt.Tooltip("env_steps:Q", title="environment step", format=",")],
        )
    )  # fmt: skip
    layered = alt.layer(ground, marks, names, said)
    return layered.properties(
        width=WIDTH - 60, height=rows * space * each, title=panel_title("In some battles")
    )


_SHADED = (theme.STYLES["macal_ql"].colour, ORANGE, theme.STYLES["action_proposal"].colour)


def explorers(along: pd.DataFrame, at_once: pd.DataFrame, subtitle: str) -> alt.TopLevelMixin:
    """Above: agents that explore at a step, over training, beside what the living agents give at ε
    and at ε/N. Below: how often ``k`` of them do at once, and how often ``k`` stray."""
    kinds = {"explored": "explored", "greedy": "living · ε", "sequential": "living · ε/N"}
    lines = _long(along, "env_steps", kinds).assign(x=lambda t: t.env_steps / 1000)
    names, colours = list(kinds.values()), [BLUE, ORANGE, GREEN]
    colour = alt.Color(
        "kind:N", title=None, sort=names, scale=alt.Scale(domain=names, range=colours)
    )
    dash = alt.StrokeDash(
        "kind:N",
        title=None,
        sort=names,
        scale=alt.Scale(domain=names, range=[[1, 0], [6, 4], [2, 4]]),
    )
    over = (
        alt.Chart(csv_data(lines[["x", "kind", "value"]].round(4)))
        .mark_line(strokeWidth=2.5)
        .encode(
            x=alt.X("x:Q", title="environment steps (thousands)", axis=clock_axis(),
                    scale=alt.Scale(domain=[0, float(lines.x.max())], nice=False)),
            y=alt.Y("value:Q", title="agents at a step", scale=alt.Scale(domainMin=0)),
            color=colour,
            strokeDash=dash,
            tooltip=["kind:N", alt.Tooltip("x:Q", title="thousand steps", format=".3~f"),
                     alt.Tooltip("value:Q", title="agents at a step", format=".3~f")],
        )
        .properties(width=WIDTH, height=HEIGHT,
                    title=panel_title("How many explore, over training"))
    )  # fmt: skip
    kinds = {"explored": "explored", "strayed": "not the greedy action",
             "greedy": "binomial at ε", "sequential": "binomial at ε/N"}  # fmt: skip
    shares = _long(at_once, "k", kinds)
    shares["value"] *= 100
    names = list(kinds.values())
    bars = (
        alt.Chart(csv_data(shares.round(3)))
        .mark_bar()
        .encode(
            x=alt.X("k:O", title="agents at one step", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("kind:N", sort=names),
            y=alt.Y("value:Q", title="steps (%)"),
            color=alt.Color(
                "kind:N", title=None, sort=names,
                scale=alt.Scale(domain=names,
                                range=[BLUE, theme.STYLES["se"].colour, ORANGE, GREEN]),
            ),
            tooltip=["kind:N", "k:O", alt.Tooltip("value:Q", title="steps (%)", format=".3~f")],
        )
        .properties(width=WIDTH, height=HEIGHT, title=panel_title("How many at once"))
    )  # fmt: skip
    stacked = alt.vconcat(over, bars, spacing=14).resolve_scale(
        color="independent", strokeDash="independent"
    )
    return titled(stacked, "How many explore at once", subtitle)


def outcomes(table: pd.DataFrame, subtitle: str) -> alt.TopLevelMixin:
    """Win rate and return of the battles by how much was explored early in them, a line a third of
    training; the table as from `exploration.by_explorers`."""
    low, high = wilson(table.won.to_numpy(), table.battles.to_numpy())
    table = table.assign(won=100 * table.won, low=100 * low, high=100 * high).round(3)
    colour = alt.Color("third:N", title="of training:", sort=list(THIRDS), scale=alt.Scale(
        domain=list(THIRDS), range=[theme.STYLES["se"].colour, BLUE, ORANGE]))  # fmt: skip
    base = alt.Chart(csv_data(table)).encode(
        x=alt.X("explorers:Q", title=f"random actions in the first {OPENING} steps, mean",
                scale=alt.Scale(zero=True), axis=alt.Axis(grid=False)),
        color=colour,
        tooltip=["third:N", alt.Tooltip("explorers:Q", format=".2f"), "battles:Q",
                 alt.Tooltip("won:Q", title="won (%)", format=".0f"),
                 alt.Tooltip("return:Q", format=".1f"), alt.Tooltip("length:Q", format=".0f")],
    )  # fmt: skip
    won = alt.Y("won:Q", title="battles won (%)", scale=alt.Scale(domain=[0, 100]))
    bars = base.mark_rule(strokeWidth=1.5, opacity=0.6).encode(
        y=alt.Y("low:Q", title="battles won (%)"), y2="high:Q"
    )
    above = alt.layer(bars, *_line_and_points(base, won))
    returns = alt.Y("return:Q", title="return (at most 20)", scale=alt.Scale(domain=[0, 20]))
    below = alt.layer(*_line_and_points(base, returns))
    size = {"width": WIDTH, "height": HEIGHT}
    stacked = alt.vconcat(
        above.properties(**size, title=panel_title("Battles won, with 95 % intervals")),
        below.properties(**size, title=panel_title("Return")),
        spacing=14,
    )
    return titled(stacked, "Battles by how much was explored early in them", subtitle)


def prices(table: pd.DataFrame, subtitle: str) -> alt.TopLevelMixin:
    """What one event costs, by how many explored at its step, and what all of a step cost together;
    the table as from `prices.by_number`."""
    table = table.round(3)
    x = alt.X("at_once:O", title="agents exploring at that step", axis=alt.Axis(labelAngle=0))
    tooltip: list[Any] = ["at_once:O", "events:Q"]
    tooltip += [alt.Tooltip("median:Q", title="median of one event"),
                alt.Tooltip("cost:Q", title="mean of one event"),
                alt.Tooltip("together:Q", title="all of a step together, mean")]  # fmt: skip
    base = alt.Chart(csv_data(table)).encode(x=x, tooltip=tooltip)
    quartiles = base.mark_rule(strokeWidth=6, opacity=0.35, color=BLUE).encode(
        y=alt.Y("low:Q", title="Q_tot given up"), y2="high:Q"
    )
    middle = base.mark_point(filled=True, size=110, color=BLUE, opacity=1).encode(y="median:Q")
    whole = base.mark_point(size=110, shape="diamond", color=ORANGE, strokeWidth=2.5, opacity=1)
    layered = alt.layer(quartiles, middle, whole.encode(y="together:Q"))
    said = "Dot: median of one random action, bar: quartiles; diamond: all at a step, mean"
    panel = layered.properties(width=WIDTH, height=HEIGHT, title=panel_title(said, 13))
    return titled(panel, "What exploring costs, by the network's own opinion", subtitle)


def contaminated(table: pd.DataFrame, subtitle: str) -> alt.TopLevelMixin:
    """``y(λ) - y(0)`` by the number of explorers in the next five steps, mean with ± 2 standard
    errors; the table as from `prices.contamination`."""
    table = table.assign(
        low=table["mean"] - 2 * table.error,
        high=table["mean"] + 2 * table.error,
    ).round(4)
    base = alt.Chart(csv_data(table)).encode(
        x=alt.X("window:N", title="random actions in the next five steps", sort=None,
                axis=alt.Axis(labelAngle=0)),
        tooltip=["window:N", "steps:Q", alt.Tooltip("mean:Q", format=".3f"),
                 alt.Tooltip("error:Q", title="standard error", format=".3f")],
    )  # fmt: skip
    zero = alt.Chart(csv_data(pd.DataFrame({"y": [0]}))).mark_rule(color=theme.QUIET)
    bars = base.mark_rule(strokeWidth=2.5, color=BLUE).encode(
        y=alt.Y("low:Q", title="y(λ) − y(0)"), y2="high:Q"
    )
    points = base.mark_point(filled=True, size=110, color=BLUE, opacity=1).encode(y="mean:Q")
    layered = alt.layer(zero.encode(y="y:Q"), bars, points)
    return titled(layered.properties(width=WIDTH, height=HEIGHT), "What later noise does to a "
                   "target", subtitle)  # fmt: skip


def ledger(table: pd.DataFrame, subtitle: str) -> alt.TopLevelMixin:
    """What one update on a part of a batch does to the opinion of the fixed battles; a ring a
    batch, a bar their mean. The table as from `ledger.ledger`."""
    names = {"all": "all steps", "explored": "explored steps", "greedy": "greedy steps"}
    table = table.assign(part=table.part.map(names)).round(5)
    part = alt.Y("part:N", title=None, sort=list(names.values()))
    colour = alt.Color("part:N", legend=None, scale=alt.Scale(
        domain=list(names.values()), range=[theme.QUIET, ORANGE, BLUE]))  # fmt: skip
    panels = []
    for measure, title in (
        ("change", "One update, Adam starting anew"),
        ("first_order", "Plain gradient descent at the same rate, first order"),
    ):
        base = alt.Chart(csv_data(table)).encode(
            y=part,
            color=colour,
            tooltip=["part:N", "batch:Q", alt.Tooltip("share:Q", title="of steps", format=".0%"),
                     alt.Tooltip("change:Q", format="+.3f"),
                     alt.Tooltip("first_order:Q", format="+.3f")],
        )  # fmt: skip
        means = table.groupby("part", as_index=False)[measure].mean().round(5)
        bars = (
            alt.Chart(csv_data(means))
            .mark_bar(opacity=0.35, height=18)
            .encode(
                x=alt.X(f"{measure}:Q", title="change of mean Q_tot of the fixed battles"),
                y=part,
                color=colour,
            )
        )
        dots = base.mark_point(size=70, strokeWidth=2, opacity=1).encode(x=f"{measure}:Q")
        panel = alt.layer(bars, dots).properties(width=WIDTH, height=100, title=panel_title(title))
        panels.append(panel)
    return titled(alt.vconcat(*panels, spacing=14), "Which steps move the opinion", subtitle)


def side_by_side(table: pd.DataFrame, subtitle: str) -> alt.TopLevelMixin:
    """The ways of `side_by_side.compare`, a row each: explorers at a step, `Q_tot` given up a step,
    and battles won with 95 % intervals."""
    low, high = wilson(table.won.to_numpy(), table.battles.to_numpy())
    table = table.assign(
        way=[_way(r.exploration, r.epsilon) for r in table.itertuples()],
        kind=[NAMES[e] if eps else "nobody" for e, eps in zip(table.exploration, table.epsilon)],
        several=100 * table.several, won=100 * table.won, low=100 * low, high=100 * high,
    ).round(4)  # fmt: skip
    kinds = ["nobody", *NAMES.values()]
    colour = alt.Color("kind:N", legend=None, scale=alt.Scale(
        domain=kinds, range=[theme.QUIET, ORANGE, GREEN, BLUE]))  # fmt: skip
    panels = []
    for measure, title, axis in (
        ("several", "Two or more explore at one step", "steps (%)"),
        ("given_up", "What is given up", "Q_tot a step"),
        ("won", "Battles won, with 95 % intervals", "battles (%)"),
    ):
        scale = alt.Scale(domain=[0, 100]) if measure == "won" else alt.Scale(domainMin=0)
        x = alt.X(f"{measure}:Q", title=axis, scale=scale, axis=alt.Axis(tickCount=5))
        base = alt.Chart(csv_data(table)).encode(
            y=alt.Y("way:N", title=None, sort=None, axis=alt.Axis(labelLimit=240)),
            color=colour,
            tooltip=["way:N", alt.Tooltip("explorers:Q", title="explorers a step", format=".3f"),
                     alt.Tooltip("several:Q", title="two or more (% of steps)", format=".1f"),
                     alt.Tooltip("given_up:Q", title="Q_tot given up a step", format=".3f"),
                     alt.Tooltip("won:Q", title="won (%)", format=".0f"),
                     alt.Tooltip("return:Q", format=".1f")],
        )  # fmt: skip
        if measure == "won":
            points = base.mark_point(filled=True, size=90, opacity=1).encode(x=x)
            rules = base.mark_rule(strokeWidth=2, opacity=0.7).encode(
                x=alt.X("low:Q", title=axis), x2="high:Q"
            )
            drawn: Any = alt.layer(rules, points)
        else:
            drawn = base.mark_bar(height=12).encode(x=x)
        panels.append(drawn.properties(width=WIDTH - 120, height=24 * len(table),
                                       title=panel_title(title)))  # fmt: skip
    return titled(alt.vconcat(*panels, spacing=14), "The same ε, the same number", subtitle)


def _way(exploration: str, epsilon: float) -> str:
    return f"{NAMES[exploration]}, ε = {epsilon:.2g}" if epsilon else "nobody explores"


def _long(table: pd.DataFrame, clock: str, kinds: dict[str, str]) -> pd.DataFrame:
    """One row a value: `clock`, `kind` (the name that readers see) and `value`."""
    wide = table[[clock, *kinds]].rename(columns=kinds)
    return wide.melt(clock, var_name="kind", value_name="value")


def _line_and_points(base: alt.Chart, y: alt.Y) -> tuple[alt.Chart, alt.Chart]:
    return base.mark_line(strokeWidth=2.5).encode(y=y), base.mark_point(
        filled=True, size=90, opacity=1
    ).encode(y=y)
