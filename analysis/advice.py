"""What 05_ablation advises: what to do if you start today, by whatever runs are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis import results
from analysis.results import LINE, QUESTION
from analysis.statistics import holm, paired
from analysis.tables import per_cent
from analysis.verdicts import TOLD, little, too_few
from ovmse.config import Config

# Of the machine and of the tests, not of the method.
ASIDE = ("device", "threads", "test_interval", "test_battles", "long_test_battles",
         "offline_test_interval", "fixed_battles")  # fmt: skip


def start_today(found: pd.DataFrame) -> str:
    """For each map, dataset and budget the best line with its noise, those that cannot be told from
    it, and what these seeds cannot say; a Markdown list."""
    rows = results.only(found, *results.COMPARED, "noise", results.BEST)
    if rows.empty:
        return (
            "No finished run of the paper's setting, the map of noise or each at its best is here, "
            "so nothing can be advised."
        )
    said, seeds = [], set()
    by = ["item", *LINE, "epsilon_start", "explorers", "exploration"]
    budget = ["task", "dataset", "online_steps"]
    tried = rows.groupby(budget).epsilon_start.nunique()
    for task, data, steps, mine in _alike_in_seeds(rows, by, budget):
        only_tuned = ", each tuned" if set(mine["item"]) == {results.BEST} else ""
        where = f"- **{task}, {data}, {steps:,} steps{only_tuned}**: "
        mine = results.shared(mine, by, within=budget)
        if mine.empty:
            said.append(f"{where}no seed has every line yet, so nothing is advised.")
            continue
        runs = dict(iter(mine.groupby(by, sort=False)))
        lines = {key: line.set_index("seed")["mean"] for key, line in runs.items()}
        medians = {key: scores.median() for key, scores in lines.items()}
        top = max(medians, key=lambda key: medians[key])
        best = lines[top]
        if little(mine):
            said.append(
                f"{where}nothing is advised: the best of {len(lines)}, {_at(top)}, has a mean win "
                f"rate of {per_cent(medians[top])}."
            )
            continue
        others = sorted((key for key in medians if key != top), key=lambda key: -medians[key])
        p = holm([paired(lines[key].to_dict(), best.to_dict()).p for key in others] or [1.0])
        alike = [f"{_at(k)}, {per_cent(medians[k])}" for k, one in zip(others, p) if one >= TOLD]
        why = too_few(len(best), len(others))
        spread = f"{per_cent(best.min())} to {per_cent(best.max())}, {len(best)} seeds"
        spread = spread if len(best) > 1 else "one seed"
        spread += ": a lead, no advice" if why or not others else ""
        text = f"{where}{_at(top)}, mean win rate {per_cent(best.median())} ({spread})."
        if mine.epsilon_start.nunique() == 1 and not only_tuned:
            some = " on all of these seeds" if tried[task, data, steps] > 1 else ""
            text += f" No other ε was tried{some}."
        if not others:
            text += " No other line is here to compare it with."
        if alike:
            more = f" and {len(alike) - 6} others" if len(alike) > 6 else ""
            text += f" Not told from it in paired seeds: {'; '.join(alike[:6])}{more}{why}."
        elif others:
            text += (
                f" In paired seeds the mean win rate of each of the {len(others)} others is lower, "
                "told after Holm, which leaves out that the best was picked by the same seeds."
            )
        said.append(f"{text} To train it: `{_train(runs[top].iloc[0])}`.")
        seeds.add(len(best))
    if not seeds:
        return "\n".join(said)
    said.append(_how_much_noise(results.only(found, "noise")))
    least = ", ".join(f"{2 / 2**n:.2g} with {n}" for n in sorted(seeds, reverse=True))
    said.append(
        f"\nWhat these seeds cannot say: the best of many lines is picked by its own luck too, so "
        f"its number is a little high; the least sign-flip p that paired seeds can give is {least};"
        " other maps, datasets or StarCraft II itself were not played; and lines are compared only "
        "where they have the same seeds."
    )
    return "\n".join(said)


def _how_much_noise(noisy: pd.DataFrame) -> str:
    """At how many explorers the lines of the map of noise win most, on each map."""
    said = []
    for key, rows in noisy.groupby(QUESTION, sort=False):
        medians = results.by_explorers(results.shared(rows, ["name", "explorers"]))
        if medians.shape[1] > 1 and not little(rows):
            best, most = medians.idxmax(axis=1), medians.columns.max()
            said.append(f"{best.min():g} to {best.max():g} of at most {most:g} on {key[1]}")
    if not said:
        return "- **How much noise** cannot be said: the map of noise has no two levels that win."
    return (
        "- **How much noise**: so many agents are expected to explore at first where each line of "
        f"the map of noise has its greatest mean win rate (median): {'; '.join(said)}."
    )


def _alike_in_seeds(
    rows: pd.DataFrame, by: Sequence[str], budget: Sequence[str]
) -> Iterator[tuple[str, str, int, pd.DataFrame]]:
    """What may be compared within each `budget`: its items together where the lines (`by`) of each
    share the same seeds, and else apart. One that has only begun takes no seeds from the others."""
    for key, mine in rows.groupby([*budget], sort=False):
        items: dict[frozenset, list[pd.DataFrame]] = {}
        for _, part in mine.groupby("item", sort=False):
            seeds = results.shared(part, by, within=budget).seed
            items.setdefault(frozenset(seeds), []).append(part)
        for parts in items.values():
            yield (*key, pd.concat(parts))


def _at(key: tuple) -> str:
    """A line and its noise."""
    item, name, _, _, epsilon, explorers, exploration = key
    name += ", tuned," if item == results.BEST else ""
    name += ", centralised," if exploration == "sequential_centralised" else ""
    return f"{name} from ε {epsilon:g} ({explorers:g} explorer{'s' * (explorers != 1)})"


def _train(run: pd.Series) -> str:
    """The command of such a run, with the settings that the defaults of its algorithm differ in."""
    given = {name: run[name] for name in ("algorithm", "task", "dataset")}
    if given["dataset"] == results.NO_DATA:
        del given["dataset"]
    words = [f"--{name} {value}" for name, value in given.items()]
    more = {name: run[name] for name in ("preset", "backend") if pd.notna(run.get(name))}
    defaults = Config.from_parameters(**given).model_dump()
    words += [f"{name}={value}" for name, value in more.items() if value != defaults[name]]
    defaults = Config.from_parameters(**given, **more).model_dump()
    for name in results.SETTING:
        value = run.get(name)
        if name not in ASIDE and pd.notna(value) and value != defaults[name]:
            shown = str(value).lower() if isinstance(value, bool | np.bool_) else f"{value}"
            words.append(f"{name}={shown}")
    return f"ovmse train runs/{run['algorithm']} {' '.join(words)}"
