"""The tables of 04_results and 05_ablation, from made-up rows of every kind of planned run."""

from __future__ import annotations

import ast
import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, chart_tables
from made_up_results import configs, write
from PIL import Image
from scipy import stats

from analysis import advice, results, verdicts
from analysis.charts import results as charts
from analysis.charts.show import VEGALITE, mimebundle
from analysis.marl_eval import main as marl_eval_main
from analysis.marl_eval import marl_eval
from analysis.results import PLANNED
from analysis.statistics import paired
from analysis.tables import ADVICE, readable
from ovmse.config import Config
from ovmse.errors import UserError
from ovmse.sweep import grid as grids

SEEDS = {"seed": [20, 21, 22]}
ITEMS = ("paper_setting", "hard_map", "noise", "mixing_ratio")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        found = configs(patch, ITEMS, **SEEDS) + configs(patch, ("tuning",))[:264]
    return write(tmp_path_factory.mktemp("results"), found)


@pytest.fixture(scope="module")
def lines(folder: Path) -> pd.DataFrame:
    return results.finished(results.read(folder))


@pytest.fixture(scope="module")
def found(lines: pd.DataFrame) -> pd.DataFrame:
    return results.runs(lines)


def test_items_come_from_names_of_files_and_folders(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(results.read(folder).item) == {*ITEMS, "tuning"}
    assert set(results.read(folder / "noise.parquet").item) == {"noise"}
    table = pd.read_parquet(folder / "mixing_ratio.parquet")
    table.to_parquet(tmp_path / "mine.parquet")
    assert set(results.read(tmp_path / "mine.parquet").item) == {"paper_setting"}
    assert results._item("/x/noise_2s3z_one_at_a_time/code-1/se_2s3z_seed20_ab") == "noise"
    (tmp_path / "store").mkdir()
    (tmp_path / "noise").symlink_to(tmp_path / "store")  # kept on another disk
    assert results._item(str(tmp_path / "noise" / "se_2s3z_seed20_ab")) == "noise"
    monkeypatch.setattr(results, "PROJECT", Path("/tuning-study/ovmse"))  # no item of its runs
    assert results._item("/tuning-study/ovmse/runs/mine/se_seed0") == "paper_setting"
    assert results._item("/tuning-study/ovmse/runs/noise/se_seed0") == "noise"
    with pytest.raises(UserError, match="there is no file"):
        results.read(tmp_path / "none.parquet")
    with pytest.raises(UserError, match="got mine.parquet, allowed: paper_setting, hard_map, "):
        results.read(tmp_path)


def test_nothing_yet_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(results, "SHIPPED_DATA", tmp_path)
    lines = results.finished(results.read())
    found = results.runs(lines)
    assert len(found) == len(results.seed_curves(lines)) == 0
    assert not results.pooled(found)
    for table in (results.differences, results.effects, results.best):
        assert len(table(found)) == 0
    assert results.status(found).there.sum() == 0


def test_each_run_has_its_own_story(lines: pd.DataFrame, found: pd.DataFrame) -> None:
    one = found[(found.item == "noise") & (found.name == "SE")].iloc[7]
    rows = lines[lines.run == one.run].sort_values("env_steps")
    x, y = rows.env_steps.to_numpy(), rows.test_win_rate.to_numpy()
    area = sum((x[i + 1] - x[i]) * (y[i + 1] + y[i]) / 2 for i in range(len(x) - 1))
    assert one["mean"] == pytest.approx(area / (x[-1] - x[0]))
    assert (one.start, one.lowest, one.end) == (y[0], y.min(), y[-1])
    assert one.explorers == one.epsilon_start  # one at a time
    alone = found[(found.item == "noise") & (found.exploration == "epsilon_greedy")]
    assert set(alone[alone.task == "6h_vs_8z"].explorers) == {0.05, 0.1, 0.25, 0.5, 1, 2, 6}


def test_a_run_without_data_stands_beside_each_dataset_and_counts_once(found: pd.DataFrame) -> None:
    replay = results.of_question(found, "paper_setting", "2s3z", "medium_replay")
    assert set(replay.name) == {"OVMSE", "SE", "Switch CQL", "MACQL", "MACal-QL", "QMIX"}
    table = results.status(found).set_index(results.QUESTION).there
    assert table["paper_setting", "2s3z", "medium"] == 14 * 3
    assert table["paper_setting", "2s3z", "medium_replay"] == 5 * 3
    assert table["noise", "2s3z", "medium"] == 108 and table["tuning", "3s5z", "medium"] == 0


def test_unfinished_and_incomparable_runs(folder: Path) -> None:
    table = results.read(folder / "mixing_ratio.parquet")
    run = table.run.iloc[0]
    cut = table[(table.run != run) | (table.env_steps < 150_000)]
    assert run not in set(results.finished(cut).run)
    fine = (table.run != run) | (table.env_steps < 150_000)  # steps without a test are no tests
    lost = table.assign(test_win_rate=table.test_win_rate.where(fine))
    assert run not in set(results.finished(lost).run)
    other = table.assign(gamma=np.where(table.run == run, 0.9, table.gamma))
    with pytest.raises(UserError, match="differ in gamma"):
        results.finished(other)
    with pytest.raises(UserError, match="2 codes at once"):
        results.finished(table.assign(code=np.where(table.run == run, "x", "y")))
    noise = results.read(folder / "noise.parquet")
    both = pd.concat([table, noise.assign(code="x").query("task == '2s3z'")])
    said = "on 2s3z were made by several states of the learning code, c0de0000 .mixing_ratio.; x .n"
    with pytest.raises(UserError, match=said):
        results.finished(both)
    results.finished(pd.concat([table, noise.assign(code="x").query("task != '2s3z'")]))
    # what is laid side by side learned from one file; the map of noise stands by itself
    setting = results.read(folder / "paper_setting.parquet").query("task == '2s3z'")
    setting = setting[setting.dataset == "medium"].assign(dataset_sha256="e" * 64)
    tuned = setting.assign(item="at_its_best", dataset_sha256="f" * 64)
    with pytest.raises(UserError, match="on 2s3z medium learned from several files, .*at_its_best"):
        results.finished(pd.concat([setting, tuned]))
    results.finished(pd.concat([setting, noise.assign(dataset_sha256="f" * 64)]))


def test_what_the_plan_does_not_have_stands_by_itself(folder: Path) -> None:
    """Runs of other seeds, steps or maps count for no plan; runs that learned from no data are
    there without any that did."""
    table = results.read(folder / "hard_map.parquet")
    found = results.runs(results.finished(table[table.algorithm == "qmix"]))
    assert set(found.dataset) == {results.NO_DATA} and len(found) == 3
    assert "5m_vs_6m no data** (3 seeds): only QMIX was run." in verdicts.who_wins(found)
    [start] = advice.start_today(found).itertuples()
    assert start.sure == "a lead" and start.seeds == 3
    assert (
        start.command.startswith("ovmse train runs/start/qmix_5m")
        and "--dataset" not in start.command
    )
    assert results.unplanned(found) == "" and results.status(found).there.sum() == 3
    whole = results.runs(results.finished(table))
    assert results.unplanned(whole) == "" and results.status(whole).there.sum() == 42
    other = whole.assign(seed=whole.seed.where(whole.seed != 22, 25))
    other.loc[other.seed == 21, "online_steps"] = 60_000
    assert results.status(other).there.sum() == 14
    said = "28 on 5m_vs_6m medium (hard_map: seeds 21, 25; 60,000 or 300,000 steps)"
    assert results.unplanned(other) == said
    alone = results.unplanned(whole[whole.seed == 20].assign(task="8m"))
    assert alone == "14 on 8m medium (hard_map: seed 20; 300,000 steps)"


def test_differences_are_of_pairs_and_adjusted_within_a_question(found: pd.DataFrame) -> None:
    mine = results.only(found, "paper_setting")
    table = results.differences(mine)
    assert "OVMSE" not in set(table.name)
    for key, part in table.groupby(results.QUESTION):
        rows = results.of_question(mine, *key)
        full = rows[rows.name == "OVMSE"].set_index("seed")["mean"]
        assert part["mean"].is_monotonic_increasing
        order = np.sort(part.p.to_numpy())
        assert part.holm.min() == pytest.approx(min(order[0] * len(part), 1))
        for row in part.itertuples():
            other = rows[rows.name == row.name].set_index("seed")["mean"]
            own = stats.ttest_rel(other.loc[full.index], full).confidence_interval()
            assert (row.low, row.high) == pytest.approx((max(own.low, -1), min(own.high, 1)))
    few = by_hand(LINES, range(2)).assign(mean=lambda rows: rows["mean"] * (rows.seed + 0.1))
    assert results.differences(few).low.min() == -1  # of two pairs, and shares differ by 1 at most
    assert results.differences(few, of="MACQL").high.max() == 1


def test_a_number_is_of_those_who_got_there_and_one_seed_has_its_battles_alone(
    capsys: pytest.CaptureFixture,
) -> None:
    rows = by_hand(LINES, range(3)).assign(to_80=[1e4, np.nan, 2e4, *[np.nan] * 6, *[3e4] * 3])
    table = results.ranges(rows, ["to_80"]).set_index("name")
    assert table.to_80_known.to_dict() == {"OVMSE": 2, "SE": 0, "MACQL": 0, "OVM": 3}
    assert table.to_80["OVMSE"] == 15_000
    verdicts.one_seed(rows.assign(long_test_battles=640))
    assert not capsys.readouterr().out
    mixed = rows[(rows.seed == 0) | (rows.name == "SE")].assign(long_test_battles=640, end=0.65)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdicts, "tell", said.append)
        verdicts.one_seed(mixed)
    # 416 of 640 by hand: (.65 + 3.84 / 1280) / (1 + 3.84 / 640) = .649, and .037 on either side
    each = "OVMSE 65 % (61 % to 69 %), MACQL 65 % (61 % to 69 %), OVM 65 % (61 % to 69 %)"
    assert said[0].endswith(f"would change. 2s3z medium: {each}.")


def test_the_eight_ways_to_build_ovmse_give_twelve_effects(found: pd.DataFrame) -> None:
    table = results.effects(results.only(found, "paper_setting"))
    full = results.of_question(table, "paper_setting", "2s3z", "medium")
    assert full.groupby("part").size().to_dict() == dict.fromkeys(results.PARTS.values(), 4)
    rows = results.of_question(found, "paper_setting", "2s3z", "medium")
    score = {n: r.set_index("seed")["mean"] for n, r in rows.groupby("name")}
    other = rows[rows.name == "SE"].assign(
        exploration="sequential_centralised", variant="x", mean=0
    )
    with_other = results.effects(results.only(pd.concat([found, other]), "paper_setting"))
    pd.testing.assert_frame_equal(with_other, table)  # another scheme is no part of OVMSE
    for a, b, part, beside in (
        ("OVMSE without CQL", "SE", "memory", "SE"),
        ("MACQL with SE", "MACQL", "SE", "CQL"),
        ("OVM", "OVM without CQL", "CQL", "memory"),
        ("SE", "Switch CQL", "SE", "nothing"),
    ):
        row = full[(full.part == part) & (full.beside == beside)].iloc[0]
        assert row["mean"] == pytest.approx((score[a] - score[b]).mean())


def test_differences_of_all_maps_share_one_scale_that_ends_at_what_is_possible() -> None:
    table = pd.DataFrame(
        [("paper_setting", "2s3z", "medium", "SE", "se", 0.2, -2.5, 2.9, [0.1, 0.3], 0.5, 1.0, 2),
         ("paper_setting", "3s5z", "medium", "SE", "se", 0.1, None, None, [0.1], 1.0, 1.0, 1)],
        columns=[*results.QUESTION, "name", "algorithm", "mean", "low", "high", "each", "p", "holm",
                 "seeds"],
    )  # fmt: skip
    spec = charts.from_ovmse(table).to_dict()
    scales = {
        tuple(layer["encoding"]["x"]["scale"]["domain"])
        for panel in spec["vconcat"] for layer in panel["layer"]
    }  # fmt: skip
    assert scales == {(-105, 105)}
    assert spec["vconcat"][0]["layer"][1]["mark"]["clip"]
    less = charts.from_ovmse(table.assign(low=0.1, high=0.3)).to_dict()
    domain = less["vconcat"][1]["layer"][1]["encoding"]["x"]["scale"]["domain"]
    assert domain == pytest.approx([-31.5, 31.5])


def test_pooled_scores_stand_map_by_map(found: pd.DataFrame) -> None:
    mine = results.only(found, "paper_setting")
    scores = results.pooled(mine)
    assert {s.shape for s in scores.values()} == {(3, 4)} and len(scores) == 6
    row = mine[(mine.name == "SE") & (mine.task == "6h_vs_8z") & (mine.seed == 21)]
    assert row["mean"].iloc[0] in scores["SE"][1]
    assert not results.pooled(mine[mine.task == "6h_vs_8z"])  # one map
    # A map that has only begun takes no seeds from the others.
    begun = mine[(mine.task != "3s5z") | (mine.seed == 20)]
    left = results.pooled(begun)
    others = results.pooled(mine[mine.task != "3s5z"])
    assert set(left) == set(others) and len(left["SE"]) == 3
    assert all((left[name] == others[name]).all() for name in left)
    said = verdicts.pooled_of(left)
    assert said.startswith("3 seeds of each of 3 maps and datasets. ") and "leads" in said
    enough = {name: np.tile(score, (2, 1))[:5] for name, score in scores.items()}
    assert verdicts.pooled_of(enough).startswith("5 seeds of each of 4 maps and datasets. The ")
    assert "leads" not in verdicts.pooled_of(enough)
    assert verdicts.pooled_of({}).endswith("nothing is pooled.")
    table = results.over_maps(scores)
    assert table.iqm.is_monotonic_decreasing and table.above.notna().sum() == 5


def test_the_best_of_a_tuning_is_its_best_mean(found: pd.DataFrame) -> None:
    table = results.best(found).set_index("name")
    assert len(table) == 11 and set(table.tried) == {12} and set(table.seeds) == {2}
    rows = results.only(found, "tuning")
    assert set(rows.groupby("seed").run.nunique()) == {results.TRIED["2s3z"]}
    other = rows.assign(dataset=rows.dataset.where(rows.online_lr == 1e-4, "medium_replay"))
    assert results.whole(other).empty  # half of its settings on each dataset
    rows = rows[rows.name == "OVMSE with fading CQL (ours)"]
    settings = ["epsilon_start", "online_lr", "cql_anneal"]
    means = rows.groupby(settings)["mean"].mean()
    assert table.loc["OVMSE with fading CQL (ours)", "mean"] == pytest.approx(means.max())


def test_the_papers_numbers_are_all_there() -> None:
    assert len(results.paper(1)) == 30 and len(results.paper(2)) == 3
    row = results.paper(1).query("task == '3s5z' and dataset == 'medium' and algorithm == 'ovmse'")
    assert row.value.item() == 0.86719


def test_agents_and_explorers() -> None:
    maps = ("2s3z", "3s5z", "5m_vs_6m", "6h_vs_8z", "MMM2", "3s_vs_5z", "climb_monotone")
    assert [results.n_agents(m) for m in maps] == [5, 8, 5, 6, 10, 3, 2]
    assert results.explorers("epsilon_greedy", 0.00833, 6) == 0.05
    assert results.explorers("sequential_decentralised", 0.25, 6) == 0.25


@pytest.mark.slow
def test_charts_are_narrow_and_draw(lines: pd.DataFrame, found: pd.DataFrame) -> None:
    compared = results.only(found, *results.COMPARED)
    curves = results.seed_curves(results.only(lines, *results.COMPARED))
    none = results.only(found, "nothing")
    drawn = [
        charts.win_rates(curves.assign(value=100 * curves.value)),
        charts.returns(results.by_question(curves)[0]),
        charts.stories(results.by_question(compared)[0]),
        charts.final_win_rates(compared, results.paper(1)),
        charts.final_win_rates(none, results.paper(1)),
        charts.from_ovmse(results.differences(compared)),
        charts.part_by_part(results.effects(compared)),
        charts.noise(results.only(found, "noise")),
        charts.mixing(results.only(found, "mixing_ratio"), results.paper(2)),
        charts.mixing(none, results.paper(2)),
        charts.profiles(results.profiles(results.pooled(results.only(found, ITEMS[0])), found)),
    ]
    for chart in drawn:
        bundle = mimebundle(chart)
        assert "/v5" in bundle[VEGALITE]["$schema"]
        picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
        assert picture.width <= 700
        assert len(picture.getcolors()) > 4, "something is drawn in colour"


def columns(chart: Any, has: str) -> pd.DataFrame:
    """The data of a chart that hold a column of this name, with what it spells out by number."""
    table = next(table for table in chart_tables(chart) if has in table)
    for one in chart.to_dict().get("transform", ()):
        words, of = re.fullmatch(r"(\[.*\])\[datum\.(\w+)\]", one["calculate"]).groups()
        table[one["as"]] = table[of].map(dict(enumerate(ast.literal_eval(words))))
    return table


def test_bold_is_the_median_and_a_rule_its_interval_in_points(
    lines: pd.DataFrame, found: pd.DataFrame
) -> None:
    curves = results.seed_curves(results.only(lines, "hard_map"))
    curves = curves.assign(value=100 * curves.value.where(curves.seed > 20, curves.value / 2))
    drawn = columns(charts.win_rates(curves), "median").groupby("name")["median"].mean()
    middle = curves.assign(step=curves.groupby(["name", "seed"]).cumcount())
    middle = middle.groupby(["name", "step"]).value.median().groupby("name").mean()
    assert drawn.to_dict() == pytest.approx(middle.to_dict(), abs=0.06)
    table = results.differences(results.only(found, "hard_map")).set_index("name")
    rules = columns(charts.from_ovmse(table.reset_index()), "low").set_index("label")
    for name in ("mean", "low", "high"):
        assert rules[name].to_dict() == pytest.approx((100 * table[name]).to_dict(), abs=0.01)
    finals = results.finals(found)
    assert finals[finals.variant != ""].paper.isna().all() and finals.paper.notna().any()


def test_a_thin_curve_is_its_own_seeds(lines: pd.DataFrame) -> None:
    """Of a line that lacks the middle seed, too, which comes first in the rows."""
    mine = results.only(lines, "hard_map")
    mine = mine[(mine.seed != 21) | (mine.name != "OVMSE")]
    curves = results.seed_curves(mine[mine.name.isin(["OVMSE", "SE"])])
    curves = curves.assign(value=100 * curves.value)
    drawn = columns(charts.win_rates(curves), "median")
    assert set(drawn.panel) == {"5m_vs_6m medium"}
    every = columns(
        charts.win_rates(results.seed_curves(results.only(lines, "hard_map"))), "median"
    )
    control = every.panel == "5m_vs_6m medium, controls"
    assert set(every[control].name) == {
        "MACQL with SE", "MACal-QL with SE", "Action proposal with SE", "OVMSE with CQL",
        "OVM with CQL",
    }  # fmt: skip
    for name, seeds in {"OVMSE": (20, 22), "SE": (20, 21, 22)}.items():
        for seed in seeds:
            own = curves[(curves.name == name) & (curves.seed == seed)].value
            shown = drawn[drawn.name == name].sort_values("x")[f"s{seed}"]
            assert shown.iloc[:5].astype(float).tolist() == own.iloc[:5].round().tolist()


def test_every_seed_is_a_point_of_the_final_win_rates(found: pd.DataFrame) -> None:
    compared = results.only(found, "hard_map")
    spec = mimebundle(charts.final_win_rates(compared, results.paper(1)))[VEGALITE]
    text = next(d for d in spec["datasets"].values() if "OVMSE with CQL" in d)
    rows = [row.rsplit(",", 4) for row in text.strip().splitlines()[1:]]
    ours = sorted(float(value) for _, value, kind, _, _ in rows if kind == "seed")
    assert ours == pytest.approx(sorted(100 * compared.end), abs=0.01)
    assert ("69.53", "other") in {(value, kind) for _, value, kind, _, _ in rows}


def test_the_words_name_who_wins_and_what_few_seeds_cannot_say(found: pd.DataFrame) -> None:
    text = verdicts.who_wins(found)
    ends = results.of_question(found, "hard_map", "5m_vs_6m", "medium").groupby("name").end.median()
    assert f"5m_vs_6m medium** (3 seeds): highest at the end: {ends.idxmax()} (" in text
    assert "OVMSE is not told from any of 13 others (so few seeds cannot tell any)" in text
    assert "- **2s3z medium**: SE +" in verdicts.which_part(found)
    other = found.task != "5m_vs_6m"
    lost = found.assign(**{of: found[of].where(other, 0.04) for of in ("mean", "end")})
    few = "- **5m_vs_6m medium**: no line wins 5 % of its battles, so no part shows."
    assert few in verdicts.which_part(lost) and few not in verdicts.which_part(found)
    alone = verdicts.which_part(found[found.seed == found.seed.min()])
    assert " points (one seed)" in alone and "nan" not in alone
    start = advice.start_today(found)
    noisy = results.only(found, "noise").query("task == '6h_vs_8z'")
    best = noisy.groupby(["name", "epsilon_start"])["mean"].median().idxmax()
    said = best[0] + ", centralised" * ("OVMSE" in best[0])
    [it] = start.query("where == '6h_vs_8z medium' and online_steps == 100_000").itertuples()
    assert it.start == f"{said}, ε {best[1]:g}" and it.explorers <= 6
    words = re.sub(r"--(\w+) ", r"\1=", it.command.removeprefix("ovmse train ")).split()[1:]
    config = Config.from_parameters(
        **{k: yaml.safe_load(v) for k, v in (w.split("=") for w in words)}
    )
    run = noisy[(noisy.name == best[0]) & (noisy.epsilon_start == best[1])].iloc[0]
    for setting in ("task", "dataset", "online_steps", *results.SETTING):
        if setting not in advice.ASIDE:
            value = run[setting] if pd.notna(run[setting]) else None
            assert getattr(config, setting) == value, setting
    commands = start.command.str.cat()
    for setting, value in {"preset": "paper", "backend": "smac", "offline_updates": 250}.items():
        other = advice.start_today(found.assign(**{setting: value})).command.dropna()
        assert other.str.contains(f" {setting}={value}").all() and setting not in commands
    plain = start[start.online_steps == 100_000]
    assert plain.other_noise.all() and len(plain)
    assert not (plain.start + plain.next).str.contains("OVM(?:SE)?,").any()  # which has a variant
    assert "can give is 0.25 with 3;" in advice.what_is_sure(start)
    none = found.iloc[:0]
    assert "not run" in verdicts.one_curve(none) and "No run" in verdicts.who_wins(none)
    assert "not run" in verdicts.noise_decides(none)
    most = results.by_explorers(noisy).idxmax(axis=1).droplevel(["task", "dataset"])
    by_itself, one = (
        ", ".join(f"{name} {most[name]:g}" for name in sorted(names))
        for names in (
            {"MACQL", "OVM without CQL", "Switch CQL"},
            {"OVMSE with CQL", "OVMSE without CQL", "SE"},
        )
    )
    assert (
        f"- 6h_vs_8z medium: {by_itself} (tried: 0.05 to 6); {one} (tried: 0.05 to 1)"
        in advice.how_much_noise(found)
    )
    assert "the map of noise was not run." in advice.how_much_noise(none)
    assert start.command.dropna().map(lambda c: c.split()[2]).is_unique
    once = results.only(found, "noise").query("explorers == 0.25")
    assert "the map of noise has too few levels or lines." in verdicts.noise_decides(once)
    assert "the map of noise has no two levels that win." in advice.how_much_noise(once)
    assert advice.start_today(none).empty
    part = verdicts.which_part(found[~found.name.isin(["MACQL with SE", "OVMSE without CQL"])])
    [line] = [line for line in part.splitlines() if line.startswith("- **2s3z medium**")]
    assert " SE by itself +" in line and " memory added to CQL +" in line


def test_schemes_fall_on_one_curve_level_by_level() -> None:
    """Neither crossing curves nor levels that few seeds have count as they do on average."""

    def says(gaps: dict[float, float], missing: tuple = ()) -> str:
        parts = [
            by_hand(
                {"Switch CQL": 0.4 + 0.1 * level, "SE": 0.4 + 0.1 * level + gap}, range(10), level
            )
            for level, gap in gaps.items()
        ]
        rows = pd.concat(parts).assign(item="noise")
        gone = (rows.name == "SE") & (rows.explorers == 1) & rows.seed.isin(missing)
        return verdicts.one_curve(rows[~gone])

    assert "Switch CQL fall on one curve" in says({0.25: 0.0, 0.5: 0.01, 1: 0.0})
    assert "Switch CQL fall on one curve" in says({0.25: 0.0, 0.5: 0.01, 1: 0.0}, range(8))
    cross = says({0.25: -0.2, 0.5: 0.0, 1: 0.21})
    assert "do not fall on one curve (farthest apart by +21.0 points at 1, " in cross
    assert "cannot be told" in says({0.25: 0.0495, 0.5: 0.0, 1: 0.0})  # from 0, but not far
    few = says({0.25: -0.2, 0.5: 0.0, 1: 0.21}, range(10))
    assert "do not fall on one curve (farthest apart by -20.0 points at 0.25, " in few


def test_how_far_the_number_of_explorers_moves_a_line() -> None:
    levels = {0.25: {"Switch CQL": 0.8, "OVM": 0.7}, 5: {"Switch CQL": 0.1, "OVM": 0.5}}
    rows = pd.concat([by_hand(mean, range(1), level) for level, mean in levels.items()])
    rows = rows.assign(item="noise", exploration="epsilon_greedy")
    one = by_hand({"SE": 0.9}, range(1), 0.25).assign(item="noise")
    half = by_hand({"MACQL": 0.0}, range(1), 5).assign(item="noise", exploration="epsilon_greedy")
    assert verdicts.noise_decides(pd.concat([rows, one, half])) == (
        "*The number of explorers decides more than the algorithm*:\n\n- **cannot be said** on "
        "2s3z medium (one seed): from 0.25 explorers to 5 the mean win rate (median) of OVM, "
        "Switch CQL, where each agent explores by itself, changes by -70 to -20 points; at the "
        "same number they are 10 to 40 apart."
    )
    other = rows.assign(task="6h_vs_8z", explorers=rows.explorers.replace(5, 6))
    fixed = other.assign(mean=other.name.map({"Switch CQL": 0.7, "OVM": 0.5}))
    steep = other.assign(mean=other["mean"].where(other.explorers < 1, 0.1), task="3s5z")
    text = verdicts.noise_decides(pd.concat([rows, fixed, steep]))
    assert (
        "- **does not hold** on 6h_vs_8z medium (one seed): from 0.25 explorers to 6 the " in text
    )
    assert "- **holds** on 3s5z " in text and "by -70 to -60 points; at the same number" in text
    # two seeds of three do not make it hold on the third, whatever the medians are
    turned = steep.assign(seed=2, mean=np.where(steep.name == "OVM", 0.7, steep["mean"]))
    three = pd.concat([steep, steep.assign(seed=1), turned])
    said = "- **holds in medians** on 3s5z medium (3 seeds, on 2 of them by itself): from 0.25"
    assert said in verdicts.noise_decides(three)
    # a line that lacks a level is compared on no seed either
    begun = by_hand({"MACQL": 0.0}, range(3), 0.25).assign(
        item="noise", exploration="epsilon_greedy", task="3s5z"
    )
    whole = pd.concat([steep, steep.assign(seed=1), steep.assign(seed=2)])
    said = "- **holds** on 3s5z medium (3 seeds): from 0.25"
    assert said in verdicts.noise_decides(whole)
    assert said in verdicts.noise_decides(pd.concat([whole, begun]))
    text = verdicts.one_curve(pd.concat([rows, other]))
    assert text.endswith("explorers:\n\n- no seed has both schemes yet")
    table = results.by_explorers(pd.concat([rows, one]))
    assert table.loc[("2s3z", "medium", "OVM")].round(2).tolist() == [0.7, 0.5]
    assert np.isnan(table.loc[("2s3z", "medium", "SE"), 5])


def test_what_is_no_result_is_refused(folder: Path, tmp_path: Path) -> None:
    table = pd.read_parquet(folder / "mixing_ratio.parquet")
    path = tmp_path / "mixing_ratio.parquet"
    needed = "every row needs its task, algorithm, seed, epsilon_start, env_steps, online_steps"
    wrong = [
        ("seed", np.nan, needed), ("epsilon_start", np.nan, needed), ("task", "", needed),
        ("env_steps", np.nan, needed),
        ("algorithm", "my_algo", "algorithm: got 'my_algo', allowed: ovmse, ovm, se, "),
        ("online_cql", None, "online_cql: got None, allowed: True, False"),
        ("seed", 20.5, "seeds are whole numbers, and an epsilon_start is from 0 to 1"),
        ("epsilon_start", 2.0, "seeds are whole numbers, and an epsilon_start is from 0 to 1"),
        ("test_win_rate", 60.0, "win rates are shares from 0 to 1"),
        ("env_steps", "ten", "env_steps has to be numbers, and is "),
        ("test_return", np.inf, "test_return is infinite in a row"),
        ("online_cql", "no", "online_cql: got 'no', allowed: True, False"),
        ("exploration", "weird", "exploration: got 'weird', allowed: epsilon_greedy, "),
        ("cql_anneal", "abc", "cql_anneal: got 'abc', allowed: a number or none"),
    ]  # fmt: skip
    for name, value, said in wrong:
        column = table[name].astype(object).where(table.index > 5, value)
        text = isinstance(value, str)
        column = column.astype(str) if text and name != "cql_anneal" else column.infer_objects()
        table.assign(**{name: column}).to_parquet(path)
        with pytest.raises(UserError, match=said):
            results.read(path)
    unknown = table.online_cql.astype(float).where(table.index > 5)
    table.assign(online_cql=unknown).to_parquet(path)
    with pytest.raises(UserError, match="online_cql: got nan, allowed: True, False"):
        results.read(path)
    table[table.env_steps < 150_000].to_parquet(path)
    with pytest.raises(UserError, match=r"of its runs \(30\) none is at its last step yet"):
        results.results_given(str(path))


def by_hand(means: dict[str, float], seeds: range, explorers: float = 1) -> pd.DataFrame:
    """Runs whose mean win rate differs from its line's by the seed, and a little by chance; each
    ends a tenth above its mean."""
    rng, rows = np.random.default_rng(0), []
    for name, mean in means.items():
        for seed in seeds:
            score = mean + 0.005 * seed + rng.uniform(-0.002, 0.002)
            rows.append({
                "item": "paper_setting", "task": "2s3z", "dataset": "medium", "name": name,
                "run": f"{name}_{seed}",
                "algorithm": name.lower(), "variant": "", "seed": seed, "mean": score,
                "lowest": score - 0.3, "end": score + 0.1, "online_steps": 1_000,
                "epsilon_start": 1.0, "explorers": explorers,
                "exploration": "sequential_decentralised",
            })  # fmt: skip
    return pd.DataFrame(rows)


LINES = {"OVMSE": 0.5, "SE": 0.6, "MACQL": 0.3, "OVM": 0.5}


def test_with_ten_seeds_the_words_say_who_is_above_and_who_below() -> None:
    text = verdicts.who_wins(by_hand(LINES, range(10)))
    assert text.startswith(
        "Map by map:\n\n"
        "- **2s3z medium** (10 seeds): highest at the end: SE (72 %), OVMSE 62 %; highest at its "
        "lowest test: SE (32 %), OVMSE 22 %; in mean win rate OVMSE is above MACQL, below SE, not "
        "told from OVM.\n\n"
        "What is highest at the end and in the lowest test is so in medians, not tested; OVMSE is "
        "compared"
    )
    one = by_hand(LINES, range(5))
    one.loc[(one.name == "SE") & (one.seed == 0), "end"] = 0.0  # of a median little is lost
    assert "highest at the end: SE (71 %), OVMSE 61 %" in verdicts.who_wins(one)
    one["lowest"] = 0.0
    assert "its lowest test: none (all 0 %); in" in verdicts.who_wins(one)
    # where nobody wins the return is what is left to rank, and nothing is advised
    lost = one.assign(end=0.004, mean=0.004, last_return=one.name.map(len) + 0.04)
    text = verdicts.who_wins(lost)
    assert "at the end: none (all 0 %); highest return there: MACQL, OVMSE (5.0); high" in text
    less = verdicts.who_wins(lost[lost.name != "MACQL"].assign(last_return=one.name.map(len) % 5))
    assert "highest return there: OVM (3.0), OVMSE 0.0; highest" in less
    few = verdicts.who_wins(lost.assign(end=0.03))
    assert "at the end: MACQL, OVM, OVMSE, SE (3 %); highest return there: MACQL, OVMSE (5" in few
    assert "return" not in verdicts.who_wins(lost.assign(end=0.06))
    [start] = advice.start_today(lost).itertuples()
    assert start.sure == "hardly a battle won" and start.start is None is start.command
    pair = verdicts.who_wins(one[one.name.isin(["OVMSE", "SE"])])
    every = "; yet on every shared seed OVMSE is below SE.\n"
    said = "OVMSE is not told from SE (so few seeds cannot tell any)"  # 2 / 2^5 = .0625
    assert said + every in pair
    one.loc[(one.name == "SE") & (one.seed == 0), "mean"] = 0.0
    split = verdicts.who_wins(one[one.name.isin(["OVMSE", "SE", "MACQL"])])
    assert f"cannot tell any){every.replace('below SE', 'above MACQL')}" in split
    four = verdicts.who_wins(one[one.seed > 0])
    assert "cannot tell any).\n" in four and "yet" not in four
    alone = verdicts.who_wins(one[one.name == "SE"])
    assert "nothing is compared with OVMSE" in alone and "only SE was run" in alone
    first = advice.start_today(by_hand(LINES, range(10)))
    command = (
        "ovmse train runs/start/se_2s3z_medium_1000 --algorithm se --task 2s3z --dataset medium "
        "online_steps=1000"
    )
    row = [
        "2s3z medium",
        "1,000",
        "SE, ε 1",
        "1",
        "62 % (60 %–64 %)",
        "10",
        "told (p 0.006)",
        "OVMSE, ε 1 (52 %)",
    ]
    assert [*readable(first, ADVICE).iloc[0], first.command[0]] == [*row, command]
    assert "**How much noise** cannot be said" in advice.how_much_noise(by_hand(LINES, range(10)))
    words = advice.what_is_sure(first)
    once = "**No other ε** was tried on all the seeds of 2s3z medium (1,000 steps)."
    assert once in words
    least = "least sign-flip p that paired seeds can give is 0.002 with 10"
    assert f"{least}; other" in words
    [ten] = advice.start_today(by_hand({"SE": 0.6}, range(10))).itertuples()
    assert ten.sure == "a lead" and ten.command  # nothing is here to compare it with
    # what is tuned, of fewer seeds, takes none from the others; of as many it joins them
    tuned = by_hand({"SE": 0.7, "OVM": 0.4}, range(10)).assign(
        item="at_its_best", epsilon_start=0.2
    )
    begun = advice.start_today(pd.concat([by_hand(LINES, range(10)), tuned[tuned.seed < 2]]))
    assert readable(begun, ADVICE).values.tolist() == [
        row,
        ["2s3z medium", "1,000", "SE, tuned, ε 0.2", "1", "70 %", "2", "a lead",
         "OVM, tuned, ε 0.2 (40 %)"],
    ]  # fmt: skip
    assert f"{least}, 0.5 with 2; other" in advice.what_is_sure(begun)
    assert begun.other_noise.tolist() == [False, True] and once in advice.what_is_sure(begun)
    both = advice.start_today(pd.concat([by_hand(LINES, range(10)), tuned]))
    [whole] = both.itertuples()
    assert whole.start == "SE, tuned, ε 0.2" and round(whole.mean, 2) == 0.72
    assert whole.sure == "told (p 0.010)"  # 5 * 2 / 2^10
    assert "No other ε" not in advice.what_is_sure(both)
    [close] = advice.start_today(by_hand(LINES | {"OVM": 0.6}, range(10), 2)).itertuples()
    assert {close.start, close.next} <= {"SE, ε 1", "SE, ε 1 (62 %)", "OVM, ε 1", "OVM, ε 1 (62 %)"}
    assert close.sure == "told from 2 of 3" and close.explorers == 2
    # the best median is not told above what has the greater mean; nor is what only p itself tells
    skewed = by_hand({"SE": 0.5, "OVM": 0.5}, range(10))
    for name, won in {"SE": [0.1, 0.5, 0.6], "OVM": [0.3, 0.48, 0.8]}.items():
        skewed.loc[skewed.name == name, "mean"] = np.repeat(won, [4, 2, 4])
    [odd] = advice.start_today(skewed).itertuples()
    assert odd.start == "SE, ε 1" and odd.sure == "told from 0 of 1"
    near = by_hand(LINES, range(10))
    for name, gap in {"OVMSE": 0.01, "OVM": 0.011, "MACQL": 0.012}.items():
        se = near[near.name == "SE"]["mean"].to_numpy()
        near.loc[near.name == name, "mean"] = se - gap * np.array([1] * 7 + [0.2, -0.5, -0.6])
    ours, best = (near[near.name == n].set_index("seed")["mean"] for n in ("OVMSE", "SE"))
    assert paired(ours.to_dict(), best.to_dict()).p < 0.05
    [raw] = advice.start_today(near).itertuples()
    assert raw.start == "SE, ε 1" and raw.sure == "told from 0 of 3"


def test_advice_is_a_table_its_commands_and_what_they_mean(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a notebook shows it; where nothing is advised neither commands nor their meaning."""
    won = by_hand(LINES, range(10))
    advice.advise(won)
    shown = capsys.readouterr().out
    assert "SE, ε 1" in shown and shown.count("Markdown") == 2
    advice.advise(won.assign(mean=0.0, end=0.0))
    shown = capsys.readouterr().out
    assert "hardly a battle won" in shown and "Markdown" not in shown
    advice.advise(won.iloc[:0])
    assert capsys.readouterr().out.count("Markdown") == 1


def test_what_hardly_wins_is_left_out_unless_nothing_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(verdicts, "tell", heard.append)
    won = by_hand(LINES, range(2))
    lost = won.assign(task="5m_vs_6m", mean=0.01, end=0.049)
    both = pd.concat([won, lost, won.assign(task="3s5z", mean=0.01, end=0.06)])
    assert set(verdicts.with_wins(both).task) == {"2s3z", "3s5z"}
    assert heard == [
        "5m_vs_6m medium, where no line wins 5 % of its battles, is left out of most of what "
        "follows: win rates say nothing there."
    ]
    for rows in (won, lost, won.iloc[:0]):
        assert verdicts.with_wins(rows) is rows
    assert len(heard) == 1


def test_where_ovmse_has_its_term_is_said_where_maps_differ(
    found: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(verdicts, "tell", heard.append)
    compared = results.only(found, *results.COMPARED)
    verdicts.what_ovmse_is(compared[compared.task == "2s3z"])
    verdicts.what_ovmse_is(compared[compared.name != "OVMSE"])
    assert not heard
    verdicts.what_ovmse_is(compared)
    [said] = heard
    assert "has CQL, the conservative term, on 2s3z and not on 6h_vs_8z, 3s5z, 5m_vs_6m: *" in said


def test_a_part_is_told_in_so_many_of_its_combinations() -> None:
    """SE raises it in two of three, CQL lowers it in one; the other map tells nothing."""
    table = pd.DataFrame(
        [("2s3z", "SE", 0.1, 0.01), ("2s3z", "SE", 0.2, 0.049), ("2s3z", "SE", 0.3, 0.05),
         ("2s3z", "CQL", -0.1, 0.02), ("2s3z", "CQL", 0.1, 0.9), ("3s5z", "SE", 0.5, 0.2)],
        columns=["task", "part", "mean", "holm"],
    ).assign(item="paper_setting", dataset="medium", seeds=10)  # fmt: skip
    told = (
        "**On 2s3z medium the mean win rate is raised by SE in 2 of 3, lowered by CQL in 1 of 2 "
        "of its combinations with the other parts (told from luck)."
    )
    assert verdicts._told_of_parts(table) == f"{told} Elsewhere none is told.**\n\n"
    few = table.assign(seeds=table.task.map({"2s3z": 10, "3s5z": 5}))
    assert verdicts._told_of_parts(few) == f"{told} Elsewhere so few seeds cannot tell any.**\n\n"
    assert verdicts._told_of_parts(table[table.task == "2s3z"]) == f"{told}**\n\n"
    assert not verdicts._told_of_parts(table[table.holm >= 0.05])


def test_of_a_map_without_wins_no_part_is_told() -> None:
    won = pd.concat([
        by_hand({name: mean}, range(10)).assign(algorithm=algorithm, online_cql=False,
                                                exploration=exploration)
        for name, algorithm, mean, exploration in (
            ("Switch CQL", "switch_cql", 0.3, "epsilon_greedy"),
            ("SE", "se", 0.6, "sequential_decentralised"))
    ])  # fmt: skip
    assert "raised by SE in 1 of 1 of its" in verdicts.which_part(won)
    lost = verdicts.which_part(won.assign(mean=won["mean"] / 50, end=0.0))
    assert "so no part shows" in lost and "raised" not in lost


def test_a_control_is_dashed_alike_in_every_chart(found: pd.DataFrame) -> None:
    """And each map and dataset has its own panel or chart, its lines in the order of the table."""
    noise = mimebundle(charts.noise(results.only(found, "noise")))[VEGALITE]
    look = {}
    for layer in noise["spec"]["layer"]:
        scale = layer["encoding"].get("strokeDash", {}).get("scale", {})
        look |= dict(zip(scale.get("domain", []), scale.get("range", [])))
    assert look["SE"] == look["MACQL"] == [1, 0] != look["OVM without CQL"]
    assert look["OVMSE without CQL"] == look["OVM without CQL"] != look["OVMSE with CQL"]
    rows = results.only(found, "noise")
    rows = pd.concat([rows, rows.assign(dataset="medium_replay")])
    panels = columns(charts.noise(rows), "explorers").panel
    assert set(panels) == {f"{t} {d}" for t in ("2s3z", "6h_vs_8z") for d in (
        "medium", "medium_replay")}  # fmt: skip
    mixed = results.only(found, "mixing_ratio")
    ours, other = (
        columns(charts.mixing(mixed.assign(task=task), results.paper(2)), "mixing_ratio")
        for task in ("2s3z", "3s5z")
    )
    assert (ours.kind == "paper").sum() == 3 and not (other.kind == "paper").any()
    order = results.of_question(found, "paper_setting", "2s3z", "medium").name.unique()
    assert order[:4].tolist() == ["OVMSE", "OVMSE without CQL", "OVM", "OVM without CQL"]


def test_a_seed_counts_where_every_line_has_it() -> None:
    """A line that is alone with its seed is neither ahead of the others nor beaten by them."""
    lucky = by_hand({"MACQL": 0.9}, range(2, 3))
    both = pd.concat([by_hand(LINES, range(2)), lucky])
    text = verdicts.who_wins(both)
    assert "(1 runs of seeds that not every line has are left out)" in text
    assert "** (2 seeds): highest at the end: SE" in text and "MACQL" not in text
    # a line with fewer seeds takes them from medians, not from the pairs of the others
    most = pd.concat([by_hand({n: m for n, m in LINES.items() if n != "OVM"}, range(10)),
                      by_hand({"OVM": 0.5}, range(3))])  # fmt: skip
    said = verdicts.who_wins(most)
    assert "** (3 seeds): highest" in said
    assert "in mean win rate (up to 10 pairs) OVMSE is above MACQL, below SE, not told" in said
    # of the one that is left the least p after Holm is 2 / 2^6 = .031, not three times that
    assert "not told from OVM (so few seeds cannot tell any).\n" in said
    enough = pd.concat([most[most.name != "OVM"], by_hand({"OVM": 0.5}, range(6))])
    assert "not told from OVM.\n" in verdicts.who_wins(enough)
    assert "OVMSE is not told from any of 3 others (so few seeds cannot tell any)" in text
    [start] = advice.start_today(both).itertuples()
    assert round(start.mean, 2) == 0.6 and start.seeds == 2
    [one] = advice.start_today(by_hand(LINES, range(1))).itertuples()
    assert one.seeds == 1 and start.sure == one.sure == "a lead"
    rest = by_hand({n: m for n, m in LINES.items() if n != "MACQL"}, range(2))
    apart = pd.concat([rest, lucky])
    two_maps = verdicts.who_wins(pd.concat([both, apart.assign(task="3s5z")]))
    assert "- **3s5z medium**: no seed has every line yet." in two_maps
    assert "No seed" in verdicts.who_wins(apart)
    [none] = advice.start_today(apart).itertuples()
    assert none.sure == "no seed has every line" and none.start is None is none.command
    assert results.shared(both).seed.unique().tolist() == [0, 1]


def test_each_at_its_best_stands_beside_the_papers_setting() -> None:
    """Medians of the seeds that both have; a candidate of ours has no line to stand beside."""
    plain = by_hand(LINES, range(4))
    tuned = by_hand({"OVMSE": 0.7, "SE": 0.55, "MACQL": 0.4, "Ours": 0.9}, range(1, 3))
    tuned = tuned.assign(item="at_its_best", epsilon_start=0.2, explorers=0.2)
    tuned = tuned.replace({"algorithm": {"ours": "ovmse"}})
    only = plain[plain.seed.isin([1, 2])].groupby("name")
    table = results.side_by_side(pd.concat([plain, tuned, plain.assign(item="noise", end=0.0)]))
    table = table.set_index("name")
    assert table.index.tolist() == ["OVMSE", "SE", "MACQL", "Ours"] and (table.seeds == 2).all()
    for measure in ("mean", "end"):
        before = table[f"{measure}_before"]
        assert before.drop("Ours").to_dict() == only[measure].median().drop("OVM").to_dict()
        assert np.isnan(before["Ours"])
        assert table[measure].to_dict() == tuned.groupby("name")[measure].median().to_dict()
    few = results.side_by_side(pd.concat([plain[plain.seed < 2], tuned])).set_index("name")
    assert few.seeds.to_dict() == {"OVMSE": 1, "SE": 1, "MACQL": 1, "Ours": 2}
    said = verdicts.at_its_best(pd.concat([plain, tuned]))
    assert "- **2s3z medium** (2 seeds): highest at the end: Ours (101 %), OVMSE 81 %;" in said
    assert said.count("- **") == 1
    more = said.split("less that in the paper's setting, in paired seeds: on 2s3z medium, ")[1]
    assert re.findall(r"(\w+) ([+-]\d+)\.\d points \(", more) == [
        (name, f"{100 * gain:+.0f}")
        for name, gain in (("OVMSE", 0.2), ("MACQL", 0.1), ("SE", -0.05))
    ]
    assert more.count("2 seeds, p 1.000 after Holm)") == 3
    assert verdicts.at_its_best(plain) == "No tuned run is here yet."
    assert "less that" not in verdicts.at_its_best(tuned)
    # each map and dataset by itself, the hard map's from its own item, and ends apart from means
    others = {"6h_vs_8z": "paper_setting", "5m_vs_6m": "hard_map", "2s3z": "paper_setting"}
    parts = [plain, tuned.assign(end=tuned.end - 0.5)]
    for number, (task, item) in enumerate(others.items(), 1):
        about = {"task": task, "dataset": "medium_replay" if task == "2s3z" else "medium"}
        parts.append(plain.assign(**about, item=item, mean=plain["mean"] - 0.1 * number))
        parts.append(plain.assign(**about, item="noise", mean=0.0))
        parts.append(tuned.assign(**about))
    every = pd.concat(parts)
    ours = results.gains(every).query("name == 'OVMSE'").set_index(["task", "dataset"])["mean"]
    assert (100 * ours).round().to_dict() == {
        ("2s3z", "medium"): 20, ("6h_vs_8z", "medium"): 30, ("5m_vs_6m", "medium"): 40,
        ("2s3z", "medium_replay"): 50,
    }  # fmt: skip
    drawn = columns(charts.at_its_best(tuned, table.reset_index()), "kind").query("kind == 'other'")
    before = 100 * table.end_before.dropna()
    assert drawn.set_index("name").value.to_dict() == pytest.approx(before.to_dict(), abs=0.01)
    shown = results.side_by_side(every).query("name == 'SE'").set_index(["task", "dataset"])
    less = (shown["mean"] - shown.mean_before).round(2)
    assert less.tolist() == [-0.05, 0.05, 0.15, 0.25] and (shown.seeds == 2).all()
    assert (shown.end - shown.end_before).round(2).tolist() == [-0.55, -0.05, -0.05, -0.05]
    [before, begun] = advice.start_today(pd.concat([plain, tuned[tuned.seed == 1]])).itertuples()
    assert before.seeds == 4 and "tuned" not in before.start + before.next  # it takes no seeds
    assert begun.start == "Ours, tuned, ε 0.2" and begun.seeds == 1
    [_, line] = advice.start_today(pd.concat([plain, tuned])).itertuples()
    assert line.start == "Ours, tuned, ε 0.2" and line.seeds == 2 and line.explorers == 0.2
    assert round(line.mean, 2) == 0.91


def test_the_regime_is_of_the_pre_training_and_the_return_of_a_battle() -> None:
    """A row a form of pre-training, however many lines share it; QMIX, which has none, is in none.
    The data's return is that of its episodes, worked out one by one."""
    with h5py.File(ROOT / "data/2s3z_medium.h5") as file:
        episodes = [float(np.asarray(one, np.float64).sum()) for one in file["reward"]]
    there = float(np.mean(episodes))
    names = {"OVMSE": 2.0, "SE": 2.0, "WSRL": -2.0, "QMIX": -9.0}
    runs = by_hand(dict.fromkeys(names, 0.5), range(3))
    above = runs.name.map(names) + 0.1 * runs.seed
    runs = runs.assign(first_return=there + above, last_return=there - above)
    table = results.regimes(runs)
    assert table.form.tolist() == ["conservative", "calibrated (MACal-QL, WSRL)"]
    assert table.regime.tolist() == ["superior", "inferior"] and table.seeds.tolist() == [3, 3]
    assert table.first_return.tolist() == pytest.approx([there + 2.1, there - 1.9])
    assert table.data_return.tolist() == pytest.approx([there] * 2, rel=1e-5)
    assert results.regimes(runs.assign(task="3s5z", dataset="nowhere")).empty


def test_an_interval_goes_from_low_to_high() -> None:
    of = paired({1: 0.2, 2: 0.4}, {1: 0.1, 2: 0.1})
    half = 0.1 * 12.7062  # t of one degree of freedom; the standard error is .1
    assert verdicts._interval(of) == f"{20 - 100 * half:+.1f} to {20 + 100 * half:+.1f}"


def test_what_was_not_run_is_said_with_its_command(capsys: pytest.CaptureFixture) -> None:
    verdicts.drawn(pd.DataFrame(), charts.noise, "noise")
    verdicts.tabled(pd.DataFrame())
    assert capsys.readouterr().out.count("Markdown") == 1
    assert all(p.command.startswith("ovmse sweep notebooks/grids/results/") for p in PLANNED)
    assert all((ROOT / p.command.split()[2]).is_file() for p in PLANNED)


def test_who_made_the_runs_is_said_with_their_card(
    lines: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = results.only(lines, "paper_setting")
    assert verdicts.made_by(mine) == (
        "Made by learning code c0de0000; seeds, machine and commands of what ships: "
        "[paper_setting](../data/results/paper_setting.md)."
    )
    shipped = next(iter(results.COMMITS))
    said = verdicts.made_by(mine.assign(code=shipped))
    then = "git checkout @{-1} -- notebooks/grids"  # grids that are younger than that commit
    assert said.endswith(f"first `git checkout {results.COMMITS[shipped]} && {then}`.")
    monkeypatch.setattr(verdicts, "learning_code_key", lambda: shipped)
    assert "checkout" not in verdicts.made_by(mine.assign(code=shipped))
    both = results.only(lines, "paper_setting", "noise").query("task == '6h_vs_8z'")
    assert "file" not in verdicts.made_by(both)
    files = both["item"].map({"paper_setting": "a" * 64, "noise": "b" * 64})
    assert verdicts.made_by(both.assign(dataset_sha256=files)).endswith(
        " **6h_vs_8z medium is not the same file everywhere**: aaaaaaaa (paper_setting); bbbbbbbb "
        "(noise). Compare only within each."
    )
    assert verdicts.made_by(results.only(lines, "noise").assign(code=None)).startswith(
        "Made by learning code unknown; "
    )


def test_marl_eval_gets_every_test_and_the_last_as_absolute(lines: pd.DataFrame) -> None:
    mine = results.only(lines, "paper_setting")
    out = marl_eval(mine)["smax"]
    assert set(out) == {"2s3z medium", "2s3z medium_replay", "6h_vs_8z medium", "3s5z medium"}
    run = mine[(mine.task == "6h_vs_8z") & (mine.name == "SE") & (mine.seed == 21)]
    got = out["6h_vs_8z medium"]["SE"]["seed_21"]
    assert [got[f"step_{i}"]["step_count"] for i in range(31)] == run.env_steps.tolist()
    assert got["step_3"]["win_rate"] == [run.test_win_rate.iloc[3]]
    assert got["absolute_metrics"]["return"] == [run.test_return.iloc[-1]]
    best = mine.groupby("run").test_win_rate.max()
    run = mine[mine.run == (best - mine.groupby("run").test_win_rate.last()).idxmax()]
    about = run.iloc[0]
    got = out[f"{about.task} {about.dataset}"][about["name"]][f"seed_{about.seed}"]
    assert run.test_win_rate.max() > run.test_win_rate.iloc[-1]
    assert got["absolute_metrics"]["win_rate"] == [run.test_win_rate.iloc[-1]]
    counts = {len(seed) for lines in out["2s3z medium"].values() for seed in lines.values()}
    assert counts == {32}
    json.dumps(out)


def test_marl_eval_writes_only_the_seeds_that_every_line_has(folder: Path, tmp_path: Path) -> None:
    table = pd.read_parquet(folder / "hard_map.parquet")
    some = table[(table.algorithm != "wsrl") | (table.seed != 21)]
    some.to_parquet(tmp_path / "hard_map.parquet")
    marl_eval_main(str(tmp_path), str(tmp_path / "out"))
    out = json.loads((tmp_path / "out" / "hard_map.json").read_text())["smax"]["5m_vs_6m medium"]
    assert {tuple(seeds) for seeds in out.values()} == {("seed_20", "seed_22")}


def test_the_card_of_a_tuning_lists_the_best_settings(
    folder: Path, found: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import ship_rows

    rows = results.read(folder / "tuning.parquet").assign(machine="one")
    card = ship_rows.card("tuning", rows, results.only(found, "tuning"))
    table = [line for line in card.splitlines() if line.startswith("| 2s3z |")]
    assert len(table) == 11 and "264 of 792 planned runs are here. Of each line the best" in card
    one = results.best(found).query("name == 'WSRL'").iloc[0]
    [line] = [line for line in table if "| WSRL |" in line]
    settings = f"{one.epsilon_start:g} | {one.online_lr:g} | warm-up steps "
    assert (
        f"| 12 | {settings}{one.policy_warmup_steps:,.0f} |" in line
        and f"{100 * one['mean']:.0f} %" in line
    )


def test_the_grid_of_each_at_its_best_plans_what_was_tuned(
    found: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from at_its_best import grid

    whole, tuned = results.whole, results.only(found, "tuning")
    assert set(whole(found).run) == set(tuned.run)
    lacks = tuned.drop(tuned.index[tuned.seed == 51][:1])  # of two seeds one is whole
    assert set(whole(lacks).run) == set(tuned.run[tuned.seed == 50])
    assert "tuning: 2s3z seed 50.\n" in grid(lacks) and set(results.best(lacks).seeds) == {1}
    lacks = lacks.drop(lacks.index[lacks.seed == 50][:2])
    with pytest.raises(
        UserError, match="are finished: 130 of 132 of seed 50 on 2s3z, 131 of 132 of seed 51 on 2"
    ):
        grid(lacks)
    for none in (tuned.iloc[:0], tuned.assign(task="8m")):  # the plan has no such map
        with pytest.raises(UserError, match="are finished: there is none"):
            grid(none)
    table = results.best(found)
    path = tmp_path / "at_its_best.yaml"
    path.write_text(text := grid(found))
    assert "tuning: 2s3z seeds 50, 51.\n" in text
    configs(monkeypatch, ())
    planned = [run.config for run in grids.plan(grids.load_grid(path), tmp_path, "2s3z").runs]
    assert len(planned) == 11 * 10 and {c.seed for c in planned if c} == set(range(20, 30))
    tuned = table[table.name == "SE"].iloc[0]
    for config in (c for c in planned if c and c.algorithm == "se"):
        assert config.epsilon_start == tuned.epsilon_start
        assert config.online_lr == tuned.online_lr
