"""The networks of QMIX: one recurrent agent shared by all, and the monotonic mixer (eq. 1-3)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ovmse.envs.base import EnvSpec
from ovmse.episodes import EpisodeBatch
from ovmse.method.recurrent import RaggedGRU

MixerWeights = tuple[Tensor, Tensor, Tensor, Tensor]
CHUNK = 2**15  # joint actions mixed in one go, so that their hidden layer stays in the cache


class Inputs(NamedTuple):
    """Agent inputs of a batch, ``[R, I]`` time-major; how many rows each step has; and where in
    the padded batch, ``[B * (L+1)]``, the ``N`` rows of a history belong."""

    rows: Tensor
    counts: list[int]
    where: Tensor


class Agent(nn.Module):
    """``obs + one-hot(last action) + one-hot(agent id)`` to Linear + ReLU, GRU, Linear."""

    def __init__(self, spec: EnvSpec, hidden_size: int) -> None:
        super().__init__()
        self.fc_in = nn.Linear(spec.obs_size + spec.n_actions + spec.n_agents, hidden_size)
        self.gru = nn.GRU(hidden_size, hidden_size)
        self.fc_out = nn.Linear(hidden_size, spec.n_actions)

    def step(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One step for acting: inputs ``[R, I]``, hidden ``[R, H]`` to values ``[R, A]``."""
        hidden = torch.gru_cell(F.relu(self.fc_in(inputs)), hidden, *self.gru.all_weights[0])
        return self.fc_out(hidden), hidden

    def unroll(self, inputs: Tensor, counts: list[int]) -> Tensor:
        """Whole histories: inputs ``[R, I]`` time-major, counts rows per step, to ``[R, A]``."""
        x = F.relu(self.fc_in(inputs))
        if x.is_cuda:  # cuDNN takes the same layout: time-major rows, so many at each step
            hidden = self.gru(PackedSequence(x, torch.tensor(counts)))[0].data
        else:
            hidden = RaggedGRU.apply(x, *self.gru.all_weights[0], counts)
        return self.fc_out(hidden)


class Mixer(nn.Module):
    """``Q_tot = f_s(Q_1, ..., Q_N)`` with ``dQ_tot / dQ_i >= 0`` (eq. 1, 2).

    Hypernetworks turn the state into the mixing weights; their absolute value makes the mixing
    monotone, so that each agent's own best action is part of the jointly best one (eq. 3).
    """

    def __init__(self, spec: EnvSpec, embed_size: int, hypernet_size: int) -> None:
        super().__init__()
        self.n_agents, self.embed_size = spec.n_agents, embed_size

        def hypernet(outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(spec.state_size, hypernet_size),
                nn.ReLU(),
                nn.Linear(hypernet_size, outputs),
            )

        self.hyper_w1 = hypernet(spec.n_agents * embed_size)
        self.hyper_b1 = nn.Linear(spec.state_size, embed_size)
        self.hyper_w2 = hypernet(embed_size)
        self.hyper_b2 = nn.Sequential(
            nn.Linear(spec.state_size, embed_size), nn.ReLU(), nn.Linear(embed_size, 1)
        )

    def weights(self, state: Tensor) -> MixerWeights:
        """The mixing weights of ``M`` states ``[M, S]``: they depend on the state alone, so one
        computation serves every ``Q_tot`` of these states."""
        w1 = self.hyper_w1(state).abs().view(-1, self.n_agents, self.embed_size)
        b1 = self.hyper_b1(state).unsqueeze(1)
        w2 = self.hyper_w2(state).abs().unsqueeze(-1)
        return w1, b1, w2, self.hyper_b2(state)

    @staticmethod
    def mix(weights: MixerWeights, q_agents: Tensor) -> Tensor:
        """``q_agents [M, N]`` to ``Q_tot [M]``, or ``[M, K, N]`` to ``[M, K]``."""
        many = q_agents if q_agents.dim() == 3 else q_agents.unsqueeze(1)
        q_tot = _in_chunks(_mix, many.shape[1], many, *weights)
        return q_tot if q_agents.dim() == 3 else q_tot.squeeze(1)

    @staticmethod
    def mix_each(weights: MixerWeights, q_taken: Tensor, q_values: Tensor) -> Tensor:
        """``Q_tot [M, N, A]`` when agent i alone changes to each of its actions.

        q_taken ``[M, N]`` of the joint action, q_values ``[M, N, A]``. One agent moves the hidden
        layer along its own row of the first weights, so nothing is mixed N times over.
        """
        return _in_chunks(_mix_each, q_values[:1].numel(), q_taken, q_values, *weights)


def _in_chunks(mix: Callable[..., Tensor], each: int, *tensors: Tensor) -> Tensor:
    """``mix`` of tensors ``[M, ...]``, some of the steps at a time, where each step stands for
    so many joint actions."""
    chunks = zip(*(tensor.split(max(1, CHUNK // each)) for tensor in tensors))
    return torch.cat([mix(*chunk) for chunk in chunks])


def _mix(many: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    hidden = F.elu(torch.baddbmm(b1, many, w1), inplace=True)
    return torch.bmm(hidden, w2).squeeze(-1) + b2


def _mix_each(
    q_taken: Tensor, q_values: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> Tensor:
    base = torch.baddbmm(b1, q_taken.unsqueeze(1), w1).unsqueeze(1)  # [M, 1, 1, E]
    change = (q_values - q_taken.unsqueeze(-1)).unsqueeze(-1)  # [M, N, A, 1]
    hidden = F.elu(torch.addcmul(base, change, w1.unsqueeze(2)), inplace=True)
    return (torch.bmm(hidden.flatten(1, 2), w2).squeeze(-1) + b2).view_as(q_values)


class QFunction(nn.Module):
    """Agent and mixer together: everything that is learned."""

    def __init__(
        self, spec: EnvSpec, hidden_size: int, embed_size: int, hypernet_size: int
    ) -> None:
        super().__init__()
        self.n_agents, self.n_actions, self.hidden_size = spec.n_agents, spec.n_actions, hidden_size
        self.agent = Agent(spec, hidden_size)
        self.mixer = Mixer(spec, embed_size, hypernet_size)

    def frozen_copy(self) -> QFunction:
        """A copy that no update reaches."""
        out = copy.deepcopy(self).requires_grad_(False)
        out.agent.gru.flatten_parameters()  # a copy scatters what cuDNN wants in one piece
        return out

    @property
    def device(self) -> torch.device:
        """Where the weights are; batches must be there too."""
        return self.agent.fc_in.weight.device

    @torch.inference_mode()
    def act(self, obs: Tensor, last_actions: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Values for acting: obs ``[E, N, O]``, last_actions ``[E, N]`` (-1 before the first),
        hidden ``[E * N, H]`` to ``([E, N, A], [E * N, H])``."""
        q_values, hidden = self.agent.step(self._inputs(obs, last_actions), hidden)
        return q_values.view(*obs.shape[:2], self.n_actions), hidden

    def inputs(self, batch: EpisodeBatch) -> Inputs:
        """What the agents see in a batch: the same for the online and the target network."""
        longest = batch.obs.shape[1]
        steps = torch.arange(longest, device=batch.obs.device)
        there = steps[:, None] <= batch.lengths  # [L+1, B]; sorted, so rows shrink from the end
        time_major = there.nonzero()
        where = time_major[:, 1] * longest + time_major[:, 0]
        last_actions = F.pad(batch.actions, (0, 0, 1, 0), value=-1)
        obs, last = (x.flatten(0, 1).index_select(0, where) for x in (batch.obs, last_actions))
        rows = self._inputs(obs, last)
        return Inputs(rows, (there.sum(1) * self.n_agents).tolist(), where)

    def q_values(self, batch: EpisodeBatch, inputs: Inputs | None = None) -> Tensor:
        """``Q_i(tau_i, .)`` on every history, ``[B, L+1, N, A]``; zeros beyond an episode's end.

        inputs: of this batch, where they are at hand.
        """
        size, longest = batch.obs.shape[:2]
        rows, counts, where = inputs or self.inputs(batch)
        values = self.agent.unroll(rows, counts).view(-1, self.n_agents, self.n_actions)
        out = values.new_zeros(size * longest, self.n_agents, self.n_actions)
        return out.index_copy_(0, where, values).view(size, longest, self.n_agents, self.n_actions)

    def q_tot(self, q_agents: Tensor, state: Tensor) -> Tensor:
        """``Q_tot`` of chosen values: ``[M, N]`` and states ``[M, S]`` to ``[M]``."""
        return self.mixer.mix(self.mixer.weights(state), q_agents)

    @torch.no_grad()
    def greedy_actions(self, batch: EpisodeBatch) -> Tensor:
        """Each agent's best available action on every history, ``[B, L+1, N]``; no more than
        padding beyond an episode's end."""
        return self.q_values(batch).masked_fill(~batch.avail_actions, -torch.inf).argmax(-1)

    @torch.no_grad()
    def q_tot_taken(self, batch: EpisodeBatch) -> Tensor:
        """``Q_tot(tau, a)`` of the actions that were taken, ``[B, L]``; zeros where not filled."""
        taken = gather_actions(self.q_values(batch)[:, :-1], batch.actions)
        out = taken.new_zeros(batch.filled.shape)
        out[batch.filled] = self.q_tot(taken[batch.filled], batch.state[:, :-1][batch.filled])
        return out

    def _inputs(self, obs: Tensor, last_actions: Tensor) -> Tensor:
        """obs ``[E, N, O]``, last_actions ``[E, N]`` to agent inputs ``[E * N, O + A + N]``."""
        rows, agents, _ = obs.shape
        dtype, device = obs.dtype, obs.device
        one_hot = torch.eye(self.n_actions + 1, self.n_actions, dtype=dtype, device=device)
        acted = one_hot[last_actions]  # -1 takes its last row, which is zeros
        identity = torch.eye(agents, dtype=dtype, device=device).expand(rows, -1, -1)
        return torch.cat([obs, acted, identity], -1).view(rows * agents, -1)


def gather_actions(q_values: Tensor, actions: Tensor) -> Tensor:
    """``q_values [..., A]`` at ``actions [...]``."""
    return q_values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
