"""The fixed battles as each snapshot sees them: one replay for three questions.

`parts` asks which part moved, `distance` which actions, `churn` whether the policy is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.diagnostics import churn, distance, parts
from analysis.each import Runs, each_snapshot, spaced
from analysis.snapshots import Snapshots
from ovmse.episodes import EpisodeBatch
from ovmse.method.networks import QFunction

BATTLES = 32  # of the fixed ones
STEPS = 1024  # of theirs, where many joint actions are mixed


class Fixed(NamedTuple):
    """The ``M`` steps of some battles: avail ``[M, N, A]`` bool; and `some` ``[K]`` of them, with
    state ``[K, S]``, actions ``[K, N]`` and the changes of these."""

    batch: EpisodeBatch
    avail: Tensor
    some: Tensor
    state: Tensor
    actions: Tensor
    changes: distance.Changes


def opinions(runs: Runs, only: Mapping[str, Sequence[int]] | None = None) -> pd.DataFrame:
    """Of the snapshots of every run (`only` as for `each_snapshot`), over the steps of the fixed
    battles:

    - `change` of ``Q_tot(tau, a)`` since the first snapshot, divided into `part_1`, ..., `part_N`
      and `part_mixer`; `gain_i` and `below_i` (see `parts.measure`);
    - `gap_1`, ..., `gap_N`: what it loses where so many agents do something else (`distance.gaps`);
    - `churn`, `churn_joint`, `churn_i` against the first snapshot, which is the pre-trained policy;
      `since`, `since_joint`, `since_i` against the one before (`churn.churned`).

    What was measured is kept beside the run. Raises RunError as `each_snapshot` does.
    """

    @lru_cache(maxsize=1)  # one run at a time
    def steps(run: Snapshots) -> Fixed:
        return fixed_steps(EpisodeBatch.from_episodes(run.fixed[:BATTLES]))

    @lru_cache(maxsize=3)  # the first, the one before, this one
    def seen(run: Snapshots, env_steps: int) -> tuple[QFunction, Tensor]:
        q, batch = run.network(env_steps), steps(run).batch
        with torch.no_grad():
            return q, q.q_values(batch)[:, :-1][batch.filled]

    def measure(run: Snapshots, env_steps: int) -> dict[str, float]:
        first, before = earlier(run, env_steps)
        fixed, (q_first, then) = steps(run), seen(run, first)
        last, (q, now) = seen(run, before)[1], seen(run, env_steps)
        some, state = fixed.some, fixed.state
        what = fixed.avail[some], fixed.actions, state
        return {
            **parts.measure(q_first, q, then[some], now[some], *what),
            **distance.gaps(q, now[some], state, fixed.changes),
            **churn.measure(fixed.avail, then, last, now),
        }  # fmt: skip

    def depends(run: Snapshots, env_steps: int) -> list[str | float | Path]:
        files = [run.files[n] for n in (*earlier(run, env_steps), env_steps)]
        return [*files, run.fixed_file, BATTLES, STEPS]

    return each_snapshot(runs, "opinions", "Snapshots taken apart", measure, depends, only)


def earlier(run: Snapshots, env_steps: int) -> tuple[int, int]:
    """The environment steps of the first snapshot, and of the one before (of the first: itself)."""
    known = list(run.files)
    return known[0], known[max(0, known.index(env_steps) - 1)]


def fixed_steps(batch: EpisodeBatch, most: int = STEPS, seed: int = 0) -> Fixed:
    """The filled steps of a batch, `most` of them, evenly, where joint actions are mixed."""
    filled = batch.filled
    avail, actions = batch.avail_actions[:, :-1][filled], batch.actions[filled]
    some = torch.tensor(spaced(len(avail), most))
    actions, rng = actions[some], np.random.default_rng(seed)
    changes = distance.changes(actions, avail[some], rng)
    return Fixed(batch, avail, some, batch.state[:, :-1][filled][some], actions, changes)
