"""Settings: what is refused and in which words, presets, and defaults that depend."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ovmse.config import PRESETS, TASKS, Config
from ovmse.errors import UserError
from ovmse.method.algorithms import ALGORITHMS

make = Config.from_parameters

BAD = [
    ("algorithm", "ovmsee", "'ovmse'"),
    ("task", "4m", "'2s3z'"),
    ("dataset", "", "a path; . is this folder"),
    ("dataset", "~nosuchuser/x.h5", "a path; there is no user 'nosuchuser'"),
    ("dataset", "a\0b.h5", "a path without a zero byte"),
    ("task", "", "'2s3z'"),
    ("backend", "sc2", "'smax'"),
    ("preset", "huge", "'tiny', 'quick' or 'paper'"),
    ("seed", -1, "greater than or equal to 0"),
    ("seed", True, "a number from 0 to below 2,147,483,648"),
    ("gamma", False, "a number from 0 to 1"),
    ("cql_anneal", True, "a number"),  # whose default is none
    ("seed", 2**31, "less than 2147483648"),
    ("seed", "five", "a valid integer"),
    ("seed", 1.5, "a valid integer"),
    ("seed", "1:30", "a valid integer"),
    ("seed", 1e21, "a valid integer from 0 to below 2,147,483,648"),
    ("buffer_episodes", "1" * 5_000, "a valid integer from 1 to 1,000,000"),
    ("threads", 0, "greater than or equal to 1"),
    ("hidden_size", 0, "greater than or equal to 1"),
    ("gamma", 1.01, "less than or equal to 1"),
    ("gamma", -0.5, "greater than or equal to 0"),
    ("gamma", "nought", "a valid number"),
    ("batch_size", "many", "a valid integer"),
    ("grad_clip", 0, "greater than 0"),
    ("cql_alpha", -0.1, "greater than or equal to 0"),
    ("cql_alpha", math.inf, "a finite number"),
    ("cql_form", "cfcql", "'macql', 'calibrated' or 'counterfactual'"),
    ("device", "tpu", "'cpu' or 'cuda'"),
    ("policy_warmup_steps", -1, "greater than or equal to 0"),
    ("cql_samples", 0, "greater than or equal to 1"),
    ("cql_data_action", "perhaps", "a valid boolean"),
    ("offline_updates", 0, "greater than or equal to 1"),
    ("offline_lr", math.nan, "a finite number"),
    ("online_lr", 0.0, "greater than 0"),
    ("online_steps", "1e5.5", "a valid integer"),
    ("exploration", "greedy", "'epsilon_greedy'"),
    ("epsilon_start", 2, "less than or equal to 1"),
    ("epsilon_end", math.nan, "or equal to"),
    ("epsilon_anneal", -1, "greater than or equal to 0"),
    ("memory_end", 1.5, "less than or equal to 1"),
    ("online_cql", 3, "a valid boolean"),
    ("mixing_ratio", 1.2, "less than or equal to 1"),
    ("lr_warmup_updates", -1, "greater than or equal to 0"),
    ("episodes_per_update", 0, "greater than or equal to 1"),
    ("test_interval", 0, "greater than or equal to 1"),
    ("fixed_battles", [4], "a valid integer"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), BAD)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError) as caught:
        make(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}: got {value!r}, allowed: ")
    assert allowed in message
    assert "\n" not in message and "pydantic" not in message


def test_every_bad_value_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"^gamma: got 2, .*; seed: got 'x', |^seed.*; gamma"):
        make(gamma=2, seed="x")


def test_an_unknown_name_is_an_error_with_a_hint() -> None:
    with pytest.raises(ValueError, match="^there is no setting 'online_step'.*'online_steps'"):
        make(online_step=5)
    with pytest.raises(ValueError, match="^there is no setting 'zzzz'$"):
        make(zzzz=5)
    with pytest.raises(ValueError):
        Config(online_step=5)


def test_exploration_cannot_end_above_its_start() -> None:
    with pytest.raises(ValueError, match=r"^epsilon_end: got 0.5, .* epsilon_start = 0.2$"):
        make(epsilon_start=0.2, epsilon_end=0.5)
    assert make(epsilon_start=0.2, epsilon_end=0.2).epsilon_end == 0.2


def test_text_as_papermill_passes_it() -> None:
    config = make(seed="5", online_cql="no", mixing_ratio="0.1", preset="tiny", online_lr="1e-4")
    assert (config.seed, config.online_cql, config.mixing_ratio) == (5, False, 0.1)
    assert config.online_lr == 1e-4
    assert make(seed="010").seed == 10  # decimal, as in a grid
    assert make(online_cql="yes", algorithm="qmix").online_cql is True


def test_none_means_as_the_preset_says() -> None:
    nothing = dict.fromkeys(Config.model_fields)
    assert make(**nothing) == make()
    assert make(**{**nothing, "preset": "tiny"}) == make(preset="tiny")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fill_in_what_is_not_given(preset: str) -> None:
    config = make(preset=preset, algorithm="wsrl")  # other rows have no warm-up
    for name, value in PRESETS[preset].items():
        assert getattr(config, name) == value
    assert config.preset == preset
    chosen = make(preset=preset, test_battles=7, offline_updates=9)
    assert (chosen.test_battles, chosen.offline_updates) == (7, 9)


def test_quick_is_the_default_and_the_paper_scale_depends_on_the_task() -> None:
    assert make() == make(preset="quick") == Config(**make().model_dump())
    paper = {task: make(task=task, preset="paper") for task in TASKS}
    steps = {task: paper[task].online_steps for task in ("2s3z", "3s5z", "5m_vs_6m", "6h_vs_8z")}
    assert list(steps.values()) == [1_000_000, 1_000_000, 3_000_000, 3_000_000]
    hardest, other = paper["6h_vs_8z"], paper["2s3z"]
    assert (hardest.epsilon_anneal, other.epsilon_anneal) == (500_000, 100_000)
    assert (hardest.online_td_lambda, other.online_td_lambda) == (0.3, 0.6)
    assert make(task="6h_vs_8z").epsilon_anneal == make().epsilon_anneal
    assert make(task="6h_vs_8z", preset="paper", online_steps=10).online_steps == 10
    assert make(preset="paper").long_test_battles == 640
    cut = {
        (t, p): make(task=t, preset=p).cut_battles for t in ("2s3z", "6h_vs_8z") for p in PRESETS
    }
    assert [key for key, keep in cut.items() if not keep] == [("6h_vs_8z", "quick")]


@pytest.mark.parametrize("task", TASKS)
def test_defaults_of_the_algorithms(task: str) -> None:
    """The paper's table (section 5.1), and the two that are not in it: the setting of each row."""
    found = {}
    for name in ALGORITHMS:
        c = make(algorithm=name, task=task)
        found[name] = (c.online_cql, c.exploration, c.cql_form, c.policy_warmup_steps)
        assert c.mixing_ratio == 0.0  # no algorithm keeps offline episodes by itself
    sequential, each = "sequential_decentralised", "epsilon_greedy"
    kept = task not in ("3s5z", "5m_vs_6m", "6h_vs_8z")
    assert found == {
        "ovmse": (kept, sequential, "macql", 0),
        "ovm": (kept, each, "macql", 0),
        "se": (False, sequential, "macql", 0),
        "switch_cql": (False, each, "macql", 0),
        "macql": (True, each, "macql", 0),
        "macal_ql": (True, each, "calibrated", 0),
        "action_proposal": (False, each, "macql", 0),
        "qmix": (False, each, "macql", 0),
        "wsrl": (False, each, "calibrated", 5_000),
    }
    assert make(algorithm="wsrl", task=task, preset="tiny").policy_warmup_steps == 500


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_given_beats_the_row(algorithm: str) -> None:
    row = make(algorithm=algorithm)
    chosen = {
        "exploration": "sequential_centralised",
        "cql_form": "counterfactual",
        "online_cql": not row.online_cql,
        "mixing_ratio": 0.3,
    }
    if ALGORITHMS[algorithm].pretrained:
        chosen["policy_warmup_steps"] = 77
    config = make(algorithm=algorithm, **chosen)
    assert config == row.model_copy(update=chosen)
    assert make(algorithm=algorithm, policy_warmup_steps=0).policy_warmup_steps == 0


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_its_backends_and_one_by_default(task: str) -> None:
    right, wrong = ("climb", "smax") if task.startswith("climb") else ("smax", "climb")
    others = "" if task.startswith("climb") else ", 'smac'"
    assert make(task=task).backend == make(task=task, backend=right).backend == right
    with pytest.raises(
        ValueError, match=rf"^backend: got '{wrong}', allowed: '{right}'{others} for {task}$"
    ):
        make(task=task, backend=wrong)


def test_without_an_offline_policy_there_is_no_warm_up() -> None:
    sentence = "policy_warmup_steps: got 500, allowed: 0 for qmix, which has no offline policy"
    with pytest.raises(ValueError) as caught:
        make(algorithm="qmix", policy_warmup_steps=500)
    assert str(caught.value) == sentence


def test_table_of_algorithms() -> None:
    """Who learns from what: the memory is OVMSE's and OVM's, and QMIX alone starts from nothing."""
    assert len({row.label for row in ALGORITHMS.values()}) == len(ALGORITHMS) == 9
    targets = {name: row.target for name, row in ALGORITHMS.items() if row.target != "td"}
    assert targets == {"ovmse": "ovm", "ovm": "ovm", "action_proposal": "action_proposal"}
    assert [name for name, row in ALGORITHMS.items() if not row.pretrained] == ["qmix"]


def test_a_config_cannot_be_changed() -> None:
    config = make()
    with pytest.raises(ValueError):
        config.seed = 3


def test_pretraining_is_shared_by_what_it_does_not_depend_on() -> None:
    base = make(preset="tiny").pretraining
    same = [{"algorithm": "macql"}, {"online_steps": 77}, {"mixing_ratio": 0.5}]
    same += [{"epsilon_start": 0.5}, {"memory_end": 0.2}, {"online_lr": 1e-5}]
    same += [{"policy_warmup_steps": 9}, {"algorithm": "wsrl", "cql_form": "macql"}]
    for change in same:
        assert make(preset="tiny", **change).pretraining == base, change
    other = [{"seed": 1}, {"dataset": "medium_replay"}, {"task": "3s5z"}, {"cql_alpha": 0.3}]
    other += [{"offline_updates": 31}, {"gamma": 0.9}, {"hidden_size": 32}, {"fixed_battles": 4}]
    other += [{"cql_form": "counterfactual"}, {"algorithm": "macal_ql"}]
    other += [{"cut_battles": False}]
    other += [{"cql_data_action": True}, {"offline_td_lambda": 0.1}, {"offline_lr": 1e-4}]
    for change in other:
        assert make(preset="tiny", **change).pretraining != base, change


@pytest.mark.parametrize("name", [n for n, f in Config.model_fields.items()
                                  if Config().model_dump()[n] is None
                                  or type(Config().model_dump()[n]) in (int, float)])  # fmt: skip
def test_every_number_has_an_upper_bound(name: str) -> None:
    with pytest.raises(UserError, match=f"^{name}: got 1000000000000000000, allowed: less than"):
        Config.from_parameters(**{name: 10**18})


@pytest.mark.parametrize("name", ["seed", "gamma", "task", "online_cql"])
def test_an_integer_that_python_does_not_write_out(name: str) -> None:
    with pytest.raises(UserError, match=f"^{name}: got an integer of thousands of digits, allowed"):
        make(**{name: 10**5_000})


@pytest.mark.parametrize("name", list(Config.model_fields))
def test_a_list_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name}: got \[1, 2\], allowed: "):
        Config.from_parameters(**{name: [1, 2]})
