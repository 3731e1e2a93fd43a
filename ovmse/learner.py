"""One update, in the order of the paper: values, targets, loss, step (eq. 5, 8, 10)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from ovmse.conservatism import cql_loss, sample_joint_actions
from ovmse.envs.base import EnvSpec
from ovmse.episodes import EpisodeBatch
from ovmse.networks import MixerWeights, QFunction, gather_actions
from ovmse.targets import ovm_loss, td_target


@dataclass(frozen=True)
class UpdateSettings:
    """What one phase asks of an update; ``cql_alpha`` 0 leaves the CQL term out.

    The rate ``lr`` rises from 0 over ``warmup_updates`` and falls back to 0 over
    ``decay_updates`` (0: it stays).
    """

    lr: float
    warmup_updates: int
    target_interval: int
    gamma: float
    td_lambda: float
    grad_clip: float
    cql_alpha: float
    cql_samples: int
    cql_data_action: bool
    decay_updates: int = 0


class Learner:
    """The online and target networks, the optimiser, and the update."""

    def __init__(self, q: QFunction, settings: UpdateSettings, seed: int) -> None:
        self.q = q
        self.target = copy.deepcopy(q).requires_grad_(False)
        self.settings = settings
        self.optimizer = torch.optim.Adam(q.parameters(), lr=settings.lr)
        self.generator = torch.Generator().manual_seed(seed)  # of the CQL term's samples
        self.updates = 0

    def update(self, batch: EpisodeBatch, lambda_memory: float | None = None) -> dict[str, float]:
        """One gradient step on a batch; returns ``loss`` and, with a memory, ``memory_active``.

        ``lambda_memory`` is lambda of eq. 5 and needs ``batch.q_offline``; None means no memory.
        ``memory_active`` is the share of filled steps where the memory exceeds the TD target.
        """
        s, filled = self.settings, batch.filled
        state = batch.state[:, :-1][filled]  # [M, S], M filled steps

        # Q_tot(tau, a) of what was done.
        q_values = self.q.q_values(batch)  # [B, L+1, N, A]
        q_now = q_values[:, :-1][filled]  # [M, N, A]
        weights = self.q.mixer.weights(state)
        q_tot = self.q.mixer.mix(weights, gather_actions(q_now, batch.actions[filled]))

        # y: TD(lambda) with double-Q (eq. 8).
        target = self.td_target(batch, q_values.detach())[filled]

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
        if s.cql_alpha > 0:
            loss = loss + s.cql_alpha * self.cql(batch, q_now, q_tot, weights)

        self._step(loss)
        stats["loss"] = loss.item()
        return stats

    @torch.no_grad()
    def td_target(self, batch: EpisodeBatch, q_values: Tensor) -> Tensor:
        """y ``[B, L]``: the online network picks the next joint action among the available ones,
        the target network values it."""
        s, filled = self.settings, batch.filled
        avail = batch.avail_actions[:, 1:][filled]
        greedy = q_values[:, 1:][filled].masked_fill(~avail, -torch.inf).argmax(-1)
        chosen = gather_actions(self.target.q_values(batch)[:, 1:][filled], greedy)
        v_next = torch.zeros_like(batch.reward)
        v_next[filled] = self.target.q_tot(chosen, batch.state[:, 1:][filled])
        return td_target(
            batch.reward, v_next, batch.terminated, batch.lengths, s.gamma, s.td_lambda
        )

    def cql(
        self, batch: EpisodeBatch, q_now: Tensor, q_tot: Tensor, weights: MixerWeights
    ) -> Tensor:
        """L_CQL over K joint actions drawn uniformly among the available ones."""
        s = self.settings
        avail = batch.avail_actions[:, :-1][batch.filled]
        joint_actions = sample_joint_actions(avail, s.cql_samples, self.generator)
        return cql_loss(q_now, q_tot, joint_actions, weights, s.cql_data_action)

    def _step(self, loss: Tensor) -> None:
        s = self.settings
        rate = s.lr * min(1.0, (self.updates + 1) / max(1, s.warmup_updates))
        if s.decay_updates:
            rate *= 1.0 - self.updates / s.decay_updates
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.q.parameters(), s.grad_clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the loss is {loss.item()} at update {self.updates + 1}")
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
        self.load_networks(tensors)
        self.load_optimizer(tensors)
        self.generator.set_state(tensors["generator"])
        self.updates = int(tensors["updates"])

    def load_networks(self, tensors: dict[str, Tensor]) -> None:
        """Puts back the online and the target network alone."""
        self.q.load_state_dict(_under("q.", tensors))
        self.target.load_state_dict(_under("target.", tensors))

    def frozen_target(self) -> QFunction:
        """A copy of the target network that no update reaches (``Q_tot-offline`` of eq. 4)."""
        return copy.deepcopy(self.target)

    def load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        """Puts back the optimiser's moments alone (the carry-over between the phases)."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("adam.", tensors).items():
            index, slot = name.split(".")
            state.setdefault(int(index), {})[slot] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def new_q_function(spec: EnvSpec, sizes: tuple[int, int, int], seed: int) -> QFunction:
    """A fresh QFunction whose weights depend on the seed alone, not on global state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return QFunction(spec, *sizes)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
