"""Which part moved? The change of `Q_tot`, divided among the agents' values and the mixer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from math import factorial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.tables import at_the_end
from ovmse.errors import UserError
from ovmse.method.networks import QFunction, gather_actions

MOST_AGENTS = 10  # 2^(N+1) mixes of every step


@torch.no_grad()
def measure(
    before: QFunction,
    after: QFunction,
    then: Tensor,
    now: Tensor,
    avail: Tensor,
    actions: Tensor,
    state: Tensor,
) -> dict[str, float]:
    """Means over ``M`` steps: `change` of ``Q_tot(tau, a)`` from one network to another, and what
    adds up to it, `part_1`, ..., `part_N` (each agent's ``Q_i``) and `part_mixer`, by Shapley;
    `gain_i`, the later mixer's ``k_i``; `below_i`, ``max_a Q_i - Q_i`` of what was done, over the
    available actions: 0 where an agent would do it again.

    then, now: ``Q_i(tau_i, .)`` of two networks, avail: bool, ``[M, N, A]``; actions ``[M, N]``;
    state ``[M, S]``. Steps at which an agent is dead count too: its value is mixed all the same.
    """
    q_then, q_now = gather_actions(then, actions), gather_actions(now, actions)
    worth = coalitions(before, after, q_then, q_now, state)
    *agents, mixer = shapley_values(worth).tolist()
    best = now.masked_fill(~avail, -torch.inf).amax(-1)
    return (
        {"change": float(worth[-1] - worth[0]), "part_mixer": mixer}
        | numbers("part", agents)
        | numbers("gain", gain(after, q_now, state).mean(0).tolist())
        | numbers("below", (best - q_now).mean(0).tolist())
    )


def numbers(name: str, values: Iterable[float]) -> dict[str, float]:
    """``{name_1: ..., name_2: ...}``."""
    return {f"{name}_{i}": float(value) for i, value in enumerate(values, 1)}


@torch.no_grad()
def coalitions(
    before: QFunction, after: QFunction, q_then: Tensor, q_now: Tensor, state: Tensor
) -> np.ndarray:
    """Mean ``Q_tot`` with every choice of parts taken from the later network, ``[2^(N+1)]``.

    q_then, q_now ``[M, N]``: the values of what was done. Bit i of the place says that agent i's
    value is the later one, bit N that the mixer is. Raises UserError above `MOST_AGENTS` agents.
    """
    n = q_now.shape[1]
    if n > MOST_AGENTS:
        raise UserError(f"a change is divided among at most {MOST_AGENTS} agents, not {n}")
    later = torch.tensor(list(itertools.product((False, True), repeat=n))).flip(1)  # [2^N, N]
    many = torch.where(later, q_now[:, None], q_then[:, None])  # [M, 2^N, N]
    mixed = [q.mixer.mix(q.mixer.weights(state), many).double().mean(0) for q in (before, after)]
    return torch.cat(mixed).numpy()


def shapley_values(worth: np.ndarray) -> np.ndarray:
    """Shapley's value of each of ``P`` parts from the worth of every set of them, ``[2^P]`` (bit i
    of the place: part i is in the set), ``[P]``: what a part adds on average, over all orders in
    which the parts may be replaced one at a time. They sum to ``worth[-1] - worth[0]``."""
    parts = len(worth).bit_length() - 1
    sets = np.arange(len(worth))
    size = np.array([int(s).bit_count() for s in sets])
    share = np.array([factorial(k) * factorial(parts - k - 1) for k in range(parts)])
    out = np.empty(parts)
    for i in range(parts):
        without = sets[sets >> i & 1 == 0]
        added = worth[without | 1 << i] - worth[without]
        out[i] = (share[size[without]] * added).sum() / factorial(parts)
    return out


@torch.no_grad()
def gain(q: QFunction, q_agents: Tensor, state: Tensor) -> Tensor:
    """``k_i = dQ_tot / dQ_i = sum_e |W1|_ie ELU'(z_e) |w2|_e``, ``[M, N]``: how much of a change of
    ``Q_i`` the mixer lets through. The scale of ``Q_i`` alone means nothing without it."""
    w1, b1, w2, _ = q.mixer.weights(state)
    z = torch.baddbmm(b1, q_agents.unsqueeze(1), w1)
    slope = torch.where(z > 0, 1.0, z.exp())  # of ELU
    return torch.bmm(w1, slope.transpose(1, 2) * w2).squeeze(-1)


def what_moved(table: pd.DataFrame) -> str:
    """How far each algorithm's ``Q_tot`` of the fixed battles moved, and how much of it the mixer
    did; from the table of `opinions` beside the curves."""
    said = [
        f"{r.name} {r.change:+.2f} (agents {r.change - r.part_mixer:+.2f}, "
        f"mixer {r.part_mixer:+.2f})"
        for _, r in at_the_end(table, ["change", "part_mixer"]).set_index("name").iterrows()
    ]
    return "Since the start `Q_tot` of the fixed battles has moved by: " + "; ".join(said) + "."
