"""What 04_results and 05_ablation say in words, computed from whatever runs are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from analysis import results
from analysis.answers import seeds_each, tell
from analysis.charts.show import show, show_table, show_text
from analysis.results import QUESTION
from analysis.statistics import LITTLE, wilson
from analysis.tables import DIFFERENCES, RESULTS, per_cent
from ovmse.runs.code import learning_code_key
from ovmse.runs.files import SHIPPED_DATA

TOLD = 0.05  # of a Holm-adjusted sign-flip p
FEW = 5  # seeds: with fewer, neither a bootstrap's interval nor that all agree says much
SAME = 0.05  # mean win rates whose interval lies within this of each other count as one curve


def drawn(
    rows: pd.DataFrame, chart: Callable[[pd.DataFrame], alt.TopLevelMixin], *items: str
) -> None:
    """Shows the chart of `rows`; where there are none, which commands make what is shown here
    (nothing, if no items are named: a sentence has said it)."""
    if len(rows):
        show(chart(rows))
    elif items:
        _not_run(items)


def tabled(rows: pd.DataFrame, *items: str) -> None:
    """Shows `rows` as a table for readers, differences with their intervals; where there are none,
    which commands make what is shown here (nothing, if no items are named: a chart has said it).
    The grid is a column where a map and dataset is of several."""
    if rows.empty:
        if items:
            _not_run(items)
        return
    known = RESULTS
    if "holm" in rows:
        known, rows = DIFFERENCES, rows.rename(columns={"low": "mean_min", "high": "mean_max"})
    if (
        "item" in rows
        and not rows[QUESTION].drop_duplicates()[["task", "dataset"]].duplicated().any()
    ):
        rows = rows.drop(columns="item")
    show_table(rows, known)


def planned(lines: pd.DataFrame, found: pd.DataFrame) -> None:
    """Shows how many of the planned runs are there, which others, the code that made them, the
    cards of those that ship, and the commands of what is not whole; of `results.finished` tests and
    their runs."""
    table = results.status(found)
    show_table(table.drop(columns="command"), RESULTS)
    if others := results.unplanned(found):
        display(Markdown(f"**Not of this plan**, and shown all the same: {others}."))
    if len(lines):
        display(Markdown(made_by(lines)))
    missing = table[table.there < table.planned]
    if len(missing):
        commands("**What is missing.** What makes it:", "; ".join(missing.command).split("; "))
    if untuned := list(missing.task[missing["item"] == "tuning"]):
        display(Markdown(
            f"Each at its best on {' and '.join(untuned)}: not run, and planned once that is "
            "tuned. `python tools/at_its_best.py FOLDER` writes its grid anew, from all runs of "
            "the tuning in FOLDER."
        ))  # fmt: skip


def made_by(lines: pd.DataFrame) -> str:
    """Which learning code made the runs, and where their seeds, machine and commands stand."""
    codes, items = sorted(set(lines.code.dropna())), list(dict.fromkeys(lines["item"]))
    cards = [f"[{item}](../data/results/{item}.md)" for item in items
             if (SHIPPED_DATA / f"results/{item}.md").exists()]  # fmt: skip
    said = f"Made by learning code {', '.join(codes) or 'unknown'}"
    said += f"; seeds, machine and commands of what ships: {', '.join(cards) or 'nothing'}."
    at = [results.COMMITS[code] for code in codes if code in results.COMMITS]
    if at and learning_code_key() not in codes:
        said += (
            " Runs of other code do not join these: for more, first "
            f"`{results.CHECKOUT.format(at[0])}`."
        )
    known = lines.dropna(subset="dataset_sha256")
    for where, found in results.differ(known, ["task", "dataset"], "dataset_sha256").items():
        said += f" **{where} is not the same file everywhere**: {found}. Compare only within each."
    return said


def _not_run(items: Sequence[str]) -> None:
    commands(
        "**Not run**, or without what it would be compared with. What makes it:",
        [plan.command for plan in results.PLANNED if plan.item in items],
    )


def commands(said: str, lines: Sequence[str]) -> None:
    """Shows a sentence and commands, to be copied."""
    text = "\n".join(lines)
    display(Markdown(f"{said}\n\n```\n{text}\n```"))


def what_ovmse_is(found: pd.DataFrame) -> None:
    """Tells on which maps OVMSE has the conservative term by itself, where it differs."""
    own = found[found.name == "OVMSE"]
    has = own.online_cql.astype(bool)
    on, off = (", ".join(dict.fromkeys(own.task[mine])) for mine in (has, ~has))
    if not on or not off:
        return
    tell(
        f"*OVMSE* has CQL, the conservative term, on {on} and not on {off}: "
        "*OVMSE without CQL* of the one is what is called OVMSE on the other. *SE* is exploring "
        "one agent at a time, alone or added to a rival."
    )


def who_wins(found: pd.DataFrame) -> str:
    """The paper's setting: who ends highest on each map, and whom OVMSE can be told from. found as
    from `results.runs`."""
    found = results.only(found, *results.COMPARED)
    if found.empty:
        return (
            "No run of the paper's setting is here yet, so nothing is said about who wins. Below "
            "stand the paper's own numbers, and the commands that make ours."
        )
    return _ranked(found)


def one_seed(found: pd.DataFrame) -> None:
    """Tells of lines that have one seed what the luck of its last battles leaves open (Wilson's
    intervals), map by map."""
    said = []
    for key, rows in found.groupby(QUESTION, sort=False):
        rows = rows[rows.groupby("name").seed.transform("nunique") == 1]
        rows = rows.dropna(subset="long_test_battles")
        low, high = wilson(rows.end.to_numpy(), rows.long_test_battles.to_numpy())
        each = [
            f"{name} {per_cent(end)} ({per_cent(a)} to {per_cent(b)})"
            for name, end, a, b in zip(rows.name, rows.end, low, high, strict=True)
        ]
        said += [f"{key[1]} {key[2]}: {', '.join(each)}"] * bool(each)
    if said:
        tell(
            "**One seed has no range**, only the luck of its last battles (Wilson's 95 % "
            f"interval): it says nothing of what another seed would change. {'; '.join(said)}."
        )


def tuned(found: pd.DataFrame) -> None:
    """Shows what each was tuned to; if no tuning seed is whole, how far they are."""
    chosen = results.chosen(found)
    if chosen.empty and (there := results.tuned_on(found)):
        tell(f"Of no tuning seed all settings are finished: {there}.")
    else:
        tabled(chosen, "tuning")


def at_its_best(found: pd.DataFrame) -> str:
    """Who ends highest once each is tuned, and what that changes from the paper's setting."""
    best, gains = results.only(found, results.BEST), results.gains(found)
    if best.empty:
        return "No tuned run is here yet."
    said = [
        f"on {key[1]} {key[2]}, {', '.join(f'{r.name} {_points(r)}' for r in rows.itertuples())}"
        for key, rows in gains.groupby(QUESTION, sort=False)
    ]
    less = "\n\nMean win rate when tuned less that in the paper's setting, in paired seeds: "
    less += f"{'; '.join(said)}."
    return _ranked(best) + (less if said else "")


def _ranked(asked: pd.DataFrame) -> str:
    """Who ends highest on each map, whose lowest test is best, and whom OVMSE can be told from."""
    found = results.shared(asked)
    if found.empty:
        return "No seed has every line yet, so nothing is ranked."
    table, parts = results.differences(asked), []
    for key, _ in asked.groupby(QUESTION, sort=False):
        rows = results.of_question(found, *key)
        if rows.empty:
            parts.append(f"**{key[1]} {key[2]}**: no seed has every line yet.")
            continue
        text = f"only {rows.name.iloc[0]} was run"
        if rows.name.nunique() > 1:
            text = f"highest at the end: {_first(rows, 'end')}"
            if little(rows):
                text += f"; highest return there: {_first(rows, 'last_return', '{:.1f}'.format)}"
            text += f"; highest at its lowest test: {_first(rows, 'lowest')}"
            text += _rivals(results.of_question(table, *key), rows.seed.nunique())
        seeds = seeds_each(rows.groupby("name").seed.nunique())
        parts.append(f"**{key[1]} {key[2]}** ({seeds}): {text}.")
    more = len(set(asked.run) - set(found.run))
    left = f" ({more} runs of seeds that not every line has are left out)" if more else ""
    compared = (
        "OVMSE is compared with each rival by the mean win rate over the online steps, in seeds "
        f"that the two share (sign-flip p adjusted by Holm below {TOLD})"
        if len(table)
        else "nothing is compared with OVMSE"
    )
    return (
        "Map by map:\n\n- " + "\n- ".join(parts) + "\n\n"
        "What is highest at the end and in the lowest test is so in medians, not tested"
        f"{left}; {compared}."
    )


def _first(rows: pd.DataFrame, measure: str, written: Callable[[float], str] = per_cent) -> str:
    """Which lines' median is the greatest, and where OVMSE's lies; neither where all are 0."""
    medians = rows.groupby("name")[measure].median()
    if written(medians.max()) == written(0):
        return f"none (all {written(0)})"
    first = list(medians.index[medians == medians.max()])
    text = f"{', '.join(first)} ({written(medians.max())})"
    if "OVMSE" in medians and "OVMSE" not in first:
        text += f", OVMSE {written(medians['OVMSE'])}"
    return text


def little(rows: pd.DataFrame) -> bool:
    """Whether no line wins `LITTLE` of its battles, on the way or at the end (medians): then win
    rates tell nothing."""
    lines = rows.groupby(["name", "epsilon_start"])
    return lines[["mean", "end"]].median().max(axis=None) < LITTLE


def with_wins(found: pd.DataFrame) -> pd.DataFrame:
    """The runs on maps and datasets where battles are won; tells which others are left out, as
    win rates say nothing there. All of them, if none is won anywhere."""
    lost = [key for key, rows in found.groupby(QUESTION, sort=False) if little(rows)]
    keys = [*map(tuple, found[QUESTION].to_numpy())]
    if not lost or {*keys} == {*lost}:
        return found
    tell(
        f"{', '.join(f'{task} {data}' for _, task, data in lost)}, where no line wins "
        f"{per_cent(LITTLE)} of its battles, is left out of most of what follows: win rates say "
        "nothing there."
    )
    return found[[key not in lost for key in keys]]


def _rivals(table: pd.DataFrame, seeds: int) -> str:
    """Which rivals OVMSE is above, below, or not told from, by the sign-flip p after Holm; where so
    few seeds cannot tell, from which it differs the same way on each of `FEW` seeds or more. seeds:
    how many all lines share; two lines may share more."""
    if table.empty:
        return ""
    told = table.holm < TOLD
    said, more = [], ""
    if len(below := table[told & (table["mean"] < 0)]):
        said.append(f"above {_all_of(below, table)}")
    if len(above := table[told & (table["mean"] > 0)]):
        said.append(f"below {_all_of(above, table)}")
    if len(rest := table[~told]):
        why = too_few(int(rest.seeds.max()), len(rest))
        said.append(f"not told from {_all_of(rest, table, 'any of')}{why}")
        if why and rest.seeds.min() >= FEW:
            least, most = rest.each.map(min), rest.each.map(max)
            ways = {
                "above": ", ".join(rest.name[most < 0]),
                "below": ", ".join(rest.name[least > 0]),
            }
            each = " and ".join(f"{way} {names}" for way, names in ways.items() if names)
            more = f"; yet on every shared seed OVMSE is {each}" if each else ""
    pairs = f" (up to {table.seeds.max()} pairs)" if table.seeds.max() > seeds else ""
    return f"; in mean win rate{pairs} OVMSE is " + ", ".join(said) + more


def too_few(seeds: int, comparisons: int) -> str:
    """Said where the least p that so many pairs can have is not below `TOLD` after Holm."""
    return " (so few seeds cannot tell any)" if 2 / 2**seeds * comparisons > TOLD else ""


def _all_of(some: pd.DataFrame, table: pd.DataFrame, all_of: str = "all") -> str:
    every = len(some) == len(table) > 1
    return f"{all_of} {len(table)} others" if every else ", ".join(some.name)


def pooled_of(scores: dict[str, np.ndarray]) -> str:
    """How much `results.pooled` lies under what is said of all maps together."""
    if not scores:
        return (
            "Fewer than two maps and datasets have two seeds that all their lines share, so "
            "nothing is pooled."
        )
    seeds, questions = next(iter(scores.values())).shape
    few = seeds < FEW
    return (
        f"{seeds} seeds of each of {questions} maps and datasets. The intervals are of other seeds "
        "on these, and say nothing of other maps; a number without one is the same however seeds "
        "are drawn." + " Drawn from so few seeds they are too narrow: read them as leads." * few
    )


def which_part(found: pd.DataFrame) -> str:
    """What each part adds to the other two (where not all was run, to whatever there is), and
    whether how many explore decides more than which algorithm learns."""
    compared = results.only(found, *results.COMPARED)
    table, parts, shown = results.effects(compared), [], []
    for key, rows in table.groupby(QUESTION, sort=False):
        if little(results.of_question(compared, *key)):
            few = f"no line wins {per_cent(LITTLE)} of its battles, so no part shows"
            parts.append(f"- **{key[1]} {key[2]}**: {few}.")
            continue
        shown.append(rows)
        whole = rows[rows.beside.str.contains(" and ")]
        every = len(whole) == len(results.PARTS)
        each = (
            f"{r.part}{'' if every else _added_to(r.beside)} {_points(r)}"
            for r in (whole if every else rows).sort_values("mean")[::-1].itertuples()
        )
        parts.append(f"- **{key[1]} {key[2]}**: {', '.join(each)}.")
    said = "No map has runs with and without a part yet."
    if parts:
        said = (_told_of_parts(pd.concat(shown)) if shown else "") + (
            "What each of OVMSE's parts (the memory; SE, exploring one at a time; CQL, the "
            "conservative term) adds to the other two in mean win rate, or to what is named:\n\n"
        )
        said += "\n".join(parts)
    return f"{said}\n\n{noise_decides(results.only(found, 'noise'))}"


def _told_of_parts(table: pd.DataFrame) -> str:
    """In how many of its combinations with the others each part is told to raise or to lower the
    mean win rate, on the maps where any is."""
    said, rest, few = [], 0, True
    for key, rows in table.groupby(QUESTION, sort=False):
        each = {}
        for part, mine in rows.groupby("part"):
            told = np.sign(mine["mean"])[mine.holm < TOLD]
            for way, word in ((1, "raised"), (-1, "lowered")):
                if count := (told == way).sum():
                    each[f"{word} by {part} in {count} of {len(mine)}"] = way * count
        if each:
            most = ", ".join(sorted(each, key=lambda words: -each[words]))
            said.append(f"On {key[1]} {key[2]} the mean win rate is {most}")
        else:
            rest += 1
            few = few and bool(too_few(int(rows.seeds.max()), len(rows)))
    if not said:
        return ""
    more = " Elsewhere so few seeds cannot tell any." if few else " Elsewhere none is told."
    return (
        f"**{'; '.join(said)} of its combinations with the other parts (told from luck)."
        f"{more if rest else ''}**\n\n"
    )


def _added_to(beside: str) -> str:
    return " by itself" if beside == "nothing" else f" added to {beside}"


def _points(row: Any) -> str:
    of = f", {row.seeds} seeds, p {row.holm:.3f} after Holm" if row.seeds > 1 else ""
    return f"{100 * row.mean:+.1f} points ({_interval(row)}{of})"


def _interval(of: Any) -> str:
    """From `low` to `high`, in points; of one pair of seeds there is none."""
    return "one seed" if np.isnan(of.low) else f"{100 * of.low:+.1f} to {100 * of.high:+.1f}"


def noise_decides(noisy: pd.DataFrame) -> str:
    """Whether how many explore at first moves every line farther than the lines are apart at any
    one number, on each map of noise; of the lines that explore each by itself, in medians and on
    each seed."""
    each, said = noisy[noisy.exploration == "epsilon_greedy"], []
    for key, rows in each.groupby(QUESTION, sort=False):
        rows = results.shared(rows, ["name", "explorers"])
        medians = 100 * results.by_explorers(rows).dropna()
        if min(medians.shape) < 2:
            continue
        change, apart = medians.iloc[:, -1] - medians.iloc[:, 0], medians.max() - medians.min()
        seeds = seeds_each(rows.groupby("name").seed.nunique())
        word = _decides(medians)
        alone = [
            _decides(results.by_explorers(seed).loc[medians.index])
            for _, seed in rows.groupby("seed")
        ]
        if word != "cannot be said" and (alike := alone.count(word)) < len(alone):
            word, seeds = f"{word} in medians", f"{seeds}, on {alike} of them by itself"
        said.append(
            f"- **{word}** on {key[1]} {key[2]} ({seeds}): from {apart.index[0]:g} explorers to "
            f"{apart.index[-1]:g} the mean win rate (median) of "
            f"{', '.join(change.index.get_level_values('name'))}, where each agent explores by "
            f"itself, changes by {change.min():+.0f} to {change.max():+.0f} points; at the same "
            f"number they are {apart.min():.0f} to {apart.max():.0f} apart."
        )
    if not said:
        why = "has too few levels or lines" if len(noisy) else "was not run"
        return (
            "Whether the number of explorers decides more than the algorithm cannot be said: the "
            f"map of noise {why}."
        )
    return "*The number of explorers decides more than the algorithm*:\n\n" + "\n".join(said)


def _decides(won: pd.DataFrame) -> str:
    """Of mean win rates (a row a line, a column a number of explorers), in a word."""
    moved, apart = (won.iloc[:, -1] - won.iloc[:, 0]).abs(), won.max() - won.min()
    if moved.min() > apart.max():
        return "holds"
    return "does not hold" if moved.max() < apart.min() else "cannot be said"


def one_curve(found: pd.DataFrame) -> str:
    """Whether exploring one at a time does otherwise than each by itself, at as many explorers: one
    curve where every level's interval lies within `SAME`, none where one level is told apart."""
    rows, said = results.only(found, "noise"), []
    for one, alone in (("SE", "Switch CQL"), ("OVMSE without CQL", "OVM without CQL")):
        for key, mine in rows.groupby(QUESTION, sort=False):
            scores = {
                (name, level): of.set_index("seed")["mean"].to_dict()
                for (name, level), of in mine.groupby(["name", "explorers"])
            }
            levels = sorted(set(mine.explorers))
            pairs = {(*key, x): (scores.get((one, x), {}), scores.get((alone, x), {}))
                     for x in levels}  # fmt: skip
            table = results.family(pairs, ["explorers"])
            if table.empty:
                continue
            far = table["mean"].abs()
            word = "cannot be told to fall on one curve or not"
            if ((table.low > -SAME) & (table.high < SAME)).all():
                word = "fall on one curve"
            elif ((table.holm < TOLD) & (far >= SAME)).any():
                word = "do not fall on one curve"
            widest = table.loc[far.idxmax()]
            gap = f"{100 * widest['mean']:+.1f} points at {widest.explorers:g}, {_interval(widest)}"
            where = f"{key[1]} {key[2]}"
            said.append(f"- on {where} {one} and {alone} {word} (farthest apart by {gap})")
    if rows.empty:
        return "The map of noise was not run."
    if not said:
        said = ["- no seed has both schemes yet"]
    return "At the same expected number of explorers:\n\n" + "\n".join(said)


def noise_table(noisy: pd.DataFrame) -> None:
    """Shows the medians of the map of noise, a column for each number of explorers."""
    if len(noisy):
        table = results.by_explorers(noisy).map(per_cent, na_action="ignore").fillna("–")
        table.columns = pd.Index([f"{level:g}" for level in table.columns])
        table.insert(0, "seeds", noisy.groupby(table.index.names).seed.nunique())
        show_text(table.reset_index().rename(columns={"task": "map", "name": "algorithm"}))
