"""Charts of the walkthrough: tables of values, lines and bars that follow sliders of their own.

Every setting of a slider is in the chart (see ``analysis.walkthrough.grids``), so the sliders work
without a kernel. A row is shown if its column differs from the slider by nothing; the difference
also makes a number of a slider's text (see ``show``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.charts import theme
from analysis.charts.base import WIDTH, csv_data, panel_title, stacked, titled
from analysis.tables import EXPLORATION_NAMES
from analysis.walkthrough.game import ACTIONS, BEST, STEPPING

BLUE, ORANGE, GREEN = (theme.STYLES[n].colour for n in ("ovmse", "switch_cql", "ovm"))
CELL, ROW = 120, 66  # pixels of one joint action
SHADES = (0.0, 0.2, 0.35, 0.6)
TONES = alt.Scale(domain=["over", "under"], range=[ORANGE, BLUE])
SMALL = 160  # height of a panel of lines


def slider(name: str, words: str, values: Sequence[float], start: float) -> alt.Parameter:
    """A slider within the chart over evenly spaced values."""
    step = round(float(values[1] - values[0]), 6)
    bind = alt.binding_range(min=values[0], max=values[-1], step=step, name=words)
    return alt.param(name=name, value=start, bind=bind)


def _at(*columns: str) -> str:
    """The rows of what the sliders of these columns say."""
    return " && ".join(f"abs(datum.{c} - {c}) < 1e-6" for c in columns)


def _settings(said: Any, height: int) -> alt.Chart:
    """What the sliders say, in words, above the plot: a picture has no sliders."""
    nothing = alt.Chart(csv_data(pd.DataFrame({"x": [0]})))
    text = nothing.mark_text(align="left", fontSize=13, dy=-12, **theme.SOFT)
    return text.encode(x=alt.value(0), y=alt.value(height), text=alt.value(said))


def _shaded(values: np.ndarray, steps: tuple[float, float, float]) -> np.ndarray:
    return np.array(SHADES)[np.digitize(np.abs(values), steps)]


def _grid(table: pd.DataFrame, at: str, row: int = ROW) -> alt.LayerChart:
    """A cell for each joint action: `main` over `below` over `more`, as far as the table has them,
    in `tone` and `shade`; a ring where `ring` is 1."""
    base = alt.Chart(csv_data(table)).transform_filter(at)
    x = alt.X("second:N", sort=list(ACTIONS), title="action of agent 2",
              axis=alt.Axis(orient="top", labelAngle=0, labelPadding=5,
                            grid=False, ticks=False))  # fmt: skip
    y = alt.Y("first:N", sort=list(ACTIONS), title="action of agent 1",
              axis=alt.Axis(grid=False, ticks=False, labelPadding=5))  # fmt: skip
    tooltip = [f"{c}:N" for c in ("first", "second", "main", "below", "more") if c in table]
    cell = base.mark_rect(stroke=theme.QUIET, strokeWidth=0.5).encode(
        x=x, y=y, color=alt.Color("tone:N", scale=TONES, legend=None), tooltip=tooltip,
        fillOpacity=alt.FillOpacity("shade:Q", scale=None, legend=None),
    )  # fmt: skip
    ring = base.transform_filter("datum.ring == 1").mark_rect(
        filled=False, fillOpacity=0, stroke=theme.AROUND, strokeWidth=3
    )
    texts = [
        base.mark_text(fontSize=size, dy=dy).encode(x=x, y=y, text=f"{column}:N")
        for column, size, dy in (("main", 18, -14), ("below", 12, 6), ("more", 12, 22))
        if column in table
    ]
    if len(texts) == 1:
        texts[0].mark.dy = 0
    layered = alt.layer(cell, ring.encode(x=x, y=y), *texts)
    return layered.properties(width=3 * CELL, height=3 * row)


def _number(values: pd.Series) -> list[str]:
    return [f"{v:.1f}".replace("-", "−") for v in values]


def true_values(table: pd.DataFrame) -> alt.TopLevelMixin:
    """The game: what each joint action is truly worth, and what it pays at once."""
    table = table.assign(
        main=_number(table.value),
        below=[f"pays {p}" for p in _number(table.reward)],
        tone=np.where(table.value < 0, "over", "under"),
        shade=_shaded(table.value.to_numpy(), (3, 8, 14)),
        ring=(table.value == table.groupby("ledge").value.transform("max")).astype(int),
    ).drop(columns=["value", "reward"])
    ledge = slider("ledge", "ledge", (1, 2, 3, 4), 1)
    drawn = alt.layer(
        _grid(table, _at("ledge")),
        _settings(alt.ExprRef("'ledge ' + ledge + ' of 4; outlined: the best'"), 3 * ROW + 30),
    )
    title = "The game: what every joint action is truly worth"
    return titled(
        drawn.add_params(ledge), title, "large: true value Q*, small: what it pays at once"
    )


def held_by_data(table: pd.DataFrame) -> alt.TopLevelMixin:
    """How often each joint action was taken at one ledge."""
    table = table.assign(
        main=[f"{c:.0f}" for c in table["count"]],
        below=np.where(table["count"] > 0, "battles", "never"),
        tone="under",
        shade=_shaded(table["count"].to_numpy(), (1, 40, 80)),
        ring=0,
    ).drop(columns="count")
    quality = slider("quality", "battles of the bold team (%)", (0, 25, 50, 75, 100), 50)
    said = _settings(alt.ExprRef("quality + ' % of the battles by the bold team'"), 3 * ROW + 30)
    drawn = alt.layer(_grid(table, _at("quality")), said).add_params(quality)
    return titled(drawn, "A dataset, and what it leaves out", "how often each joint action was "
                  "taken, at every ledge")  # fmt: skip


def _learned(table: pd.DataFrame) -> pd.DataFrame:
    """Cells of learned over true values, by how far one is from the other."""
    off = (table.learned - table.true).to_numpy()
    seen = table["count"] > 0 if "count" in table else np.ones(len(table), bool)
    return table.assign(
        main=_number(table.learned),
        below=[f"true {t}" for t in _number(table.true)],
        more=np.where(seen, "", "unseen"),
        tone=np.where(off > 0, "over", "under"),
        shade=_shaded(off, (1, 4, 10)),
        ring=table.greedy,
    ).drop(columns=["learned", "true", "greedy", "count"], errors="ignore")


COLOURS = "orange: over-valued, blue: under-valued; outlined: what the team would do"


def conservative(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Learned against true values after offline training, by α, dataset and ledge."""
    alphas = sorted(table.alpha.unique())
    sliders = [
        slider("alpha", "α, conservative weight", alphas, 0.0),
        slider("quality", "battles of the bold team (%)", (0, 25, 50, 75, 100), 50),
        slider("ledge", "ledge", (1, 2, 3, 4), 4),
    ]
    said = alt.ExprRef("'α = ' + alpha + ', ' + quality + ' % bold battles, ledge ' + ledge")
    drawn = alt.layer(
        _grid(_learned(table), _at("alpha", "quality", "ledge")), _settings(said, 3 * ROW + 30)
    )
    return titled(drawn.add_params(*sliders), "What offline training believes", COLOURS)


def first_steps(values: pd.DataFrame, lines: pd.DataFrame) -> alt.TopLevelMixin:
    """Learned against true values of the first ledge along online training, by ε."""
    steps, epsilons = sorted(values.steps.unique()), sorted(values.epsilon.unique())
    sliders = [
        slider("epsilon", "ε, each agent explores", epsilons, 0.2),
        slider("steps", "online steps", steps, 0),
    ]
    said = alt.ExprRef("'ε = ' + epsilon + ', after ' + steps + ' online steps, ledge 1'")
    above = alt.layer(
        _grid(_learned(values), _at("epsilon", "steps")), _settings(said, 3 * ROW + 30)
    )
    here = alt.Chart(csv_data(pd.DataFrame({"steps": steps})))
    rule = here.transform_filter(_at("steps")).mark_rule(color=theme.QUIET, strokeDash=[4, 4])
    below = alt.layer(
        _lines(lines.drop(columns="held"), "epsilon", "What the team earns, a line for each ε"),
        rule.encode(x="steps:Q"),
    )
    both = stacked([above, below]).add_params(*sliders)
    return titled(both, "The first online steps", COLOURS)


def _lines(table: pd.DataFrame, among: str, title: str, others: str = "true") -> alt.LayerChart:
    """A faint line for each value of `among`, a bold one where it is what the slider says; of the
    rows that pass `others`."""
    x = alt.X("steps:Q", title="online steps", axis=alt.Axis(grid=False, tickCount=6))
    y = alt.Y("return:Q", title="return (best 20)", scale=alt.Scale(domain=[-12, 22], nice=False))
    base = alt.Chart(csv_data(table.round(2))).transform_filter(others).encode(
        x=x, y=y, detail=f"{among}:Q",
        tooltip=[f"{among}:Q", "steps:Q", alt.Tooltip("return:Q", format=".1f"),
                 alt.Tooltip("won:Q", title="won (%)", format=".0f")],
    )  # fmt: skip
    faint = base.mark_line(strokeWidth=1.2, color=theme.QUIET, opacity=0.35)
    bold = base.transform_filter(_at(among)).mark_line(strokeWidth=3.2, color=BLUE)
    levels = pd.DataFrame({"y": [BEST, STEPPING], "name": ["both bold", "both step"]})
    ground = alt.Chart(csv_data(levels)).encode(y="y:Q")
    dashes = ground.mark_rule(color=theme.QUIET, strokeDash=[2, 4])
    named = ground.mark_text(align="right", fontSize=12, dx=-4, dy=-8, **theme.SOFT)
    layers = alt.layer(dashes, faint, bold, named.encode(text="name:N", x=alt.value("width")))
    return layers.properties(width=WIDTH, height=SMALL, title=panel_title(title))


def memories(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Return along online training with the memory, by λ and ε: right and wrong memories."""
    sliders = [
        slider("memory", "λ, weight of the memory", sorted(table.memory.unique()), 1.0),
        slider("epsilon", "ε, each agent explores", sorted(table.epsilon.unique()), 0.4),
    ]
    titles = {
        "right": "A memory that is right about what the team does",
        "wrong": "A memory that over-values what nobody tried",
    }
    panels = []
    for name, title in titles.items():
        part = table[table.offline == name].drop(columns=["offline", "held"])
        panels.append(_lines(part, "memory", title, others=_at("epsilon")))
    said = alt.ExprRef("'bold line: λ = ' + memory + '; ε = ' + epsilon")
    panels[0] = alt.layer(panels[0], _settings(said, SMALL - 4))
    both = stacked(panels).add_params(*sliders)
    return titled(
        both,
        "What max(memory, TD) keeps, and what it costs",
        "mean of 32 teams; faint: the other λ",
    )


def lifts(table: pd.DataFrame) -> alt.TopLevelMixin:
    """How far the mean target lies above the truth, by the memory's error, σ and λ."""
    sliders = [
        slider("noise", "σ, noise of the TD target", sorted(table.noise.unique()), 2.0),
        slider("memory", "λ, weight of the memory", sorted(table.memory.unique()), 1.0),
    ]
    base = alt.Chart(csv_data(table.round(3))).transform_filter(_at("noise", "memory"))
    x = alt.X("error:Q", title="error of the memory (memory − truth)", axis=alt.Axis(grid=False))
    y = alt.Y("lift:Q", title="mean target − truth", scale=alt.Scale(domain=[0, 4.5]))
    line = base.mark_line(strokeWidth=3.2, color=BLUE).encode(
        x=x, y=y, tooltip=[alt.Tooltip(c, format=".2f") for c in ("error:Q", "lift:Q")]
    )
    at_truth = base.transform_filter("datum.error == 0").encode(x=x, y=y)
    dot = at_truth.mark_point(filled=True, size=110, color=ORANGE, opacity=1)
    text = at_truth.mark_text(align="right", dx=-10, dy=-12).encode(
        text=alt.Text("lift:Q", format="+.2f")
    )
    said = _settings(
        alt.ExprRef("'σ = ' + noise + ', λ = ' + memory + '; orange: the memory is true'"), 8
    )
    drawn = alt.layer(line, dot, text, said).properties(width=WIDTH, height=230)
    return titled(drawn.add_params(*sliders), "A maximum under noise", "noise that is 0 on average "
                  "does not stay 0 in a maximum")  # fmt: skip


def explorers(table: pd.DataFrame) -> alt.TopLevelMixin:
    """How many agents explore at one step, by the way to explore."""
    table = table.assign(way=table.exploration.map(EXPLORATION_NAMES)).drop(columns="exploration")
    ways = list(EXPLORATION_NAMES.values())
    sliders = [
        slider("epsilon", "ε", sorted(table.epsilon.unique()), 0.5),
        slider("agents", "N, agents", sorted(table.agents.unique()), 5),
    ]
    bars = (
        alt.Chart(csv_data(table.round(3)))
        .transform_filter(_at("epsilon", "agents"))
        .mark_bar()
        .encode(
            x=alt.X("k:O", title="agents that explore at one step", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("way:N", sort=ways),
            y=alt.Y("share:Q", title="steps (%)", scale=alt.Scale(domain=[0, 100])),
            color=alt.Color("way:N", title=None, sort=ways,
                            scale=alt.Scale(domain=ways, range=[ORANGE, GREEN, BLUE])),
            tooltip=["way:N", "k:O", alt.Tooltip("share:Q", title="steps (%)", format=".1f")],
        )
    )  # fmt: skip
    said = _settings(alt.ExprRef("'ε = ' + epsilon + ', N = ' + agents"), 8)
    drawn = alt.layer(bars, said).properties(width=WIDTH, height=230).add_params(*sliders)
    return titled(drawn, "How many explore at once", "all agents live and have a choice")


def deviations(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Which joint actions are played where both would step, a panel for each way to explore."""
    table = table.assign(
        main=[f"{s:.1f} %" if s else "never" for s in table.share],
        tone="under",
        shade=_shaded(table.share.to_numpy(), (0.01, 5, 40)),
        ring=0,
    ).drop(columns="share")
    epsilons = sorted(table.epsilon.unique())
    panels: list[Any] = []
    for way, name in EXPLORATION_NAMES.items():
        part = table[table.exploration == way].drop(columns="exploration")
        cells = _grid(part, _at("epsilon"), 36)
        panels.append(cells.properties(title=panel_title(name)))
    panels[-1] = alt.layer(panels[-1], _settings(alt.ExprRef("'ε = ' + epsilon"), 3 * 36 + 30))
    both = stacked(panels).add_params(slider("epsilon", "ε", epsilons, 0.4))
    return titled(both, "What exploration can see", "both agents would step: how often each joint "
                  "action is played")  # fmt: skip


def schedules(table: pd.DataFrame) -> alt.TopLevelMixin:
    """λ and ε as the paper prints them, and as its text describes them."""
    readings = ["as described", "as printed"]
    table = table.assign(steps=table.steps / 1000)
    panels = []
    for name, part in table.groupby("schedule", sort=False):
        lines = (
            alt.Chart(csv_data(part.drop(columns="schedule").round(4)))
            .mark_line(strokeWidth=3)
            .encode(
                x=alt.X("steps:Q", title="environment steps (thousands)",
                        axis=alt.Axis(grid=False)),
                y=alt.Y("value:Q", title=str(name)),
                color=alt.Color("reading:N", title=None, sort=readings,
                                scale=alt.Scale(domain=readings, range=[BLUE, ORANGE])),
                strokeDash=alt.StrokeDash("reading:N", title=None, sort=readings, scale=alt.Scale(
                    domain=readings, range=[[1, 0], [6, 4]])),
                tooltip=["reading:N", "steps:Q", "value:Q"],
            )
            .properties(width=WIDTH, height=SMALL, title=panel_title(str(name)))
        )  # fmt: skip
        panels.append(alt.layer(lines))
    whole = alt.vconcat(*panels, spacing=14)
    return titled(whole, "Two misprints", "T = 50,000; λ_end = ε_end = 0.1, ε_start = 0.5")


def watch(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Algorithms on the game: what greedy play earns, and what the pre-trained team's own actions
    are believed to be worth. Names that are no algorithm of the table are black and dashed."""
    names = list(table.name.unique())
    known = {theme.label(n): s.colour for n, s in theme.STYLES.items()}
    colours = [known.get(n, theme.AROUND) for n in names]
    dashes = [[1, 0] if n in known else [6, 3] for n in names]
    panels = []
    for measure, title, axis in (
        ("return", "What greedy play earns", "return (best 20)"),
        ("held", "Value of what the pre-trained team did", "mean Q_tot"),
    ):
        lines = (
            alt.Chart(csv_data(table.drop(columns="won").round(2)))
            .mark_line(strokeWidth=2.8)
            .encode(
                x=alt.X("steps:Q", title="online steps", axis=alt.Axis(grid=False)),
                y=alt.Y(f"{measure}:Q", title=axis),
                color=alt.Color("name:N", title=None, sort=names, legend=alt.Legend(columns=4),
                                scale=alt.Scale(domain=names, range=colours)),
                strokeDash=alt.StrokeDash("name:N", title=None, sort=names,
                                          scale=alt.Scale(domain=names, range=dashes)),
                tooltip=["name:N", "steps:Q", alt.Tooltip(f"{measure}:Q", format=".1f")],
            )
            .properties(width=WIDTH, height=SMALL + 20, title=panel_title(title))
        )  # fmt: skip
        panels.append(alt.layer(lines))
    whole = alt.vconcat(*panels, spacing=14)
    return titled(
        whole, "Algorithms on the game", "mean of 128 teams; ε from 1 to 0.05, λ from 1 to 0.1"
    )
