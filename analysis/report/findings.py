"""The answer of the front page in three sentences, each computed from measurements that ship."""

from __future__ import annotations

import pandas as pd

from analysis.charts.theme import label
from analysis.notebook import SHIPPED
from analysis.tables import curves, measured, named, per_cent
from ovmse.runs.files import SHIPPED_DATA

NINE = SHIPPED_DATA / "2s3z_medium_results.csv"


def findings() -> list[str]:
    """Who keeps what it knew, what exploring one at a time does, and what the memory does."""
    return [
        who_keeps(pd.read_csv(NINE)),
        beside(curves(SHIPPED / "2s3z"), "MACQL", "MACQL with SE", "about one agent explores"),
        beside(curves(SHIPPED / "6h_vs_8z"), "SE", "OVMSE", "the memory of offline values is kept"),
    ]


def who_keeps(table: pd.DataFrame, early: int = 10_000) -> str:
    """OVMSE against the best and the worst of its rivals, early and at the end.

    table: tests of several algorithms and seeds (`algorithm`, `seed`, `task`, `env_steps`,
    `test_win_rate`); a seed counts with its test nearest to `early`.
    """
    rows = table[(table.phase == "online") & table.test_win_rate.notna()]
    each = rows.groupby(["algorithm", "seed"])
    near = rows.loc[(rows.env_steps - early).abs().groupby([rows.algorithm, rows.seed]).idxmin()]
    wins = pd.DataFrame(
        {
            "first": each.test_win_rate.first().groupby("algorithm").mean(),
            "early": near.groupby("algorithm").test_win_rate.mean(),
            "last": each.test_win_rate.last().groupby("algorithm").mean(),
        }
    )
    own, rivals = wins.loc["ovmse"], wins.drop(index="ovmse")

    def best(when: str) -> str:
        name = rivals[when].idxmax()
        return f"{label(name)}, the best of {len(rivals)} rivals, {per_cent(rivals[when][name])}"

    seeds = rows.seed.nunique()
    return (
        f"On {rows.task.iloc[0]}, OVMSE wins {per_cent(own['first'])} of its test battles before "
        f"it plays, {per_cent(own.early)} after {early:,} online steps ({best('early')}) and "
        f"{per_cent(own['last'])} after {round(rows.env_steps.max(), -3):,} ({best('last')}; means "
        f"of {seeds} seeds)."
    )


def beside(table: pd.DataFrame, one: str, other: str, difference: str) -> str:
    """Two lines that differ in one thing: where they begin, their lowest test and where they
    end."""
    rows = measured(table, "test_win_rate")
    names = [named(a, v) for a, v in zip(rows.algorithm, rows.variant, strict=True)]
    wins = {name: of.test_win_rate for name, of in rows.groupby(pd.Series(names, rows.index))}
    first = wins[one].iloc[0]

    def told(name: str) -> str:
        last, low = wins[name].iloc[-1], wins[name].min()
        return per_cent(last) + (f" (lowest {per_cent(low)})" if low < min(first, last) else "")

    return (
        f"On {rows.task.iloc[0]}, from {per_cent(first)}, {one} ends at {told(one)}, and {other}, "
        f"where nothing differs but that {difference}, at {told(other)}; one seed."
    )
