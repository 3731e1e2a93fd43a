"""Clocks, memory, random episodes and operation counts: what the rows are measured with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch

from ovmse.envs.base import EnvSpec
from ovmse.episodes import Episode, EpisodeBatch
from ovmse.method.learner import Learner, UpdateSettings, new_q_function

NETWORK = 64, 32, 64  # hidden, embed, hypernet: QMIX's sizes
SETTINGS = UpdateSettings(
    lr=1e-4,
    lr_warmup_updates=0,
    target_interval=200,
    gamma=0.99,
    td_lambda=0.6,
    grad_clip=10.0,
    cql_alpha=0.0,
    cql_form="macql",
    cql_samples=100,
    cql_data_action=False,
)


def clock(device: str) -> Callable[[], float]:
    """Seconds of this process's CPU time; on a GPU of wall time, when its work is done."""
    if device == "cpu":
        return time.process_time

    def done() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return done


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    device: str,
    seconds: float,
    most: int = 40,
) -> dict[str, np.ndarray]:
    """Seconds of each call, called in turn A B A B ..., as often as fits into ``seconds``."""
    now = clock(device)
    start = now()
    for call in calls.values():
        call()  # once for nothing: caches and allocators fill
    start, warm = now(), now() - start
    repeats = int(np.clip(seconds / max(warm, 1e-9), 5, most))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = now()
            call()
            times[name].append(now() - start)
    return {name: np.array(values) for name, values in times.items()}


def peak_memory(call: Callable[[], object], device: str) -> int:
    """Bytes that one call adds at its peak, by torch's own allocator: every tensor counts, also
    those inside an operation. (What the process holds would depend on what malloc keeps.)"""
    call()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler greets otherwise
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        call()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    return int(np.cumsum([e.nbytes() for e in events]).max())


def random_episodes(spec: EnvSpec, lengths: Iterable[int]) -> list[Episode]:
    """Noise; every action taken was available, and every episode truly ends (where conventions
    about the time limit agree)."""
    rng = np.random.default_rng(0)
    episodes = []
    for length in lengths:
        avail = rng.random((length + 1, spec.n_agents, spec.n_actions)) < 0.6
        actions = rng.integers(spec.n_actions, size=(length, spec.n_agents))
        np.put_along_axis(avail[:-1], actions[..., None], True, -1)
        avail[-1, :, -1] = True
        episode = Episode(
            obs=rng.normal(size=(length + 1, spec.n_agents, spec.obs_size)).astype(np.float16),
            state=rng.normal(size=(length + 1, spec.state_size)).astype(np.float16),
            avail_actions=avail,
            actions=actions.astype(np.uint8),
            reward=rng.normal(size=length).astype(np.float32),
            terminated=True,
            won=False,
            q_offline=rng.normal(size=length).astype(np.float32),
        )
        episodes.append(episode)
    return episodes


def random_batch(spec: EnvSpec, count: int, steps: int, device: str = "cpu") -> EpisodeBatch:
    """``count`` episodes, their lengths uniform from half of ``steps`` to all."""
    lengths = np.random.default_rng(0).integers(steps // 2, steps + 1, count)
    return EpisodeBatch.from_episodes(random_episodes(spec, lengths)).to(device)


def new_learner(spec: EnvSpec, settings: UpdateSettings, device: str = "cpu") -> Learner:
    """Ours, always with the same weights."""
    return Learner(new_q_function(spec, NETWORK, seed=1).to(device), settings, seed=1)


def multiply_adds(spec: EnvSpec, batch: EpisodeBatch, settings: UpdateSettings) -> float:
    """Multiply-adds of the matrix products that one update needs, over real steps alone: three
    times the online network's values (forward, and both sides backward), once the target's."""
    hidden, embed, hypernet = NETWORK
    agents, actions = spec.n_agents, spec.n_actions
    steps = int(batch.lengths.sum())
    rows = (steps + len(batch.lengths)) * agents
    inputs = spec.obs_size + actions + agents
    agent = rows * (inputs * hidden + 6 * hidden**2 + hidden * actions)
    weights = spec.state_size * (2 * hypernet + 2 * embed) + hypernet * (agents + 1) * embed + embed
    mixer = steps * (weights + (agents + 1) * embed)
    cql = 0
    if settings.cql_alpha > 0:
        if settings.cql_form == "macql":
            cql = steps * settings.cql_samples * (agents + 1) * embed
        else:
            cql = steps * (agents + agents * actions) * embed
    return 4.0 * (agent + mixer) + 3.0 * cql


def product_call(rows: int, device: str) -> tuple[Callable[[], object], float]:
    """A float32 matrix product of the GRU's kind, many times, and its multiply-adds."""
    hidden = NETWORK[0]
    left, right = (
        torch.randn(rows, hidden, device=device),
        torch.randn(hidden, 3 * hidden).to(device),
    )
    out = torch.empty(rows, 3 * hidden, device=device)
    once = rows * hidden * 3 * hidden
    times = max(1, int(5e8 / once))

    def call() -> None:
        for _ in range(times):
            torch.mm(left, right, out=out)

    return call, float(times * once)
