"""The plain batched learner that ours is measured against.

Our own code, which does with a batch what PyMARL2 (QMIX) and CFCQL (the two CQL terms) do: pad it
to its longest episode, step the agent through time, and run the mixer, hypernetworks included, for
every joint action anew. It is lean where that changes nothing of this: inputs are built once for
both networks, values are gathered before anything is repeated. It takes the weights of a
``QFunction``, so that loss and gradient must equal ours.

Letters: ``B`` episodes, ``T`` steps of the longest, ``N`` agents, ``A`` actions, ``K`` samples.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovmse.episodes import EpisodeBatch
from ovmse.method.learner import UpdateSettings
from ovmse.method.networks import Mixer, QFunction


@dataclass
class PlainBatch:
    """obs ``[B, T+1, N, O]``, onehot ``[B, T, N, A]`` (of the actions), state ``[B, T+1, S]``,
    avail ``[B, T+1, N, A]`` bool, actions ``[B, T, N]`` int64; reward, mask and terminated
    ``[B, T]``."""

    obs: Tensor
    onehot: Tensor
    state: Tensor
    avail: Tensor
    actions: Tensor
    reward: Tensor
    mask: Tensor
    terminated: Tensor

    @classmethod
    def of(cls, batch: EpisodeBatch) -> PlainBatch:
        """The same episodes, as a padded replay hands them out."""
        steps = torch.arange(1, batch.reward.shape[1] + 1, device=batch.reward.device)
        last = (steps == batch.lengths[:, None]) & batch.terminated[:, None]
        return cls(
            obs=batch.obs,
            onehot=F.one_hot(batch.actions, batch.avail_actions.shape[-1]).to(batch.obs.dtype),
            state=batch.state,
            avail=batch.avail_actions,
            actions=batch.actions,
            reward=batch.reward,
            mask=batch.filled.to(batch.reward.dtype),
            terminated=last.to(batch.reward.dtype),
        )


class PlainAgent(nn.Module):
    """Linear + ReLU, GRUCell, Linear; all ``B * N`` rows of a step at once."""

    def __init__(self, q: QFunction) -> None:
        super().__init__()
        self.fc_in = copy.deepcopy(q.agent.fc_in)
        self.cell = nn.GRUCell(q.hidden_size, q.hidden_size)
        for name, _ in list(self.cell.named_parameters()):
            setattr(self.cell, name, copy.deepcopy(getattr(q.agent.gru, f"{name}_l0")))
        self.fc_out = copy.deepcopy(q.agent.fc_out)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs ``[T+1, B * N, I]`` to values ``[T+1, B * N, A]``."""
        hidden = inputs.new_zeros(inputs.shape[1], self.cell.hidden_size)
        states = []
        for now in inputs:
            hidden = self.cell(F.relu(self.fc_in(now)), hidden)
            states.append(hidden)
        return self.fc_out(torch.stack(states))


class PlainLearner(nn.Module):
    """QMIX's update; where ``cql_alpha`` is above 0, with a CQL term on top."""

    def __init__(self, q: QFunction, settings: UpdateSettings) -> None:
        super().__init__()
        self.n_agents, self.n_actions, self.settings = q.n_agents, q.n_actions, settings
        self.agent, self.mixer = PlainAgent(q), copy.deepcopy(q.mixer)
        self.learned = list(self.parameters())  # in the order of QFunction's
        self.target_agent = copy.deepcopy(self.agent).requires_grad_(False)
        self.target_mixer = copy.deepcopy(self.mixer).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.learned, lr=settings.lr)

    def update(self, batch: PlainBatch, joint_actions: Tensor | None = None) -> float:
        """One gradient step; returns the loss. joint_actions ``[K, B, T, N]``: else drawn."""
        loss = self.loss(batch, joint_actions)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.learned, self.settings.grad_clip)
        self.optimizer.step()
        return loss.item()

    def loss(self, batch: PlainBatch, joint_actions: Tensor | None) -> Tensor:
        """Squared error, plus alpha times the CQL term, mean over the steps that are real."""
        b, s = batch, self.settings
        inputs = self.inputs(b)
        values = self.values(self.agent, inputs)
        with torch.no_grad():
            best = values.masked_fill(~b.avail, -torch.inf).argmax(-1)
            target_values = self.values(self.target_agent, inputs)
            target = self.td_target(b, mix(self.target_mixer, pick(target_values, best), b.state))
        values = values[:, :-1]
        q_tot = mix(self.mixer, pick(values, b.actions), b.state[:, :-1])
        loss = (((q_tot - target) * b.mask) ** 2).sum() / b.mask.sum()
        if s.cql_alpha > 0:
            if s.cql_form == "macql":
                soft_maximum = self.macql(b, values, joint_actions)
            else:
                soft_maximum = self.counterfactual(b, values)
            term = ((soft_maximum - q_tot) * b.mask).sum() / b.mask.sum()
            loss = loss + s.cql_alpha * term
        return loss

    def inputs(self, b: PlainBatch) -> Tensor:
        """``[T+1, B * N, I]``: observation, one-hot last action, one-hot agent."""
        size, rows, agents, _ = b.obs.shape
        last = F.pad(b.onehot, (0, 0, 0, 0, 1, 0))
        eye = torch.eye(agents, dtype=b.obs.dtype, device=b.obs.device)
        parts = b.obs, last, eye.expand(size, rows, agents, agents)
        return torch.cat([part.transpose(0, 1) for part in parts], -1).flatten(1, 2)

    def values(self, agent: PlainAgent, inputs: Tensor) -> Tensor:
        """``[B, T+1, N, A]``."""
        return agent(inputs).unflatten(1, (-1, self.n_agents)).transpose(0, 1)

    def td_target(self, b: PlainBatch, v: Tensor) -> Tensor:
        """TD(lambda), step by step from the end; v ``[B, T+1]`` are the target's values."""
        gamma, td_lambda = self.settings.gamma, self.settings.td_lambda
        future = v[:, -1] * (1 - b.terminated.sum(1))
        out = []
        for t in range(v.shape[1] - 2, -1, -1):
            value = (1 - td_lambda) * gamma * v[:, t + 1] * (1 - b.terminated[:, t])
            future = td_lambda * gamma * future + b.mask[:, t] * (b.reward[:, t] + value)
            out.append(future)
        return torch.stack(out[::-1], 1)

    def macql(self, b: PlainBatch, values: Tensor, joint: Tensor | None) -> Tensor:
        """The soft maximum over K joint actions, drawn from all; unavailable ones count as 0."""
        if joint is None:
            shape = (self.settings.cql_samples, *b.actions.shape)
            joint = torch.randint(self.n_actions, shape, device=values.device)
        index = joint.permute(1, 2, 3, 0)  # [B, T, N, K]
        there = b.avail[:, :-1].gather(-1, index).all(2).permute(2, 0, 1)
        state = b.state[:, :-1].repeat(len(joint), 1, 1, 1)
        q_tot = mix(self.mixer, values.gather(-1, index).permute(3, 0, 1, 2), state)
        return (q_tot * there).logsumexp(0)

    def counterfactual(self, b: PlainBatch, values: Tensor) -> Tensor:
        """The mean over agents of the soft maximum over one agent's actions."""
        out = []
        for agent in range(self.n_agents):
            each = []
            for action in range(self.n_actions):
                changed = b.actions.clone()
                changed[..., agent] = action
                q_tot = mix(self.mixer, pick(values, changed), b.state[:, :-1])
                # Not minus infinity: padded steps have no action, and must stay finite.
                each.append(q_tot.masked_fill(~b.avail[:, :-1, agent, action], -1e10))
            out.append(torch.stack(each, -1).logsumexp(-1))
        return torch.stack(out).mean(0)


def pick(values: Tensor, actions: Tensor) -> Tensor:
    """``values [..., A]`` at ``actions [...]``."""
    return values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def mix(mixer: Mixer, q_agents: Tensor, state: Tensor) -> Tensor:
    """``Q_tot [...]`` of q_agents ``[..., N]`` and state ``[..., S]``; every row has its own
    mixing weights, which are computed here."""
    shape, agents = q_agents.shape[:-1], q_agents.shape[-1]
    q_agents, state = q_agents.reshape(-1, 1, agents), state.reshape(-1, state.shape[-1])
    w1 = mixer.hyper_w1(state).abs().view(-1, agents, mixer.embed_size)
    b1 = mixer.hyper_b1(state).unsqueeze(1)
    w2 = mixer.hyper_w2(state).abs().unsqueeze(-1)
    hidden = F.elu(torch.baddbmm(b1, q_agents, w1))
    return (torch.bmm(hidden, w2).flatten() + mixer.hyper_b2(state).flatten()).view(shape)
