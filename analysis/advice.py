"""What 05_ablation advises: what to do if you start today, by whatever runs are there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from shlex import quote

import numpy as np
import pandas as pd

from analysis import results
from analysis.answers import tell
from analysis.charts.show import show_table
from analysis.results import LINE, QUESTION
from analysis.statistics import holm, paired
from analysis.tables import ADVICE, per_cent
from analysis.verdicts import TOLD, commands, little, too_few
from ovmse.config import Config

# Of the machine and of the tests, not of the method.
ASIDE = ("device", "threads", "test_interval", "test_battles", "long_test_battles",
         "offline_test_interval", "fixed_battles")  # fmt: skip


def advise(found: pd.DataFrame) -> None:
    """Shows what to start with, the commands, how much noise won most and what cannot be said."""
    advised = start_today(found)
    if advised.empty:
        tell(
            "No finished run of the paper's setting, the map of noise or each at its best is here, "
            "so nothing can be advised."
        )
        return
    show_table(advised, ADVICE)
    if made := list(advised.command.dropna()):
        commands(
            "**To train these**, in the same order (`ovmse data make` makes the datasets that do "
            "not ship, with other battles on another processor):",
            made,
        )
        tell("\n\n".join([what_is_sure(advised), how_much_noise(found)]))


def start_today(found: pd.DataFrame) -> pd.DataFrame:
    """For each map, dataset and budget the best line with its noise; found as from `results.runs`.

    Columns: `where` (map and dataset), `online_steps`, `start` (the line and its ε), `explorers`,
    `mean` (win rate online, median) with `mean_min` and `mean_max`, `seeds`, `next` (the second
    best), `sure` (whether it is told from all others, in words), `other_noise` (whether another ε
    was tried on all of these seeds), `command` (what trains it). Where nothing is advised `sure`
    says why and most of the others are missing.
    """
    rows = results.only(found, *results.COMPARED, "noise", results.BEST)
    by = ["item", *LINE, "epsilon_start", "explorers", "exploration"]
    budget = ["task", "dataset", "online_steps"]
    advised = []
    for task, data, steps, mine in _alike_in_seeds(rows, by, budget):
        one = {"where": f"{task} {data}", "online_steps": steps, "start": None, "command": None}
        # what is tuned was tried at others, on the seeds of the tuning
        one["other_noise"] = {*mine["item"]} == {results.BEST} or mine.epsilon_start.nunique() > 1
        advised.append(one)
        mine = results.shared(mine, by, within=budget)
        if mine.empty:
            one["sure"] = "no seed has every line"
            continue
        runs = dict(iter(mine.groupby(by, sort=False)))
        lines = {key: line.set_index("seed")["mean"] for key, line in runs.items()}
        top, *others = sorted(lines, key=lambda key: -lines[key].median())
        best = lines[top]
        one["seeds"] = len(best)
        if little(mine):
            one["sure"] = "hardly a battle won"
            continue
        one |= {"mean": best.median(), "mean_min": best.min(), "mean_max": best.max()}
        run = runs[top].iloc[0]
        one |= {"start": _at(top), "explorers": run.explorers, "command": _train(run)}
        if others:
            one["next"] = f"{_at(others[0])} ({per_cent(lines[others[0]].median())})"
        pairs = [paired(lines[key].to_dict(), best.to_dict()) for key in others]
        p = holm([pair.p for pair in pairs] or [1.0])
        above = sum(pair.mean < 0 and own < TOLD for pair, own in zip(pairs, p))
        few = not others or too_few(len(best), len(others))
        told = f"told from {above} of {len(others)}"
        if above == len(others):
            told = f"told (p {max(p):.3f})"
        one["sure"] = "a lead" if few else told
    return pd.DataFrame(advised)


def what_is_sure(advised: pd.DataFrame) -> str:
    """What the words of `start_today` mean, where only one ε was tried, and what these seeds cannot
    say."""
    there = advised[advised.command.notna()]
    said = [
        "**How sure.** *Told*: in paired seeds the others' mean is lower, with p below "
        f"{TOLD:g} after Holm over all of them (p is the greatest), which leaves out that the best "
        "was picked by the same seeds. *A "
        "lead*: too few seeds, or no other line, to tell it from any."
    ]
    once = there[~there.other_noise]
    if len(once):
        where = [f"{r.where} ({r.online_steps:,} steps)" for r in once.itertuples()]
        said.append(f"**No other ε** was tried on all the seeds of {', '.join(where)}.")
    least = [f"{2 / 2**n:.2g} with {n}" for n in sorted({*there.seeds.astype(int)}, reverse=True)]
    said.append(
        "**What these seeds cannot say.** The best of many lines is picked by its own luck too, so "
        "its number is a little high; the least sign-flip p that paired seeds can give is "
        f"{', '.join(least)}; other maps, datasets or StarCraft II itself were not played; and "
        "lines are compared only where they have the same seeds."
    )
    return "\n\n".join(said)


def how_much_noise(found: pd.DataFrame) -> str:
    """At how many explorers each line of the map of noise wins most, on each map and dataset."""
    said, noisy = [], results.only(found, "noise")
    for key, rows in noisy.groupby(QUESTION, sort=False):
        medians = results.by_explorers(results.shared(rows, ["name", "explorers"]))
        if medians.shape[1] > 1 and not little(rows):
            levels: dict[tuple[float, float], list[str]] = {}
            for (*_, name), line in medians.iterrows():
                tried = line.dropna().index
                if len(tried) < 2:
                    continue
                levels.setdefault((tried.min(), tried.max()), []).append(
                    f"{name} {line.idxmax():g}"
                )
            each = [f"{', '.join(names)} (tried: {low:g} to {high:g})"
                    for (low, high), names in levels.items()]  # fmt: skip
            said.append(f"- {key[1]} {key[2]}: {'; '.join(each)}")
    if not said:
        why = "has no two levels that win" if len(noisy) else "was not run"
        return f"**How much noise** cannot be said: the map of noise {why}."
    return (
        "**How much noise.** So many explorers at first win most (mean win rate, median; not "
        "tested):\n\n" + "\n".join(said)
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
    """A line with its noise, `SE, tuned, ε 0.05`."""
    item, name, _, _, epsilon, _, exploration = key
    name += ", tuned" * (item == results.BEST)
    name += ", centralised" * (exploration == "sequential_centralised")
    return f"{name}, ε {epsilon:g}"


def _train(run: pd.Series) -> str:
    """The command of such a run, with the settings that the defaults of its algorithm differ in."""
    given = {name: run[name] for name in ("algorithm", "task", "dataset")}
    if given["dataset"] == results.NO_DATA:
        del given["dataset"]
    parts = [*given.values(), run.online_steps, *["tuned"] * (run["item"] == results.BEST)]
    folder = re.sub(r"[^\w.]+", "_", "_".join(map(str, parts)))  # a dataset can be a path
    words = [f"--{name} {quote(str(value))}" for name, value in given.items()]
    more = {name: run[name] for name in ("preset", "backend") if pd.notna(run.get(name))}
    defaults = Config.from_parameters(**given).model_dump()
    words += [f"{name}={value}" for name, value in more.items() if value != defaults[name]]
    defaults = Config.from_parameters(**given, **more).model_dump()
    for name in results.SETTING:
        value = run.get(name)
        if name not in ASIDE and pd.notna(value) and value != defaults[name]:
            shown = str(value).lower() if isinstance(value, bool | np.bool_) else f"{value}"
            words.append(f"{name}={shown}")
    return f"ovmse train runs/start/{folder} {' '.join(words)}"
