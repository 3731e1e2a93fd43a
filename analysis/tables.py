"""Run folders -> tidy tables. Statistics live here, drawing does not; nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.charts.theme import in_order, label
from ovmse.config import Config
from ovmse.config import phase as setting_phase
from ovmse.errors import UserError
from ovmse.method.algorithms import ALGORITHMS
from ovmse.runs.reading import RunError, find_runs
from ovmse.runs.tables import COLUMNS, metrics_table


def curves(source: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """Every metrics row of a folder of runs, of a list of run directories, or of an export.

    Columns as in `ovmse.runs.tables.metrics_table`: `run`, the settings, `phase`, `env_steps`,
    `updates` and the measures; and `variant` (see `with_variants`). A path that ends in `.parquet`
    is what `ovmse runs --export` wrote.
    Raises `ovmse.runs.reading.RunError` where there is no run, or none that has measured yet.
    """
    if isinstance(source, str | Path) and Path(source).suffix == ".parquet":
        if not Path(source).is_file():
            raise RunError(f"there is no file {source}")
        try:
            table = pd.read_parquet(source)
        except (OSError, ValueError) as error:
            raise RunError(f"{source} is no readable Parquet file ({error})") from None
        missing = [name for name in COLUMNS if name not in table]
        if missing:
            raise UserError(f"{source} lacks the column {missing[0]}; export the runs anew")
        return with_variants(table)
    table = metrics_table(find_runs(source))
    if table.empty:
        raise RunError(f"no run in {source} has measured anything yet")
    return with_variants(table)


CONTROLS: dict[str, dict[Any, str]] = {
    "exploration": {
        "epsilon_greedy": "with ε-greedy",
        "sequential_decentralised": "with SE",
        "sequential_centralised": "with centralised SE",
    },
    "online_cql": {True: "with CQL", False: "without CQL"},
}


def with_variants(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with a column `variant`: in what a run is a control, `with SE` or `without CQL`.

    It is empty where the run explores, and keeps the conservative term, as its own algorithm does.
    """
    settings = ["algorithm", "task", "preset", "backend", *CONTROLS]
    said = {}
    known = table[settings].astype(object).where(table[settings].notna(), None)  # nan is no key
    for row in known.drop_duplicates().itertuples(index=False):
        given = {n: getattr(row, n) for n in settings[:4]}
        own = row  # of what is unknown here, nothing is its own
        with suppress(UserError):
            own = Config.from_parameters(**given)
        words = []
        for name, text in CONTROLS.items():
            if (value := getattr(row, name)) != getattr(own, name):
                words.append(text.get(value, f"with {value}"))
        said[tuple(row)] = ", ".join(words)
    return table.assign(variant=[said[tuple(row)] for row in known.itertuples(index=False)])


CLOCK = {"online": "env_steps", "offline": "updates"}


# Which question a table answers: nothing is compared across these.
QUESTION = ["task", "dataset", "backend", "preset", "code"]
SETTINGS = [n for n in Config.model_fields if n not in ("seed", "continue_with_other_code")]
SETTINGS.append("dataset_sha256")
WHO = ("algorithm", "variant")  # runs that differ in these are lines of their own


def measured(
    table: pd.DataFrame, measure: str, phase: str = "online", by: Sequence[str] = WHO
) -> pd.DataFrame:
    """The rows of one phase that carry `measure`, of runs that may be averaged and compared.

    Runs are averaged within the groups of `by`, over their seeds. Raises `UserError` with one
    sentence that names what differs. All runs must agree in the task, the dataset, the backend, the
    preset and the code that made them. Those of a group must agree in every setting but the seed,
    and have different seeds. Those of different groups must too, except where each has what its own
    algorithm says. What is grouped by may differ. A run that learned from no data has no dataset
    and no offline phase to differ in.
    """
    rows = with_variants(table[(table.phase == phase) & table[measure].notna()])
    runs = rows.drop_duplicates("run")
    require_one(runs, [name for name in QUESTION if name not in by])
    if len(runs) > 1 and (unknown := int(runs.code.isna().sum())):
        raise UserError(
            f"{unknown} of {len(runs)} runs do not say which code made them (made_by in their "
            "config.json): they cannot be compared"
        )
    said = CONTROLS if "variant" in by else ()
    settings = [n for n in SETTINGS if n not in by and n not in said and n in runs]
    settings = [n for n in settings if runs[n].nunique(dropna=False) > 1]
    for key, group in runs.groupby(list(by), dropna=False):
        who = " ".join(map(str, key)).strip()
        for name in settings:
            if found := _values(group, name):
                raise UserError(
                    f"the runs of {who} differ in {name}: {found}; pick one, or group by it"
                )
        if (twice := group.seed.duplicated()).any():
            seed = group.seed[twice].iloc[0]
            count = (group.seed == seed).sum()
            raise UserError(f"{count} runs of {who} with seed {seed}; keep one a seed")
    for name in settings:
        having = runs
        if name in Config.model_fields and setting_phase(name) == "offline":
            having = runs[runs.algorithm.map(_pretrained).astype(bool)]
        if (found := _values(having, name)) and not _as_the_algorithms_say(having, name):
            raise UserError(f"the runs differ in {name}: {found}; pick one, or group by it")
    return rows


def require_one(runs: pd.DataFrame, names: Sequence[str]) -> None:
    """Raises UserError where the runs differ in one of these settings."""
    for name in names:
        if found := _values(runs, name):
            raise UserError(f"runs of {len(found)} {name}s at once: {found}; pick one")


def _values(runs: pd.DataFrame, name: str) -> list[Any]:
    """The values of a setting if there are several; a missing one counts, but for the dataset."""
    values = runs[name].dropna() if name.startswith("dataset") else runs[name]
    found = values.unique().tolist()
    return found if len(found) > 1 else []


def _pretrained(algorithm: str) -> bool:
    return algorithm not in ALGORITHMS or ALGORITHMS[algorithm].pretrained


def _as_the_algorithms_say(runs: pd.DataFrame, name: str) -> bool:
    """Whether a setting differs only because the table of algorithms and the recipes say so."""
    if name not in Config.model_fields:
        return False
    for run in runs.drop_duplicates(["algorithm", "task", "preset", "backend", name]).itertuples():
        given = {n: getattr(run, n) for n in ("algorithm", "task", "preset", "backend")}
        own = Config.from_parameters(**given)
        value, said = getattr(run, name), getattr(own, name)
        if not (value == said or (pd.isna(value) and said is None)):
            return False
    return True


def at_the_start(curves: pd.DataFrame) -> dict[str, float]:
    """The name of each line of `mean_curves` -> its first mean. Lines of one pre-training begin
    alike; MACal-QL, WSRL and QMIX have another."""
    rows = curves.groupby(list(WHO), sort=False).head(1)
    return {named(r.algorithm, r.variant): r.mean for r in rows.itertuples()}


def alike(said: Mapping[str, str]) -> str:
    """What is said of every name, once where it is the same of all: `0.8`, else `0.8 (OVMSE, SE);
    0.5 (MACal-QL)`."""
    names: dict[str, list[str]] = {}
    for name, words in said.items():
        names.setdefault(words, []).append(name)
    each = [f"{words} ({', '.join(those)})" for words, those in names.items()]
    return "; ".join(each) if len(each) > 1 else next(iter(names))


def mean_curves(table: pd.DataFrame, measure: str, phase: str = "online") -> pd.DataFrame:
    """Mean of `measure` over the seeds of each algorithm along one phase.

    Columns: `algorithm`, `variant`, `env_steps` (of the offline phase: `updates`), `mean`, `low`,
    `high`, `seeds`. Seeds are tested at slightly different steps (battles end when they end), so
    each seed's curve is read by linear interpolation at the steps of the seed that was tested least
    often, as far as every seed has come.
    """
    rows, clock = measured(table, measure, phase), CLOCK[phase]
    parts = []
    for algorithm, variant in lines(rows):
        one = rows[(rows.algorithm == algorithm) & (rows.variant == variant)]
        seeds = [s for _, s in one.groupby("seed")]
        end = min(s[clock].max() for s in seeds)
        grid = min((s[clock].to_numpy() for s in seeds), key=len)
        grid = np.unique(np.minimum(grid, end))
        values = np.array([np.interp(grid, s[clock], s[measure]) for s in seeds])
        part: dict[str, Any] = {"algorithm": algorithm, "variant": variant, clock: grid}
        part |= {"mean": values.mean(axis=0), "low": values.min(axis=0)}
        part |= {"high": values.max(axis=0), "seeds": len(seeds)}
        parts.append(pd.DataFrame(part))
    columns = [*WHO, clock, "mean", "low", "high", "seeds"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def at_the_end(table: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """A row for each line: `algorithm`, `variant` and, of the mean curve of each of `measures`, the
    last point, with its lowest and highest as `x_min` and `x_max`."""
    means = {name: mean_curves(table, name) for name in measures}
    records = []
    for who in lines(means[measures[0]]):
        record: dict[str, Any] = dict(zip(WHO, who, strict=True))
        for name, of in means.items():
            mine = of[(of.algorithm == who[0]) & (of.variant == who[1])]["mean"]
            if len(mine):
                record |= {name: mine.iloc[-1]}
                record |= {f"{name}_min": mine.min(), f"{name}_max": mine.max()}
        records.append(record | {"name": named(*who)})
    return pd.DataFrame(records)


def lines(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """The algorithms of `rows` with their variants, in the order of the table of algorithms."""
    pairs = set(zip(rows.algorithm, rows.variant, strict=True))
    order = in_order(rows.algorithm)
    return sorted(pairs, key=lambda pair: (order.index(pair[0]), pair[1]))


def named(algorithm: str, variant: str) -> str:
    """A line's name: `OVMSE`, or `MACQL with SE`."""
    return f"{label(algorithm)} {variant}".strip()


def named_run(table: pd.DataFrame, run: str | Path) -> str:
    """The name of one run of a table with variants: `MACQL with SE (seed 10)`."""
    row = table[table.run == str(run)].iloc[0]
    return f"{named(row.algorithm, row.variant)} (seed {row.seed})"


def reference_return(table: pd.DataFrame) -> float | None:
    """Mean over the runs of `mc_ended`, the discounted return of the fixed battles that ended; None
    if absent, or if the runs had different pre-trainings: no one line would be right for all.

    The fixed battles are those of a pre-training, which the runs of a seed share, so each seed
    counts once.
    """
    rows = measured(table, "mc_ended")
    seeds = rows.groupby("seed").mc_ended
    if rows.empty or (seeds.max() - seeds.min() > 1e-6).any():
        return None
    return float(seeds.mean().mean())


def summary(table: pd.DataFrame, at: Iterable[int] = (0, 10_000, 60_000)) -> pd.DataFrame:
    """A small rounded table: each algorithm at the online environment steps `at`.

    A seed counts with its measurement nearest to a step, if that lies within a tenth of it; a step
    that no seed of an algorithm reached has no row. Columns: `algorithm`, `variant`, `env_steps`,
    `seeds` (how many count), then mean, least and greatest over the seeds of the test win rate
    (0..1) as `win`, `win_min`, `win_max` and of `Q_tot` on the fixed battles that ended as `q`,
    `q_min`, `q_max`, and the mean discounted Monte-Carlo return of those battles as `mc`.
    """
    table, records = with_variants(table), []
    measures = {"win": "test_win_rate", "q": "q_ended", "mc": "mc_ended"}
    rows = {name: measured(table, measure) for name, measure in measures.items()}
    for algorithm, variant in lines(table):
        for step in at:
            record, seeds = {"algorithm": algorithm, "variant": variant, "env_steps": step}, 0
            for name, of in rows.items():
                mine = of[(of.algorithm == algorithm) & (of.variant == variant)]
                values = _near(mine, step)[measures[name]]
                seeds = max(seeds, len(values))
                record[name] = values.mean()
                record[f"{name}_min"], record[f"{name}_max"] = values.min(), values.max()
            records += [record | {"seeds": seeds}] if seeds else []
    columns = [*WHO, "env_steps", "seeds", "win", "win_min", "win_max"]
    return pd.DataFrame(records, columns=[*columns, "q", "q_min", "q_max", "mc"]).round(2)


def _near(rows: pd.DataFrame, step: int) -> pd.DataFrame:
    """Of each seed the row nearest to `step`, where it lies within a tenth of it."""
    far = (rows.env_steps - step).abs()
    nearest = far.groupby(rows.seed).idxmin()
    return rows.loc[nearest[far[nearest].to_numpy() <= step / 10]]


def per_cent(share: float) -> str:
    """A share as readers see it: `.25` -> `25 %`."""
    return f"{100 * share:.0f} %"


def _thousands(steps: float) -> str:
    return f"{steps / 1000:,.1f}".removesuffix(".0")


Columns = dict[str, tuple[str, Callable[[Any], str]]]

# What a reader sees of a column: its name, and how its values are written.
READABLE: Columns = {
    "algorithm": ("algorithm", label),
    "variant": ("variant", str),
    "phase": ("phase", str),
    "env_steps": ("environment steps", "{:,.0f}".format),
    "updates": ("updates", "{:,.0f}".format),
    "seeds": ("seeds", str),
    "test_win_rate": ("test battles won", per_cent),
    "win": ("test battles won", per_cent),
    "test_return": ("return (at most 20)", "{:.1f}".format),
    "q_ended": ("mean Q_tot", "{:.2f}".format),
    "q": ("mean Q_tot", "{:.2f}".format),
    "mc": ("Monte-Carlo return", "{:.2f}".format),
    "epsilon": ("epsilon", "{:.2f}".format),
}

EXPLORATION_NAMES = {
    "epsilon_greedy": "ε-greedy",
    "sequential_centralised": "sequential, centralised",
    "sequential_decentralised": "sequential, decentralised",
}
# The same of the tables of 03_exploration; a setting has its own meaning there.
EXPLORATION: Columns = {
    "run": ("run", lambda path: Path(path).name),
    "task": ("task", str),
    "algorithm": ("algorithm", label),
    "variant": ("variant", str),
    "seed": ("seed", str),
    "exploration": ("exploration", lambda name: EXPLORATION_NAMES[name]),
    "first": ("test battles won at first", per_cent),
    "last": ("at last", per_cent),
    "part": ("learned from", str),
    "third": ("of training", str),
    "k": ("agents at one step", str),
    "explored": ("explored at so many steps", per_cent),
    "strayed": ("took another than the greedy action", per_cent),
    "greedy": ("chance at ε", per_cent),
    "sequential": ("chance at ε/N", per_cent),
    "epsilon": ("epsilon", "{:.2f}".format),
    "at_once": ("explore at that step", str),
    "events": ("random actions", "{:,.0f}".format),
    "explorers": ("explorers", "{:.3g}".format),
    "off_greedy": ("off the greedy action", "{:.3g}".format),
    "several": ("two or more at once", per_cent),
    "window": ("explorers in the next five steps", str),
    "battles": ("battles", "{:,.0f}".format),
    "steps": ("steps", "{:,.0f}".format),
    "share": ("of the steps", per_cent),
    "cost": ("Q_tot one costs, mean", "{:.2f}".format),
    "median": ("Q_tot one costs, median", "{:.2f}".format),
    "together": ("Q_tot all cost together", "{:.2f}".format),
    "given_up": ("Q_tot given up a step", "{:.3f}".format),
    "won": ("battles won", per_cent),
    "return": ("return (at most 20)", "{:.1f}".format),
    "joint": ("joint actions in 1,000 steps", "{:.0f}".format),
    "states": ("coarse states in 1,000 steps", "{:.0f}".format),
    "mean": ("mean y(λ) − y(0)", "{:+.3f}".format),
    "error": ("standard error", "{:.3f}".format),
    "too_low": ("y − Q_tot there", "{:+.2f}".format),
    "change": ("change by one update", "{:+.2f}".format),
    "first_order": ("by gradient descent", "{:+.2f}".format),
}

_AGENTS = range(1, 11)
# The same of the diagnostics in 02_q_drift. What stands in brackets there is the lowest and the
# highest over training; in the table of forgetting, over seeds.
DIAGNOSTICS: Columns = {
    "algorithm": ("algorithm", label),
    "variant": ("variant", str),
    "seeds": ("seeds", str),
    "third": ("of the battle", str),
    "says": ("explanation", str),
    "would": ("what it would show", str),
    "wrong": ("what would show it wrong", str),
    "snapshots": ("snapshots", str),
    "goes": ("correlation with wins", "{:+.2f}".format),
    "verdict": ("here it", str),
    "first": ("won at first", per_cent),
    "lowest": ("lowest", per_cent),
    "lowest_at": ("at environment steps", "{:,.0f}".format),
    "env_steps": ("environment steps", "{:,.0f}".format),
    "win": ("won there", per_cent),
    "last": ("won at last", per_cent),
    "retention": ("lowest / first", per_cent),
    "regained": ("last / first", per_cent),
    "lost": ("lost on average", per_cent),
    "bias": ("bias", lambda x: f"{100 * x:+.0f} %"),
    "rank": ("rank", "{:.2f}".format),
    "cut": ("cut by the time limit", per_cent),
    "q_change": ("fixed-battle Q_tot moved", "{:+.2f}".format),
    "change": ("Q_tot moved", "{:+.2f}".format),
    "part_mixer": ("by the mixer", "{:+.2f}".format),
    **{f"part_{i}": (f"by agent {i}", "{:+.2f}".format) for i in _AGENTS},
    **{f"gain_{i}": (f"k of agent {i}", "{:.2f}".format) for i in _AGENTS},
    **{f"below_{i}": (f"max Q − Q, agent {i}", "{:.2f}".format) for i in _AGENTS},
    **{f"gap_{i}": (f"gap of {i}", "{:.2f}".format) for i in _AGENTS},
    "over": ("Q_tot − G, fixed battles", "{:+.2f}".format),
    "over_exploring": ("Q_tot − G, exploring", "{:+.2f}".format),
    "mixer_share": ("mixer's share", per_cent),
    "churn": ("otherwise", per_cent),
    "churn_joint": ("joint actions", per_cent),
    "since": ("since the last snapshot", per_cent),
    **{f"churn_{i}": (f"agent {i}", per_cent) for i in _AGENTS},
    "binds": ("memory exceeds y", per_cent),
    "lift": ("lifts y by", "{:.2f}".format),
    "remembered_error": ("Q_offline − G", "{:+.2f}".format),
    "memory_wrong": ("Q_offline − G, exploring", "{:+.2f}".format),
}

# The same of a moment of a battle (`analysis.moments`).
MOMENT: Columns = {
    "step": ("step", str),
    "agent": ("agent", str),
    "health": ("health", per_cent),
    "action": ("action", str),
    "explored": ("at random", lambda drawn: "yes" if drawn else "no"),
    "greedy": ("greedy action", str),
    "q_taken": ("Q_i of the action", "{:.3f}".format),
    "q_greedy": ("Q_i of the greedy one", "{:.3f}".format),
    "q_tot": ("Q_tot", "{:.2f}".format),
    "memory": ("offline memory", "{:.2f}".format),
    "td_target": ("TD(λ) target", "{:.2f}".format),
    "returns": ("return-to-go", "{:.2f}".format),
}


# The same of the results (`analysis.results`).
RESULTS: Columns = {
    "item": ("grid", str),
    "task": ("map", str),
    "dataset": ("dataset", str),
    "name": ("algorithm", str),
    "part": ("part", str),
    "beside": ("added to", str),
    "mixing_ratio": ("mixing ratio", "{:g}".format),
    "explorers": ("explorers", "{:g}".format),
    "planned": ("runs planned", str),
    "there": ("finished", lambda runs: str(runs) if runs else "not run"),
    "seeds": ("seeds", str),
    "tried": ("settings tried", str),
    "epsilon_start": ("ε at first", "{:g}".format),
    "online_lr": ("rate", "{:g}".format),
    "own": ("its own", str),
    "lr_warmup_updates": ("updates to full rate", "{:.0f}".format),
    "epsilon_anneal": ("steps to lowest ε", "{:,.0f}".format),
    "memory_end": ("λ at last", "{:g}".format),
    "cql_alpha": ("α", "{:g}".format),
    "cql_anneal": ("CQL fades over", "{:,.0f}".format),
    "policy_warmup_steps": ("warm-up steps", "{:,.0f}".format),
    "start": ("won at the start", per_cent),
    "lowest": ("lowest", per_cent),
    "end_before": ("end, paper's setting", per_cent),
    "end": ("end", per_cent),
    "mean_before": ("mean online, paper's setting", per_cent),
    "mean": ("mean online", per_cent),
    "regret": ("regret", per_cent),
    "retention": ("lowest / start", per_cent),
    "recover": ("thousand steps to recover", _thousands),
    "to_40": ("thousand steps to 40 %", _thousands),
    "to_80": ("thousand steps to 80 %", _thousands),
    "form": ("pre-training", str),
    "first_return": ("its return", "{:.1f}".format),
    "data_return": ("its data's", "{:.1f}".format),
    "regime": ("pre-trained against its data", str),
    "last_return": ("return at the end", "{:.1f}".format),
    "iqm": ("IQM", per_cent),
    "above": ("chance that OVMSE is above", per_cent),
    "paper": ("the paper's (StarCraft II)", per_cent),
}
# Of differences: in points of win rate.
DIFFERENCES: Columns = {
    **{name: RESULTS[name] for name in ("task", "dataset", "name", "part", "beside", "seeds")},
    "mean": ("difference (points)", lambda share: f"{100 * share:+.1f}"),
    "p": ("p", "{:.3f}".format),
    "holm": ("p (Holm)", "{:.3f}".format),
}
# Of what 05_ablation advises.
ADVICE: Columns = {
    "where": ("map and dataset", str),
    "online_steps": ("steps", "{:,.0f}".format),
    "start": ("start with", str),
    "explorers": RESULTS["explorers"],
    "mean": ("mean win rate", per_cent),
    "seeds": ("seeds", "{:.0f}".format),
    "sure": ("how sure", str),
    "next": ("the next", str),
}


def readable(table: pd.DataFrame, known: Columns = READABLE) -> pd.DataFrame:
    """The columns of `table` as text for readers: names as in the charts, per cent, separators.

    A value stands with the least and the greatest seed, from columns `x_min` and `x_max`, where
    these differ, and with how many of the `seeds` it is of, from `x_known`, where some have none. A
    value that is missing is a dash; a column that has none is left out, and so is one without an
    entry in `known`.
    """
    out = {}
    for column, (name, text) in known.items():
        if column not in table or table[column].isin([None, np.nan, ""]).all():
            continue
        low, high = (table.get(f"{column}_{end}", table[column]) for end in ("min", "max"))
        values = zip(table[column], low, high, strict=True)
        cells = ["–" if pd.isna(v) else _ranged(text(v), text(a), text(b)) for v, a, b in values]
        if f"{column}_known" in table:
            of = zip(cells, table[f"{column}_known"], table.seeds)
            cells = [_of_some(cell, n, seeds) if 0 < n < seeds else cell for cell, n, seeds in of]
        out[name] = cells
    return pd.DataFrame(out)


def _of_some(cell: str, known: int, seeds: int) -> str:
    begun = f"{cell[:-1]}; " if cell.endswith(")") else f"{cell} ("
    return f"{begun}{known} of {seeds})"


def _ranged(value: str, low: str, high: str) -> str:
    to = " to " if {*"+-"} & {*low, *high} else "–"
    return value if low == high else f"{value} ({low}{to}{high})"
