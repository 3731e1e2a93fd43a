"""Rows of many runs -> what 04_results and 05_ablation show. Nothing is drawn here, or written.

What was asked of the runs is their item: the name of a grid in notebooks/grids/results, and of the
Parquet file in data/results that its runs ship in. Nothing is averaged or compared across items,
maps or datasets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd

from analysis import statistics
from analysis.tables import CONTROLS, RESULTS, WHO, curves, measured, named
from ovmse.config import Config
from ovmse.datasets.dataset import DatasetError, dataset_path
from ovmse.envs.smac_units import MAPS
from ovmse.errors import UserError
from ovmse.method.algorithms import ALGORITHMS, EXPLORATIONS
from ovmse.runs.files import PROJECT, SHIPPED_DATA, named_path
from ovmse.runs.tables import COLUMNS


class Planned(NamedTuple):
    """One scale of one grid: how many runs it plans for a map and a dataset."""

    item: str
    scale: str | None
    task: str
    dataset: str
    runs: int
    seeds: range

    @property
    def online_steps(self) -> int:
        """Of each of its runs."""
        return {"tuning": 60_000, "noise": 100_000, "mixing_ratio": 200_000}.get(self.item, 300_000)

    @property
    def command(self) -> str:
        """What makes these runs."""
        scale = f" --scale {self.scale}" if self.scale else ""
        return f"ovmse sweep notebooks/grids/results/{self.item}.yaml{scale}"


TEN, SIX, THREE, TUNING = range(20, 30), range(20, 26), range(20, 23), range(50, 52)
PLANNED = [
    Planned("paper_setting", "2s3z_medium", "2s3z", "medium", 140, TEN),
    Planned("paper_setting", "2s3z_medium_replay", "2s3z", "medium_replay", 30, SIX),
    Planned("paper_setting", "6h_vs_8z_medium", "6h_vs_8z", "medium", 36, SIX),
    Planned("paper_setting", "3s5z_medium", "3s5z", "medium", 36, SIX),
    Planned("hard_map", None, "5m_vs_6m", "medium", 42, THREE),
    Planned("tuning", "2s3z", "2s3z", "medium", 264, TUNING),
    Planned("tuning", "6h_vs_8z", "6h_vs_8z", "medium", 264, TUNING),
    Planned("tuning", "3s5z", "3s5z", "medium", 264, TUNING),
    Planned("noise", "2s3z_each_by_itself", "2s3z", "medium", 63, THREE),
    Planned("noise", "2s3z_one_at_a_time", "2s3z", "medium", 45, THREE),
    Planned("noise", "6h_vs_8z_each_by_itself", "6h_vs_8z", "medium", 63, THREE),
    Planned("noise", "6h_vs_8z_one_at_a_time", "6h_vs_8z", "medium", 45, THREE),
    Planned("at_its_best", "2s3z", "2s3z", "medium", 110, TEN),
    Planned("mixing_ratio", None, "2s3z", "medium", 60, SIX),
]
# Settings that a tuning seed tries on a map; two seeds are planned.
TRIED = {p.task: p.runs // 2 for p in PLANNED if p.item == "tuning"}
# Rows of two states of the learning code are not compared: more of what ships is made at a commit.
COMMITS = {"ee413a25": "78c136a"}
CHECKOUT = "git checkout {} && git checkout @{{-1}} -- notebooks/grids"  # the grids may be younger
BEST = "at_its_best"  # its grid has the maps that are tuned
ITEMS = tuple(dict.fromkeys(p.item for p in PLANNED))
QUESTION = ["item", "task", "dataset"]
LINE = ["name", *WHO]
FORMS = {"macql": "conservative", "calibrated": "calibrated (MACal-QL, WSRL)"}
COMPARED = ("paper_setting", "hard_map")  # each algorithm as it is, eps from 1.0
NO_DATA = "no data"  # the dataset of runs that learned from none, where no other is on their map

# What each algorithm may have tuned for itself; elsewhere all have what their algorithm says.
TUNED = ["epsilon_start", "epsilon_end", "epsilon_anneal", "online_lr", "lr_warmup_updates",
         "memory_end", "cql_alpha", "cql_anneal", "policy_warmup_steps"]  # fmt: skip
GIVEN_TO_ALL = ["epsilon_start", "online_lr"]  # to choose from; the others are some line's own
VARIED = {"noise": ["epsilon_start", "epsilon_end"], "mixing_ratio": ["mixing_ratio"],
          "tuning": TUNED, BEST: TUNED}  # fmt: skip
OWN = {
    "cql_anneal": "OVMSE with fading CQL (ours)",
    "kept": "OVMSE with warm-up (ours)",
}


def results_given(given: Any) -> pd.DataFrame:
    """`finished` tests of what the parameter `results` of a notebook names, from the repository:
    a folder of runs, a Parquet file, or a folder of such; nothing given means data/results."""
    if not isinstance(given, str):
        raise UserError(f"results: got {given!r}, allowed: a folder of runs or a Parquet file")
    table = read(PROJECT / named_path(given, "results") if given else "")
    found = finished(table)
    if len(table) and found.empty:
        raise UserError(
            f"{given}: of its runs ({table.run.nunique()}) none is at its last step yet"
        )
    return found


def read(source: str | Path = "") -> pd.DataFrame:
    """The rows of a folder of runs, of a Parquet file or of a folder of such; nothing given means
    what ships in data/results, which may be nothing yet.

    Columns as from `analysis.tables.curves`, and `item`: by the name of the file or the folder, or
    the paper's setting where these say none.
    """
    folder = Path(source) if source else SHIPPED_DATA / "results"
    files = [folder / f"{item}.parquet" for item in ITEMS]
    if found := [file for file in files if file.is_file()]:
        parts = [curves(file).assign(item=file.stem) for file in found]
    elif source:
        if other := sorted(file.name for file in folder.glob("*.parquet")):
            raise UserError(
                f"{folder}: got {', '.join(other)}, allowed: {', '.join(ITEMS)} (.parquet)"
            )
        table = curves(folder)
        places = table.run if folder.suffix != ".parquet" else [str(folder)] * len(table)
        parts = [table.assign(item=[_item(place) for place in places])]
    else:
        return pd.DataFrame(columns=[*COLUMNS, "variant", "item"])
    table = pd.concat(parts, ignore_index=True)
    for name in NUMBERS:
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise UserError(f"{folder}: {name} has to be numbers, and is {table[name].dtype}")
        if np.isinf(table[name]).any():
            raise UserError(f"{folder}: {name} is infinite in a row")
    if table[NEEDED].replace("", None).isna().any(axis=None):
        raise UserError(f"{folder}: every row needs its {', '.join(NEEDED)}")
    if (table.seed % 1 != 0).any() or not table.epsilon_start.between(0, 1).all():
        raise UserError(f"{folder}: seeds are whole numbers, and an epsilon_start is from 0 to 1")
    if not table.test_win_rate.dropna().between(0, 1).all():
        raise UserError(f"{folder}: win rates are shares from 0 to 1")
    for name, allowed in WORDS.items():
        if len(other := table[name].astype(object)[~table[name].isin(allowed)]):
            words = ", ".join(map(str, allowed))
            raise UserError(f"{folder}: {name}: got {other.iloc[0]!r}, allowed: {words}")
    anneal = pd.to_numeric(table.cql_anneal, errors="coerce")
    if len(other := table.cql_anneal[anneal.isna()].dropna()):
        raise UserError(f"{folder}: cql_anneal: got {other.iloc[0]!r}, allowed: a number or none")
    return table.assign(cql_anneal=anneal)


NEEDED = ["task", "algorithm", "seed", "epsilon_start", "env_steps", "online_steps"]
NUMBERS = ["seed", "epsilon_start", "online_steps", "env_steps", "test_win_rate", "test_return"]
WORDS = {"algorithm": tuple(ALGORITHMS), "exploration": EXPLORATIONS, "online_cql": (True, False)}


def _item(place: str) -> str:
    path = Path(place).absolute()
    parts = reversed(
        path.relative_to(PROJECT).parts if path.is_relative_to(PROJECT) else path.parts
    )
    return next((i for part in parts for i in ITEMS if part.startswith(i)), COMPARED[0])


def questions(table: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Item, map and dataset of all that may be compared, in the order of the plan. A run that
    learned from no data counts for every dataset of its map, and for `NO_DATA` if there is none."""
    each = table.groupby(["item", "task"]).dataset.unique()
    keys = [(*key, data) for key, of in each.items() for data in of if pd.notna(data)]
    keys += [(*key, NO_DATA) for key, of in each.items() if pd.isna(of).all()]
    order = [(p.item, p.task, p.dataset) for p in PLANNED]
    return sorted(keys, key=lambda k: (order.index(k) if k in order else len(order), k))


def by_question(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each question apart."""
    return [rows for _, rows in table.groupby(QUESTION, sort=False)]


def of_question(table: pd.DataFrame, item: str, task: str, dataset: str) -> pd.DataFrame:
    """Its rows."""
    mine = (table.item == item) & (table.task == task)
    return table[mine & (table.dataset.isna() | (table.dataset == dataset))]


def finished(table: pd.DataFrame) -> pd.DataFrame:
    """The tests of the runs that came to their last online step, of each question found comparable
    (`tables.measured`). `name` says what a line is called; `dataset` is the question's."""
    parts = []
    for key in questions(table):
        rows = of_question(table, *key)
        online = rows[(rows.phase == "online") & rows.test_win_rate.notna()].groupby("run")
        done = online.env_steps.max() >= online.online_steps.first()
        rows = rows[rows.run.isin(done.index[done])]
        rows = measured(rows, "test_win_rate", by=(*WHO, *VARIED.get(key[0], [])))
        rows = rows.assign(name=_names(rows, key[0]), dataset=key[2])
        parts.append(rows.sort_values(["algorithm", "name"], key=_rank, kind="stable"))
    lines = pd.concat(parts) if parts else table.assign(name="")
    _require_one(lines, ["task"], "code", "were made by several states of the learning code")
    paired = lines[lines["item"].isin([*COMPARED, BEST])].dropna(subset="dataset_sha256")
    _require_one(paired, ["task", "dataset"], "dataset_sha256", "learned from several files")
    return lines


def _rank(column: pd.Series) -> pd.Series:
    """Algorithms in the order of their table; names by themselves."""
    if column.name != "algorithm":
        return column
    return column.map({name: n for n, name in enumerate(ALGORITHMS)})


def _require_one(table: pd.DataFrame, of: Sequence[str], name: str, said: str) -> None:
    """Raises UserError where the runs `differ`: pages lay what was asked of them side by side."""
    for where, found in differ(table, of, name).items():
        raise UserError(f"the runs on {where} {said}, {found}: pick one")


def differ(table: pd.DataFrame, of: Sequence[str], name: str) -> dict[str, str]:
    """Of which maps, or datasets of a map (`of`), the runs differ in the column `name`, and which
    items have which of its values; in words."""
    out = {}
    for key, rows in table.groupby([*of]):
        each = rows.groupby(name, dropna=False)["item"].unique()
        if len(each) > 1:
            items = (f"{str(v)[:8]} ({', '.join(sorted(i))})" for v, i in each.items())
            out[" ".join(key)] = "; ".join(items)
    return out


def _names(rows: pd.DataFrame, item: str) -> list[str]:
    """What a line is called. In the map of noise the exploration is the axis, and whether OVM and
    OVMSE have the conservative term is said on every map: what they have by themselves differs."""
    names = []
    columns = [*WHO, "online_cql", "cql_anneal", "policy_warmup_steps"]
    for row in rows[columns].itertuples():
        ours = row.algorithm == "ovmse" and item in ("tuning", BEST)
        if ours and pd.notna(row.cql_anneal):
            names.append(OWN["cql_anneal"])
        elif ours and row.policy_warmup_steps > 0:
            names.append(OWN["kept"])
        elif item == "noise":
            known = ALGORITHMS[str(row.algorithm)].online_cql
            word = CONTROLS["online_cql"][bool(row.online_cql)] if known is None else ""
            names.append(named(str(row.algorithm), word))
        else:
            names.append(named(str(row.algorithm), str(row.variant)))
    return names


def runs(lines: pd.DataFrame) -> pd.DataFrame:
    """Of `finished` tests one row a run: `item`, `task`, `dataset`, `name`, its settings, the
    fields of `statistics.Story`, `mean` (win rate over the online steps), `first_return`,
    `last_return`, and `explorers`, the agents expected to explore at a step at the start."""
    found = []
    for _, run in lines.groupby([*QUESTION, "run"], sort=False):
        run = run.sort_values("env_steps")
        told = statistics.story(run.env_steps, run.test_win_rate)
        one: dict[str, Any] = run.iloc[0][[*QUESTION, *LINE, "run", "seed", *SETTING]].to_dict()
        one |= {**told._asdict(), "mean": 1 - told.regret}
        one["explorers"] = explorers(
            one["exploration"], one["epsilon_start"], n_agents(one["task"])
        )
        one["first_return"], one["last_return"] = run.test_return.iloc[[0, -1]]
        found.append(one)
    columns = [*QUESTION, *LINE, "run", "seed", *SETTING, *statistics.Story._fields, "mean"]
    return pd.DataFrame(found, columns=[*columns, "explorers", "first_return", "last_return"])


OF_ITS_OWN = ("algorithm", "task", "dataset", "seed", "continue_with_other_code")
SETTING = [name for name in Config.model_fields if name not in OF_ITS_OWN]


def n_agents(task: str) -> int:
    """Agents of a map: as SMAC has it, else by its name (5m_vs_6m has 5), and of the others 2."""
    if task in MAPS:
        return sum(n for _, n in MAPS[task][0])
    return sum(int(n) for n in re.findall(r"(\d+)[a-z]", task.split("_vs_")[0])) or 2


def explorers(exploration: str, epsilon: float, agents: int) -> float:
    """Agents expected to explore at a step: N eps if each may by itself, eps if one at a time."""
    return float(f"{epsilon * (agents if exploration == 'epsilon_greedy' else 1):.2g}")


def shared(
    rows: pd.DataFrame, by: Sequence[str] = LINE, within: Sequence[str] = QUESTION
) -> pd.DataFrame:
    """`within` each question only the seeds that every line of it (`by`) has: what is ranked then
    differs in nothing else."""
    parts = [rows.iloc[:0]]
    for _, mine in rows.groupby([*within], sort=False):
        seeds = [set(line.seed) for _, line in mine.groupby([*by], dropna=False)]
        parts.append(mine[mine.seed.isin(set.intersection(*seeds))])
    return pd.concat(parts)


def under_way(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each question whose lines share two seeds or more; one that has only begun
    would take the others' seeds along, where only seeds count that all have."""
    return [mine for mine in by_question(rows) if shared(mine).seed.nunique() > 1]


def seed_curves(lines: pd.DataFrame, measure: str = "test_win_rate") -> pd.DataFrame:
    """Of `finished` tests every seed's curve, at the steps of the seed of its line that was tested
    least often: `item`, `task`, `dataset`, `name`, `algorithm`, `variant`, `seed`, `env_steps`,
    `value`."""
    parts = []
    for key, line in lines.groupby([*QUESTION, *LINE], sort=False):
        seeds = {seed: s.sort_values("env_steps") for seed, s in line.groupby("seed")}
        grid = min((s.env_steps.to_numpy() for s in seeds.values()), key=len)
        for seed, s in seeds.items():
            about = dict(zip([*QUESTION, *LINE], key, strict=True)) | {"seed": seed}
            value = np.interp(grid, s.env_steps, s[measure])
            parts.append(pd.DataFrame({**about, "env_steps": grid, "value": value}))
    columns = [*QUESTION, *LINE, "seed", "env_steps", "value"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def ranges(found: pd.DataFrame, measures: Sequence[str], by: Sequence[str] = ()) -> pd.DataFrame:
    """Median, least and greatest seed (`x`, `x_min`, `x_max`) of each measure, of how many it is
    known (`x_known`; some never get there), and `seeds`."""
    keys = [*QUESTION, *LINE, *by]
    groups = found.groupby(keys, sort=False, dropna=False)
    out = {"seeds": groups.seed.nunique()}
    for name in measures:
        values = groups[name]
        out |= {name: values.median(), f"{name}_min": values.min(), f"{name}_max": values.max()}
        out[f"{name}_known"] = values.count()
    return pd.DataFrame(out).reset_index()


def by_explorers(noisy: pd.DataFrame) -> pd.DataFrame:
    """The map of noise: the median `mean` of each line (rows: `task`, `dataset`, `name`) at each
    number of explorers (columns); NaN where it has none."""
    return noisy.pivot_table("mean", ["task", "dataset", "name"], "explorers", "median")


def differences(found: pd.DataFrame, measure: str = "mean", of: str = "OVMSE") -> pd.DataFrame:
    """Paired differences of every other line from `of`, lowest first: `item`, `task`, `dataset`,
    `name`, `algorithm`, `variant`, `mean`, `low`, `high` (t interval), `p` (sign flips), `holm`
    (within the question), `seeds`, and `each`, the differences of the seeds."""
    tables = []
    for key, rows in found.groupby(QUESTION, sort=False):
        scores = {who: r.set_index("seed")[measure].to_dict()
                  for who, r in rows.groupby(LINE, sort=False)}  # fmt: skip
        full: dict[int, float] = next((s for who, s in scores.items() if who[0] == of), {})
        pairs = {(*key, *who): (s, full) for who, s in scores.items() if who[0] != of}
        tables.append(family(pairs, LINE).sort_values("mean"))
    return _joined(tables, LINE)


PARTS = {"memory": "memory", "one": "SE", "cql": "CQL"}


def effects(found: pd.DataFrame, measure: str = "mean") -> pd.DataFrame:
    """What each of OVMSE's three parts adds to a measure, such as the mean win rate, with and
    without the other two, in paired seeds: of the lines with the plain or the memory target and
    MACQL's form of the conservative term.

    Columns: `item`, `task`, `dataset`, `part`, `beside` (the others that are there), then as in
    `differences`, Holm within the question.
    """
    plain = [n for n, a in ALGORITHMS.items()
             if a.target in ("td", "ovm") and a.cql_form == "macql" and a.pretrained]  # fmt: skip
    own = found.exploration != "sequential_centralised"  # no part of OVMSE
    rows = found[found.algorithm.isin(plain) & own]
    rows = rows.assign(
        memory=[ALGORITHMS[a].target == "ovm" for a in rows.algorithm],
        one=rows.exploration != "epsilon_greedy",
        cql=rows.online_cql.astype(bool),
    )
    tables = []
    for key, mine in rows.groupby(QUESTION, sort=False):
        cells = {cell: r.set_index("seed")[measure].to_dict() for cell, r in mine.groupby([*PARTS])}
        pairs = {}
        for number, part in enumerate(PARTS):
            for cell in cells:
                without = (*cell[:number], False, *cell[number + 1 :])
                if cell[number] and without in cells:
                    held = [PARTS[o] for o, on in zip(PARTS, without) if on]
                    beside = " and ".join(held) or "nothing"
                    pairs[(*key, PARTS[part], beside)] = (cells[cell], cells[without])
        tables.append(family(pairs, ["part", "beside"]))
    return _joined(tables, ["part", "beside"])


TESTED = ["mean", "low", "high", "p", "holm", "seeds", "each"]


def family(pairs: dict[tuple, tuple[dict, dict]], about: list[str]) -> pd.DataFrame:
    """One family of comparisons, of those pairs that share a seed: the question and what else a key
    is `about` -> the two's seed -> score (a share); columns as in `differences`, Holm within the
    family."""
    rows = []
    for key, (a, b) in pairs.items():
        if set(a) & set(b):
            pair = statistics.paired(a, b)
            # Shares differ by 1 at most: a wider interval, as of two seeds, says no more.
            pair = pair._replace(low=max(pair.low, -1.0), high=min(pair.high, 1.0))
            row = dict(zip([*QUESTION, *about], key)) | pair._asdict()
            rows.append(row | {"seeds": len(pair.differences), "each": pair.differences})
    table = pd.DataFrame(rows, columns=[*QUESTION, *about, *TESTED])
    return table.assign(holm=statistics.holm(table.p) if rows else [])


def _joined(tables: list[pd.DataFrame], about: list[str]) -> pd.DataFrame:
    tables = [t for t in tables if len(t)]
    if not tables:
        return pd.DataFrame(columns=[*QUESTION, *about, *TESTED])
    return pd.concat(tables, ignore_index=True)


def pooled(found: pd.DataFrame) -> dict[str, np.ndarray]:
    """name -> mean win rates [seeds, questions] of the lines that every question has, with
    the seeds that all of them have; nothing if that leaves fewer than two questions or seeds. Of
    the questions that are `under_way`."""
    scores: dict[str, dict[tuple, dict[int, float]]] = {}
    mine = pd.concat([found.iloc[:0], *under_way(found)])
    for (name, *key), rows in mine.groupby(["name", *QUESTION], sort=False):
        scores.setdefault(str(name), {})[tuple(key)] = dict(zip(rows.seed, rows["mean"]))
    keys = list(dict.fromkeys(key for of in scores.values() for key in of))
    scores = {name: of for name, of in scores.items() if len(of) == len(keys)}
    each = [set(of[key]) for of in scores.values() for key in keys]
    seeds = sorted(set.intersection(*each)) if each else []
    if len(keys) < 2 or len(seeds) < 2:
        return {}
    return {n: np.array([[of[k][s] for k in keys] for s in seeds]) for n, of in scores.items()}


def profiles(scores: dict[str, np.ndarray], found: pd.DataFrame) -> pd.DataFrame:
    """Performance profiles of `pooled` scores: `name`, `algorithm`, `score` (0..1), `share` of the
    runs that lie above it."""
    at, algorithms = np.linspace(0, 1, 51), dict(zip(found.name, found.algorithm))
    parts = [
        pd.DataFrame({"name": name, "algorithm": algorithms[name], "score": at,
                      "share": statistics.performance_profile(score, at)})
        for name, score in scores.items()
    ]  # fmt: skip
    columns = ["name", "algorithm", "score", "share"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def over_maps(scores: dict[str, np.ndarray], of: str = "OVMSE") -> pd.DataFrame:
    """IQM over maps and seeds, best first, and the probability that `of` does better, with their
    bootstrap intervals: `name`, `iqm`, `iqm_min`, `iqm_max`, `above`, `above_min`, `above_max`."""
    rows = []
    for name, score in scores.items():
        low, high = statistics.stratified_bootstrap(statistics.iqm, score)
        row = {"name": name, "iqm": statistics.iqm(score), "iqm_min": low, "iqm_max": high}
        if of in scores and name != of:
            better, pair = statistics.probability_of_improvement, (scores[of], score)
            low, high = statistics.stratified_bootstrap(better, *pair)
            row |= {"above": better(*pair), "above_min": low, "above_max": high}
        rows.append(row)
    columns = ["name", "iqm", "iqm_min", "iqm_max", "above", "above_min", "above_max"]
    return pd.DataFrame(rows, columns=columns).sort_values("iqm", ascending=False)


def paper(table: int) -> pd.DataFrame:
    """The paper's Table 1 or 2 (data/paper_tables.csv), of StarCraft II: `task`, `dataset`,
    `algorithm`, `mixing_ratio`, `value`."""
    rows = pd.read_csv(SHIPPED_DATA / "paper_tables.csv")
    return rows[rows.table == table].drop(columns=["table", "measure"])


def whole(found: pd.DataFrame) -> pd.DataFrame:
    """The tuning runs of the seeds all whose settings are finished on a map: no setting is chosen
    for the seeds it met."""
    rows = only(found, "tuning")
    there = rows.groupby(["task", "dataset", "seed"]).run.transform("nunique").astype(int)
    return rows[there >= rows.task.map(TRIED).astype(float)]


def tuned_on(found: pd.DataFrame) -> str:
    """How many settings of each tuning seed are there, in words; nothing, if there are none."""
    there = only(found, "tuning").groupby(["task", "seed"]).run.nunique()
    return ", ".join(f"{n} of {TRIED[task]} of seed {seed} on {task}"
                     for (task, seed), n in there.items() if task in TRIED)  # fmt: skip


def best(found: pd.DataFrame) -> pd.DataFrame:
    """Of each map and line of the tuning's `whole` seeds the settings with the highest mean win
    rate over the online steps (mean over the seeds): `mean`, `seeds`, and `tried`, among how many
    settings."""
    keys, rows = ["task", "dataset", "name", "algorithm"], whole(found)
    groups = rows.groupby([*keys, *TUNED], dropna=False, sort=False)
    scores = groups.agg(mean=("mean", "mean"), seeds=("seed", "nunique")).reset_index()
    scores["tried"] = scores.groupby(keys)["mean"].transform("size")
    return scores.sort_values("mean", ascending=False, kind="stable").drop_duplicates(keys)


def chosen(found: pd.DataFrame) -> pd.DataFrame:
    """`best` for readers: of the settings only those that the line's tuning varied, which are eps,
    the rate and, in words, what is its `own`."""
    table, keys = best(found), ["task", "dataset", "name"]
    varied, own = whole(found).groupby(keys)[TUNED].nunique(dropna=False) > 1, []
    for line in table.to_dict("records"):
        names = varied.columns[varied.loc[tuple(line[key] for key in keys)]]
        names = [n for n in names if n not in GIVEN_TO_ALL and pd.notna(line[n])]
        own.append(", ".join(f"{RESULTS[n][0]} {RESULTS[n][1](line[n])}" for n in names))
    return table.drop(columns=[n for n in TUNED if n not in GIVEN_TO_ALL]).assign(own=own)


def side_by_side(found: pd.DataFrame) -> pd.DataFrame:
    """Each line at its best, and the same line in the paper's setting as `mean_before` and
    `end_before`, of the seeds that both have (`ranges`). A line that shares none stands alone."""
    both = _with_before(found)
    some = both.groupby(["task", "dataset", "name"]).mean_before.transform("count") > 0
    both = both[both.mean_before.notna() | ~some]
    return ranges(both, ["mean_before", "mean", "end_before", "end"])


def gains(found: pd.DataFrame) -> pd.DataFrame:
    """What tuning changes: the mean win rate of each line at its best less that of the same line in
    the paper's setting, most first; columns as in `differences`, Holm within the map."""
    tables = []
    for key, rows in _with_before(found).dropna(subset="mean_before").groupby(QUESTION, sort=False):
        pairs = {
            (*key, name): (dict(zip(r.seed, r["mean"])), dict(zip(r.seed, r.mean_before)))
            for name, r in rows.groupby("name", sort=False)
        }
        tables.append(family(pairs, ["name"]).sort_values("mean", ascending=False))
    return _joined(tables, ["name"])


def _with_before(found: pd.DataFrame) -> pd.DataFrame:
    """The runs of each at its best, with the same line and seed of the paper's setting."""
    keys, measures = ["task", "dataset", "name", "seed"], ["mean", "end"]
    before = only(found, *COMPARED)[[*keys, *measures]]
    return only(found, BEST).merge(before, "left", keys, suffixes=("", "_before"))


def status(found: pd.DataFrame) -> pd.DataFrame:
    """What was planned, and how many of its runs are among those `found`, as from `runs`: `item`,
    `task`, `dataset`, `planned`, `there`, `command`. A run counts for one dataset alone, and not if
    its seed or its steps are not the plan's. What each is at its best is planned once it is tuned.
    """
    plans = pd.DataFrame(PLANNED).assign(command=[plan.command for plan in PLANNED])
    groups = plans.groupby(QUESTION, sort=False)
    table = groups.agg(planned=("runs", "sum"), command=("command", "; ".join)).reset_index()
    there = list(filter(None, map(_plan, _asked(found))))
    table["there"] = [there.count(tuple(key)) for key in table[QUESTION].itertuples(index=False)]
    return table


def _asked(found: pd.DataFrame) -> list[tuple[str, str, str, int, int]]:
    """Item, map, dataset, seed and steps of each run, which counts for one dataset alone."""
    rows = found.drop_duplicates("run")[[*QUESTION, "seed", "online_steps"]]
    return list(rows.itertuples(index=False, name=None))


def _plan(asked: tuple[str, str, str, int, int]) -> tuple[str, str, str] | None:
    """The question of the plan that has such a run; of one without data the map's first."""
    item, task, dataset, seed, steps = asked
    for plan in PLANNED:
        same = (plan.item, plan.task) == (item, task) and dataset in (plan.dataset, NO_DATA)
        if same and seed in plan.seeds and steps == plan.online_steps:
            return plan.item, plan.task, plan.dataset
    return None


def unplanned(found: pd.DataFrame) -> str:
    """What no plan has of the runs `found`, in words; nothing, if there is none."""
    others: dict[tuple, list[tuple[int, int]]] = {}
    for asked in _asked(found):
        if _plan(asked) is None:
            others.setdefault(asked[:3], []).append(asked[3:])
    said = []
    for (item, task, data), mine in others.items():
        seeds, steps = (sorted(set(values)) for values in zip(*mine, strict=True))
        said.append(
            f"{len(mine)} on {task} {data} ({item}: seed{'s' * (len(seeds) > 1)} "
            f"{', '.join(map(str, seeds))}; {' or '.join(f'{n:,.0f}' for n in steps)} steps)"
        )
    return "; ".join(said)


def only(found: pd.DataFrame, *items: str) -> pd.DataFrame:
    """The rows of these items."""
    return found[found["item"].isin(items)]


def finals(found: pd.DataFrame) -> pd.DataFrame:
    """Win rates of the last tests (`ranges`) with the paper's Table 1 as `paper`, where it has one
    for an algorithm as it is."""
    theirs = paper(1).set_index(["task", "dataset", "algorithm"]).value
    table = ranges(found, ["end"])
    keys = zip(table.task, table.dataset, table.algorithm)
    said = [theirs.get(key, np.nan) for key in keys]
    return table.assign(paper=[v if own else np.nan for v, own in zip(said, table.variant == "")])


def regimes(found: pd.DataFrame) -> pd.DataFrame:
    """How the pre-trained policies stand to their data (`statistics.regime`), of each map, dataset
    and form of pre-training, which its lines share: their first return against the dataset's, where
    its file is on this machine. `form`, `seeds`, `first_return` (mean), `data_return`, `regime`."""
    data, rows = data_returns(found), []
    forms = {name: FORMS[a.cql_form] for name, a in ALGORITHMS.items() if a.pretrained}
    of = found.assign(form=found.algorithm.map(forms)).dropna(subset="form")
    for key, mine in of.groupby([*QUESTION, "form"], sort=False):
        about = dict(zip([*QUESTION, "form"], key, strict=True))
        if (there := data.get((about["task"], about["dataset"]))) is not None:
            each = mine.groupby("seed").first_return.mean()
            word = statistics.regime(each.to_numpy(), there)
            rows.append(about | {"seeds": len(each), "first_return": each.mean(),
                                 "data_return": there, "regime": word})  # fmt: skip
    columns = [*QUESTION, "form", "seeds", "first_return", "data_return", "regime"]
    return pd.DataFrame(rows, columns=columns)


def data_returns(found: pd.DataFrame) -> dict[tuple[str, str], float]:
    """(map, dataset) -> mean return of its episodes, of those whose file is on this machine."""
    out = {}
    for task, dataset in dict.fromkeys(zip(found.task, found.dataset)):
        with suppress(DatasetError), h5py.File(dataset_path(task, dataset, "smax")) as file:
            out[task, dataset] = float(file["reward"][()].sum() / len(file["reward"]))
    return out
