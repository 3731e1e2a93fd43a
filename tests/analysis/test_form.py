"""What the form of 01_train says before anything runs, and the process that it starts."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from analysis.notebook import TRAINING, parameters_in, training_given
from analysis.widgets.form import CHOICES, RULE, Training, cost, durations
from ovmse import Config
from ovmse.config import PRESETS, TASKS
from ovmse.errors import UserError
from ovmse.method.algorithms import ALGORITHMS


def test_it_offers_all_that_there_is() -> None:
    assert CHOICES["algorithm"] == list(ALGORITHMS) and CHOICES["task"] == list(TASKS)
    assert set(CHOICES["preset"]) == set(PRESETS) == set(RULE)


def test_the_cost_is_that_of_the_finished_runs_most_like_it() -> None:
    def run(algorithm: str, task: str, online: float) -> dict:
        settings = {"preset": "quick", "task": task, "algorithm": algorithm, "backend": "smax"}
        settings |= {"online_steps": 60_000, "offline_updates": 1_500}
        return settings | {"spent": {"offline": 30.0, "online": online}}

    known = [run("ovmse", "2s3z", 100), run("ovmse", "2s3z", 140), run("se", "2s3z", 600)]
    known.append(run("se", "3s5z", 7_200))

    def said(algorithm: str, task: str, steps: int = 60_000, **more: object) -> str:
        given = {"algorithm": algorithm, "task": task, "preset": "quick", "online_steps": steps}
        return cost(Config.from_parameters(**given | {"offline_updates": 1_500} | more), known)

    assert said("ovmse", "2s3z") == (
        "About 2 minutes of online training, after 30 s of pre-training unless a run of its folder "
        "has done it: by the finished 2 runs of quick, 2s3z, ovmse. It needs about 1.2 GB of "
        "memory."
    )
    assert "About 20 minutes" in said("ovmse", "2s3z", 600_000)
    assert "after 60 s of pre" in said("ovmse", "2s3z", offline_updates=3_000)
    assert "pre-training" not in said("qmix", "2s3z")
    smac = said("ovmse", "2s3z", backend="smac", num_envs=8)
    assert smac.startswith("Some minutes as a rule") and "about 9.2 GB" in smac
    assert "About 10 minutes" in said("se", "2s3z") and "the finished run of" in said("se", "2s3z")
    assert "About 5 minutes" in said("macql", "2s3z")  # 280 s, of every algorithm there
    assert "About 34 minutes" in said("ovmse", "6h_vs_8z")  # 2,010 s, of every map
    tiny = Config.from_parameters(algorithm="ovmse", preset="tiny")
    assert cost(tiny, known).startswith("A minute as a rule; no finished run tells more. It needs")


def test_finished_runs_alone_tell_what_they_took(tmp_path: Path) -> None:
    rows = [{"phase": "offline", "wall_s": 3.0, "updates": 1, "env_steps": 0},
            {"phase": "online", "wall_s": 5.0, "updates": 1, "env_steps": 8},
            {"phase": "online", "wall_s": 8.0, "updates": 2, "env_steps": 16}]  # fmt: skip
    for name in ("done", "begun", "odd"):
        folder = tmp_path / name
        folder.mkdir()
        settings = {"algorithm": "se", "preset": "tiny", "task": "2s3z", "seed": 0,
                    "online_steps": 16, "offline_updates": 1}  # fmt: skip
        (folder / "config.json").write_text(json.dumps(settings))
        lines = "x" if name == "odd" else "\n".join(map(json.dumps, rows)) + "\n"
        (folder / "metrics.jsonl").write_text(lines)
        if name != "begun":
            (folder / "result.json").write_text("{}")
    found = durations([tmp_path, tmp_path / "nowhere"])
    assert [one["spent"] for one in found] == [{"offline": 3.0, "online": 8.0}]


def test_a_cell_is_read_as_python_reads_it() -> None:
    source = "# Parameters of this notebook\nseed: int = 1  # one\ntask = '2s3z'\nseed = 4"
    given = parameters_in(source, TRAINING)
    assert given == {"seed": 4, "task": "2s3z"}
    config, run = training_given(given | {"run_dir": "/a/b"})
    assert (config.seed, run) == (4, Path("/a/b"))
    with pytest.raises(UserError, match="no parameter 'sede'; did you mean 'seed'"):
        parameters_in("sede = 1", TRAINING)
    with pytest.raises(UserError, match="not plain Python"):
        parameters_in("seed = ", TRAINING)
    for wrong in ("task = medium", "seed = 1 / 0", "seed = print(1)"):
        with pytest.raises(UserError, match="is no value; is it a name without quotes"):
            parameters_in(wrong, TRAINING)


@pytest.mark.slow
def test_a_training_of_its_own_is_the_one_of_the_cell(tmp_path: Path) -> None:
    given = {"algorithm": "qmix", "task": "climb_monotone", "preset": "tiny", "seed": 2,
             "online_steps": 400, "epsilon_start": 0.5, "test_interval": 400, "num_envs": 8,
             "online_lr": None, "run_dir": str(tmp_path / "run")}  # fmt: skip
    events = list(Training(given).events())
    assert (events[-1].phase, events[-1].done, events[-1].unit) == (
        "online", 400, "environment steps",
    )  # fmt: skip
    written = json.loads((tmp_path / "run/config.json").read_text())
    assert written["epsilon_start"] == 0.5 and written["seed"] == 2
    with pytest.raises(UserError, match="^[^ ].*other settings: seed 2 not 3"):
        list(Training(given | {"seed": 3}).events())
    long = {"online_steps": 1_000_000, "run_dir": str(tmp_path / "long")}
    for name, said in (("SIGKILL", "was killed .SIGKILL., perhaps"), ("stop", "^stopped; Start")):
        training = Training(given | long)
        events = training.events()
        next(events)
        training.process.send_signal(signal.SIGINT)  # meant for a cell of the notebook
        next(events)
        training.stop() if name == "stop" else training.process.kill()
        with pytest.raises(UserError, match=said):
            list(events)
