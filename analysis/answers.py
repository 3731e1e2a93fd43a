"""The answer that a notebook opens with: one sentence, computed from its table of runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
from IPython.display import Markdown, display

from analysis.charts.theme import label
from analysis.tables import WHO, mean_curves, measured, named, per_cent
from ovmse.errors import UserError


def say(sentence: str, instead: bool = False) -> None:
    """Shows the answer of a notebook; `instead` of the one that it showed before, at its place."""
    display(Markdown(f"**Answer.** {sentence}"), display_id="answer", update=instead)


def tell(sentence: str) -> None:
    """Shows what a section of a notebook found, before its chart."""
    display(Markdown(sentence))


@contextmanager
def or_why_not() -> Iterator[None]:
    """A section of a notebook that needs what not every run has: where it cannot be shown, one
    sentence says why, and the notebook goes on."""
    try:
        yield
    except UserError as error:
        tell(f"Not shown here: {error}.")


def trained(table: pd.DataFrame) -> str:
    """How one run began, where it was lowest or highest, and how it ended, in test battles won."""
    rows = _tested(measured(table, "test_win_rate"))
    wins, steps = rows.test_win_rate.to_numpy(), rows.env_steps.to_numpy()
    name = f"{label(rows.algorithm.iloc[0])} (seed {rows.seed.iloc[0]})"
    if not wins.any():
        return f"{name} won no test battle in its {steps[-1]:,} online steps."
    turns = {}  # below both ends, or above both
    if wins.min() < min(wins[0], wins[-1]):
        turns[int(wins.argmin())] = "fell to"
    if wins.max() > max(wins[0], wins[-1]):
        turns[int(wins.argmax())] = "rose to"
    between = "".join(
        f", {turned} {per_cent(wins[at])} after {steps[at]:,} steps"
        for at, turned in sorted(turns.items())
    )
    return (
        f"{name} won {per_cent(wins[0])} of its test battles before any online step{between}, and "
        f"{per_cent(wins[-1])} after {steps[-1]:,} steps."
    )


def _tested(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, if there are any."""
    if rows.empty:
        raise UserError("no run has an online test yet: there is nothing to answer from")
    return rows


def kept_wins(table: pd.DataFrame) -> str:
    """Which share of its wins each algorithm keeps, the last test over the first of the mean curve,
    and its lowest point; who keeps most stands first. Runs of different lengths say their own."""
    means, parts = _tested(mean_curves(table, "test_win_rate")), []
    ends = means.groupby(list(WHO)).env_steps.max()
    together = ends.nunique() == 1
    for who, curve in means.groupby(list(WHO), sort=False):
        first, low, last = curve["mean"].iloc[0], curve["mean"].min(), curve["mean"].iloc[-1]
        share = last / first if first else 0.0
        said = f"keeps {per_cent(share)} of its wins" if first else "had no wins to keep"
        change = f"{100 * first:.0f} → {per_cent(last)}"
        if not together:
            said += f" after {curve.env_steps.iloc[-1]:,} online steps"
        if low < min(first, last):
            change += f", lowest {per_cent(low)}"
        parts.append((-share, f"{named(*who)} {said} ({change})"))
    seeds = seeds_each(means.seeds)
    after = f"After {ends.max():,} online steps ({seeds} each) "
    if not together:
        after = f"{seeds[0].upper()}{seeds[1:]} each: "
    said = "; ".join(text for _, text in sorted(parts))
    return f"{after}{said}; in brackets: test battles won."


def seeds_each(counts: pd.Series) -> str:
    """How many seeds the lines have: "one seed", "3 seeds", "2 to 3 seeds"."""
    few, most = counts.min(), counts.max()
    if most == 1:
        return "one seed"
    return f"{most} seeds" if few == most else f"{few} to {most} seeds"


def explored(
    name: str, at_once: pd.DataFrame, steps: int, costs: pd.DataFrame, recorded: bool = False
) -> str:
    """How often agents explored, beside chance, and what one random action costs; `recorded`: in
    battles recorded anew, not while it trained.

    at_once: as from `analysis.exploration.at_once`; costs as from `analysis.prices.costs`, of the
    snapshot after so many `steps`.
    """
    some = 1 - at_once.loc[at_once.k == 0].iloc[0]
    several = at_once[at_once.k > 1].sum()
    where = f"In battles of {name} recorded anew" if recorded else f"While {name} trained"
    said = (
        f"{where}, somebody explored at {per_cent(some.explored)} of the steps, and "
        f"two or more at once at {per_cent(several.explored)} (chance gives "
        f"{per_cent(several.greedy)} where each living agent explores at ε, and "
        f"{per_cent(several.sequential)} at ε/N)"
    )
    if not len(costs):
        return f"{said}."
    return (
        f"{said}; after {steps:,} steps one random action costs {costs.cost.mean():.2f} of Q_tot "
        "on average, as the network itself sees it."
    )


def moved_by(means: pd.DataFrame) -> str:
    """Which steps of a batch move the opinion of the fixed battles; means: of
    `analysis.ledger.ledger`, by part."""
    change = means.set_index("part").change
    return (
        f"One update on the steps at which somebody explored moves the value of the fixed battles "
        f"by {change['explored']:+.2f}, one on all the others by {change['greedy']:+.2f}."
    )


def unlearned(table: pd.DataFrame) -> str:
    """How many of the teams on the game that begin perfect lose most of it on the way, without a
    number that a reader is asked to foretell; the table as from `walkthrough.grids.watch`."""
    each = table.sort_values("steps").groupby("name")["return"]
    began, lowest = each.first(), each.min()
    perfect = began[began > 0.99 * began.max()].index
    lost = (lowest[perfect] < began[perfect] / 2).sum()
    return (
        f"Of the {len(perfect)} teams that offline training made perfect on the game below, {lost} "
        "lose more than half of what they earned once they explore online; one explorer at a time "
        "softens that, a memory delays it, and both together prevent most of it."
    )


def walked(table: pd.DataFrame) -> str:
    """What the online steps do to teams on the game, by algorithm; the table as from
    `walkthrough.grids.watch`."""
    parts = []
    for name in ("Switch CQL", "SE", "OVM", "OVMSE"):
        returns = table[table.name == name].sort_values("steps")["return"]
        first, low, last = (f"{r:.0f}" for r in (returns.iloc[0], returns.min(), returns.iloc[-1]))
        parts.append(f"{name} {first} → {low} → {last}".replace("-", "−"))
    return (
        f"Mean return before, at its lowest and after {table.steps.max()} online steps: "
        f"{'; '.join(parts)}."
    )
