"""How many explore at once, how far the team strays, what is covered: events -> small tables.

Letters: ``N`` agents, ``n`` of them living (with a choice), ``k`` exploring at a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.battles import Battle
from analysis.charts.theme import in_order
from analysis.each import spaced
from analysis.events import Events, epsilon_at, recorded_along, some_snapshots, team_size
from analysis.kept import kept, key
from analysis.tables import EXPLORATION_NAMES, curves, named, per_cent
from analysis.walkthrough.chances import expected

THIRDS = ("first third", "second third", "last third")
OPENING = 20  # steps of a battle in which nearly all agents live
SQUARE = 4.0  # map units: the side of the squares of `coarse_states`


def overview(runs: Sequence[Path]) -> pd.DataFrame:
    """A row a run, in the order of the table of algorithms, from what its tests wrote down: `run`,
    `task`, `algorithm`, `variant`, `seed`, `exploration`, `explorers` (a step, mean of the run) and
    the test win rates at `first` and at `last`."""
    table = curves(runs)
    table = table[table.phase == "online"]
    if "explorers" not in table:
        table = table.assign(explorers=np.nan)
    names = ["run", "task", "algorithm", "variant", "seed", "exploration"]
    rows = table.groupby(names, sort=False).agg(
        explorers=("explorers", "mean"),
        first=("test_win_rate", "first"),
        last=("test_win_rate", "last"),
    )
    order = {name: n for n, name in enumerate(in_order(table.algorithm))}
    rows = rows.reset_index()
    return rows.iloc[np.argsort(rows.algorithm.map(order), kind="stable")].reset_index(drop=True)


def who_explores_most(table: pd.DataFrame) -> str:
    """Which of the runs explored most, and which least; the table as from `overview`."""
    rows = table.dropna(subset="explorers").sort_values("explorers")
    if rows.empty:
        return f"{len(table)} runs; none of them wrote down how many agents explored."
    said = [
        f"{r.explorers:.2f} agents at a step in {named(r.algorithm, r.variant)} (seed {r.seed}, "
        f"{EXPLORATION_NAMES[r.exploration]})"
        for r in rows.itertuples()
    ]
    left = len(table) - len(rows)
    rest = f"; {left} more did not write it down" if left else ""
    if len(said) == 1:
        return f"One run: {said[0]} explored on average{rest}."
    return f"On average from {said[0]} to {said[-1]} explored, over {len(rows)} runs{rest}."


def living(battle: Battle) -> np.ndarray:
    """How many agents have a choice at each step, ``[L]``; a dead one has one action alone."""
    return (battle.episode.avail_actions[:-1].sum(-1) > 1).sum(-1)


def living_along(run: str | Path, battles: int = 16) -> pd.DataFrame:
    """How many agents live while a run trains: at some snapshots the share of steps with ``n``.

    `events.jsonl` does not say who lived. So battles are recorded anew from snapshots, with the
    run's own exploration and ε of that time. Columns: `env_steps` and `0` .. `N`. What was measured
    is kept beside the run, and found again.
    """
    files, agents, rows = some_snapshots(run), team_size(run), {}
    with kept(Path(run), "living") as held:
        names = {at: key(file, Path(run) / "config.json", battles) for at, file in files}
        if not set(names.values()) <= held.keys():
            for at, found in recorded_along(run, battles):
                n = np.concatenate([living(b) for b in found])
                held[names[at]] = (np.bincount(n, minlength=agents + 1) / len(n)).tolist()
        rows = {at: held[name] for at, name in names.items()}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename_axis("env_steps").reset_index()


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


def how_many(table: pd.DataFrame, exploration: str) -> str:
    """How often several explored at once, beside what the run's own way to explore gives by chance;
    the table as from `at_once`."""
    table = table.set_index("k")
    several = table[table.index > 1].sum()
    return (
        f"Two or more explored at {per_cent(several.explored)} of the steps; its way to explore, "
        f"{EXPLORATION_NAMES[exploration]}, gives {per_cent(several.own)} by chance. Somebody "
        f"explored at {per_cent(1 - table.explored[0])} of the steps (by chance: "
        f"{per_cent(1 - table.own[0])}) and took another than the greedy action at "
        f"{per_cent(1 - table.strayed[0])}."
    )


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


def windows(clock: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most so many windows of environment steps: which one each step is in ``[steps]``, and
    where they begin and end ``[W + 1]``. Few different moments have a window each."""
    moments = np.unique(clock)
    if len(moments) <= most:
        between = (moments[1:] + moments[:-1]) / 2
        edges = np.concatenate([moments[:1], between, moments[-1:] + 1])
    else:
        edges = np.linspace(moments[0], moments[-1] + 1, most + 1)
    return np.searchsorted(edges[1:-1], clock, side="right"), edges


def along(events: Events, alive: pd.DataFrame, most: int = 60) -> pd.DataFrame:
    """Over training, in `windows`: the mean number of agents per step that explored and that
    strayed, beside ``n·ε`` and ``n·ε/N``, with the mean ``n`` living of the snapshots around.

    Columns: `env_steps` (of the mean step), `explored`, `strayed`, `greedy`, `sequential`.
    """
    which, _ = windows(events.clock, most)
    steps = np.bincount(which)
    there = steps > 0

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(which, values)[there] / steps[there]

    n = alive.drop(columns="env_steps").to_numpy() @ np.arange(events.agents + 1)
    living_then = np.interp(events.clock, alive.env_steps, n)
    greedy = mean(living_then * epsilon_at(events.config, events.clock))
    return pd.DataFrame(
        {
            "env_steps": mean(events.clock.astype(float)),
            "explored": mean(events.per_step().astype(float)),
            "strayed": mean(events.per_step(strayed=True).astype(float)),
            "greedy": greedy,
            "sequential": greedy / events.agents,
        }
    )


def who_explored(events: Events) -> str:
    """How many random actions there were, how many hit the greedy one, and who drew most."""
    rows, battles = events.explored, events.battles
    said = f"{len(rows):,} random actions in {len(battles):,} battles of {events.agents} agents"
    if rows.empty:
        return f"{said}: nobody explored."
    shares = np.bincount(rows.agent, minlength=events.agents) / len(events.clock)
    most, least = int(shares.argmax()), int(shares.argmin())
    return (
        f"{said}; {per_cent((rows.action == rows.greedy).mean())} of them drew the greedy action. "
        f"Agent {most + 1} explored most (at {100 * shares[most]:.1f} % of the steps), agent "
        f"{least + 1} least ({100 * shares[least]:.1f} %)."
    )


def density(events: Events, most: int = 60) -> pd.DataFrame:
    """How often each agent explored over training: a row a window and agent, with `begin` and `end`
    (environment steps), `agent` and `share` (of the window's steps)."""
    which, edges = windows(events.clock, most)
    size = len(edges) - 1
    steps = np.bincount(which, minlength=size)
    of = np.searchsorted(edges[1:-1], events.explored.env_steps, side="right")
    cells = np.bincount(of * events.agents + events.explored.agent, minlength=size * events.agents)
    share = cells.reshape(size, events.agents) / np.maximum(steps, 1)[:, None]
    window, agent = np.divmod(np.arange(share.size), events.agents)
    table = pd.DataFrame({"begin": edges[window], "end": edges[window + 1], "agent": agent})
    return table.assign(share=share.ravel())[steps[window] > 0].reset_index(drop=True)


def some_battles(events: Events, battles: int = 12, most: int = 2000) -> pd.DataFrame:
    """The events of some battles, evenly spread over training, at most so many events.

    Columns as of `Events.explored`, with the battle's `length`, `won` and `row` (from 0, in order),
    and `rank`: 0 where the greedy action was drawn, else the third (1, 2, 3) of the gaps of all the
    run's events. A battle in which nobody explored has one row whose `step` is missing.
    """
    gaps = events.explored.gap[events.explored.action != events.explored.greedy]
    thirds = np.quantile(gaps, [1 / 3, 2 / 3]) if len(gaps) else [0, 0]
    while True:
        where = spaced(len(events.battles), battles)
        some = events.battles.iloc[where].assign(row=range(len(where)))
        if battles == 1 or some.explorers.sum() <= most:
            break
        battles -= 1
    columns = ["battle", "length", "won", "row"]
    table = some[columns].merge(events.explored, "left", "battle")
    strayed = table.action != table.greedy
    return table.assign(rank=np.where(strayed, 1 + np.searchsorted(thirds, table.gap), 0))


def by_explorers(events: Events, groups: int = 5) -> pd.DataFrame:
    """Return and win rate of the battles by how often agents explored early, by third of training.

    Early: in the first `OPENING` steps, while nearly all live. Over a whole battle the count would
    say who survived, since the dead do not explore: winners would have more. The battles of a third
    are put into at most `groups` of about equal size. Columns: `third`, `explorers` (the group's
    mean), `battles`, `won`, `return`, `length`.
    """
    early = events.explored.battle[events.explored.step < OPENING].value_counts()
    battles = events.battles.assign(explorers=events.battles.battle.map(early).fillna(0))
    thirds = np.minimum(3 * battles.env_steps // (battles.env_steps.max() + 1), 2)
    parts = []
    for third, rows in battles.groupby(thirds):
        several = min(groups, max(len(rows) // 2, 1))
        cuts = np.unique(rows.explorers.quantile(np.arange(1, several) / several))
        grouped = rows.groupby(np.searchsorted(cuts, rows.explorers))
        part = grouped.agg(
            explorers=("explorers", "mean"),
            battles=("won", "size"),
            won=("won", "mean"),
            **{"return": ("return", "mean")},
            length=("length", "mean"),
        )
        parts.append(part.assign(third=THIRDS[int(str(third))]))
    columns = ["third", "explorers", "battles", "won", "return", "length"]
    return pd.concat(parts, ignore_index=True)[columns]


def whether_they_lose(table: pd.DataFrame) -> str:
    """Whether battles with much exploration early were won less often, third by third; the table as
    from `by_explorers`."""
    said = []
    for third, rows in table.groupby("third", sort=False):
        few, many = rows.iloc[0], rows.iloc[-1]
        if len(rows) > 1:
            said.append(f"{per_cent(few.won)} and {per_cent(many.won)} in the {third} of training")
    if not said:
        return "In all battles about as many random actions fell into the opening."
    return (
        "Of the battles with the fewest and those with the most random actions in their first "
        f"{OPENING} steps, so many were won: {'; '.join(said)}."
    )


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
