"""What a policy really returns from a moment of a battle: branches of it in the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    (its first one from there), `branches` times, each with its own chance. As one ends, the next
    begins in its place.

    `q` remembers the history as if it had played it. A branch that the time limit cuts goes on with
    ``max_a Q_tot`` of its last frame, as the targets do (`method.targets`): left out, the
    battles that a policy cannot end would not count; taken as they are, they would return less than
    ``Q_tot`` means. Without a seed every branch has the chance of the recorded battle. The points
    need an `env` whose state is exact.
    """
    at_first, q_tot = at_points(q, points)
    hidden = at_first.flatten(1).numpy()  # [P, N * H]
    recorded = np.stack([p.battle.episode.actions[p.step] for p in points]).astype(np.int64)
    # Those with the longest way to go first: the last to begin are then soon over.
    order = sorted(
        range(len(points)), key=lambda n: points[n].step - points[n].battle.episode.length
    )
    queue = np.repeat(order, branches)
    returns, cut = np.zeros(len(queue)), np.zeros(len(queue), np.bool_)

    slots = env.num_envs
    begun = min(slots, len(queue))
    which = np.arange(slots) % begun  # the branch that each slot plays; the last may repeat one
    under_way, discount = np.arange(slots) < begun, np.ones(slots)
    restore(env, [points[n] for n in queue[which]], None if seed is None else _chance(seed, 0))
    actions, memory = recorded[queue[which]], hidden[queue[which]]
    while under_way.any():
        step, last = env.step(actions), torch.from_numpy(actions)
        returns[which[under_way]] += (discount * step.reward)[under_way]
        discount *= gamma
        if (now := under_way & step.truncated).any():
            cut[which[now]] = True
            values, _ = q.act(torch.from_numpy(step.last.obs.copy()), last, _rows(memory, q))
            best = values.masked_fill(~torch.from_numpy(step.last.avail_actions.copy()), -torch.inf)
            end = q.q_tot(best.max(-1).values, torch.from_numpy(step.last.state.copy()))
            returns[which[now]] += (discount * end.numpy())[now]
        values, after = q.act(torch.from_numpy(step.now.obs.copy()), last, _rows(memory, q))
        actions = np.where(step.now.avail_actions, values.numpy(), -np.inf).argmax(-1)
        memory = after.numpy().reshape(memory.shape)

        under_way &= ~(step.terminated | step.truncated)
        free = np.flatnonzero(~under_way)[: len(queue) - begun]
        if len(free):
            which[free] = np.arange(begun, begun + len(free))
            at = queue[which[free]]
            under_way[free], discount[free] = True, 1.0
            actions[free], memory[free] = recorded[at], hidden[at]
            chance = None if seed is None else _chance(seed, begun)
            restore(env, [points[n] for n in at], chance, free)
            begun += len(free)

    found = [np.empty((len(points), branches), x.dtype) for x in (returns, cut)]
    for out, of in zip(found, (returns, cut), strict=True):
        out[order] = of.reshape(len(points), branches)
    return Branches(q_tot, *found)


def restore(
    env: VectorEnv,
    points: Sequence[Point],
    seed: int | None = None,
    slots: np.ndarray | None = None,
) -> None:
    """Puts each slot of an environment back to its point, or only these `slots` while the others
    go on; `seed` as of ``set_state``, for all of them."""
    before = [np.stack(leaves) for leaves in zip(*(p.battle.before[p.step] for p in points))]
    if slots is not None:
        held = env.get_state()
        for n, leaf in enumerate(held):
            if len(leaf) == env.num_envs:  # what the battles share is not put back
                held[n] = leaf.copy()
                held[n][slots] = before[n]
        before = held
    env.set_state(before, seed)


def _rows(memory: np.ndarray, q: QFunction) -> Tensor:
    return torch.from_numpy(memory).view(-1, q.hidden_size)


def _chance(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) >> 1


def at_points(q: QFunction, points: Sequence[Point]) -> tuple[Tensor, np.ndarray]:
    """What `q` remembers after each point's observation ``[P, N, H]``, and ``Q_tot(tau, a) [P]``
    of the action that was taken there."""
    hidden, values, state = _come_to(q, points)
    done = np.stack([p.battle.episode.actions[p.step] for p in points]).astype(np.int64)
    with torch.no_grad():
        return hidden, q.q_tot(gather_actions(values, torch.from_numpy(done)), state).numpy()


def with_greedy(q: QFunction, points: Sequence[Point]) -> list[Point]:
    """The same moments, as if the joint action that `q` takes greedily had been taken there."""
    values, found = _come_to(q, points)[1].numpy(), []
    for point, own in zip(points, values, strict=True):
        episode = point.battle.episode
        actions = episode.actions.copy()
        actions[point.step] = np.where(episode.avail_actions[point.step], own, -np.inf).argmax(-1)
        battle = replace(point.battle, episode=replace(episode, actions=actions))
        found.append(Point(battle, point.step))
    return found


@torch.no_grad()
def _come_to(q: QFunction, points: Sequence[Point]) -> tuple[Tensor, Tensor, Tensor]:
    """At each point what `q` remembers ``[P, N, H]``, its values ``[P, N, A]`` and the state."""
    episodes, steps = [p.battle.episode for p in points], np.array([p.step for p in points])
    hidden = torch.zeros(len(points), q.n_agents, q.hidden_size)
    values, last = torch.zeros(*hidden.shape[:2], q.n_actions), torch.full(hidden.shape[:2], -1)
    for t in range(steps.max() + 1):
        there = np.flatnonzero(steps >= t)  # the others have come to their step
        obs = torch.from_numpy(np.stack([episodes[n].obs[t] for n in there])).float()
        values[there], after = q.act(obs, last[there], hidden[there].flatten(0, 1))
        done = np.stack([episodes[n].actions[t] for n in there]).astype(np.int64)
        hidden[there], last[there] = after.view(-1, *hidden.shape[1:]), torch.from_numpy(done)
    state = torch.from_numpy(np.stack([e.state[t] for e, t in zip(episodes, steps)])).float()
    return hidden, values, state
