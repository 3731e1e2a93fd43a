"""Every setting, validated once: the Config, the tasks and the presets. Needs no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ovmse.envs import BACKENDS, MAPS
from ovmse.errors import UserError
from ovmse.method.algorithms import ALGORITHMS, CQL_FORMS, EXPLORATIONS
from ovmse.runs.files import named_path

AlgorithmName = Literal[tuple(ALGORITHMS)]  # type: ignore[valid-type]
ExplorationName = Literal[EXPLORATIONS]  # type: ignore[valid-type]
CqlForm = Literal[CQL_FORMS]  # type: ignore[valid-type]
Preset = Literal["tiny", "quick", "paper"]
Share = Annotated[float, Field(ge=0, le=1)]
# Each has an upper bound that its use can bear: memory, or a time that somebody might wait.
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Steps = Annotated[int, Field(ge=0, le=10**9)]
Size = Annotated[int, Field(ge=1, le=4096)]
Battles = Annotated[int, Field(ge=1, le=100_000)]

# Each setting says which phase it decides. Runs that agree on those of the offline phase share
# their pre-training, whatever the others are.
T = TypeVar("T")
Offline = Annotated[T, "offline"]
Online = Annotated[T, "online"]
Both = Annotated[T, "both"]
Neither = Annotated[T, "neither"]  # how a run is named, filled in or kept: it decides no number
PHASES = ("offline", "online", "both", "neither")

# The paper's tasks, and games of four steps that can be solved (envs/climb.py). Any other map of a
# backend is a task too, without presets of its own.
# memory_cql: whether OVM keeps CQL online (of the paper's maps only on 2s3z: section 5.1).
# scratch: how QMIX learns from nothing on SMAX; QMIX's rows and the ladders of policies use it.
# Battles that the time limit cuts bootstrap from values that nothing else anchors. The larger
# TD(lambda) and the rarer the copies to the target network, the less those values inflate. Where
# they did, the team learnt to run away or nothing: 2s3z at 0.6 with a rate of 1e-3, 3s5z at 0.9
# with a copy every 40 updates.
# quick: offline settings by the lowest start of four tuning seeds (data/results/
# offline_settings.md). paper: what that preset says otherwise. Steps are the paper's; PyMARL2 and
# CFCQL treat 6h_vs_8z apart.
TASKS: dict[str, dict[str, Any]] = {
    "2s3z": {
        "memory_cql": True,
        "quick": {"offline_updates": 1500},
        "scratch": {
            "online_td_lambda": 0.9,
            "episodes_per_update": 2,
            "online_target_interval": 40,
            "epsilon_anneal": 50_000,
            "batch_size": 32,
            "num_envs": 16,
        },
        "paper": {"online_steps": 1_000_000},
    },
    "3s5z": {
        "quick": {"offline_updates": 1500},
        "scratch": {
            "online_td_lambda": 0.95,
            "episodes_per_update": 2,
            "online_target_interval": 80,
            "epsilon_anneal": 100_000,
            "batch_size": 32,
            "num_envs": 32,
        },
        "paper": {"online_steps": 1_000_000},
    },
    "5m_vs_6m": {
        "quick": {"offline_updates": 1500},
        "scratch": {
            "online_td_lambda": 0.8,
            "episodes_per_update": 8,
            "online_target_interval": 20,
            "epsilon_anneal": 150_000,
            "batch_size": 64,
            "num_envs": 32,
        },
        "paper": {"online_steps": 3_000_000},
    },
    "6h_vs_8z": {
        "scratch": {
            "online_td_lambda": 0.8,
            "episodes_per_update": 4,
            "online_target_interval": 40,
            "epsilon_anneal": 100_000,
            "batch_size": 32,
            "num_envs": 32,
        },
        "quick": {"cut_battles": False, "cql_alpha": 1.0},
        "paper": {
            "online_steps": 3_000_000,
            "epsilon_anneal": 500_000,
            "memory_anneal": 500_000,
            "offline_td_lambda": 0.3,
            "online_td_lambda": 0.3,
        },
    },
    "climb_monotone": {"memory_cql": True},
    "climb_penalty": {"memory_cql": True},
}
# From scratch there is no pre-trained network to protect, on any map.
SCRATCH = {"online_lr": 5e-4, "lr_warmup_updates": 0}

# `tiny` is for tests and stored notebooks, `quick` is the demo, `paper` is the paper's scale (docs/
# settings.md says where each of its numbers comes from).
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "offline_updates": 30,
        "online_steps": 2_000,
        "epsilon_anneal": 1_000,
        "memory_anneal": 1_000,
        "batch_size": 8,
        "lr_warmup_updates": 5,
        "policy_warmup_steps": 500,
        "test_interval": 500,
        "test_battles": 16,
        "long_test_battles": 16,
        "fixed_battles": 16,
    },
    "quick": {},
    "paper": {
        "offline_updates": 5_000,
        "offline_td_lambda": 0.6,
        "online_td_lambda": 0.6,
        "batch_size": 128,
        "cql_samples": 100,
        "num_envs": 8,
        "episodes_per_update": 8,
        "online_target_interval": 25,
        "epsilon_anneal": 100_000,
        "memory_anneal": 100_000,
        "test_interval": 10_000,
        "long_test_battles": 640,
    },
}


class Config(BaseModel):
    """The settings of one run.

    The defaults below are the `quick` preset; what is not given comes from the chosen preset, the
    algorithm and the task. ``from_parameters`` does the same with errors of one sentence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    # What is run.
    algorithm: Online[AlgorithmName] = "ovmse"  # type: ignore[valid-type]
    task: Both[str] = "2s3z"  # a map that the backend knows
    # A quality that ships in data/ or is made there, or the path of a file.
    dataset: Both[str] = "medium"
    backend: Both[Literal[BACKENDS]] = "smax"  # type: ignore[valid-type]
    preset: Neither[Preset] = "quick"
    seed: Both[Annotated[int, Field(ge=0, lt=2**31)]] = 0
    device: Both[Literal["cpu", "cuda"]] = "cpu"  # of the networks; battles stay on the CPU
    # torch threads; more than one rarely pays at these sizes.
    threads: Both[Annotated[int, Field(ge=1, le=256)]] = 1
    # Continue a run that other learning code began: its numbers then come from both.
    continue_with_other_code: Neither[bool] = False

    # Networks (QMIX's sizes).
    hidden_size: Both[Size] = 64
    embed_size: Both[Size] = 32
    hypernet_size: Both[Size] = 64

    # Both phases.
    gamma: Both[Share] = 0.99
    batch_size: Both[Size] = 32  # episodes
    grad_clip: Both[Positive] = 10.0  # largest norm of the gradient
    cql_alpha: Both[NotNegative] = 0.5  # alpha of eq. 10; 0.2 forgot online
    cql_form: Both[CqlForm] = "macql"
    cql_samples: Both[Size] = 10  # K joint actions in the soft maximum
    # Count the data's joint action among the K. Measured (seed 50, alpha 0.2, 200 offline updates):
    # without it the team won 52 % of its battles, with it 6 %, so the default leaves it out.
    cql_data_action: Both[bool] = False
    # Learn also from the dataset's battles that the time limit cut. Nothing anchors their last
    # value and the conservative term lifts it: on 6h_vs_8z (24 % of the steps) the value of fleeing
    # grows without end, and three of four pre-trainings win nothing (docs/settings.md).
    cut_battles: Both[bool] = True
    num_envs: Both[Size] = 16  # battles at once
    test_battles: Both[Battles] = 64

    # Offline phase (eq. 8-10).
    offline_updates: Offline[Count] = 750
    offline_lr: Offline[Positive] = 1e-3  # Adam; falls linearly to 0, or the win rate swings
    offline_td_lambda: Offline[Share] = 0.8
    # Updates between copies to the target network. Copied every 20, the values of the data inflate
    # to half again their Monte-Carlo return; at 60 they stay near it.
    offline_target_interval: Offline[Count] = 60
    offline_test_interval: Offline[Count] = 250  # updates
    fixed_battles: Offline[Battles] = 128  # of the offline policy, whose Q_tot is followed online

    # Online phase.
    online_steps: Online[Count] = 60_000  # environment steps, summed over the parallel battles
    exploration: Online[ExplorationName] = "sequential_decentralised"
    epsilon_start: Online[Share] = 1.0
    epsilon_end: Online[Share] = 0.05
    epsilon_anneal: Online[Steps] = 30_000  # environment steps, T of eq. 7
    memory_end: Online[Share] = 0.1  # lambda_end of eq. 6
    memory_anneal: Online[Steps] = 30_000  # environment steps, T of eq. 6
    online_cql: Online[bool] = True
    # Environment steps over which the conservative term's weight falls from cql_alpha to cql_end;
    # None: it stays.
    cql_anneal: Online[Steps | None] = None
    cql_end: Online[NotNegative] = 0.0
    mixing_ratio: Online[Share] = 0.0  # share of each batch that is offline episodes
    # Environment steps of the frozen offline policy before the first update; then the schedules
    # start. Only WSRL's row asks for it.
    policy_warmup_steps: Online[Steps] = 5_000
    online_td_lambda: Online[Share] = 0.8
    # The offline-to-online step. A fresh Adam at the offline rate moves every weight by the full
    # rate on its first steps and destroys the pre-trained network within ten updates. So the rate
    # is lower here and rises from zero; the optimiser's moments may be carried over instead.
    online_lr: Online[Positive] = 3e-4
    lr_warmup_updates: Online[Steps] = 30  # updates over which online_lr rises from 0
    optimizer_carry_over: Online[bool] = False
    episodes_per_update: Online[Battles] = 4
    online_target_interval: Online[Count] = 60  # updates
    buffer_episodes: Online[Annotated[int, Field(ge=1, le=10**6)]] = 5_000
    test_interval: Online[Count] = 2_000  # environment steps between tests and snapshots
    long_test_battles: Online[Battles] = 128  # of the tests at the start and at the end

    @classmethod
    def from_parameters(cls, **given: Any) -> Config:
        """A Config from what is given; None stands for "as the preset, task and algorithm say".

        Raises UserError with one sentence that names the setting, the value and what is allowed.
        """
        given = {name: value for name, value in given.items() if value is not None}
        for name in given:
            if name not in cls.model_fields:
                raise UserError(
                    f"there is no setting {name!r}{did_you_mean(name, cls.model_fields)}"
                )
        try:
            return cls(**given)
        except ValidationError as error:
            raise UserError("; ".join(_sentence(e) for e in error.errors())) from None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: dict[str, Any]) -> dict[str, Any]:
        """What is not given comes from the preset, the algorithm and the task."""
        for setting, value in given.items():  # True is 1 to Python
            known = cls.model_fields.get(setting)
            numeric = known and (known.default is None or type(known.default) in (int, float))
            if isinstance(value, bool) and numeric:
                raise UserError(f"{setting}: got {value}, allowed: a number{_bounds(setting)}")
        named = {n: given.get(n, cls.model_fields[n].default) for n in ("algorithm", "preset")}
        name = given.get("task", "2s3z")
        if not all(isinstance(value, str) for value in (name, *named.values())):
            return given  # the field's own check says what is wrong
        algorithm, preset = ALGORITHMS.get(named["algorithm"]), named["preset"]
        if algorithm is None or preset not in PRESETS:
            return given  # the field's own check says what is wrong
        task = TASKS.get(name, {})
        backend = given.get("backend") or _backends(name)[0]
        defaults = {**PRESETS[preset], **task.get(preset, {}), "backend": backend}
        if backend == "smac":  # a game takes about 1 GB
            defaults["num_envs"] = PRESETS["paper"]["num_envs"]
        if not algorithm.pretrained:
            defaults |= SCRATCH
            if backend == "smax":
                defaults |= task.get("scratch", {})
            if preset == "tiny":  # what it makes small stays small
                defaults |= PRESETS["tiny"] | {"lr_warmup_updates": 0}
        defaults["exploration"] = algorithm.exploration
        defaults["cql_form"] = algorithm.cql_form
        if not algorithm.policy_warmup:
            defaults["policy_warmup_steps"] = 0
        keeps = algorithm.online_cql
        defaults["online_cql"] = task.get("memory_cql", False) if keeps is None else keeps
        if given.get("cql_anneal") is not None:  # there must be a weight for it to fade
            defaults["online_cql"] = True
        return {**defaults, **given}

    @model_validator(mode="after")
    def _agree(self) -> Config:
        """What can be no path, and the settings that limit each other."""
        named_path(self.dataset, "dataset")
        if self.task not in MAPS[self.backend]:
            if allowed := _backends(self.task, ()):
                raise UserError(
                    f"backend: got {self.backend!r}, allowed: {', '.join(map(repr, allowed))} for "
                    f"{self.task}"
                )
            known = ", ".join(map(repr, MAPS[self.backend]))
            raise UserError(f"task: got {self.task!r}, allowed: {known}")
        if self.epsilon_end > self.epsilon_start:
            raise UserError(
                f"epsilon_end: got {self.epsilon_end}, allowed: at most "
                f"epsilon_start = {self.epsilon_start}"
            )
        online = self.batch_size - round(self.mixing_ratio * self.batch_size)
        if self.buffer_episodes < online:
            raise UserError(
                f"buffer_episodes: got {self.buffer_episodes}, allowed: at least the {online} "
                "online episodes of a batch"
            )
        if self.cql_anneal is not None and not self.online_cql:
            raise UserError(
                f"cql_anneal: got {self.cql_anneal}, allowed: none without online_cql (there is no "
                "conservative term online)"
            )
        if self.cql_anneal is None and self.cql_end:
            raise UserError(f"cql_end: got {self.cql_end}, allowed: 0 without cql_anneal")
        if self.cql_anneal is not None and self.cql_end > self.cql_alpha:
            raise UserError(
                f"cql_end: got {self.cql_end}, allowed: at most cql_alpha = {self.cql_alpha}"
            )
        if self.policy_warmup_steps and not ALGORITHMS[self.algorithm].pretrained:
            raise UserError(
                f"policy_warmup_steps: got {self.policy_warmup_steps}, allowed: 0 for "
                f"{self.algorithm}, which has no offline policy"
            )
        if self.policy_warmup_steps >= self.online_steps:
            raise UserError(
                f"policy_warmup_steps: got {self.policy_warmup_steps}, allowed: less than "
                f"online_steps = {self.online_steps}"
            )
        return self

    @property
    def pretraining(self) -> dict[str, Any]:
        """The settings that decide the offline phase: runs that agree on them share it."""
        return {n: getattr(self, n) for n in type(self).model_fields if phase(n) in _SHARED}

    @property
    def uses_data(self) -> bool:
        """Whether the run learns from the dataset: pre-trained, or with offline data mixed in."""
        return uses_data(self.algorithm, self.mixing_ratio)


BOUNDS = {"ge": "from", "gt": "above", "le": "to", "lt": "to below"}
_SHARED = ("offline", "both")


def phase(setting: str) -> str:
    """The phase that a setting decides: one of ``PHASES``."""
    (marked,) = (mark for mark in Config.model_fields[setting].metadata if mark in PHASES)
    return str(marked)


def with_defaults(stored: dict[str, Any]) -> dict[str, Any]:
    """A run's stored settings; one that did not exist when it was made has its default.

    So a new setting's default must be what was done before.
    """
    if "algorithm" not in stored:  # a pre-training
        return stored
    return {n: field.default for n, field in Config.model_fields.items()} | stored


def uses_data(algorithm: str, mixing_ratio: float) -> bool:
    """Whether such a run learns from a dataset at all."""
    return algorithm not in ALGORITHMS or ALGORITHMS[algorithm].pretrained or mixing_ratio > 0


def _backends(task: str, otherwise: tuple[str, ...] = BACKENDS) -> tuple[str, ...]:
    """The backends that have the task, the default one first."""
    return tuple(name for name, maps in MAPS.items() if task in maps) or otherwise


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint to end a sentence with, or nothing if no known name comes close."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _sentence(error: Any) -> str:
    """One pydantic error as: which setting, what was given, what is allowed."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    name = ".".join(str(part) for part in error["loc"])
    allowed = _allowed(error)
    if error["type"].startswith(("int_", "float_")):  # not even a number: which it may be, too
        allowed += _bounds(name)
    return f"{name}: got {_shown(error['input'])}, allowed: {allowed}"


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python writes out no integer of more than 4,300 digits
        return "an integer of thousands of digits"


def _bounds(name: str) -> str:
    """Such as `` from 1 to 4,096``, as far as the setting's number is bounded."""
    field = Config.model_fields.get(name)
    found = {n: getattr(m, n) for m in (field.metadata if field else ()) for n in BOUNDS
             if getattr(m, n, None) is not None}  # fmt: skip
    return "".join(f" {word} {found[n]:,}" for n, word in BOUNDS.items() if n in found)


def _allowed(error: Any) -> str:
    context = error.get("ctx", {})
    if "expected" in context:
        return str(context["expected"])
    if error["type"] == "int_parsing_size":  # pydantic's sentence is of texts, of numbers too
        return "a valid integer"
    message = str(error["msg"]).removeprefix("Input should be ")
    return message.split(", unable")[0].split(", got")[0]
