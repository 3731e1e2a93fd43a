"""Every setting, validated once: the Config, the tasks and the presets."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ovmse.algorithms import ALGORITHMS
from ovmse.conservatism import CQL_FORMS
from ovmse.envs import BACKENDS
from ovmse.exploration import EXPLORATIONS

AlgorithmName = Literal[tuple(ALGORITHMS)]  # type: ignore[valid-type]
Exploration = Literal[EXPLORATIONS]  # type: ignore[valid-type]
CqlForm = Literal[CQL_FORMS]  # type: ignore[valid-type]
Preset = Literal["tiny", "quick", "paper"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=0)]

# Per task: whether OVM keeps CQL online (only on 2s3z: paper, section 5.1), and what a preset says
# otherwise there. Steps are the paper's; PyMARL2 and CFCQL treat 6h_vs_8z apart.
TASKS: dict[str, dict[str, Any]] = {
    "2s3z": {"memory_cql": True, "paper": {"online_steps": 1_000_000}},
    "3s5z": {"memory_cql": False, "paper": {"online_steps": 1_000_000}},
    "5m_vs_6m": {"memory_cql": False, "paper": {"online_steps": 3_000_000}},
    "6h_vs_8z": {
        "memory_cql": False,
        "paper": {
            "online_steps": 3_000_000,
            "epsilon_anneal": 500_000,
            "memory_anneal": 500_000,
            "offline_td_lambda": 0.3,
            "online_td_lambda": 0.3,
        },
    },
    # Not the paper's: games of four steps that can be solved (envs/climb.py). Others are SMAX's.
    "climb_monotone": {"memory_cql": True, "backend": "climb"},
    "climb_penalty": {"memory_cql": True, "backend": "climb"},
}

# `tiny` is for tests and stored notebooks, `quick` is the demo, `paper` is the paper's scale (the
# README says where each of its numbers comes from).
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "offline_updates": 30,
        "online_steps": 2_000,
        "epsilon_anneal": 1_000,
        "memory_anneal": 1_000,
        "batch_size": 8,
        "warmup_updates": 5,
        "policy_warmup_steps": 500,
        "test_interval": 500,
        "test_battles": 16,
        "final_battles": 16,
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
        "final_battles": 640,
    },
}


# fmt: off
_OFFLINE_SETTINGS = (
    "task", "dataset", "backend", "seed", "device", "threads", "hidden_size", "embed_size",
    "hypernet_size", "gamma", "batch_size", "grad_clip", "cql_form", "cql_alpha", "cql_samples",
    "cql_data_action",
    "offline_updates", "offline_lr", "offline_td_lambda", "offline_target_interval",
    "offline_test_interval", "num_envs", "test_battles", "fixed_battles",
)
# fmt: on


class Config(BaseModel):
    """The settings of one run.

    The defaults below are the `quick` preset; what is not given comes from the chosen preset, the
    algorithm and the task. ``from_parameters`` does the same with errors of one sentence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    # What is run.
    algorithm: AlgorithmName = "ovmse"  # type: ignore[valid-type]
    task: Literal[tuple(TASKS)] = "2s3z"  # type: ignore[valid-type]
    dataset: str = Field("medium", min_length=1)  # a quality that ships in data/, or a path
    backend: Literal[BACKENDS] = "smax"  # type: ignore[valid-type]
    preset: Preset = "quick"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0  # one seed covers both phases
    device: Literal["cpu", "cuda"] = "cpu"  # where the networks live; battles stay on the CPU
    threads: Count = 1  # torch threads; more than one rarely pays at these sizes

    # Networks (QMIX's sizes).
    hidden_size: Count = 64
    embed_size: Count = 32
    hypernet_size: Count = 64

    # Both phases.
    gamma: Share = 0.99
    batch_size: Count = 32  # episodes
    grad_clip: Positive = 10.0  # largest norm of the gradient
    cql_alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)] = (
        0.5  # alpha of eq. 10; 0.2 forgot online
    )
    cql_form: CqlForm = "macql"  # in both phases
    cql_samples: Count = 10  # K joint actions in the soft maximum
    # Count the data's joint action among the K. Measured (seed 50, alpha 0.2, 200 offline updates):
    # without it the team won 52 % of its battles, with it 6 %, so the default leaves it out.
    cql_data_action: bool = False

    # Offline phase (eq. 8-10).
    offline_updates: Count = 750
    offline_lr: Positive = 1e-3  # Adam; falls linearly to 0, or the policy's win rate swings
    offline_td_lambda: Share = 0.8
    # Updates between copies to the target network. Copied every 20, the values of the data inflate
    # to half again their Monte-Carlo return; at 60 they stay near it.
    offline_target_interval: Count = 60
    offline_test_interval: Count = 250  # updates

    # Online phase.
    online_steps: Count = 60_000  # environment steps, summed over the parallel battles
    num_envs: Count = 16  # battles at once
    exploration: Exploration = "sequential_decentralised"
    epsilon_start: Share = 1.0
    epsilon_end: Share = 0.05
    epsilon_anneal: Steps = 30_000  # environment steps, T of eq. 7
    memory_end: Share = 0.1  # lambda_end of eq. 6
    memory_anneal: Steps = 30_000  # environment steps, T of eq. 6
    online_cql: bool = True
    mixing_ratio: Share = 0.0  # share of each batch that is offline episodes
    # Environment steps of the frozen offline policy before the first update; then the schedules
    # start. Only WSRL's row asks for it.
    policy_warmup_steps: Steps = 5_000
    online_td_lambda: Share = 0.8
    # The offline-to-online step. A fresh Adam at the offline rate moves every weight by the full
    # rate on its first steps and destroys the pre-trained network within ten updates. So the rate
    # is lower here and rises from zero; the optimiser's moments may be carried over instead.
    online_lr: Positive = 3e-4
    warmup_updates: Steps = 30  # updates over which online_lr rises from 0
    optimizer_carry_over: bool = False
    episodes_per_update: Count = 4
    online_target_interval: Count = 60  # updates
    buffer_episodes: Count = 5_000

    # Measurement.
    test_interval: Count = 2_000  # environment steps between tests, snapshots and resume points
    test_battles: Count = 64
    final_battles: Count = 128  # at the start and at the end of the online phase
    fixed_battles: Count = 128  # trajectories of the offline policy whose Q_tot is followed

    @classmethod
    def from_parameters(cls, **given: Any) -> Config:
        """A Config from what is given; None stands for "as the preset, task and algorithm say".

        Raises ValueError with one sentence that names the setting, the value and what is allowed.
        """
        given = {name: value for name, value in given.items() if value is not None}
        for name in given:
            if name not in cls.model_fields:
                raise ValueError(
                    f"there is no setting {name!r}{did_you_mean(name, cls.model_fields)}"
                )
        try:
            return cls(**given)
        except ValidationError as error:
            raise ValueError("; ".join(_sentence(e) for e in error.errors())) from None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: dict[str, Any]) -> dict[str, Any]:
        """What is not given comes from the preset, the algorithm and the task."""
        algorithm = ALGORITHMS.get(given.get("algorithm", "ovmse"))
        task = TASKS.get(given.get("task", "2s3z"))
        preset = given.get("preset", "quick")
        if algorithm is None or task is None or preset not in PRESETS:
            return given  # the field's own check says what is wrong
        defaults = {**PRESETS[preset], **task.get(preset, {})}
        defaults["backend"] = _backend(given.get("task", "2s3z"))
        if preset == "paper" and not algorithm.pretrained:
            # PyMARL2's rate: there is no pre-trained network to protect.
            defaults |= {"online_lr": 1e-3, "warmup_updates": 0}
        defaults["exploration"] = algorithm.exploration
        defaults["cql_form"] = algorithm.cql_form
        if not algorithm.policy_warmup:
            defaults["policy_warmup_steps"] = 0
        keeps = algorithm.online_cql
        defaults["online_cql"] = task["memory_cql"] if keeps is None else keeps
        return {**defaults, **given}

    @model_validator(mode="after")
    def _agree(self) -> Config:
        """The settings that limit each other."""
        if self.backend != _backend(self.task):
            raise ValueError(
                f"backend: got {self.backend!r}, allowed: {_backend(self.task)!r} for {self.task}"
            )
        if self.epsilon_end > self.epsilon_start:
            raise ValueError(
                f"epsilon_end: got {self.epsilon_end}, allowed: at most "
                f"epsilon_start = {self.epsilon_start}"
            )
        online = self.batch_size - round(self.mixing_ratio * self.batch_size)
        if self.buffer_episodes < online:
            raise ValueError(
                f"buffer_episodes: got {self.buffer_episodes}, allowed: at least the {online} "
                "online episodes of a batch"
            )
        if self.policy_warmup_steps and not ALGORITHMS[self.algorithm].pretrained:
            raise ValueError(
                f"policy_warmup_steps: got {self.policy_warmup_steps}, allowed: 0 for "
                f"{self.algorithm}, which has no offline policy"
            )
        if self.policy_warmup_steps >= self.online_steps:
            raise ValueError(
                f"policy_warmup_steps: got {self.policy_warmup_steps}, allowed: less than "
                f"online_steps = {self.online_steps}"
            )
        return self

    @property
    def pretraining(self) -> dict[str, Any]:
        """The settings that decide the offline phase: runs that agree on them share it."""
        return {name: getattr(self, name) for name in _OFFLINE_SETTINGS}


def _backend(task: str) -> str:
    """The one backend that has the task."""
    return str(TASKS[task].get("backend", "smax"))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint to end a sentence with, or nothing if no known name comes close."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _sentence(error: Any) -> str:
    """One pydantic error as: which setting, what was given, what is allowed."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    name = ".".join(str(part) for part in error["loc"])
    return f"{name}: got {error['input']!r}, allowed: {_allowed(error)}"


def _allowed(error: Any) -> str:
    context = error.get("ctx", {})
    if "expected" in context:
        return str(context["expected"])
    message = str(error["msg"]).removeprefix("Input should be ")
    return message.split(", unable")[0]
