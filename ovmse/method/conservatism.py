"""Conservative Q-learning for a mixed team value (eq. 9, 10): MACQL's, calibrated, counterfactual.

The paper prints the linear form (eq. 9); MACQL, which it follows, uses the soft maximum, and so do
all three here. Letters: ``M`` filled steps, ``N`` agents, ``A`` actions, ``K`` joint actions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ovmse.method.networks import Mixer, MixerWeights, gather_actions


def sample_joint_actions(avail_actions: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """``K`` joint actions, each agent uniform over its available ones: ``[M, N, A]`` bool to
    ``[M, K, N]`` int64."""
    count = avail_actions.sum(-1)
    uniform = torch.rand(
        (count.shape[0], samples, count.shape[1]), generator=generator, device=count.device
    )
    pick = (uniform * count.unsqueeze(1)).long()
    # The available actions first, in order: the pick-th entry is the pick-th available action.
    listed = avail_actions.byte().sort(dim=-1, descending=True, stable=True).indices
    return (
        listed.unsqueeze(1).expand(-1, samples, -1, -1).gather(-1, pick.unsqueeze(-1)).squeeze(-1)
    )


def cql_loss(
    q_values: Tensor,
    q_tot_data: Tensor,
    joint_actions: Tensor,
    weights: MixerWeights,
    include_data_action: bool,
    returns: Tensor | None = None,
) -> Tensor:
    """``logsumexp_k Q_tot(tau, a_k) - Q_tot(tau, a_data)``, mean over ``M`` steps.

    q_values ``[M, N, A]``, q_tot_data ``[M]`` (with its gradient), joint_actions ``[M, K, N]``,
    weights of the mixer for the same ``M`` states. With the data action among the ``K`` the term
    is never negative; without it, as in CFCQL's code, it is not bounded below and lifts the
    values of the data.

    With ``returns [M]`` the form is calibrated (Cal-QL): inside the logsumexp each
    ``Q_tot(tau, a_k)`` becomes ``max(Q_tot(tau, a_k), R_t)``, ``R_t`` the discounted Monte-Carlo
    return-to-go of the data, so that no value is pushed below what the data returned. Cal-QL's
    continuous code floors the policy's actions and leaves random ones alone; here all ``K`` stand
    for the soft maximum, so all are floored.
    """
    chosen = q_values.gather(-1, joint_actions.transpose(1, 2)).transpose(1, 2)  # [M, K, N]
    q_tot = Mixer.mix(weights, chosen)
    if include_data_action:
        q_tot = torch.cat([q_tot, q_tot_data.unsqueeze(-1)], -1)
    if returns is not None:
        q_tot = torch.maximum(q_tot, returns.unsqueeze(-1))
    return (q_tot.logsumexp(-1) - q_tot_data).mean()


def counterfactual_loss(
    q_values: Tensor,
    q_tot_data: Tensor,
    actions: Tensor,
    avail_actions: Tensor,
    weights: MixerWeights,
) -> Tensor:
    """``(1/N) sum_i logsumexp_{a_i} Q_tot(a_i, a_data,-i) - Q_tot(a_data)``, mean over ``M`` steps.

    One agent at a time leaves the data, over its available actions; the others keep theirs. After
    CFCQL, with equal weights in place of its weights from a behaviour model. q_values and
    avail_actions ``[M, N, A]``, q_tot_data ``[M]``, actions of the data ``[M, N]``.
    """
    q_tot = Mixer.mix_each(weights, gather_actions(q_values, actions), q_values)
    soft_maximum = q_tot.masked_fill(~avail_actions, -torch.inf).logsumexp(-1)  # [M, N]
    return (soft_maximum.mean(-1) - q_tot_data).mean()
