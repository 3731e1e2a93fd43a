"""Where does the memory bind? eq. 4's maximum in battles like those that the run learned from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.battles import td_target
from analysis.diagnostics.calibration import by_thirds
from analysis.each import Runs, each_snapshot
from analysis.events import epsilon_at, exploring_battles, lambda_at
from analysis.prices import batched
from analysis.snapshots import Snapshots
from analysis.tables import at_the_end, per_cent
from ovmse.method.algorithms import ALGORITHMS
from ovmse.runs.reading import RunError, find_runs


def audit(
    runs: Runs, only: Mapping[str, Sequence[int]] | None = None, seed: int = 0
) -> pd.DataFrame:
    """Of the snapshots that `only` names, of runs that have a memory: `binds`, the share of steps
    at which ``Q_offline > y``, and `lift`, the mean of ``λ · max(0, Q_offline - y)``: how much the
    memory raises what the run learns towards. Each also of the thirds of a battle, `binds_1` to
    `binds_3`.

    Over all steps of battles recorded anew, in which the snapshot explores as the run did at that
    time; y is the run's TD(λ) target (`battles.td_target`). Raises RunError if no run has a memory.
    """
    having = [p for p in find_runs(runs) if has_memory(Snapshots(p).config.algorithm)]
    if not having:
        raise RunError("none of these runs has a memory: nothing can bind")

    def measure(run: Snapshots, env_steps: int) -> dict[str, float]:
        _, episodes, batch = batched(exploring_battles(run, env_steps, seed=seed))
        q, filled = run.network(env_steps), batch.filled
        y = td_target(q, batch, q.q_values(batch), run.config)
        above = (run.offline().q_tot_taken(batch) - y)[filled].numpy()
        thirds = np.concatenate([3 * np.arange(e.length) // e.length for e in episodes])
        lift = lambda_at(run.config, env_steps) * above.clip(0)
        return by_thirds("binds", above > 0, thirds) | by_thirds("lift", lift, thirds)

    def depends(run: Snapshots, env_steps: int) -> list[str | float | Path]:
        c = run.config
        given = [c.task, c.backend, c.gamma, c.online_td_lambda, c.exploration, seed]
        given += [float(epsilon_at(c, env_steps)), lambda_at(c, env_steps)]
        return [run.files[env_steps], run.offline_file, *given]

    return each_snapshot(having, "memory", "Memories audited", measure, depends, only)


def has_memory(algorithm: str) -> bool:
    """Whether the algorithm's target is that of eq. 4."""
    return ALGORITHMS[algorithm].target == "ovm"


def where_it_binds(table: pd.DataFrame) -> str:
    """How often each memory binds, and whether what it says is still true."""
    said = [
        f"of {name} exceeds the target at {per_cent(r.binds_min)} to "
        f"{per_cent(r.binds_max)} of the steps and lifts it by at most {r.lift_max:.2f} on average"
        for name, r in at_the_end(table, ["binds", "lift"]).set_index("name").iterrows()
    ]
    return f"The memory {'; that '.join(said)}." + _still_true(table)


def _still_true(table: pd.DataFrame) -> str:
    known = table[table.algorithm.map(has_memory)]
    if "remembered_error" not in known or known.remembered_error.isna().all():
        return ""
    ends = at_the_end(known, ["remembered_error"]).set_index("name").remembered_error
    said = ", ".join(f"{error:+.2f} ({name})" for name, error in ends.items())
    return f" At the end it is off what the policy returns, in the fixed battles, by {said}."


def over_the_battle(table: pd.DataFrame) -> pd.DataFrame:
    """`binds`, `lift` and `remembered_error` of each third of a battle: at the last snapshot, with
    the least and the greatest over training."""
    known = table[table.algorithm.map(has_memory)]
    names = [n for n in ("binds", "lift", "remembered_error") if f"{n}_1" in known]
    names = [n for n in names if known[f"{n}_1"].notna().any()]
    parts = []
    for third, said in enumerate(("first third", "middle third", "last third"), 1):
        ends = at_the_end(known, [f"{n}_{third}" for n in names])
        ends.columns = [re.sub(rf"_{third}(?=$|_m)", "", c) for c in ends]
        parts.append(ends.assign(third=said))
    return pd.concat(parts, ignore_index=True)
