"""What Q_tot is regressed onto: TD(lambda), the offline value memory (eq. 4, 5), proposals."""

from __future__ import annotations

import torch
from torch import Tensor


def td_target(
    reward: Tensor,
    v_next: Tensor,
    terminated: Tensor,
    lengths: Tensor,
    gamma: float,
    td_lambda: float,
) -> Tensor:
    """TD(lambda) returns ``G_t = r_t + gamma * [(1 - lambda) * V_{t+1} + lambda * G_{t+1}]``.

    reward ``[B, L]``, v_next ``[B, L]`` (``V_{t+1}``), terminated ``[B]`` bool, lengths ``[B]``;
    returns ``[B, L]``, zero where not filled. At the end of episode b, ``G = V = 0`` after a
    true end and ``G_{L_b} = V_{L_b}`` after a time limit, whatever the padding. ``td_lambda = 0``
    is the target of eq. 8. (PyMARL2's recursion differs: it under-bootstraps an episode that the
    time limit cut and that is shorter than the longest of its batch.)
    """
    longest = reward.shape[1]
    out = torch.zeros_like(reward)
    future = torch.zeros_like(reward[:, 0])
    for t in range(longest - 1, -1, -1):
        last = lengths == t + 1
        value = torch.where(last & terminated, 0.0, v_next[:, t])
        future = torch.where(last, value, future)
        now = reward[:, t] + gamma * ((1 - td_lambda) * value + td_lambda * future)
        out[:, t] = future = torch.where(t < lengths, now, 0.0)
    return out


def returns_to_go(reward: Tensor, lengths: Tensor, gamma: float) -> Tensor:
    """Discounted Monte-Carlo return-to-go ``R_t`` of the data, ``[B, L]``; no bootstrap."""
    nothing = torch.zeros_like(reward)
    return td_target(reward, nothing, nothing[:, 0].bool(), lengths, gamma, 1.0)


def proposal_value(v_online: Tensor, v_offline: Tensor) -> Tensor:
    """``V_{t+1}`` of action proposal, elementwise: the larger target-network ``Q_tot`` of two
    joint actions, the online network's greedy one and the frozen offline policy's."""
    return torch.maximum(v_online, v_offline)


def ovm_target(target: Tensor, q_offline: Tensor) -> Tensor:
    """eq. 4: ``Q_OVM = max(Q_tot-offline(tau, a), y)``, elementwise."""
    return torch.maximum(target, q_offline)


def ovm_loss(q_tot: Tensor, target: Tensor, q_offline: Tensor, lambda_memory: float) -> Tensor:
    """eq. 5: ``(1 - lambda) * (Q_tot - y)^2 + lambda * (Q_tot - Q_OVM)^2``, mean over ``[M]``.

    Its gradient is that of one regression onto ``(1 - lambda) * y + lambda * Q_OVM``.
    """
    memory = ovm_target(target, q_offline)
    return (
        (1 - lambda_memory) * (q_tot - target) ** 2 + lambda_memory * (q_tot - memory) ** 2
    ).mean()
