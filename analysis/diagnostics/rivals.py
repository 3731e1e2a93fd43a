"""Why does the policy fall? Rival explanations, what each would show, and what these runs show."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.diagnostics.memory import has_memory
from analysis.tables import WHO, lines, measured, named, per_cent
from ovmse.runs.reading import RunError

FEW = 5  # snapshots below which no correlation is given
WEAK = 0.2  # a correlation nearer to 0 says nothing


class Rival(NamedTuple):
    """An explanation, the number that would move if it were right (`sign`: the way it goes with
    the win rate), and what would show it wrong."""

    says: str
    number: str
    text: str
    sign: int
    wrong: str


RIVALS = (
    Rival("Actions that were not done come to be valued like those that were",
          "gap_1", "gap where one agent does something else", 1,
          "the gap stays while the wins fall"),
    Rival("Values are too high in states that only noise leads to",
          "astray", "Q_tot − G of its own choice where it explores, less in the fixed battles", -1,
          "Q_tot − G is alike in both"),
    Rival("The mixer rescales what the agents say",
          "mixer_share", "mixer's share of what moved", -1,
          "the agents move as much, or the wins fall where the mixer moved less"),
    Rival("What was known is forgotten",
          "rank", "rank of the known moments", 1,
          "the rank stays while the wins fall"),
    Rival("The policy does something else in battles that it knew",
          "churn", "choices made otherwise in the fixed battles", -1,
          "as much is made otherwise by runs that keep winning"),
    Rival("The memory holds up what is no longer true",
          "memory_wrong", "Q_offline − G where it explores, of runs with a memory", -1,
          "runs without a memory fall alike, or it is as wrong where wins are kept"),
)  # fmt: skip


def with_rivals(table: pd.DataFrame) -> pd.DataFrame:
    """The curves with all diagnostics beside them, and the rivals' numbers from these.

    `over`, `over_exploring`: ``Q_tot - G`` in the fixed battles' moments, and of what the snapshot
    would do in moments of battles in which it explores; `astray` their difference; `mixer_share`:
    the mixer's part of the absolute change; `memory_wrong`: ``Q_offline - G`` in the latter, of
    runs with a memory. A number that was not measured is missing.
    """
    parts = table.filter(regex=r"^part_\d+$").abs().sum(axis=1, min_count=1)
    mixer = _column(table, "part_mixer").abs()
    over = _column(table, "q") - _column(table, "g")
    exploring = _column(table, "q_exploring") - _column(table, "g_exploring")
    wrong = _column(table, "remembered_error_exploring").where(table.algorithm.map(has_memory))
    return table.assign(
        over=over,
        over_exploring=exploring,
        astray=exploring - over,
        mixer_share=(mixer / (mixer + parts)).where(mixer + parts > 0),
        memory_wrong=wrong,
    )


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    return table.get(name, pd.Series(np.nan, table.index))


def at_the_lowest(table: pd.DataFrame) -> pd.DataFrame:
    """Each algorithm where those of its snapshots that were asked win least after the start (its
    lowest test may lie between them), mean over its runs: `first`
    and `win`, `env_steps`, `q_change` (of the fixed battles that ended), the rivals' numbers,
    `over` and `over_exploring`. The table as from `with_rivals`; who fell least stands first.
    Raises RunError where no run was measured after the start.
    """
    rows, records = measured(table, "test_win_rate"), []
    numbers = ["gap_1", "over", "over_exploring", "mixer_share", "rank", "churn", "memory_wrong"]
    numbers = [n for n in numbers if n in rows]
    for who in lines(rows):
        each = []
        for _, run in rows[(rows.algorithm == who[0]) & (rows.variant == who[1])].groupby("run"):
            asked = run[run[numbers].notna().any(axis=1)].sort_values("env_steps")
            asked = most_measured(asked, numbers)
            if len(asked) < 2:
                continue
            start, low = asked.iloc[0], asked.iloc[1:].sort_values("test_win_rate").iloc[0]
            found = {"first": start.test_win_rate, "win": low.test_win_rate}
            found |= {"env_steps": low.env_steps, "q_change": low.q_ended - start.q_ended}
            each.append(found | {"gap_first": start.get("gap_1")} | low[numbers].to_dict())
        if each:
            mean = pd.DataFrame(each).astype(float).mean().to_dict()
            records.append(dict(zip(WHO, who, strict=True)) | mean)
    if not records:
        raise RunError("no run has diagnostics of two snapshots: there is nothing to compare")
    return pd.DataFrame(records).sort_values("win", ascending=False, ignore_index=True)


def most_measured(rows: pd.DataFrame, numbers: list[str]) -> pd.DataFrame:
    """The rows at which as many of the numbers were measured as at any after the start."""
    count = rows[numbers].drop(columns="mixer_share", errors="ignore").notna().sum(axis=1)
    return rows[count >= count.iloc[1:].max()] if len(rows) > 1 else rows


def evidence(table: pd.DataFrame) -> pd.DataFrame:
    """Of each rival: `says`, `would` (its number), `wrong`, `snapshots` at which it was measured
    after the start, `goes` (Spearman's correlation of the number with the test win rate there) and
    `verdict`. The table as from `with_rivals`."""
    rows = table[(table.phase == "online") & (table.env_steps > 0)]
    records = []
    for rival in RIVALS:
        some = pd.DataFrame({"x": _column(rows, rival.number), "win": rows.test_win_rate}).dropna()
        goes = float(some.rank().corr().iloc[0, 1]) if len(some) >= FEW else np.nan
        way = "falls" if rival.sign > 0 else "rises"
        records.append({
            "says": rival.says, "would": f"{rival.text} {way} where wins fall",
            "wrong": rival.wrong, "snapshots": len(some), "goes": goes,
            "verdict": verdict(goes * rival.sign),
        })  # fmt: skip
    return pd.DataFrame(records)


def verdict(agrees: float) -> str:
    """What a correlation says, given with the sign that the explanation foretells."""
    if np.isnan(agrees):
        return "too few snapshots"
    if abs(agrees) < WEAK:
        return "no sign"
    return "goes with the fall" if agrees >= 0.5 else "open" if agrees > 0 else "speaks against"


def why(low: pd.DataFrame, found: pd.DataFrame) -> str:
    """The sentence of the section, from `at_the_lowest` and `evidence`."""
    said = [_one(low.iloc[n]) for n in ([0] if len(low) == 1 else [-1, 0])]
    said[0] = f"At the snapshots asked at which a run wins least: {said[0]}"
    for heading, name in (("goes with the fall", "goes with the fall"),
                          ("speaks against", "does not")):  # fmt: skip
        some = found[found.verdict == heading].sort_values("goes", key=abs, ascending=False)
        if len(some):
            which = "; ".join(f"{r.says[0].lower()}{r.says[1:]} ({r.goes:+.2f} over {r.snapshots})"
                              for r in some.itertuples())  # fmt: skip
            said.append(f"Over the snapshots, this {name}, by its correlation with wins: {which}")
    return ". ".join(said) + "."


def from_what(found: pd.DataFrame) -> str:
    """The line below the answer, from `evidence`."""
    if (found.verdict == "too few snapshots").all():
        return "There are too few snapshots to say what goes with a fall."
    some = found[found.verdict == "goes with the fall"].sort_values("goes", key=abs)
    if some.empty:
        return "No diagnostic goes with the fall in these runs."
    says = [f"{r.says[0].lower()}{r.says[1:]} ({r.goes:+.2f} over {r.snapshots})"
            for r in some[::-1].itertuples()]  # fmt: skip
    return (
        "What goes with the fall, by its correlation with wins over so many snapshots (more "
        f"below): {'; '.join(says)}."
    )


def _one(row: pd.Series) -> str:
    falls = "falls" if row.win < row["first"] else "goes"
    said = (
        f"{named(row.algorithm, row.variant)} {falls} from {per_cent(row['first'])} to "
        f"{per_cent(row.win)} of test battles ({row.env_steps:,.0f} steps) while its `Q_tot` of "
        f"the fixed battles moves by {row.q_change:+.2f}"
    )
    if "over_exploring" in row and pd.notna(row.over_exploring):
        said += f"; there it is {row.over:+.2f} off the return, where it explores "
        said += f"{row.over_exploring:+.2f}"
    if pd.notna(row.get("gap_1")):
        said += f"; the gap of one other action goes {row.gap_first:.2f} → {row.gap_1:.2f}"
    return said
