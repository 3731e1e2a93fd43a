"""Whether the time of an update grows in proportion to its work."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import numpy as np

from bench.measure import SETTINGS, interleaved, multiply_adds, new_learner, random_batch
from bench.rows import SMAX_2S3Z, Effort
from ovmse.envs import make_env
from ovmse.envs.base import EnvSpec

HEADER = ("case", "filled steps", "agents", "ms", "µs per step", "µs per step and agent",
          "million multiply-adds", "µs per million")  # fmt: skip
TASKS = "3m", "8m", "25m", "27m_vs_30m"


def by_length(device: str, effort: Effort) -> tuple[list[list[str]], str]:
    """QMIX's update of 32 episodes against their length."""
    lengths = (4, 8) if effort.quick else (15, 30, 60, 120)
    cases = [(f"longest {n}", SMAX_2S3Z, n) for n in lengths]
    lines, steps, _, ms = _measure(cases, device, effort)
    slope = np.polyfit(np.log(steps), np.log(ms), 1)[0]
    each = ms / steps
    return lines, (
        f"Time grows as the filled steps to the power {slope:.2f} (1: in proportion; less: fixed "
        f"costs per time step); per step from {1e3 * each.max():.1f} to {1e3 * each.min():.1f} µs."
    )


def by_agents(device: str, effort: Effort) -> tuple[list[list[str]], str]:
    """QMIX's update of 32 × 30 from 3 to 27 agents, with the sizes of SMAX's maps."""
    if effort.quick:
        specs = [EnvSpec(f"{n} agents", "none", n, 5, 10 * n, 9 * n, 9) for n in (2, 4)]
    else:
        specs = []
        for task in TASKS:
            with closing(make_env(task, num_envs=1)) as env:
                specs.append(env.spec)
    cases = [(spec.task, spec, 30) for spec in specs]
    lines, _, work, ms = _measure(cases, device, effort)
    slope = np.polyfit(np.log(work), np.log(ms), 1)[0]
    each = ms / work
    return lines, (
        f"Observations and actions grow with the agents, so the work per agent does too; against "
        f"the multiply-adds, time grows to the power {slope:.2f}; per million from "
        f"{1e3 * each.max():.1f} to {1e3 * each.min():.1f} µs."
    )


def _measure(
    cases: Sequence[tuple[str, EnvSpec, int]], device: str, effort: Effort
) -> tuple[list[list[str]], np.ndarray, np.ndarray, np.ndarray]:
    """Lines of the table; filled steps, million multiply-adds and milliseconds of each case."""
    calls, sizes = {}, []
    for name, spec, length in cases:
        count, steps = (3, length) if effort.quick else (32, length)
        batch, learner = (
            random_batch(spec, count, steps, device),
            new_learner(spec, SETTINGS, device),
        )
        calls[name] = lambda learner=learner, batch=batch: learner.update(batch)
        filled = int(batch.lengths.sum())
        sizes.append((filled, spec.n_agents, multiply_adds(spec, batch, SETTINGS) / 1e6))
    times = interleaved(calls, device, 2 * effort.seconds)
    ms = np.array([1e3 * np.median(t) for t in times.values()])
    lines = [
        [name, str(filled), str(agents), f"{t:.1f}", f"{1e3 * t / filled:.1f}",
         f"{1e3 * t / filled / agents:.2f}", f"{work:.0f}", f"{1e3 * t / work:.1f}"]
        for name, (filled, agents, work), t in zip(calls, sizes, ms)
    ]  # fmt: skip
    steps_, _, work_ = np.array(sizes).T
    return lines, steps_, work_, ms
