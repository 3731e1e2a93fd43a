"""SMAC's maps: who fights whom, and how a state vector says where they stand.

A unit's row of the state is its health, [cooldown, ours only], relative x and y, [shield, Protoss
only] and [one bit for each kind, where a map has several]; last come the last actions. A dead
unit's row is zero. Ours are sorted by kind; the enemies' kinds are read from their bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ovmse.envs.base import EnvSpec, Units

# Ours and theirs, as (kind, number), ours in the order of their rows.
Team = tuple[tuple[str, int], ...]
MAPS: dict[str, tuple[Team, Team]] = {
    "2s3z": ((("stalker", 2), ("zealot", 3)), (("zealot", 3), ("stalker", 2))),
    "3s5z": ((("stalker", 3), ("zealot", 5)), (("zealot", 5), ("stalker", 3))),
    "5m_vs_6m": ((("marine", 5),), (("marine", 6),)),
    "6h_vs_8z": ((("hydralisk", 6),), (("zealot", 8),)),
    "3m": ((("marine", 3),), (("marine", 3),)),
    "8m": ((("marine", 8),), (("marine", 8),)),
    "25m": ((("marine", 25),), (("marine", 25),)),
    "8m_vs_9m": ((("marine", 8),), (("marine", 9),)),
    "10m_vs_11m": ((("marine", 10),), (("marine", 11),)),
    "27m_vs_30m": ((("marine", 27),), (("marine", 30),)),
    "MMM": (
        (("marauder", 2), ("marine", 7), ("medivac", 1)),
        (("marauder", 2), ("marine", 7), ("medivac", 1)),
    ),
    "MMM2": (
        (("marauder", 2), ("marine", 7), ("medivac", 1)),
        (("marauder", 3), ("marine", 8), ("medivac", 1)),
    ),
    "3s5z_vs_3s6z": ((("stalker", 3), ("zealot", 5)), (("zealot", 6), ("stalker", 3))),
    "3s_vs_3z": ((("stalker", 3),), (("zealot", 3),)),
    "3s_vs_4z": ((("stalker", 3),), (("zealot", 4),)),
    "3s_vs_5z": ((("stalker", 3),), (("zealot", 5),)),
    "2m_vs_1z": ((("marine", 2),), (("zealot", 1),)),
    "corridor": ((("zealot", 6),), (("zergling", 24),)),
    "2s_vs_1sc": ((("stalker", 2),), (("spine crawler", 1),)),
    "so_many_baneling": ((("zealot", 7),), (("baneling", 32),)),
    "bane_vs_bane": (
        (("baneling", 4), ("zergling", 20)),
        (("baneling", 4), ("zergling", 20)),
    ),
    "2c_vs_64zg": ((("colossus", 2),), (("zergling", 64),)),
}
# The most steps of a battle.
LIMITS = {
    "2s3z": 120, "3s5z": 150, "5m_vs_6m": 70, "6h_vs_8z": 150, "3m": 60, "8m": 120, "25m": 150,
    "8m_vs_9m": 120, "10m_vs_11m": 150, "27m_vs_30m": 180, "MMM": 150, "MMM2": 180,
    "3s5z_vs_3s6z": 170, "3s_vs_3z": 150, "3s_vs_4z": 200, "3s_vs_5z": 250, "2m_vs_1z": 150,
    "corridor": 400, "2s_vs_1sc": 300, "so_many_baneling": 100, "bane_vs_bane": 200,
    "2c_vs_64zg": 400,
}  # fmt: skip
FULL = {"stalker": (80, 80), "zealot": (100, 50), "colossus": (200, 150)}  # health, shield
MOVES = ("no-op", "stop", "north", "south", "east", "west")  # then one attack for each enemy
# The map's size, then that of its playable part; a game says its own (see ``decoder``).
PLAIN_MAP = (32.0, 32.0, 32.0, 32.0)


def action_names(n_actions: int) -> tuple[str, ...]:
    """Names of SMAC's actions (a medivac's "attack J" heals ally J)."""
    return (*MOVES, *(f"attack {enemy}" for enemy in range(n_actions - len(MOVES))))


def _rows(team: Team, ours: bool, bits: int) -> int:
    """Numbers in the row of a unit of a team."""
    return (4 if ours else 3) + (team[0][0] in FULL) + bits


def state_size(task: str, n_actions: int) -> int:
    """How long a state of the task is; raises KeyError for an unknown map."""
    ours, theirs = MAPS[task]
    bits = max(len(ours), len(theirs)) if len(ours) > 1 else 0
    count = sum(number for _, number in ours)
    enemies = sum(number for _, number in theirs)
    size = count * _rows(ours, True, bits) + enemies * _rows(theirs, False, bits)
    return size + count * n_actions


def task_spec(
    task: str, sizes: Mapping[str, int], geometry: Sequence[float] = PLAIN_MAP
) -> EnvSpec:
    """A map of the given sizes, which needs no game; a state of another size than the map's is not
    decoded. Raises KeyError for an unknown map."""
    known = state_size(task, sizes["n_actions"]) == sizes["state_size"]
    return EnvSpec(
        task, "smac", **sizes, action_names=action_names(sizes["n_actions"]),
        decoder=decoder(task, geometry) if known else None,
    )  # fmt: skip


def decoder(task: str, geometry: Sequence[float]) -> Callable[[np.ndarray], Units]:
    """Reads states of a task. geometry: width and height of the map and of its playable part; it is
    looked at with each state, since the game says it only once it runs.

    Health counts shields in. Where the dead lie is not in the state: they are put in the middle of
    the map. Of dead enemies of several kinds only the numbers are known: they are named in order.
    """
    ours, theirs = MAPS[task]
    bits = max(len(ours), len(theirs)) if len(ours) > 1 else 0

    def team(values: np.ndarray, of: Team, mine: bool) -> tuple[list[str], np.ndarray, np.ndarray]:
        named = [kind for kind, number in of for _ in range(number)]
        rows = values.reshape(len(named), _rows(of, mine, bits))
        health, alive, x = rows[:, 0].copy(), rows[:, 0] > 0, 2 if mine else 1
        if bits and not mine:
            seen = [of[i][0] if a else None for i, a in zip(rows[:, -bits:].argmax(1), alive)]
            left = list(named)
            for kind in filter(None, seen):
                if kind in left:
                    left.remove(kind)
            named = [kind or left.pop(0) for kind in seen]
        if of[0][0] in FULL:
            full = np.array([FULL[kind] for kind in named], float)
            health = (rows[:, 0] * full[:, 0] + rows[:, x + 2] * full[:, 1]) / full.sum(1) * alive
        size, play = np.array(geometry[:2]), np.array(geometry[2:])
        return named, rows[:, x : x + 2] * play + size / 2, health

    count, enemies = (sum(number for _, number in of) for of in (ours, theirs))
    first = count * _rows(ours, True, bits)
    second = first + enemies * _rows(theirs, False, bits)

    def decode(state: np.ndarray) -> Units:
        parts = team(state[:first], ours, True), team(state[first:second], theirs, False)
        return Units(
            team=(np.arange(count + enemies) >= count).astype(int),
            unit_type=(*parts[0][0], *parts[1][0]),
            position=np.concatenate([part[1] for part in parts]),
            health=np.concatenate([part[2] for part in parts]),
        )

    return decode
