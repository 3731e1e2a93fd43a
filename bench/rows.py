"""The rows of the table, each with the target it is held to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import torch

from bench.measure import (
    NETWORK,
    SETTINGS,
    interleaved,
    multiply_adds,
    new_learner,
    peak_memory,
    product_call,
    random_batch,
    random_episodes,
)
from bench.plain import PlainBatch, PlainLearner
from bench.starcraft import BATTLES, step_times
from ovmse.datasets.dataset import ladder_folder
from ovmse.envs import make_env
from ovmse.envs.base import EnvSpec
from ovmse.episodes import EpisodeBatch
from ovmse.ladders import MEDIUM_EPSILON, read_ladder
from ovmse.method.conservatism import sample_joint_actions
from ovmse.method.exploration import random_actions
from ovmse.method.learner import Learner, UpdateSettings, new_q_function
from ovmse.training.phase import load_weights
from ovmse.training.rollout import Rollout

SMAC_2S3Z = EnvSpec("2s3z", "smac", 5, 11, 80, 120, 120)
SMAX_2S3Z = EnvSpec("2s3z", "smax", 5, 10, 127, 120, 101)
MACQL = dataclasses.replace(SETTINGS, cql_alpha=0.5)
COUNTERFACTUAL = dataclasses.replace(MACQL, cql_form="counterfactual")


@dataclass(frozen=True)
class Row:
    """One line: ours and the other with units and spread, ``ratio`` against its ``target``."""

    work: str
    shape: str
    ours: str
    other: str
    ratio: float
    target: str
    met: bool
    floor: str = ""


@dataclass(frozen=True)
class Effort:
    """How long a row is measured (seconds), and what a smoke test makes small."""

    seconds: float = 15.0
    quick: bool = False

    def shape(self, episodes: int, steps: int) -> tuple[int, int]:
        return (3, 6) if self.quick else (episodes, steps)


def rows(device: str, effort: Effort) -> Iterator[Row]:
    """Every row, as it is done. Battles and replay stay on the CPU whatever the device."""
    small = 32, 60
    yield update_row("QMIX update", SMAC_2S3Z, (128, 60), SETTINGS, 1.0, device, effort)
    yield update_row("QMIX update", SMAX_2S3Z, small, SETTINGS, 1.3, device, effort)
    name = f"MACQL update, K={MACQL.cql_samples}"
    yield update_row(name, SMAX_2S3Z, small, MACQL, 6.0, device, effort)
    yield memory_row(name, SMAX_2S3Z, small, device, effort)
    yield update_row("counterfactual update", SMAX_2S3Z, small, COUNTERFACTUAL, 4.0, device, effort)
    yield memory_term_row(SMAX_2S3Z, small, device, effort)
    yield storage_row()
    yield starcraft_row(effort)
    if not effort.quick:
        yield collecting_row(device, effort)


def update_row(
    name: str,
    spec: EnvSpec,
    shape: tuple[int, int],
    settings: UpdateSettings,
    at_least: float,
    device: str,
    effort: Effort,
) -> Row:
    """Plain over ours, after both gave the same loss; and the floor that arithmetic sets."""
    count, steps = effort.shape(*shape)
    batch = random_batch(spec, count, steps, device)
    require_equal_losses(spec, batch, settings, device)
    ours, plain, plain_batch = pair(spec, batch, settings, device)
    product, product_work = product_call(count * spec.n_agents, device)
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.update(batch),
        "plain": lambda: plain.update(plain_batch),
        "product": product,
    }
    times = interleaved(calls, device, effort.seconds)
    ratio = float(np.median(times["plain"] / times["ours"]))
    rate = product_work / float(np.median(times["product"]))
    floor = multiply_adds(spec, batch, settings) / rate
    share = float(np.median(times["ours"])) / floor
    return Row(
        name,
        _shape(spec, count, steps),
        _spread(times["ours"]),
        _spread(times["plain"]),
        ratio,
        f"at least {at_least:g} ×",
        ratio >= at_least,
        f"{1e3 * floor:.1f} ms at {2e-9 * rate:.0f} GFLOP/s; ours {share:.1f} ×",
    )


def memory_row(
    name: str, spec: EnvSpec, shape: tuple[int, int], device: str, effort: Effort
) -> Row:
    """Peak memory of one MACQL update, plain over ours."""
    count, steps = effort.shape(*shape)
    batch = random_batch(spec, count, steps, device)
    ours, plain, plain_batch = pair(spec, batch, MACQL, device)

    def small() -> None:
        ours.update(batch)
        ours.optimizer.zero_grad()  # so that no tensor from before is freed while it is counted

    def large() -> None:
        plain.update(plain_batch)
        plain.optimizer.zero_grad()

    mine, theirs = peak_memory(small, device), peak_memory(large, device)
    return Row(
        f"{name}: peak memory",
        _shape(spec, count, steps),
        f"{mine / 1e6:.1f} MB",
        f"{theirs / 1e6:.1f} MB",
        theirs / mine,
        "at least 6 ×",
        theirs >= 6 * mine,
    )


def memory_term_row(spec: EnvSpec, shape: tuple[int, int], device: str, effort: Effort) -> Row:
    """An update with the offline value memory over one without, both ours."""
    count, steps = effort.shape(*shape)
    batch = random_batch(spec, count, steps, device)
    with_memory, without = (new_learner(spec, SETTINGS, device) for _ in range(2))
    calls: dict[str, Callable[[], object]] = {
        "OVM": lambda: with_memory.update(batch, lambda_memory=0.5),
        "TD": lambda: without.update(batch),
    }
    times = interleaved(calls, device, effort.seconds, most=100)
    ratio = float(np.median(times["OVM"] / times["TD"]))
    return Row(
        "OVM update over TD update",
        _shape(spec, count, steps),
        _spread(times["OVM"]),
        _spread(times["TD"]),
        ratio,
        "at most 1.05 ×",
        ratio <= 1.05,
    )


def storage_row() -> Row:
    """Bytes of replay per transition: our arrays, and every padded tensor of PyMARL2's scheme."""
    spec = SMAC_2S3Z
    episodes = random_episodes(spec, range(40, 81))  # a mean of 60 of 120 steps
    steps = sum(e.length for e in episodes)
    stored = "obs", "state", "avail_actions", "actions", "reward"
    ours = sum(getattr(e, name).nbytes for e in episodes for name in stored) / steps
    agents, actions = spec.n_agents, spec.n_actions
    each_action = 4 * agents * actions
    row = (
        4 * spec.state_size
        + 4 * agents * spec.obs_size
        + 8 * agents  # actions, int64
        + each_action  # their one-hot form, float32
        + each_action  # available actions, int32
        + each_action  # "probs", float32
        + (4 + 1 + 8)  # reward float32, terminated uint8, filled int64
    )
    rows_per_step = (spec.episode_limit + 1) * len(episodes) / steps
    theirs = row * rows_per_step
    return Row(
        "replay, bytes per transition, mean length 60 of 120",
        f"{agents} agents, obs {spec.obs_size}, state {spec.state_size}, {actions} actions",
        f"{ours:.0f} B ({ours + 4:.0f} with the offline value memory)",
        f"{theirs:.0f} B ({(row - each_action) * rows_per_step:.0f} without its probs)",
        theirs / ours,
        "at least 5 ×",
        theirs >= 5 * ours,
    )


def starcraft_row(effort: Effort) -> Row:
    """A vector step of StarCraft's interface, with games that answer at once."""
    times = step_times(20 if effort.quick else 2_000)
    middle = float(np.median(times))
    return Row(
        "StarCraft's interface, a vector step (wall time)",
        f"{BATTLES} battles that answer at once",
        _spread(times),
        "1 ms",
        1e-3 / middle,
        "at least 1 ×",
        middle <= 1e-3,
    )


def collecting_row(device: str, effort: Effort) -> Row:
    """Steps per second (of CPU time, on a CPU) of collecting with the medium policy of 2s3z, as
    its data are recorded, over those of the bare battles played at random."""
    battles, block = 16, 50
    rng = np.random.default_rng(0)
    with ExitStack() as stack:
        envs = (make_env("2s3z", num_envs=battles, seed=seed) for seed in (1, 2))
        bare_env, env = (stack.enter_context(closing(env)) for env in envs)
        seen = [bare_env.reset()]

        def bare() -> None:
            for _ in range(block):
                seen[0] = bare_env.step(random_actions(rng, seen[0].avail_actions)).now

        q = new_q_function(env.spec, NETWORK, seed=1)
        folder = ladder_folder("2s3z")
        ladder = read_ladder(folder)
        load_weights(q, folder / ladder["rungs"][ladder["medium"]]["file"])
        q.to(device)
        rollout = Rollout(env, np.random.default_rng(0), q.hidden_size)
        rollout.start()

        def with_policy() -> None:
            for _ in range(block):
                rollout.step(q, "epsilon_greedy", MEDIUM_EPSILON)

        with_policy()  # compiles what the resets need
        bare()
        times = interleaved({"ours": with_policy, "bare": bare}, device, effort.seconds)
        rates = {name: battles * block / np.median(t) for name, t in times.items()}
        ratio = float(np.median(times["bare"] / times["ours"]))
    return Row(
        "collecting with the policy, SMAX 2s3z",
        f"{battles} battles at once",
        f"{rates['ours']:.0f} steps/s",
        f"{rates['bare']:.0f} steps/s (bare battles, random actions)",
        ratio,
        "at least 0.5 ×",
        ratio >= 0.5,
    )


def pair(
    spec: EnvSpec, batch: EpisodeBatch, settings: UpdateSettings, device: str
) -> tuple[Learner, PlainLearner, PlainBatch]:
    """Both learners with the same weights, and the batch as the plain one wants it."""
    ours = new_learner(spec, settings, device)
    return ours, PlainLearner(ours.q, settings).to(device), PlainBatch.of(batch)


def require_equal_losses(
    spec: EnvSpec, batch: EpisodeBatch, settings: UpdateSettings, device: str
) -> tuple[Learner, PlainLearner]:
    """One update of each on the same joint actions; raises RuntimeError if losses differ."""
    ours, plain, plain_batch = pair(spec, batch, settings, device)
    joint = None
    if settings.cql_alpha > 0 and settings.cql_form == "macql":
        generator = torch.Generator(device).manual_seed(0)
        generator.set_state(ours.generator.get_state())
        avail = batch.avail_actions[:, :-1][batch.filled]
        sampled = sample_joint_actions(avail, settings.cql_samples, generator)
        joint = sampled.new_zeros(*batch.filled.shape, *sampled.shape[1:])  # [B, T, K, N]
        joint[batch.filled] = sampled
        joint = joint.permute(2, 0, 1, 3)
    loss, plain_loss = ours.update(batch)["loss"], plain.update(plain_batch, joint)
    if abs(loss - plain_loss) > 1e-4 * abs(loss):
        raise RuntimeError(f"the losses differ: {loss} ours, {plain_loss} of the plain learner")
    return ours, plain


def _shape(spec: EnvSpec, count: int, steps: int) -> str:
    sizes = f"obs {spec.obs_size}, state {spec.state_size}, {spec.n_actions} actions"
    return f"{count} × {steps}, {spec.n_agents} agents, {sizes}"


def _spread(seconds: np.ndarray) -> str:
    """Median, and the middle half in brackets."""
    low, middle, high = 1e3 * np.quantile(seconds, [0.25, 0.5, 0.75])
    return f"{middle:.1f} ms ({low:.1f} to {high:.1f})"
