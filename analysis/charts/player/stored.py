"""What the player keeps of one battle: a dictionary of strings and a few numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.battles import Battle, Opinion
from analysis.charts.player.packing import codes, flags, numbers
from analysis.charts.player.view import view
from analysis.whatif import WhatIf

SERIES = ("q_tot", "memory", "td_target", "returns")
# What-if values: of a `WhatIf`, and the name of their value where nothing is changed.
CHANGES = {
    "changed": ("q_tot", "q_tot"),
    "changed_memory": ("memory", "memory"),
    "changed_target": ("td_target", "y_zero"),
}


def stored(
    battle: Battle, opinion: Opinion, label: str, changes: WhatIf | None = None
) -> dict[str, Any]:
    """Letters: ``L`` steps, ``N`` agents, ``A`` actions, ``U`` units, ``K`` available actions.

    Whole numbers and flags: `action`, `greedy`, `explored` ``[L, N]``, `open` ``[L, N, A]``,
    `health` ``[L + 1, U]`` in per cent of `HEALTH`. Numbers: `x`, `y` ``[L + 1, U]`` (map units; of
    the dead, where they fell), the `SERIES` ``[L]``, and of the K available actions in the order of
    ``[L, N, A]`` `q`, each agent's ``Q_i``. What-if values: of those actions that were not taken,
    in the same order, the `CHANGES`; of what was done, which is the same for every agent, `y_zero`
    ``[L]`` (the TD(0) target), and `q_tot` and `memory`.
    """
    episode = battle.episode
    avail = episode.avail_actions[:-1]
    out: dict[str, Any] = {"label": label, "steps": episode.length, "won": episode.won}
    best, who = opinion.greedy(episode), episode.exploration
    explored = np.zeros_like(best) if who is None else who.explored
    out |= {"action": codes(episode.actions), "greedy": codes(best), "explored": codes(explored)}
    out |= {"open": flags(avail), "lived": (avail.sum(-1) > 1).sum(0).tolist()}
    out |= {name: numbers(getattr(opinion, name)) for name in SERIES}
    out["q"] = numbers(opinion.q_agents[avail])
    taken = np.arange(avail.shape[-1]) == episode.actions[..., None]
    for name, (of, done) in CHANGES.items():
        if changes is not None and (values := getattr(changes, of)) is not None:
            out[name] = numbers(values[avail & ~taken])
            if done not in out:
                out[done] = numbers(values[:, 0][taken[:, 0]])
    if battle.units:
        health = np.stack([u.health for u in battle.units])
        place = _where_they_fell(np.stack([u.position for u in battle.units]), health)
        out |= {"health": codes(np.ceil(health.clip(0, 1) * HEALTH))}
        out |= {"x": numbers(place[..., 0]), "y": numbers(place[..., 1])}
        out["view"] = numbers(view(battle))
    return out


HEALTH = 80  # levels; who lives has at least one


def _where_they_fell(place: np.ndarray, health: np.ndarray) -> np.ndarray:
    """Positions ``[L + 1, U, 2]``; a dead unit, which has none, stays where it was last."""
    place = place.copy()
    for t in range(1, len(place)):
        dead = health[t] <= 0
        place[t, dead] = place[t - 1, dead]
    return place
