"""Forgetting in numbers: how deep, how long, and what came back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.answers import seeds_each
from analysis.diagnostics.memory import has_memory
from analysis.tables import WHO, lines, measured, named, named_run, per_cent

NUMBERS = ["first", "lowest", "lowest_at", "last", "retention", "regained", "lost"]


def forgetting(table: pd.DataFrame) -> pd.DataFrame:
    """Of each algorithm, from the test win rates of its runs, the mean, least and greatest seed of

    `first`, `lowest` (after the start) and `last` win rate, `lowest_at` (environment steps),
    `retention` (lowest / first), `regained` (last / first; both not a number where nothing was won
    at first) and `lost`, the area between the win rate at first and the curve below it, as a mean
    over the online steps. Columns: `algorithm`, `variant`, `seeds`, and each with `_min`, `_max`.
    """
    rows = measured(table, "test_win_rate")
    records = []
    for who in lines(rows):
        mine = rows[(rows.algorithm == who[0]) & (rows.variant == who[1])]
        each = pd.DataFrame([of_one(run) for _, run in mine.groupby("run")])
        record: dict[str, object] = dict(zip(WHO, who, strict=True)) | {"seeds": len(each)}
        for name in NUMBERS:
            record |= {name: each[name].mean()}
            record |= {f"{name}_min": each[name].min(), f"{name}_max": each[name].max()}
        records.append(record)
    return pd.DataFrame(records)


def of_one(run: pd.DataFrame) -> dict[str, float]:
    """The numbers of one run, from its rows `env_steps` and `test_win_rate`."""
    run = run.sort_values("env_steps")
    steps, wins = run.env_steps.to_numpy(float), run.test_win_rate.to_numpy(float)
    first, last, low = wins[0], wins[-1], int(wins[1:].argmin()) + 1 if len(wins) > 1 else 0
    found = {"first": first, "lowest": wins[low], "lowest_at": steps[low], "last": last}
    whole = first or np.nan
    found |= {"retention": wins[low] / whole, "regained": last / whole}
    return found | {"lost": area_below(steps, wins)}


def area_below(steps: np.ndarray, wins: np.ndarray) -> float:
    """The area between the first value and the line through all of them, where that is lower,
    divided by the steps (so it is in the unit of `wins`)."""
    short = wins[0] - wins
    a, b, width = short[:-1], short[1:], np.diff(steps)
    above = np.maximum(a, b)
    with np.errstate(invalid="ignore", divide="ignore"):
        crossing = np.where(above > 0, above**2 / (2 * abs(a - b)), 0.0)
    mean = np.where((a >= 0) & (b >= 0), (a + b) / 2, crossing)
    return float((mean * width).sum() / width.sum()) if width.sum() else 0.0


def who_forgets(numbers: pd.DataFrame) -> str:
    """Who lost how much, from the table of `forgetting`; the one that lost least stands first."""
    said = [
        f"{named(r.algorithm, r.variant)} loses {100 * r.lost:.0f} points on average over training "
        f"(lowest {per_cent(r.lowest)}, at {r.lowest_at:,.0f} steps)"
        for r in numbers.sort_values("lost").itertuples()
    ]
    return f"Against the win rate at the start ({seeds_each(numbers.seeds)}), {'; '.join(said)}."


def in_numbers(numbers: pd.DataFrame) -> str:
    """Where each algorithm's ``Q_tot`` of the fixed battles and its wins began and ended; the table
    as from `analysis.tables.summary`."""
    rows = numbers.dropna(subset="q")
    if rows.empty:
        return "No run has fixed battles that ended: there is no value to follow."
    said = []
    for who, mine in rows.groupby(list(WHO), sort=False):
        first, last = mine.iloc[0], mine.iloc[-1]
        said.append(f"{named(*who)} {first.q:.2f} → {last.q:.2f} (wins {100 * first.win:.0f} → "
                    f"{per_cent(last.win)})")  # fmt: skip
    returns = ", ".join(f"{mc:.2f}" for mc in rows.mc.unique())
    return (
        f"`Q_tot` of the fixed battles, at the start and at the end: {'; '.join(said)}. What these "
        f"battles returned: {returns}."
    )


def who_fell(table: pd.DataFrame, run: str | Path, env_steps: int) -> str:
    """How deep a run had fallen at a snapshot; the table as from `drift.replayed_curves`."""
    rows = table[(table.run == str(run)) & (table.phase == "online")].sort_values("env_steps")
    first, then = rows.iloc[0], rows[rows.env_steps == env_steps].iloc[0]
    of = " of runs with a memory" if has_memory(first.algorithm) else ""
    return (
        f"Of all snapshots{of}, the one furthest below its start is "
        f"that of {named_run(table, run)} after {env_steps:,} steps: "
        f"from {per_cent(first.test_win_rate)} to {per_cent(then.test_win_rate)} of test battles. "
        "It plays below."
    )


def highest_curve(table: pd.DataFrame) -> str:
    """Whose ``Q_tot`` of the fixed battles rises highest, and what that run wins there."""
    rows = measured(table, "q_ended")
    top = rows.loc[rows.q_ended.idxmax()]
    start = rows[rows.run == top.run].sort_values("env_steps").iloc[0]
    return (
        f"The highest point above is {named(top.algorithm, top.variant)}'s: {top.q_ended:.2f} at "
        f"{top.env_steps:,.0f} steps, where it wins {per_cent(top.test_win_rate)} of its test "
        f"battles; at the start it was {start.q_ended:.2f} with {per_cent(start.test_win_rate)}."
    )
