"""One update, in the order of the paper: values, targets, loss, step (eq. 5, 8, 10)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ovmse.envs.base import EnvSpec
from ovmse.episodes import EpisodeBatch
from ovmse.method.conservatism import counterfactual_loss, cql_loss, sample_joint_actions
from ovmse.method.networks import Inputs, Mixer, MixerWeights, QFunction, gather_actions
from ovmse.method.targets import ovm_loss, proposal_value, returns_to_go, td_target

# The best return is 20, so a squared error of a million means values a thousand wide of anything
# real: learning has diverged, though every number is still finite.
LOSS_LIMIT = 1e6


class DivergedError(FloatingPointError):
    """A loss that is not a number, or too large to come back from; nothing was changed by it."""


@dataclass(frozen=True)
class UpdateSettings:
    """What one phase asks of an update; ``cql_alpha`` 0 leaves the CQL term out.

    ``cql_form`` is one of ``CQL_FORMS``; ``cql_samples`` and ``cql_data_action`` do not matter to
    the counterfactual form, which goes through every action of every agent.
    The rate ``lr`` rises from 0 over ``lr_warmup_updates`` and falls back to 0 over
    ``decay_updates`` (0: it stays).
    """

    lr: float
    lr_warmup_updates: int
    target_interval: int
    gamma: float
    td_lambda: float
    grad_clip: float
    cql_alpha: float
    cql_form: str
    cql_samples: int
    cql_data_action: bool
    decay_updates: int = 0


class Learner:
    """The online and target networks, the optimiser, and the update."""

    def __init__(self, q: QFunction, settings: UpdateSettings, seed: int) -> None:
        self.q = q
        self.target = q.frozen_copy()
        self.settings = settings
        self.optimizer = torch.optim.Adam(q.parameters(), lr=settings.lr)
        # Of the CQL term's samples.
        self.generator = torch.Generator(q.device).manual_seed(seed)
        self.updates = 0

    def update(
        self,
        batch: EpisodeBatch,
        lambda_memory: float | None = None,
        cql_alpha: float | None = None,
        proposals: bool = False,
    ) -> dict[str, float]:
        """One gradient step on a batch; returns ``loss`` and, with a memory, ``memory_active``.

        ``lambda_memory`` is lambda of eq. 5 and needs ``batch.q_offline``; None means no memory.
        ``cql_alpha`` takes the place of the settings' own, where it is annealed.
        ``proposals``: the target needs ``batch.proposal`` (action proposal).
        ``memory_active`` is the share of filled steps where the memory exceeds the TD target.
        Raises DivergedError, with the weights as they were, if the loss or its gradient is not
        finite or the loss exceeds ``LOSS_LIMIT``.
        """
        if proposals and batch.proposal is None:
            raise ValueError("proposals are asked for, but the batch has no proposal")
        s, filled = self.settings, batch.filled
        state = batch.state[:, :-1][filled]  # [M, S], M filled steps

        # Q_tot(tau, a) of what was done.
        inputs = self.q.inputs(batch)
        q_values = self.q.q_values(batch, inputs)  # [B, L+1, N, A]
        q_now = q_values[:, :-1][filled]  # [M, N, A]
        weights = self.q.mixer.weights(state)
        q_tot = self.q.mixer.mix(weights, gather_actions(q_now, batch.actions[filled]))

        # y: TD(lambda) with double-Q (eq. 8).
        target = self.td_target(batch, q_values.detach(), inputs)[filled]

        # L: onto y (eq. 8), or onto y and the offline memory (eq. 5).
        stats: dict[str, float] = {}
        if lambda_memory is None:
            loss = ((q_tot - target) ** 2).mean()
        else:
            if batch.q_offline is None:
                raise ValueError("lambda_memory is given, but the batch has no q_offline")
            memory = batch.q_offline[filled]
            loss = ovm_loss(q_tot, target, memory, lambda_memory)
            stats["memory_active"] = (memory > target).float().mean().item()

        # + alpha * L_CQL (eq. 10).
        alpha = s.cql_alpha if cql_alpha is None else cql_alpha
        if alpha > 0:
            loss = loss + alpha * self.cql(batch, q_now, q_tot, weights)

        self._step(loss)
        stats["loss"] = loss.item()
        return stats

    @torch.no_grad()
    def td_target(
        self, batch: EpisodeBatch, q_values: Tensor, inputs: Inputs | None = None
    ) -> Tensor:
        """y ``[B, L]``: the online network picks the next joint action among the available ones,
        the target network values it. With ``batch.proposal`` the offline policy's joint action
        competes."""
        s, target = self.settings, self.target
        later = target.q_values(batch, inputs)
        return double_q_target(batch, q_values, later, target.mixer, s.gamma, s.td_lambda)

    def cql(
        self, batch: EpisodeBatch, q_now: Tensor, q_tot: Tensor, weights: MixerWeights
    ) -> Tensor:
        """L_CQL in the form of the settings."""
        s, filled = self.settings, batch.filled
        avail = batch.avail_actions[:, :-1][filled]
        if s.cql_form == "counterfactual":
            return counterfactual_loss(q_now, q_tot, batch.actions[filled], avail, weights)
        joint_actions = sample_joint_actions(avail, s.cql_samples, self.generator)
        floor = None
        if s.cql_form == "calibrated":
            floor = returns_to_go(batch.reward, batch.lengths, s.gamma)[filled]
        return cql_loss(q_now, q_tot, joint_actions, weights, s.cql_data_action, floor)

    def _step(self, loss: Tensor) -> None:
        s = self.settings
        rate = s.lr * min(1.0, (self.updates + 1) / max(1, s.lr_warmup_updates))
        if s.decay_updates:
            rate *= 1.0 - self.updates / s.decay_updates
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.q.parameters(), s.grad_clip)
        if not (torch.isfinite(norm) and loss.abs() < LOSS_LIMIT):
            raise DivergedError(
                f"learning diverged at update {self.updates + 1}: the loss is {loss.item():.4g}, "
                f"its gradient {norm.item():.4g} long"
            )
        self.optimizer.step()
        self.updates += 1
        if self.updates % s.target_interval == 0:
            self.target.load_state_dict(self.q.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        """Everything an exact resume needs, as flat tensors."""
        out = {f"q.{k}": v for k, v in self.q.state_dict().items()}
        out |= {f"target.{k}": v for k, v in self.target.state_dict().items()}
        for index, slot in self.optimizer.state_dict()["state"].items():
            out |= {f"adam.{index}.{k}": v for k, v in slot.items()}
        out["generator"] = self.generator.get_state()
        out["updates"] = torch.tensor(self.updates)
        return out

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what ``state_dict`` returned."""
        self.q.load_state_dict(_under("q.", tensors))
        self.target.load_state_dict(_under("target.", tensors))
        self.load_optimizer(tensors)
        self.generator.set_state(tensors["generator"])
        self.updates = int(tensors["updates"])

    def load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        """Puts back the optimiser's moments alone (the carry-over between the phases)."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("adam.", tensors).items():
            index, slot = name.split(".")
            state.setdefault(int(index), {})[slot] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


@torch.no_grad()
def double_q_target(
    batch: EpisodeBatch,
    q_values: Tensor,
    target_values: Tensor,
    mixer: Mixer,
    gamma: float,
    td_lambda: float,
) -> Tensor:
    """y of eq. 8 with TD(lambda), ``[B, L]``, from ``Q_i`` ``[B, L+1, N, A]`` of the online and of
    the target network, and the latter's mixer; see ``Learner.td_target``."""
    filled = batch.filled
    avail = batch.avail_actions[:, 1:][filled]
    greedy = q_values[:, 1:][filled].masked_fill(~avail, -torch.inf).argmax(-1)
    later = target_values[:, 1:][filled]
    weights = mixer.weights(batch.state[:, 1:][filled])
    value = mixer.mix(weights, gather_actions(later, greedy))
    if batch.proposal is not None:
        proposed = gather_actions(later, batch.proposal[:, 1:][filled])
        value = proposal_value(value, mixer.mix(weights, proposed))
    v_next = torch.zeros_like(batch.reward)
    v_next[filled] = value
    return td_target(batch.reward, v_next, batch.terminated, batch.lengths, gamma, td_lambda)


def new_q_function(spec: EnvSpec, sizes: tuple[int, int, int], seed: int) -> QFunction:
    """A fresh QFunction whose weights depend on the seed alone, not on global state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return QFunction(spec, *sizes)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
