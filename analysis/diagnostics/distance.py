"""Which actions? What `Q_tot` loses, by how many agents do something else than was done."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.tables import alike, at_the_end, at_the_start, mean_curves
from ovmse.method.networks import QFunction, gather_actions

SAMPLES = 20  # of each step and number of agents


class Changes(NamedTuple):
    """Of ``M`` steps with ``R`` samples each: actions ``[M, N]``, what was done; order
    ``[M, R, N]``, each agent's place among those who change (from 0); other ``[M, R, N]``, the
    available action that it changes to; able ``[M]``, how many agents have another one."""

    actions: Tensor
    order: Tensor
    other: Tensor
    able: Tensor


def changes(
    actions: Tensor, avail: Tensor, rng: np.random.Generator, samples: int = SAMPLES
) -> Changes:
    """Random changes of joint actions ``[M, N]``, among available ones ``[M, N, A]``.

    The first k agents of an order change: so two samples of the same number differ in one agent
    more. An agent without another action (a dead one) comes last and counts as not able.
    """
    steps, n, n_actions = avail.shape
    others = avail.numpy().copy()
    np.put_along_axis(others, actions.numpy()[..., None], False, -1)
    able = np.asarray(others.any(-1))  # [M, N]
    drawn = np.where(able[:, None], rng.random((steps, samples, n)), 2.0)
    order = drawn.argsort(-1).argsort(-1)
    chance = rng.random((steps, samples, n, n_actions))
    other = np.where(others[:, None], chance, -1.0).argmax(-1)
    return Changes(actions, *map(torch.from_numpy, (order, other, able.sum(-1))))


@torch.no_grad()
def gaps(q: QFunction, q_values: Tensor, state: Tensor, to: Changes) -> dict[str, float]:
    """`gap_1`, ..., `gap_N`: ``Q_tot(a) - mean Q_tot(a with k agents changed)``, over the steps at
    which so many agents have another action (not a number if there are none).

    q_values ``[M, N, A]``, state ``[M, S]``. Conservative pre-training makes it large: what was not
    in the data is valued less. Nothing holds it up later but that term.
    """
    n = q_values.shape[1]
    weights = q.mixer.weights(state)
    done = gather_actions(q_values, to.actions)  # [M, N]
    changed = q_values.gather(-1, to.other.transpose(1, 2)).transpose(1, 2)  # [M, R, N]
    best, found = q.mixer.mix(weights, done), {}
    for k in range(1, n + 1):
        mixed = q.mixer.mix(weights, torch.where(to.order < k, changed, done[:, None]))
        found[f"gap_{k}"] = float((best - mixed.mean(1))[to.able >= k].double().mean())
    return found


def who_tells_apart(table: pd.DataFrame) -> str:
    """How much of the first gap each algorithm keeps, where one agent does something else."""
    first = {n: f"{gap:.2f}" for n, gap in at_the_start(mean_curves(table, "gap_1")).items()}
    said = [
        f"{name} {r.gap_1:.2f} (lowest asked {r.gap_1_min:.2f})"
        for name, r in at_the_end(table, ["gap_1"]).set_index("name").iterrows()
    ]
    return (
        f"At the start `Q_tot` falls by {alike(first)} where one agent does something else than "
        f"was done. At the end: {'; '.join(said)}. Near 0, nothing tells what was done from what "
        "was not."
    )
