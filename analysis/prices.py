"""What exploration costs and spoils in recorded battles, by the opinion of one snapshot.

Letters as in ``ovmse``: ``L`` steps, ``N`` agents, ``A`` actions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from analysis.battles import Battle, td_target
from ovmse.config import Config
from ovmse.episodes import Episode, EpisodeBatch
from ovmse.method.networks import QFunction, gather_actions

WINDOW = 5  # steps after the one that a target is for
FEW = 0.02  # a group of its own for 0 explorers needs this share of the steps


def batched(battles: Sequence[Battle]) -> tuple[list[int], list[Episode], EpisodeBatch]:
    """The battles as a batch, longest first: which battle each row is, its episode, the batch."""
    order = sorted(range(len(battles)), key=lambda b: -battles[b].episode.length)
    episodes = [battles[b].episode for b in order]
    return order, episodes, EpisodeBatch.from_episodes(episodes)


@torch.no_grad()
def costs(q: QFunction, battles: Sequence[Battle]) -> pd.DataFrame:
    """What each event costs, as `q` sees it: ``Q_tot(greedy) - Q_tot(greedy, but agent i's action
    as it was)``, both on the same history. Never negative, since the mixer is monotone.

    A row an event: `battle` (from 1), `step`, `agent`, `cost`, `at_once` (agents that explored at
    the step), `all` (``Q_tot(greedy) - Q_tot(what all did)`` at the step).
    """
    order, episodes, batch = batched(battles)
    values = q.q_values(batch)[:, :-1]
    parts = []
    for row, (battle, episode) in enumerate(zip(order, episodes, strict=True)):
        who, end = episode.exploration, episode.length
        assert who is not None
        t, i = np.nonzero(who.explored)
        weights = q.mixer.weights(batch.state[row, :end])
        mine = values[row, :end]
        greedy = gather_actions(mine, torch.from_numpy(who.greedy.astype(np.int64)))
        best = q.mixer.mix(weights, greedy)
        done = q.mixer.mix(weights, gather_actions(mine, batch.actions[row, :end]))
        each = q.mixer.mix_each(weights, greedy, mine).numpy()
        part = {"battle": battle + 1, "step": t, "agent": i}
        part |= {"cost": best.numpy()[t] - each[t, i, episode.actions[t, i]]}
        part |= {"at_once": who.explored.sum(1)[t], "all": (best - done).numpy()[t]}
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True).sort_values(["battle", "step", "agent"])


def by_number(costs: pd.DataFrame) -> pd.DataFrame:
    """The costs by how many explored at the step: `at_once`, `events`, `low`, `median`, `high`
    (quartiles of an event's cost), `cost` (its mean) and `together` (mean of what all of a step
    cost). No row if nobody explored."""
    groups = costs.groupby("at_once")
    table = groups.cost.describe()[["count", "25%", "50%", "75%", "mean"]]
    table = table.set_axis(["events", "low", "median", "high", "cost"], axis=1)
    together = costs.drop_duplicates(["battle", "step"]).groupby("at_once")["all"].mean()
    return table.assign(together=together).rename_axis("at_once").reset_index()


def what_it_costs(table: pd.DataFrame) -> str:
    """What one random action costs alone and beside others; the table as from `by_number`."""
    if table.empty:
        return "Nobody explored in these battles: nothing was given up."
    first, last = table.iloc[0], table.iloc[-1]
    who = "1 explorer" if first.at_once == 1 else f"{first.at_once:.0f} explorers"
    half = f"{first['median']:.2f}"
    said = f"Half of the random actions of {who} at a step cost at most {half} of `Q_tot`"
    if len(table) == 1:
        return f"{said}."
    return (
        f"{said}, of {last.at_once:.0f} at most {last['median']:.2f} each; together these give up "
        f"{last.together:.2f}, against {first.together:.2f}."
    )


def dearest(costs: pd.DataFrame, battles: Sequence[Battle]) -> str:
    """How the first battles ended, and the random action in them that cost most; the costs as from
    `costs`, whose battles begin with these."""
    ends = ["won" if b.episode.won else "lost" for b in battles]
    said = f"These battles were {' and '.join(ends)}"
    if (rows := costs[costs.battle <= len(battles)]).empty:
        return f"{said}; nobody explored in them."
    r = rows.loc[rows.cost.idxmax()]
    return (
        f"{said}; the dearest of their {len(rows)} random actions is agent {r.agent + 1:.0f}'s at "
        f"step {r.step:.0f} of battle {r.battle:.0f}: it costs {r.cost:.2f} of `Q_tot`."
    )


def contamination(q: QFunction, battles: Sequence[Battle], config: Config) -> pd.DataFrame:
    """How much of a target stems from what others did by chance later: ``y(λ_td) - y(0)`` by the
    number of explorers in the next `WINDOW` steps.

    y is the TD(λ) target (`battles.td_target`); y(0) looks one step ahead alone. The step itself
    does not count: its action is what is valued. Nor do the last steps, which no whole window
    follows. The numbers are put into at most five groups: 0, where it
    is not rare, and about equal shares of the others. Columns: `window` (the group, "2–3"),
    `explorers` (its mean), `steps`, `mean`, `error` (standard error, battles as clusters).
    """
    order, episodes, batch = batched(battles)
    with torch.no_grad():
        values = q.q_values(batch)
    far, near = (td_target(q, batch, values, config, lam).numpy() for lam in (None, 0.0))
    rows = []
    for row, (battle, episode) in enumerate(zip(order, episodes, strict=True)):
        assert episode.exploration is not None
        so_far = np.append(0, episode.exploration.explored.sum(1).cumsum())  # before step t
        for t in range(episode.length - WINDOW):
            count = so_far[t + 1 + WINDOW] - so_far[t + 1]
            rows.append((battle, count, far[row, t] - near[row, t]))
    table = pd.DataFrame(rows, columns=["battle", "explorers", "difference"])
    parts = [
        (_range(g.explorers), g.explorers.mean(), len(g), g.difference.mean(), _error(g))
        for _, g in table.groupby(_groups(table.explorers.to_numpy()))
    ]
    return pd.DataFrame(parts, columns=["window", "explorers", "steps", "mean", "error"])


def whether_spoilt(table: pd.DataFrame) -> str:
    """Whether later random actions lower a target, from the table of `contamination`: the groups
    with most and with fewest, told apart where they lie two standard errors of the difference
    apart."""
    if len(table) < 2:
        return "All targets are followed by about as many random actions: nothing to compare."
    few, many = table.iloc[0], table.iloc[-1]
    off, error = many["mean"] - few["mean"], float(np.hypot(few.error, many.error))
    verdict = "Whether later random actions move a target cannot be told"
    if abs(off) > 2 * error:
        verdict = f"Later random actions {'raise' if off > 0 else 'lower'} a target"
    return (
        f"{verdict}: y(λ) − y(0) is {many['mean']:+.2f} where "
        f"{many.window} follow, {few['mean']:+.2f} where {few.window} do (difference {off:+.2f}, "
        f"standard error {error:.2f})."
    )


def _groups(counts: np.ndarray) -> np.ndarray:
    """A group for each count: 0 alone where it is not rare, quartiles of the others."""
    alone = (counts == 0).mean() >= FEW
    others = counts[counts > 0] if alone else counts
    if not len(others):
        return counts
    quartiles = np.quantile(others, [0.25, 0.5, 0.75], method="lower")
    return np.searchsorted(np.unique([0, *quartiles] if alone else quartiles), counts)


def _range(counts: pd.Series) -> str:
    low, high = counts.min(), counts.max()
    return str(low) if low == high else f"{low}–{high}"


def _error(group: pd.DataFrame) -> float:
    """Standard error of a mean over steps whose battles are independent, their steps not."""
    off = (group.difference - group.difference.mean()).groupby(group.battle).sum()
    clusters = len(off)
    return float(np.sqrt((off**2).sum() * clusters / max(clusters - 1, 1)) / len(group))
