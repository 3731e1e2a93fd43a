"""What a policy really returns from a moment of a battle: branches of it in the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analysis.battles import Battle
from ovmse.envs.base import VectorEnv
from ovmse.method.networks import QFunction, gather_actions


@dataclass(frozen=True)
class Point:
    """A moment of a recorded battle: before its step `step`, whose joint action was taken."""

    battle: Battle
    step: int


@dataclass(frozen=True)
class Branches:
    """Of ``P`` points with ``R`` branches each: q_tot ``[P]``, ``Q_tot(tau, a)`` of the action that
    was taken; returns ``[P, R]``, discounted, from that action on; cut ``[P, R]`` bool, the time
    limit ended the branch, so its return goes on with the network's own value of where it was."""

    q_tot: np.ndarray
    returns: np.ndarray
    cut: np.ndarray


def spread_points(battles: Sequence[Battle], count: int, seed: int) -> list[Point]:
    """One random moment of each of `count` equal stretches of all steps of the battles in a row;
    all moments where there are no more. So each step is as likely, and they spread over battles."""
    every = [Point(battle, t) for battle in battles for t in range(battle.episode.length)]
    count = min(count, len(every))
    within = np.random.default_rng(seed).random(count)
    return [every[int((n + x) * len(every) / count)] for n, x in enumerate(within)]


@torch.no_grad()
def branch(
    q: QFunction,
    env: VectorEnv,
    points: Sequence[Point],
    branches: int,
    gamma: float,
    seed: int | None = 0,
) -> Branches:
    """Each point's state restored, its joint action taken, then `q` greedy to the end of the battle
    (its first one from there), `branches` times, each with its own chance.

    `q` remembers the history as if it had played it. A branch that the time limit cuts goes on with
    ``max_a Q_tot`` of its last frame, as the targets do (`method.targets`): left out, the
    battles that a policy cannot end would not count; taken as they are, they would return less than
    ``Q_tot`` means. Without a seed every branch has the chance of the recorded battle. The points
    need an `env` whose state is exact.
    """
    hidden, q_tot = at_points(q, points)
    returns = np.zeros((len(points), branches))
    cut = np.zeros((len(points), branches), np.bool_)
    # Neighbours have about as many steps to go, so that no slot waits long for another.
    order = sorted(
        range(len(points)), key=lambda n: points[n].battle.episode.length - points[n].step
    )
    rows = np.repeat(order, branches)
    for number, first in enumerate(range(0, len(rows), env.num_envs)):
        some = rows[first : first + env.num_envs]
        slots = np.resize(some, env.num_envs)  # the last slots may repeat what others do
        chance = None if seed is None else _chance(seed, number)
        got = _play(q, env, [points[n] for n in slots], hidden[slots].flatten(0, 1), gamma, chance)
        for array, found in zip((returns, cut), got, strict=True):
            array[some, np.arange(first, first + len(some)) % branches] = found[: len(some)]
    return Branches(q_tot, returns, cut)


def restore(env: VectorEnv, points: Sequence[Point], seed: int | None = None) -> None:
    """Puts each slot of an environment back to its point; `seed` as of ``set_state``."""
    before = [p.battle.before[p.step] for p in points]
    env.set_state([np.stack(leaves) for leaves in zip(*before, strict=True)], seed)


def _chance(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) >> 1


@torch.no_grad()
def at_points(q: QFunction, points: Sequence[Point]) -> tuple[Tensor, np.ndarray]:
    """What `q` remembers after each point's observation ``[P, N, H]``, and ``Q_tot(tau, a) [P]``
    of the action that was taken there."""
    steps = torch.tensor([p.step for p in points])
    episodes = [p.battle.episode for p in points]
    hidden = torch.zeros(len(points) * q.n_agents, q.hidden_size)
    after, taken, last = [], [], torch.full((len(points), q.n_agents), -1)
    for t in range(int(steps.max()) + 1):
        there = [e.obs[min(t, p.step)] for e, p in zip(episodes, points, strict=True)]
        values, hidden = q.act(torch.from_numpy(np.stack(there)).float(), last, hidden)
        done = [e.actions[min(t, p.step)] for e, p in zip(episodes, points, strict=True)]
        last = torch.from_numpy(np.stack(done).astype(np.int64))
        here = (steps == t)[:, None]
        now = hidden.view(len(points), q.n_agents, -1)
        after.append(now * here[..., None])
        taken.append(gather_actions(values, last) * here)
    state = torch.from_numpy(np.stack([e.state[p.step] for e, p in zip(episodes, points)])).float()
    return torch.stack(after).sum(0), q.q_tot(torch.stack(taken).sum(0), state).numpy()


def _play(
    q: QFunction,
    env: VectorEnv,
    points: Sequence[Point],
    hidden: Tensor,
    gamma: float,
    seed: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The discounted return ``[E]`` of one branch a slot, and whether the time limit cut it."""
    restore(env, points, seed)
    actions = np.stack([p.battle.episode.actions[p.step] for p in points]).astype(np.int64)
    returns, discount, under_way = np.zeros(len(points)), 1.0, np.ones(len(points), np.bool_)
    cut = np.zeros_like(under_way)
    while True:
        step, last = env.step(actions), torch.from_numpy(actions)
        returns[under_way] += discount * step.reward[under_way]
        discount *= gamma
        if (now := under_way & step.truncated).any():
            cut |= now
            values, _ = q.act(torch.from_numpy(step.last.obs.copy()), last, hidden)
            best = values.masked_fill(~torch.from_numpy(step.last.avail_actions.copy()), -torch.inf)
            end = q.q_tot(best.max(-1).values, torch.from_numpy(step.last.state.copy()))
            returns[now] += discount * end.numpy()[now]
        under_way &= ~(step.terminated | step.truncated)
        if not under_way.any():
            return returns, cut
        values, hidden = q.act(torch.from_numpy(step.now.obs.copy()), last, hidden)
        actions = np.where(step.now.avail_actions, values.numpy(), -np.inf).argmax(-1)
