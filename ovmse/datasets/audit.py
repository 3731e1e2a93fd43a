"""What is wrong with a dataset, in words, and the numbers that show it.

Letters: ``E`` battles, ``n`` agents, ``A`` actions, ``L`` steps of one battle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ovmse.datasets.card import dataset_statistics
from ovmse.datasets.dataset import Dataset
from ovmse.episodes import Episode

# When a number is called a defect. Two of these were measured: on 6h_vs_8z medium, battles that
# the time limit cut (13 % of battles, 24 % of steps) spoilt the pre-training; on 2s3z medium
# (5 %, 7 %) they did not.
CUT_STEPS = 0.1  # share of the steps that lie in cut battles
FEW = 200  # distinct battles
DISTINCT = 0.98  # share of battles that are distinct
OFFERED = 200  # steps at which an agent could take an action that it never takes
AT_LIMIT = 0.02  # share of battles that end, not won, on the very step of the time limit


@dataclass(frozen=True)
class Audit:
    """numbers: those of the card (``card.dataset_statistics``), and `cut_steps` (share of the
    steps in battles that the time limit cut, 0..1), `ended_at_limit` (share of the battles that
    are marked as ended and not won, on the step of the time limit), `joint_actions` (how many
    different ones), `joint_once` (share of the steps whose joint action is in the file once,
    0..1).

    returns, lengths ``[E]``; won ``[E]`` (1, 0, NaN where unknown); cut ``[E]`` bool;
    taken, offered ``[n, A]``: at how many steps with a choice each agent took each action, and
    could have.
    warnings: one sentence for each defect, none for a clean file.
    """

    numbers: dict[str, Any]
    returns: np.ndarray
    lengths: np.ndarray
    won: np.ndarray
    cut: np.ndarray
    taken: np.ndarray
    offered: np.ndarray
    warnings: list[str]


def audit(dataset: Dataset, action_names: Sequence[str] = ()) -> Audit:
    """Looks at every battle of the dataset once. Pure: nothing is written.

    action_names: ``A`` names, which the warnings then say beside the numbers.
    """
    episodes = dataset.episodes
    lengths = np.array([e.length for e in episodes])
    cut = np.array([not e.terminated for e in episodes])
    won = np.array([np.nan if e.won is None else e.won for e in episodes], float)
    at_limit = (lengths == dataset.episode_limit) & ~cut & (won != 1)
    taken = np.zeros((dataset.n_agents, dataset.n_actions), np.int64)
    offered = np.zeros_like(taken)
    agents = np.arange(dataset.n_agents)
    for e in episodes:
        choice = e.avail_actions[:-1].sum(-1) > 1  # the dead have none
        offered += (e.avail_actions[:-1] & choice[..., None]).sum(0)
        who = np.broadcast_to(agents, e.actions.shape)
        np.add.at(taken, (who[choice], e.actions[choice]), 1)
    joint = np.concatenate([e.actions for e in episodes])
    counts = _counts(joint)
    numbers = dataset_statistics(dataset) | {
        "cut_steps": float(lengths[cut].sum() / lengths.sum()),
        "ended_at_limit": float(at_limit.mean()),
        "joint_actions": len(counts),
        "joint_once": float((counts == 1).sum() / len(joint)),
    }
    return Audit(
        numbers,
        np.array([e.episode_return for e in episodes]),
        lengths,
        won,
        cut,
        taken,
        offered,
        [*_of_battles(numbers, won, episodes), *_of_actions(taken, offered, action_names)],
    )


def _counts(rows: np.ndarray) -> np.ndarray:
    """How often each different row occurs."""
    rows = np.ascontiguousarray(rows)
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))
    return np.unique(keys, return_counts=True)[1]


def _of_battles(n: dict[str, Any], won: np.ndarray, episodes: Sequence[Episode]) -> list[str]:
    found = []
    if n["distinct_episodes"] < FEW:
        found.append(
            f"Too few battles: {n['distinct_episodes']:,} different ones; a thousand and more are "
            "usual, and few cover little of what a policy will meet."
        )
    if n["distinct_episodes"] < DISTINCT * n["episodes"]:
        times = n["episodes"] / n["distinct_episodes"]
        found.append(
            f"Duplicates: {n['episodes'] - n['distinct_episodes']:,} of {n['episodes']:,} battles "
            "are copies of others"
            + (f" (each is there {times:.1f} times on average)" if times >= 1.5 else "")
            + f", so the file says as much as {n['distinct_episodes']:,} battles."
        )
    if n["cut_steps"] >= CUT_STEPS:
        found.append(
            f"Cut battles: the time limit cut {n['truncated']:.0%} of the battles, with "
            f"{n['cut_steps']:.0%} of the steps; their values bootstrap without an end and can "
            "grow. On 6h_vs_8z medium that spoilt the pre-training; cut_battles=false leaves them "
            "out."
        )
    if n["ended_at_limit"] >= AT_LIMIT:
        found.append(
            f"Time limits marked as ends: {n['ended_at_limit']:.0%} of the battles end on the very "
            "step of the time limit without a win; if that was the limit, their targets should "
            "bootstrap there, and the file says they should not."
        )
    known = won[~np.isnan(won)]
    if len(known) > len(won) / 2 and not known.any():
        found.append("No wins: no battle of the file is won, so none shows how to.")
    if not any(e.reward.any() for e in episodes):
        found.append("No rewards: every step of the file is rewarded 0, so no action is better.")
    return found


def _of_actions(taken: np.ndarray, offered: np.ndarray, names: Sequence[str]) -> list[str]:
    """Actions are counted from 0, as in the file; agents from 1, as in charts."""
    found = []
    said = [f"{number} ({name})" for number, name in enumerate(names)] or range(taken.shape[1])
    untaken = (taken == 0) & (offered >= OFFERED)
    everybody = untaken.any(0) & (taken.sum(0) == 0)
    for action in np.flatnonzero(everybody):
        found.append(
            f"Action {said[action]} is missing: offered at {offered[:, action].sum():,} steps of "
            "agents, it was never taken; its value stays a guess."
        )
    for action in np.flatnonzero(untaken.any(0) & ~everybody):
        who = np.flatnonzero(untaken[:, action])
        agents = ", ".join(str(agent + 1) for agent in who)
        found.append(
            f"Action {said[action]} is missing for agent {agents}: offered at "
            f"{offered[who, action].sum():,} steps and never taken, though others take it."
        )
    return found
