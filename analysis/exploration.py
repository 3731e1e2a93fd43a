"""How many explore at once, how far the team strays, what is covered: events -> small tables.

Letters: ``N`` agents, ``n`` of them living (with a choice), ``k`` exploring at a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.battles import Battle, record
from analysis.events import Events, config_of, epsilon_at
from analysis.kept import kept, key
from analysis.snapshots import Snapshots
from analysis.widgets.progress import tracked

THIRDS = ("first third", "second third", "last third")
SQUARE = 4.0  # map units: the side of the squares of `coarse_states`


def binomial(k: int, living: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Chance that exactly `k` of `living` agents explore, each by itself with `chance`."""
    ways = np.array([comb(n, k) for n in range(int(living.max(initial=0)) + 1)], float)
    return ways[living] * chance**k * (1 - chance) ** np.maximum(living - k, 0)


def expected(exploration: str, epsilon: np.ndarray, living: np.ndarray, agents: int) -> np.ndarray:
    """Chances of ``0..N`` explorers at each step, ``[steps, N + 1]``, where so many agents live.

    ε-greedy: the binomial of the living at ε. Sequential, decentralised: at ε/N. Centralised: one
    with probability ε·n/N (a dead one drawn means nobody), never more.
    """
    living, epsilon = np.asarray(living), np.broadcast_to(epsilon, np.shape(living))
    if exploration == "sequential_centralised":
        out = np.zeros((len(living), agents + 1))
        out[:, 1] = epsilon * living / agents
        out[:, 0] = 1 - out[:, 1]
        return out
    chance = epsilon / (agents if exploration == "sequential_decentralised" else 1)
    return np.stack([binomial(k, living, chance) for k in range(agents + 1)], 1)


def living(battle: Battle) -> np.ndarray:
    """How many agents have a choice at each step, ``[L]``; a dead one has one action alone."""
    return (battle.episode.avail_actions[:-1].sum(-1) > 1).sum(-1)


def living_along(run: str | Path, battles: int = 16) -> pd.DataFrame:
    """How many agents live while a run trains: of each snapshot the share of steps with ``n``.

    `events.jsonl` does not say who lived. So battles are recorded anew from the run's snapshots,
    with the run's own exploration and ε of that time. Columns: `env_steps` and `0` .. `N`. What was
    measured is kept beside the run, and found again.
    """
    of, config, rows = Snapshots(run), config_of(run), []
    with kept(of.run, "living") as held:
        for at in tracked(list(of.files), "Snapshots asked how many live"):
            name = key(of.files[at], of.run / "config.json", battles)
            if name not in held:
                epsilon = float(epsilon_at(config, at))
                found = record(run, at, config.exploration, epsilon, battles, seed=at)
                n = np.concatenate([living(b) for b in found])
                held[name] = (np.bincount(n, minlength=of.spec.n_agents + 1) / len(n)).tolist()
            rows.append([at, *held[name]])
    return pd.DataFrame(rows, columns=["env_steps", *range(len(rows[0]) - 1)])


def at_once(events: Events, alive: pd.DataFrame, epsilon: float | None = None) -> pd.DataFrame:
    """How often ``k`` agents explored and strayed at one step, beside what chance alone gives.

    alive: as from `living_along`; a step counts as its nearest snapshot's mixture of the living.
    epsilon: where it did not change; else that of eq. 7 at each step. Columns: `k`, `explored` and
    `strayed` (shares of all steps), `greedy` (the binomial of the living at ε) and `sequential`
    (at ε/N), and `own` (what the run's own exploration gives).
    """
    size = events.agents
    table: dict[str, np.ndarray] = {"k": np.arange(size + 1)}
    for name, strayed in (("explored", False), ("strayed", True)):
        counts = np.bincount(events.per_step(strayed), minlength=size + 1)
        table[name] = counts / len(events.clock)
    ways = {"greedy": "epsilon_greedy", "sequential": "sequential_decentralised"}
    ways["own"] = events.config.exploration
    chances, weights = _grouped(events, alive, epsilon)
    for name, way in ways.items():
        table[name] = np.zeros(size + 1)
        for n in range(size + 1):
            each = expected(way, chances, np.full(len(chances), n), size)
            table[name] = table[name] + weights[:, n] @ each
    return pd.DataFrame(table)


def _grouped(
    events: Events, alive: pd.DataFrame, epsilon: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """The different ε of all steps ``[G]``, and the share of steps with each and with ``n`` living
    ``[G, N + 1]``. Steps played at one moment count together, so a million are a few thousand."""
    at = alive.env_steps.to_numpy()
    nearest = np.searchsorted((at[1:] + at[:-1]) / 2, events.clock)
    moment, first, count = np.unique(events.clock, return_index=True, return_counts=True)
    given = epsilon_at(events.config, moment) if epsilon is None else epsilon
    shares = alive.drop(columns="env_steps").to_numpy()[nearest[first]]
    weights = shares * count[:, None] / count.sum()
    return np.broadcast_to(np.asarray(given, float), len(count)), weights


def along(events: Events, alive: pd.DataFrame, windows: int = 60) -> pd.DataFrame:
    """Over training, in at most so many windows of environment steps: the mean number of agents
    per step that explored and that strayed, beside ``n·ε`` and ``n·ε/N``.

    Columns: `env_steps` (the middle), `explored`, `strayed`, `greedy`, `sequential`, `epsilon`.
    """
    last = int(events.clock.max()) + 1
    which = events.clock.astype(np.int64) * windows // last
    steps = np.bincount(which, minlength=windows)
    there = steps > 0

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(which, values, windows)[there] / steps[there]

    epsilon = epsilon_at(events.config, events.clock)
    n = alive.drop(columns="env_steps").to_numpy() @ np.arange(events.agents + 1)
    alive_then = np.interp(events.clock, alive.env_steps, n)
    return pd.DataFrame(
        {
            "env_steps": mean(events.clock.astype(float)),
            "explored": mean(events.per_step().astype(float)),
            "strayed": mean(events.per_step(strayed=True).astype(float)),
            "greedy": mean(alive_then * epsilon),
            "sequential": mean(alive_then * epsilon) / events.agents,
            "epsilon": mean(epsilon),
        }
    )


def by_explorers(events: Events, groups: int = 5) -> pd.DataFrame:
    """Return and win rate of the battles by how many explored in them, a third of training each.

    Battles of a third are put into `groups` of about equal size by `explorers` per step: long
    battles have more of them, whatever they do. Columns: `third`, `explorers` (the group's mean per
    step), `battles`, `won`, `return`, `length`. A third with fewer than two battles a group has one
    group.
    """
    battles = events.battles.assign(per_step=events.battles.explorers / events.battles.length)
    end = battles.env_steps.max() + 1
    thirds = np.minimum(3 * battles.env_steps // end, 2)
    parts = []
    for third, rows in battles.groupby(thirds):
        several = groups if len(rows) >= 2 * groups else 1
        order = rows.per_step.rank(method="first") - 1
        grouped = rows.groupby((order * several // len(rows)).astype(int))
        part = grouped.agg(
            explorers=("per_step", "mean"),
            battles=("won", "size"),
            won=("won", "mean"),
            **{"return": ("return", "mean")},
            length=("length", "mean"),
        )
        parts.append(part.assign(third=THIRDS[int(str(third))]))
    columns = ["third", "explorers", "battles", "won", "return", "length"]
    return pd.concat(parts, ignore_index=True)[columns]


def distinct(labels: np.ndarray | Sequence[int], draws: int) -> float:
    """How many different ones are expected among so many, drawn without putting back.

    Rarefaction: ``Σ_c 1 - C(M - m_c, draws) / C(M, draws)``, ``m_c`` the times that label ``c``
    stands among the ``M``. So collections of different sizes compare. NaN where ``M < draws``.
    """
    counts = np.unique(np.asarray(labels), return_counts=True)[1]
    if (total := int(counts.sum())) < draws:
        return float("nan")
    times, labels_with = np.unique(counts, return_counts=True)
    drawn = np.arange(draws)
    missed = np.clip((total - times[:, None] - drawn) / (total - drawn), 0, None).prod(1)
    return float(((1 - missed) * labels_with).sum())


def joint_actions(battles: Sequence[Battle]) -> np.ndarray:
    """A label for the joint action of each step: every agent's action, in the agents' order."""
    return _labels(np.concatenate([b.episode.actions for b in battles]))


def coarse_states(battles: Sequence[Battle]) -> np.ndarray:
    """A label for the coarse state of each step.

    Two states are the same where as many units of each team live, and where the middle of each
    team's living units lies in the same square of 4 by 4 map units. Of a backend whose state
    cannot be decoded: where the state vector agrees to one decimal.
    """
    rows = []
    for battle in battles:
        if not battle.units:
            rows.append(np.round(battle.episode.state[:-1].astype(np.float32), 1))
            continue
        for units in battle.units[:-1]:
            row: list[float] = []
            for team in (0, 1):
                there = (units.team == team) & (units.health > 0)
                middle = units.position[there].mean(0) if there.any() else np.full(2, -SQUARE)
                row += [there.sum(), *(middle // SQUARE)]
            rows.append(np.array([row], np.float32))
    return _labels(np.concatenate(rows))


def _labels(rows: np.ndarray) -> np.ndarray:
    """A number for each different row."""
    return np.unique(rows, axis=0, return_inverse=True)[1].ravel()
