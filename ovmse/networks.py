"""The networks of QMIX: one recurrent agent shared by all, and the monotonic mixer (eq. 1-3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovmse.envs.base import EnvSpec
from ovmse.episodes import EpisodeBatch
from ovmse.recurrent import RaggedGRU

MixerWeights = tuple[Tensor, Tensor, Tensor, Tensor]


class Agent(nn.Module):
    """``obs + one-hot(last action) + one-hot(agent id)`` to Linear + ReLU, GRU, Linear."""

    def __init__(self, spec: EnvSpec, hidden_size: int) -> None:
        super().__init__()
        self.fc_in = nn.Linear(spec.obs_size + spec.n_actions + spec.n_agents, hidden_size)
        self.gru = nn.GRUCell(hidden_size, hidden_size)
        self.fc_out = nn.Linear(hidden_size, spec.n_actions)

    def step(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One step for acting: inputs ``[R, I]``, hidden ``[R, H]`` to values ``[R, A]``."""
        hidden = self.gru(F.relu(self.fc_in(inputs)), hidden)
        return self.fc_out(hidden), hidden

    def unroll(self, inputs: Tensor, counts: list[int]) -> Tensor:
        """Whole histories: inputs ``[R, I]`` time-major, counts rows per step, to ``[R, A]``."""
        gates = F.linear(F.relu(self.fc_in(inputs)), self.gru.weight_ih, self.gru.bias_ih)
        hidden = RaggedGRU.apply(gates, self.gru.weight_hh, self.gru.bias_hh, counts)
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
        w1, b1, w2, b2 = weights
        many = q_agents if q_agents.dim() == 3 else q_agents.unsqueeze(1)
        hidden = F.elu(torch.baddbmm(b1, many, w1))
        q_tot = torch.bmm(hidden, w2).squeeze(-1) + b2
        return q_tot if q_agents.dim() == 3 else q_tot.squeeze(1)


class QFunction(nn.Module):
    """Agent and mixer together: everything that is learned."""

    def __init__(
        self, spec: EnvSpec, hidden_size: int = 64, embed_size: int = 32, hypernet_size: int = 64
    ) -> None:
        super().__init__()
        self.n_agents, self.n_actions, self.hidden_size = spec.n_agents, spec.n_actions, hidden_size
        self.agent = Agent(spec, hidden_size)
        self.mixer = Mixer(spec, embed_size, hypernet_size)

    def initial_hidden(self, battles: int) -> Tensor:
        """``[E * N, H]`` zeros."""
        return self.agent.fc_in.weight.new_zeros(battles * self.n_agents, self.hidden_size)

    @torch.no_grad()
    def act(self, obs: Tensor, last_actions: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Values for acting: obs ``[E, N, O]``, last_actions ``[E, N]`` (-1 before the first),
        hidden ``[E * N, H]`` to ``([E, N, A], [E * N, H])``."""
        q_values, hidden = self.agent.step(self._inputs(obs, last_actions), hidden)
        return q_values.view(*obs.shape[:2], self.n_actions), hidden

    def q_values(self, batch: EpisodeBatch) -> Tensor:
        """``Q_i(tau_i, .)`` on every history, ``[B, L+1, N, A]``; zeros beyond an episode's end."""
        size, longest = batch.obs.shape[:2]
        steps = torch.arange(longest, device=batch.obs.device)
        there = steps[:, None] <= batch.lengths  # [L+1, B]; sorted, so rows shrink from the end
        time_major = there.nonzero()
        where = time_major[:, 1] * longest + time_major[:, 0]
        last_actions = F.pad(batch.actions, (0, 0, 1, 0), value=-1)
        inputs = self._inputs(batch.obs.flatten(0, 1)[where], last_actions.flatten(0, 1)[where])
        counts = (there.sum(1) * self.n_agents).tolist()
        values = self.agent.unroll(inputs, counts).view(-1, self.n_agents, self.n_actions)
        out = values.new_zeros(size * longest, self.n_agents, self.n_actions)
        return out.index_copy(0, where, values).view(size, longest, self.n_agents, self.n_actions)

    def q_tot(self, q_agents: Tensor, state: Tensor) -> Tensor:
        """``Q_tot`` of chosen values: ``[M, N]`` and states ``[M, S]`` to ``[M]``."""
        return self.mixer.mix(self.mixer.weights(state), q_agents)

    @torch.no_grad()
    def q_tot_taken(self, batch: EpisodeBatch) -> Tensor:
        """``Q_tot(tau, a)`` of the actions that were taken, ``[B, L]``; zeros where not filled."""
        taken = gather_actions(self.q_values(batch)[:, :-1], batch.actions)
        out = taken.new_zeros(batch.filled.shape)
        out[batch.filled] = self.q_tot(taken[batch.filled], batch.state[:, :-1][batch.filled])
        return out

    def _inputs(self, obs: Tensor, last_actions: Tensor) -> Tensor:
        """obs ``[E, N, O]``, last_actions ``[E, N]`` to agent inputs ``[E * N, O + A + N]``."""
        rows, agents, obs_size = obs.shape
        inputs = obs.new_zeros(rows, agents, obs_size + self.n_actions + agents)
        inputs[..., :obs_size] = obs
        acted = (last_actions >= 0).unsqueeze(-1)
        where = obs_size + last_actions.clamp(min=0).unsqueeze(-1)
        inputs.scatter_(-1, where, acted.to(obs.dtype))
        inputs[..., obs_size + self.n_actions :] = torch.eye(
            agents, dtype=obs.dtype, device=obs.device
        )
        return inputs.view(rows * agents, -1)


def gather_actions(q_values: Tensor, actions: Tensor) -> Tensor:
    """``q_values [..., A]`` at ``actions [...]``."""
    return q_values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
