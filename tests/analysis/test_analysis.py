"""Tables against plain loops, charts against their own specification, pages against the network."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import combinations
from statistics import fmean

import altair as alt
import nbformat
import numpy as np
import pandas as pd
import pytest
from browser import ROOT, pixels, write_notebook
from fake_runs import STORY, write_runs
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from analysis.answers import kept_wins, trained
from analysis.charts import theme
from analysis.charts.base import csv_data, panel_title, spread, titled
from analysis.charts.curves import figure1, learning_curve
from analysis.charts.show import VEGALITE, mimebundle, show
from analysis.report import write_report
from analysis.tables import (
    CONTROLS,
    DIFFERENCES,
    RESULTS,
    curves,
    mean_curves,
    measured,
    readable,
    reference_return,
    summary,
)
from analysis.widgets import live
from analysis.widgets.progress import PATIENCE, tracked
from ovmse import __version__
from ovmse.config import Config
from ovmse.errors import UserError
from ovmse.method.algorithms import ALGORITHMS
from ovmse.training.phase import Progress

CHARTS = [learning_curve, figure1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"), seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def table(folder):
    return curves(folder)


def rows_of(folder, name, seed):
    """The metrics of one run, read without the package under test."""
    text = (folder / f"{name}_seed{seed}" / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


# Tables.


def test_curves_hold_every_line_of_every_run(folder, table):
    assert len(table) == sum(len(rows_of(folder, n, s)) for n in STORY for s in (0, 1, 2))
    for name in STORY:
        for seed in (0, 1, 2):
            part = table[(table.algorithm == name) & (table.seed == seed)]
            for (_, got), row in zip(part.iterrows(), rows_of(folder, name, seed), strict=True):
                assert all(got[key] == value for key, value in row.items())
                assert (got.task, got.dataset, got.backend) == ("2s3z", "medium", "smax")
    assert table.epsilon.isna().all()  # the fake runs do not measure it


def test_curves_of_a_list_of_runs(folder, table):
    paths = [folder / "se_seed1", str(folder / "macql_seed0")]
    assert sorted(set(curves(paths).algorithm)) == ["macql", "se"]


def test_summary_against_loops(folder, table):
    at = (0, 10_000, 60_000, 200_000)
    got = summary(table, at=at)
    assert list(got.algorithm.unique()) == list(STORY)  # the order of the table of algorithms
    assert len(got) == len(STORY) * 3  # nobody came to 200 000
    for row in got.itertuples():
        near = [
            min(
                rows_of(folder, row.algorithm, seed),
                key=lambda r: abs(r["env_steps"] - row.env_steps),
            )
            for seed in (0, 1, 2)
        ]
        wins, values = ([r[m] for r in near] for m in ("test_win_rate", "q_ended"))
        assert row.seeds == 3
        assert [row.win, row.win_min, row.win_max] == pytest.approx(
            [fmean(wins), min(wins), max(wins)], abs=0.0051
        )
        assert [row.q, row.q_min, row.q_max] == pytest.approx(
            [fmean(values), min(values), max(values)], abs=0.0051
        )
        assert row.mc == pytest.approx(fmean(r["mc_ended"] for r in near), abs=0.0051)


def test_a_table_for_readers_has_names_per_cent_and_separators():
    columns = ["algorithm", "env_steps", "win", "win_min", "win_max", "q", "q_min", "q_max", "mc"]
    row = ["macal_ql", 60_000, 0.584, 0.5, 0.6666, -1.25, -1.25, -1.25, np.nan]
    got = readable(pd.DataFrame([row], columns=columns).assign(run="a/b"))
    assert list(got.columns) == ["algorithm", "environment steps", "test battles won", "mean Q_tot"]
    assert got.iloc[0].tolist() == ["MACal-QL", "60,000", "58 % (50 %–67 %)", "-1.25"]
    steps = pd.DataFrame({"to_80": [5000.0, 9000.0, 1_250_480.0, np.nan], "seeds": 3})
    steps["to_80_known"] = [2, 1, 3, 0]
    steps["to_80_min"], steps["to_80_max"] = steps.to_80, steps.to_80
    steps.loc[0, ["to_80_min", "to_80_max"]] = [4000, 6000]
    words = readable(steps, RESULTS)["thousand steps to 80 %"].tolist()
    assert words == ["5 (4–6; 2 of 3)", "9 (1 of 3)", "1,250.5", "–"]
    signed = pd.DataFrame([[0.1, 0.05, 0.15]], columns=["mean", "mean_min", "mean_max"])
    assert readable(signed, DIFFERENCES).iloc[0].tolist() == ["+10.0 (+5.0 to +15.0)"]


def test_the_answer_says_what_is_kept_and_the_lowest_point(table):
    rows = [("se", 1, 0, 0.5), ("se", 1, 5, 0.1), ("se", 1, 10, 0.4), ("ovmse", 1, 0, 0.5)]
    rows += [("ovmse", 1, 5, 0.45), ("ovmse", 1, 10, 0.5), ("se", 2, 0, 0.7), ("se", 2, 5, 0.3)]
    rows += [("se", 2, 10, 0.5), ("qmix", 1, 0, 0.0), ("qmix", 1, 10, 0.2)]
    few = pd.concat(
        table[table.algorithm == "ovmse"][:1].assign(
            run=f"{name}{seed}",
            algorithm=name,
            seed=seed,
            env_steps=1000 * at,
            test_win_rate=win,
            online_cql=name == "ovmse",
            exploration=ALGORITHMS[name].exploration,
        )
        for name, seed, at, win in rows
    )
    assert kept_wins(few) == (
        "After 10,000 online steps (1 to 2 seeds each) "
        "OVMSE keeps 100 % of its wins (50 → 50 %, lowest 45 %); "
        "SE keeps 75 % of its wins (60 → 45 %, lowest 20 %); "
        "QMIX had no wins to keep (0 → 20 %); in brackets: test battles won."
    )
    one = few[(few.algorithm == "se") & (few.seed == 1)]
    assert trained(one) == (
        "SE (seed 1) won 50 % of its test battles before any online step, fell to 10 % after "
        "5,000 steps, and 40 % after 10,000 steps."
    )
    assert trained(one.assign(test_win_rate=0.0)).endswith(
        "no test battle in its 10,000 online steps."
    )
    assert "online step, rose to 90 % after 5,000 steps, and 40 %" in trained(
        one.assign(test_win_rate=[0.5, 0.9, 0.4])
    )
    short = few[(few.algorithm != "se") | (few.env_steps < 10_000)]
    assert kept_wins(short).startswith(
        "1 to 2 seeds each: OVMSE keeps 100 % of its wins after 10,000 online steps (50 → "
    )
    assert "SE keeps 33 % of its wins after 5,000 online steps (60 → 20 %" in kept_wins(short)


def test_without_a_measurement_there_is_a_sentence(tmp_path):
    write_runs(tmp_path, seeds=(0,))
    offline = curves(tmp_path).assign(phase="offline")
    for answer in (trained, kept_wins):
        with pytest.raises(UserError, match="no run has an online test yet"):
            answer(offline)
    for file in tmp_path.rglob("metrics.jsonl"):
        file.write_text("")
    with pytest.raises(UserError, match="has measured anything yet"):
        curves(tmp_path)


def test_summary_counts_only_seeds_that_came_so_far(table):
    short = table[~((table.algorithm == "se") & (table.seed == 2) & (table.env_steps > 30_000))]
    got = summary(short, at=(10_000, 60_000)).set_index(["algorithm", "env_steps"]).seeds
    assert got["se", 10_000] == 3
    assert got["se", 60_000] == 2


def test_mean_curves_against_loops(folder, table):
    got = mean_curves(table, "q_ended")
    for name in STORY:
        part = got[got.algorithm == name]
        runs = [rows_of(folder, name, seed) for seed in (0, 1, 2)]
        assert part.env_steps.max() == min(run[-1]["env_steps"] for run in runs)
        for row in part.itertuples():
            values = []
            for run in runs:
                after = next(i for i, r in enumerate(run) if r["env_steps"] >= row.env_steps)
                a, b = run[max(after - 1, 0)], run[after]
                share = (row.env_steps - a["env_steps"]) / max(b["env_steps"] - a["env_steps"], 1)
                values.append(a["q_ended"] + share * (b["q_ended"] - a["q_ended"]))
            assert [row.mean, row.low, row.high] == pytest.approx(
                [fmean(values), min(values), max(values)]
            )


def test_reference_is_the_mean_of_the_runs(table):
    assert reference_return(table) == pytest.approx(8.8)
    assert reference_return(table.assign(mc_ended=np.nan)) is None


def test_a_mixture_of_questions_is_refused(table):
    other = table.assign(task="3s5z", run=table.run + "x")
    with pytest.raises(ValueError, match="2 tasks at once"):
        figure1(pd.concat([table, other]))
    with pytest.raises(ValueError, match=r"2 runs of .* with seed"):
        summary(pd.concat([table, table.assign(run=table.run + "x")]))
    with pytest.raises(ValueError, match="no colour for the algorithm 'foo'"):
        figure1(table.assign(algorithm="foo", seed=table.run))


@pytest.mark.parametrize(
    ("name", "value"), [("epsilon_start", 0.2), ("cql_anneal", 5.0), ("mixing_ratio", 0.5)]
)
def test_runs_that_were_made_differently_are_not_averaged(table, name, value):
    """One run of three has another setting: no mean, unless the setting is grouped by."""
    kinds = table.astype({name: object})
    kinds.loc[(kinds.algorithm == "se") & (kinds.seed == 1), name] = value
    with pytest.raises(ValueError, match=f"^the runs of se differ in {name}: .*group by it$"):
        mean_curves(kinds, "test_win_rate")
    assert len(measured(kinds, "test_win_rate", by=["algorithm", name])) == len(table)
    whole = kinds.assign(**{name: (table.algorithm == "se").map({True: value, False: None})})
    with pytest.raises(ValueError, match=f"^the runs differ in {name}: .*group by it$"):
        mean_curves(whole, "test_win_rate")
    assert len(mean_curves(kinds.assign(**{name: value}), "test_win_rate"))


def test_a_control_is_a_line_of_its_own_and_says_what_it_is(table):
    assert set(table.variant) == {""} and table.exploration.nunique() == 2
    macql = table[table.algorithm == "macql"]
    with_se = macql.assign(exploration=ALGORITHMS["se"].exploration, run=macql.run + "se")
    free = table[table.algorithm == "ovmse"].assign(online_cql=False)
    both = pd.concat([macql, with_se, free])
    means = mean_curves(both, "test_win_rate")
    assert means.groupby(["algorithm", "variant"], sort=False).ngroups == 3
    assert (means.seeds == 3).all()
    spec = figure1(both).to_dict()
    [names] = layers(panels(spec)[0], "text")
    names = {r["name"] for r in data(spec, names)} - {"Monte-Carlo return"}
    assert names == {"MACQL", "MACQL with SE", "OVMSE without CQL"}
    got = summary(both, at=[0])
    assert got.variant.tolist() == ["without CQL", "", "with SE"]
    assert readable(got).variant.tolist() == got.variant.tolist()
    assert "MACQL with SE keeps" in kept_wins(both)


@pytest.mark.slow
def test_any_setting_that_one_run_has_otherwise_is_named(tmp_path):
    """Whatever it is, but for what makes a run a control: that is a line of its own."""
    folder = write_runs(tmp_path, steps=5_000)
    runs = [folder / f"se_seed{seed}" for seed in (0, 1)]
    stored = [json.loads((run / "config.json").read_text()) for run in runs]

    def say(number, **changes):
        (runs[number] / "config.json").write_text(json.dumps(stored[number] | changes))

    free = {"algorithm", "seed", "continue_with_other_code", *CONTROLS}
    for name in set(Config.model_fields) - free:
        usual = stored[0][name]
        say(1, **{name: {str: "x", bool: not usual, type(None): 5}.get(type(usual), 7)})
        with pytest.raises(UserError, match=rf"(differ in {name}: |runs of 2 {name}s at once: )"):
            measured(curves(runs), "test_win_rate")
        say(1, **{name: usual})
        measured(curves(runs), "test_win_rate")
    for number, data in enumerate(("one", "two")):
        say(number, dataset_sha256=data)
    with pytest.raises(UserError, match="differ in dataset_sha256: "):
        measured(curves(runs), "test_win_rate")


def test_what_the_algorithms_themselves_say_may_differ(table):
    two = table[table.algorithm.isin(["ovmse", "se"])]
    scratch = two.assign(algorithm=two.algorithm.replace("se", "qmix"))
    longer = scratch.offline_updates.where(scratch.algorithm == "qmix", 1500)
    assert len(mean_curves(scratch.assign(offline_updates=longer), "test_win_rate"))


def test_runs_of_other_data_or_unknown_code_are_not_averaged(table):
    data = np.where(table.seed == 0, "0ther", "s4me")
    with pytest.raises(ValueError, match="^the runs of macql differ in dataset_sha256: "):
        mean_curves(table.assign(dataset_sha256=data), "test_win_rate")
    with pytest.raises(ValueError, match="^12 of 12 runs do not say which code made them"):
        mean_curves(table.assign(code=None), "test_win_rate")


def test_runs_of_two_states_of_the_code_are_not_compared(table):
    codes = table.assign(code=np.where(table.algorithm == "se", "11111111", "22222222"))
    with pytest.raises(ValueError, match="^runs of 2 codes at once: "):
        figure1(codes)
    half = table.assign(code=np.where(table.seed == 0, "11111111", None))
    with pytest.raises(ValueError, match="^runs of 2 codes at once: "):
        mean_curves(half, "test_win_rate")


def test_a_run_that_learned_from_no_data_stands_beside_any(table):
    scratch = table[table.algorithm == "se"].assign(algorithm="qmix", dataset=None, run="x")
    scratch = scratch[scratch.seed == 0]
    assert len(measured(pd.concat([table, scratch]), "test_win_rate")) == len(table) + len(scratch)


def test_tables_and_charts_import_without_torch():
    code = (
        "import sys, analysis.charts.curves, analysis.charts.show, analysis.widgets.live; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


# Theme.


def lab(colour: str, seen_by: np.ndarray) -> np.ndarray:
    """CIELAB of "#RRGGBB" as seen by a person, `seen_by` [3, 3] acting on linear RGB."""
    levels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
    )
    xyz = to_xyz @ np.clip(seen_by @ linear, 0, 1) / [0.9505, 1, 1.0888]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira and Fernandes (2009), severity 1.
SIGHTS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0993], [-0.0039, -0.0481, 1.0520]]
    ),
    "deuteranopia": np.array(
        [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]
    ),
}


@pytest.mark.parametrize("around", ["#222222", "#E8E8E8"])  # of text in a light and a dark theme
@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_differ_for_every_eye(sight, around):
    hexes = {n: s.colour.replace(theme.AROUND, around) for n, s in theme.STYLES.items()}
    seen = {name: lab(colour, SIGHTS[sight]) for name, colour in hexes.items()}
    distance, pair = min(
        (np.linalg.norm(seen[a] - seen[b]), (a, b)) for a, b in combinations(seen, 2)
    )
    assert distance > 17, pair


def luminance(colour):
    lightness = lab(colour, np.eye(3))[0]
    return ((lightness + 16) / 116) ** 3 if lightness > 8 else lightness / 903.3


def test_colours_stand_out_on_white_and_on_black_and_shapes_differ():
    assert len({s.shape for s in theme.STYLES.values()}) == len(theme.STYLES) == 9
    black = luminance("#111111")  # the ground of JupyterLab's dark theme
    for colour, least in [*((s.colour, 2.2) for s in theme.STYLES.values()), (theme.QUIET, 4)]:
        if colour != theme.AROUND:
            assert 1.05 / (luminance(colour) + 0.05) >= least, colour
            assert (luminance(colour) + 0.05) / (black + 0.05) >= max(least, 2.7), colour


def test_labels_are_those_of_the_papers_in_the_order_of_the_table():
    assert [theme.label(name) for name in theme.STYLES] == [
        "OVMSE", "OVM", "SE", "Switch CQL", "MACQL", "MACal-QL", "Action proposal", "QMIX", "WSRL"
    ]  # fmt: skip
    assert list(theme.STYLES) == list(ALGORITHMS)


# Charts.


def panels(spec):
    return spec.get("vconcat", [spec])


def data(spec, layer):
    """The rows a layer draws, parsed from the text inside the specification."""
    return list(csv.DictReader(io.StringIO(spec["datasets"][layer["data"]["name"]])))


def layers(panel, kind):
    return [one for one in panel["layer"] if one["mark"]["type"] == kind]


@pytest.mark.parametrize("draw", CHARTS)
def test_every_chart_carries_its_data_and_the_house_colours(draw, table):
    spec = draw(table).to_dict()
    for panel in panels(spec):
        thin, bold = layers(panel, "line")
        seeds = data(spec, thin)
        assert {(r["algorithm"], r["seed"]) for r in seeds} == {
            (n, s) for n in STORY for s in "012"
        }
        scale = bold["encoding"]["color"]["scale"]
        assert dict(zip(scale["domain"], scale["range"], strict=True)) == {
            name: theme.STYLES[name].colour for name in STORY
        }
        x, y = bold["encoding"]["x"], bold["encoding"]["y"]
        assert x["title"] == "environment steps (thousands)"
        assert x["scale"]["domain"][0] == y["scale"]["domain"][0] == 0
        assert max(float(r["x"]) for r in seeds) == pytest.approx(table.env_steps.max() / 1000)
        [names], [_, keys] = layers(panel, "text"), layers(panel, "point")
        assert {"OVMSE", "SE", "Switch CQL", "MACQL"} <= {r["name"] for r in data(spec, names)}
        assert [r["name"] for r in data(spec, names)] == [r["name"] for r in data(spec, keys)]
    assert spec["params"][0]["select"]["fields"] == ["name"]
    assert '"url"' not in json.dumps(spec)


def test_figure1_shows_the_measured_numbers(table):
    spec = figure1(table).to_dict()
    value, win = panels(spec)
    assert value["layer"][-1]["encoding"]["y"]["field"] == "y"
    thin, bold = layers(value, "line")
    assert bold["encoding"]["y"]["axis"]["title"] == "mean Q_tot"
    drawn = [float(r["q_ended"]) for r in data(spec, thin)]
    assert sorted(drawn) == pytest.approx(sorted(table.q_ended), abs=0.001)
    [rule] = layers(value, "rule")
    assert [float(r["y"]) for r in data(spec, rule)] == [pytest.approx(8.8)]
    assert "Monte-Carlo return" in {r["name"] for r in data(spec, layers(value, "text")[0])}
    thin, bold = layers(win, "line")
    assert bold["encoding"]["y"]["axis"]["title"] == "test win rate (%)"
    assert bold["encoding"]["y"]["scale"]["domain"] == [0, 100]
    drawn = [float(r["test_win_rate"]) for r in data(spec, thin)]
    assert sorted(drawn) == pytest.approx(sorted(100 * table.test_win_rate), abs=0.001)
    assert not layers(win, "rule")


@pytest.mark.slow
def test_learning_curve_shows_the_phases_that_were_measured(table):
    first = table[(table.algorithm == "ovmse") & (table.env_steps == 0)]
    offline = [
        first.assign(phase="offline", updates=n, test_win_rate=n / 1000, q_ended=np.nan)
        for n in (200, 400, 600)
    ]
    spec = learning_curve(pd.concat([table, *offline])).to_dict()
    before, after, value = panels(spec)
    assert spec["title"]["text"] == "From a dataset to battles"
    scratch = table[table.algorithm == "se"].assign(algorithm="qmix", dataset=None)
    assert learning_curve(scratch).to_dict()["title"]["text"] == "From scratch"
    thin, bold = layers(before, "line")
    assert bold["encoding"]["x"]["title"] == "updates"
    assert sorted({float(r["test_win_rate"]) for r in data(spec, thin)}) == [20, 40, 60]
    assert layers(after, "line")[1]["encoding"]["y"]["axis"]["title"] == "test win rate (%)"
    assert layers(value, "rule")
    assert len(panels(learning_curve(table.assign(q_ended=np.nan)).to_dict())) == 1


def test_value_axis_holds_a_young_network(table):
    young = table[table.env_steps == 0].assign(q_ended=-0.3, mc_ended=0.5)
    spec = panels(figure1(young).to_dict())[0]
    encoding = layers(spec, "line")[1]["encoding"]
    assert encoding["y"]["scale"]["domain"] == [-2, 2]
    assert encoding["x"]["scale"]["domain"] == [0, 1]  # only tested at step 0 so far


def test_nothing_to_draw_is_said(table):
    with pytest.raises(ValueError, match="no online row carries q_ended"):
        figure1(table.assign(q_ended=np.nan))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9))
def test_names_never_overlap_and_stay_near(values):
    at = spread(np.array(values), 10, 0, 100)
    assert np.all(np.diff(np.sort(at)) >= 10 - 1e-9)
    assert at.min() >= -1e-9 and at.max() <= 100 + 1e-9
    assert [values[i] for i in np.argsort(at)] == sorted(values)
    if len(values) == 1 or np.diff(sorted(values)).min() >= 10:
        assert at == pytest.approx(values)


# Output.


def test_pictures_are_small_and_in_the_right_colours(table):
    picture = base64.b64decode(mimebundle(figure1(table))["image/png"])
    assert len(picture) <= 30_000
    assert all(pixels(picture, theme.STYLES[n].colour, tolerance=0) > 100 for n in STORY)
    assert Image.open(io.BytesIO(picture)).width <= 700  # JupyterLab with its side bar open


def test_text_takes_the_colour_around_it_and_the_picture_is_black_on_white(table):
    spec = mimebundle(figure1(table))[VEGALITE]
    assert spec["config"]["background"] == "transparent"
    assert spec["config"]["text"]["color"] == spec["config"]["axis"]["labelColor"] == "currentColor"
    assert spec["usermeta"] == {"embedOptions": {"renderer": "svg"}}  # a canvas has no such colour
    assert spec["config"]["line"]["strokeJoin"] == "round"  # a mitre draws a peak past its value
    paper = theme.on_paper(spec)
    assert paper["config"]["background"] == "white"
    assert "currentColor" not in json.dumps(paper) and "currentColor" in json.dumps(spec)


def test_show_displays_one_output_with_exactly_two_forms(table, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "analysis.charts.show.display", lambda bundle, raw: shown.append((bundle, raw))
    )
    show(figure1(table))
    [(bundle, raw)] = shown
    assert raw
    assert set(bundle) == {VEGALITE, "image/png"}
    nbformat.validate(
        nbformat.v4.new_notebook(
            cells=[
                nbformat.v4.new_code_cell(
                    outputs=[nbformat.v4.new_output("display_data", data=bundle)]
                )
            ]
        )
    )


@pytest.mark.slow
def test_report_is_one_page_that_names_no_other_place(table, tmp_path):
    bundle = mimebundle(figure1(table))
    source = write_notebook(tmp_path / "a.ipynb", "show(chart)", "x = 1", outputs={0: [bundle] * 2})
    notebook = nbformat.read(source, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("intro\n\n# Does `it` *forget*? a < b"))
    nbformat.write(notebook, source)
    page = write_report(source, tmp_path / "out" / "a.html").read_text()
    assert "<title>Does it forget? a &lt; b</title>" in page
    assert page.count("window.vegaEmbed=") == 1
    assert page.count('<script type="application/json">') == 2
    assert page.count("data:image/png;base64,") == 2
    assert '<details class="code">' in page
    tags = re.sub(
        r"<script[^>]*>.*?</script>", lambda m: m[0][: m[0].index(">") + 1], page, flags=re.S
    )
    tags = re.sub(r"data:image/png;base64,[^\"]*", "", tags)
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", tags)
    assert not re.search(r"<link|@import|url\(", tags)
    assert f"--ink: {theme.INK}; --quiet: {theme.QUIET}; --font: Helvetica" in page
    assert "cdn" not in tags.lower() and "mathjax" not in tags.lower()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.html"]


def test_truth_values_are_true_or_false_to_vega():
    rows = pd.DataFrame({"x": [1.5, 2.5], "control": [True, False]})
    made = csv_data(rows).to_dict()
    assert made["values"] == "x,control\n1.5,1\n2.5,0\n"
    assert made["format"]["parse"] == {"x": "number", "control": "number"}
    assert rows.control.dtype == bool


def test_the_sentence_over_a_single_panel_stays_in_the_chart():
    one = alt.Chart(csv_data(pd.DataFrame({"x": [1]}))).mark_point().encode(x="x:Q")
    panel = one.properties(title=panel_title("Dot: what it is", 13))
    assert titled(panel, "What?", "where").to_dict()["title"] == {
        "text": "What?", "subtitle": ["where", "Dot: what it is"],
    }  # fmt: skip
    assert titled(one, "What?", "where").to_dict()["title"]["subtitle"] == "where"


def test_a_report_begins_with_the_answer_and_not_with_how_long_it_took(tmp_path, capsys):
    items = tracked([0, 1], "Snapshots replayed")
    list(time.sleep(PATIENCE / 2) for _ in items)
    said = capsys.readouterr().out
    assert said == "Snapshots replayed: 2 in 2 s\n"
    source = write_notebook(tmp_path / "a.ipynb", "1", "2", outputs={0: [{"text/plain": said}]})
    notebook = nbformat.read(source, as_version=4)
    for text in (said, "Replayed: a b in 2 s\n"):  # as papermill stores it, and something else
        notebook.cells[1].outputs.append(nbformat.v4.new_output("stream", text=text))
    nbformat.write(notebook, source)
    page = write_report(source, tmp_path / "a.html").read_text()
    assert "a b in 2 s" in page and "Snapshots replayed" not in page
    assert "Snapshots replayed" in source.read_text()


def test_the_foot_of_a_report_says_when_what_and_how_long_and_links_the_notebook(tmp_path):
    (tmp_path / "my runs").mkdir()
    source = write_notebook(tmp_path / "my runs" / "a&b.ipynb", "1")
    notebook = nbformat.read(source, as_version=4)
    notebook.metadata["papermill"] = {"duration": 42.7}
    nbformat.write(notebook, source)
    foot = re.search("<footer>.*</footer>", write_report(source, tmp_path / "a.html").read_text())
    when = datetime.now(UTC)
    assert f"{when.day} {when:%B %Y}" in foot[0] and f"by ovmse {__version__}" in foot[0]
    assert "ran for 43 s" in foot[0]
    assert re.findall('href="([^"]*)"', foot[0]) == ["my%20runs/a%26b.ipynb", "my%20runs/"]


class Pictures(HTMLParser):
    """What a browser reads of each picture."""

    def __init__(self, page):
        super().__init__()
        self.attributes = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.attributes.append(dict(attrs))


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ({"text": """a "b" 'c'\n<script>&amp;"""}, """a "b" 'c'\n<script>&amp;"""),
        ({"text": ['on"error=1', "<b>"]}, 'on"error=1 <b>'),  # Vega's lines
        ('"><b>', '"><b>'),
        ({"text": ""}, "chart"),
        (None, "chart"),
    ],
)
@pytest.mark.slow
def test_the_text_of_a_picture_is_its_charts_title_whatever_stands_in_it(title, said, tmp_path):
    spec = {"mark": "point"} | ({} if title is None else {"title": title})
    bundle = {VEGALITE: spec, "image/png": "AAAA"}
    source = write_notebook(tmp_path / "a.ipynb", "show(chart)", outputs={0: [bundle]})
    page = write_report(source, tmp_path / "a.html").read_text()
    [picture] = Pictures(page).attributes
    assert picture == {"src": "data:image/png;base64,AAAA", "alt": said}


def test_report_without_charts_carries_no_vega(tmp_path):
    page = write_report(write_notebook(tmp_path / "plain.ipynb", "1"), tmp_path / "a.html")
    assert page.stat().st_size < 20_000
    assert "<title>plain</title>" in page.read_text()


def test_a_failed_report_leaves_the_old_one(tmp_path):
    page = tmp_path / "a.html"
    page.write_text("old")
    (tmp_path / "broken.ipynb").write_text("{")
    with pytest.raises(nbformat.reader.NotJSONError):
        write_report(tmp_path / "broken.ipynb", page)
    assert page.read_text() == "old"


# Live.


def events(n=500):
    yield Progress("offline", 10, 10, "updates", {"loss": 0.5})
    for i in range(n + 1):
        row = {"test_win_rate": i / n, "q_ended": 10.0} if i % 10 == 0 else None
        yield Progress("online", 10 * i, 10 * n, "environment steps", row)


def test_without_a_front_end_rows_are_logged_at_a_bounded_rate(capsys):
    rows = live.follow(events(), "OVMSE")
    lines = capsys.readouterr().out.splitlines()
    assert len(rows) == 52
    assert lines[:2] == ["OVMSE", "offline: 10 of 10 updates"]
    assert lines[-1] == "online: 5,000 of 5,000 environment steps, win rate 100 %, Q_tot 10.00"
    assert len(lines) < 10


def test_a_finished_run_says_what_it_found(capsys):
    row = {"phase": "online", "env_steps": 10, "test_win_rate": 0.25}
    done = Progress("online", 10, 10, "environment steps", row, "finished before", [row])
    assert live.follow([done], "SE") == [row]
    said = "SE\nfinished before\nonline: 10 of 10 environment steps, win rate 25 %\n"
    assert capsys.readouterr().out == said


class Handle:
    def update(self, bundle, raw):
        self.bundle = bundle


@pytest.fixture
def front_end(monkeypatch):
    handle = Handle()

    def display(widget, display_id):
        handle.widget = widget
        return handle

    monkeypatch.setattr(live, "has_front_end", lambda: True)
    monkeypatch.setattr(live, "display", display)
    return handle


def test_the_widget_is_redrawn_at_a_bounded_rate_and_closed(front_end, monkeypatch, capsys):
    now, drawn = [0.0], []
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    draw = live.Live._draw
    monkeypatch.setattr(live.Live, "_draw", lambda self: (drawn.append(now[0]), draw(self)))

    def clocked():
        for event in events():
            now[0] += 0.01  # 502 events in five seconds
            yield event

    live.follow(clocked(), "SE", "se")
    assert 20 <= len(drawn) <= 27
    widget = front_end.widget
    assert widget.colour == theme.STYLES["se"].colour
    assert (widget.phase, widget.total, widget.unit) == ("online", 5000, "environment steps")
    assert widget.points[1] == [100, 2.0, 10.0]
    assert widget.comm is None and widget.layout.comm is None  # closed
    assert set(front_end.bundle) == {"text/plain"}
    assert front_end.bundle["text/plain"].endswith("win rate 100 %, Q_tot 10.00")
    assert capsys.readouterr().out == ""


def test_a_continued_run_shows_its_whole_curve_and_a_pace_without_compiling(
    front_end, monkeypatch, capsys
):
    now, left = [0.0], []
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    rows = [{"phase": "offline", "updates": 30, "test_win_rate": 0.9, "loss": 1}]
    rows += [{"phase": "online", "env_steps": n, "test_win_rate": n / 1000} for n in (0, 100)]

    def continued():
        yield Progress("online", 100, 300, "environment steps", earlier=rows)
        now[0] += 60  # compiling
        for done in range(110, 301, 10):
            yield Progress("online", done, 300, "environment steps")
            left.append(front_end.widget.seconds_left)
            now[0] += 1

    live.follow(continued(), "SE", "se")
    assert front_end.widget.points == [[0, 0.0, None], [100, 10.0, None]]
    assert left[0] is None
    assert left[1:-1] == [pytest.approx(n) for n in range(18, 0, -1)]


def test_an_interrupted_run_closes_its_widget(front_end):
    def broken():
        yield Progress("online", 0, 10, "environment steps", {"test_win_rate": 0.5})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        live.follow(broken(), "SE")
    assert front_end.widget.comm is None
    assert front_end.bundle == {
        "text/plain": "SE. online: 0 of 10 environment steps, win rate 50 %"
    }


def test_no_front_end_outside_a_kernel():
    assert not live.has_front_end()


def test_what_is_written_in_a_chart_is_read_on_white_and_on_black() -> None:
    """No fixed colour has a contrast of 4.5 on both, so text takes that of the text around."""
    written = [
        f"{part}.{name}"
        for part, values in theme.config().items()
        if isinstance(values, dict)
        for name, colour in values.items()
        if name in ("labelColor", "titleColor", "subtitleColor")
        or (part, name) == ("text", "color")
        if colour != theme.AROUND
    ]
    assert not written
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", ()):
                for mark in _text_marks(output.get("data", {})):
                    for name in ("color", "fill"):
                        colour = mark.get(name, theme.AROUND)
                        value = colour.get("value", "") if isinstance(colour, dict) else colour
                        assert not str(value).startswith("#"), (path.stem, mark)


def _text_marks(found: object) -> Iterator[dict]:
    """The definitions of text in Vega-Lite (`mark`) and in Vega (`encode`), wherever they stand."""
    if isinstance(found, dict):
        mark = found.get("mark")
        if isinstance(mark, dict) and mark.get("type") == "text":
            yield mark
        if found.get("type") == "text" and isinstance(found.get("encode"), dict):
            yield from found["encode"].values()
        for value in found.values():
            yield from _text_marks(value)
    elif isinstance(found, list):
        for value in found:
            yield from _text_marks(value)
