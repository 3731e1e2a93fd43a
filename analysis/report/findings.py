"""The answer of the front page in three sentences, each computed from measurements that ship."""

from __future__ import annotations

import pandas as pd

from analysis import results
from analysis.notebook import SHIPPED
from analysis.tables import curves, measured, named, per_cent


def findings() -> list[str]:
    """Who keeps what it knew, what exploring one at a time does, and what the memory does."""
    asked = results.of_question(results.results_given(""), "paper_setting", "2s3z", "medium")
    return [
        who_keeps(asked),
        beside(curves(SHIPPED / "2s3z"), "MACQL", "MACQL with SE", "about one agent explores"),
        beside(curves(SHIPPED / "6h_vs_8z"), "SE", "OVMSE", "the memory of offline values is kept"),
    ]


def who_keeps(tests: pd.DataFrame, early: int = 10_000) -> str:
    """OVMSE against the best of the other lines, early and at the end.

    tests: of one question, as from `results.finished`. A seed counts if every line has it, with
    its test nearest to `early`.
    """
    rows = results.shared(tests, by=["name"], within=["task"])
    rows = rows.sort_values("env_steps").reset_index()
    one = [rows["name"], rows.seed]
    each = rows.test_win_rate.groupby(one)
    near = rows.test_win_rate[(rows.env_steps - early).abs().groupby(one).idxmin()]
    wins = pd.DataFrame({"first": each.first(), "early": near.groupby(one).first(),
                         "last": each.last()}).groupby("name").mean()  # fmt: skip
    own, others = wins.loc["OVMSE"], wins.drop(index="OVMSE")

    def best(when: str) -> str:
        name = others[when].idxmax()
        return f"{name}, the best of {len(others)} others, {per_cent(others[when][name])}"

    return (
        f"On {rows.task[0]} {rows.dataset[0]}, OVMSE wins {per_cent(own['first'])} of its "
        f"test battles before it plays, {per_cent(own.early)} after {early:,} online steps "
        f"({best('early')}) and "
        f"{per_cent(own['last'])} after {rows.env_steps.max():,} ({best('last')}; means of "
        f"{rows.seed.nunique()} seeds)."
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
        f"On {rows.task.iloc[0]} {rows.dataset.iloc[0]}, from {per_cent(first)}, {one} ends at "
        f"{told(one)}, and {other}, where nothing differs but that {difference}, at "
        f"{told(other)}; one seed."
    )
