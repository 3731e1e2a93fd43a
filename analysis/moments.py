"""A battle to look at: recorded from a snapshot, valued, and shown step by step with its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.battles import Battle, Opinion, opinion, record
from analysis.diagnostics.memory import has_memory
from analysis.snapshots import Snapshots
from analysis.whatif import WhatIf, what_if
from analysis.widgets.progress import tracked
from ovmse.errors import UserError
from ovmse.runs.reading import RunError

if TYPE_CHECKING:
    from analysis.charts.player import Player


@dataclass(frozen=True)
class Moments:
    """Battles with what a snapshot and the memory think of them; what_ifs may be empty."""

    battles: list[Battle]
    opinions: list[Opinion]
    what_ifs: list[WhatIf]

    @property
    def start(self) -> int:
        """The first step of the first battle at which somebody took another than the greedy action;
        0 where nobody did."""
        episode = self.battles[0].episode
        strayed = (episode.actions != self.opinions[0].greedy(episode)).any(1)
        return int(strayed.argmax())

    def player(self, title: str = "A battle, step by step") -> Player:
        """All of it as one picture, which begins at `start`."""
        from analysis.charts.player import player

        return player(self.battles, self.opinions, self.what_ifs or None, title, start=self.start)

    def moment(self, step: int | None = None) -> pd.DataFrame:
        """See `moment`; of the first battle, at `start` unless told otherwise."""
        return moment(self.battles[0], self.opinions[0], self.start if step is None else step)


def deepest_fall(table: pd.DataFrame) -> tuple[Snapshots, int]:
    """The run that lost most of its first win rate, and its snapshot (environment steps) there; of
    the runs with a memory, if one of them lost half of its wins: there the memory has a say.

    table: as from `drift.replayed_curves`, which has `q_fixed` where there is a snapshot. Raises
    RunError where no run has a snapshot after its start.
    """
    rows = table[(table.phase == "online") & table.q_fixed.notna()]
    first = rows.groupby("run").test_win_rate.transform("first")
    rows, first = rows[rows.env_steps > 0], first[rows.env_steps > 0]
    fell = first - rows.test_win_rate
    if fell.empty:
        raise RunError("no run has a snapshot after its start: there is no battle to watch")
    half = fell[rows.algorithm.map(has_memory) & (fell >= first / 2) & (first > 0)]
    low = rows.loc[(half if len(half) else fell).idxmax()]
    return Snapshots(low.run), int(low.env_steps)


def watch(of: Snapshots, snapshot: int, battles: int) -> Moments:
    """So many battles in which nobody explores, recorded from a snapshot, and `valued`."""
    return valued(of, snapshot, record(of.run, snapshot, "epsilon_greedy", 0.0, battles, seed=0))


def valued(
    of: Snapshots, snapshot: int, battles: Sequence[Battle], changes: bool = True
) -> Moments:
    """Battles with the opinions of a snapshot and of the offline memory, and with every change of
    one action (`changes`: as dear as some seconds of the simulator a battle).

    What takes long shows how far it is. As to a run without a memory, see `Snapshots.offline`.
    """
    q = of.network(snapshot)
    memory, found = of.offline(), Moments(list(battles), [], [])
    for battle in tracked(found.battles, "Battles valued"):
        found.opinions.append(opinion(q, memory, battle.episode, of.config))
        if changes:
            found.what_ifs.append(what_if(q, memory, battle, of.config))
    return found


def moment(battle: Battle, opinion: Opinion, step: int) -> pd.DataFrame:
    """One step of a battle, a row an agent, for `analysis.tables.MOMENT`.

    Columns: `step`, `agent` (its number and unit), `health`, `action`, `explored`, `greedy`,
    `q_taken` and `q_greedy` (``Q_i`` of the two), and, the same in each row, `q_tot`, `memory`,
    `td_target` and `returns` of the whole team. Raises UserError beyond the battle.
    """
    episode = battle.episode
    if not 0 <= step < episode.length:
        raise UserError(f"step: got {step}, allowed: 0 to {episode.length - 1}")
    count, names = episode.actions.shape[1], np.array(battle.actions)
    taken, best = episode.actions[step], opinion.greedy(episode)[step]
    values, each, who = opinion.q_agents[step], np.arange(count), episode.exploration
    table = {
        "step": step,
        "agent": battle.agents,
        "health": battle.units[step].health[:count] if battle.units else np.nan,
        "action": names[taken],
        "explored": False if who is None else who.explored[step],
        "greedy": names[best],
        "q_taken": values[each, taken],
        "q_greedy": values[each, best],
    }
    of_team = ("q_tot", "memory", "td_target", "returns")
    return pd.DataFrame(table | {name: getattr(opinion, name)[step] for name in of_team})
