"""Does the policy still do the same? Greedy actions of two networks on the same histories."""

from __future__ import annotations

import numpy as np
import pandas as pd
from torch import Tensor

from analysis.diagnostics.parts import numbers
from analysis.tables import at_the_end, per_cent


def measure(avail: Tensor, first: Tensor, before: Tensor, now: Tensor) -> dict[str, float]:
    """`churn`, `churn_joint`, `churn_1`, ..., `churn_N` of `now` against `first`, and `since`, ...
    against `before`; see `churned`. All are ``Q_i(tau_i, .)``, ``[M, N, A]``."""
    found: dict[str, float] = {}
    for name, then in (("churn", first), ("since", before)):
        whole, agents, joint = churned(avail, then, now)
        found |= {name: whole, f"{name}_joint": joint} | numbers(name, agents)
    return found


def churned(avail: Tensor, then: Tensor, now: Tensor) -> tuple[float, list[float], float]:
    """Where the greedy action differs: the share of all agents' choices, of each agent's ``[N]``,
    and of the joint ones.

    avail ``[M, N, A]`` bool. A choice is a step at which an agent has more than one action: the
    dead have none. A joint one is a step at which anybody has. Not a number where there is none.
    """
    free = (avail.sum(-1) > 1).numpy()  # [M, N]
    mine, theirs = (q.masked_fill(~avail, -np.inf).argmax(-1).numpy() for q in (now, then))
    differs = free & (mine != theirs)
    with np.errstate(invalid="ignore"):
        agents = differs.sum(0) / free.sum(0)
        joint = differs.any(1).sum() / np.int64(free.any(1).sum())
        return float(differs.sum() / np.int64(free.sum())), agents.tolist(), float(joint)


def who_changed(table: pd.DataFrame) -> str:
    """How much of each algorithm's greedy policy has changed on the fixed battles."""
    said = [
        f"{name} {per_cent(r.churn)} (joint actions: {per_cent(r.churn_joint)})"
        for name, r in at_the_end(table, ["churn", "churn_joint"]).set_index("name").iterrows()
    ]
    return (
        f"Of the choices in the fixed battles the last policy makes otherwise: {'; '.join(said)}."
    )
