"""Ways to explore side by side: battles of one snapshot, at the same ε and at the same number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.battles import Battle, record_with
from analysis.exploration import coarse_states, distinct, joint_actions
from analysis.kept import kept, key
from analysis.prices import costs
from analysis.snapshots import Snapshots
from analysis.statistics import wilson
from analysis.tables import EXPLORATION_NAMES, per_cent
from analysis.widgets.progress import tracked
from ovmse.errors import UserError
from ovmse.method.networks import QFunction

DRAWS = 1_000  # steps that coverage is counted over


def ways(epsilon: float, agents: int) -> list[tuple[str, str, float]]:
    """``(expected explorers while all N live, exploration, ε)`` of each way.

    Three ways at ε; then each again at the ε that makes as many explore as another does: the
    sequential ones at ``N·ε`` as ε-greedy, ε-greedy at ``ε/N`` as the sequential ones. Raises
    UserError where ``N·ε`` exceeds 1: a probability cannot.
    """
    if not isinstance(epsilon, int | float) or not 0 < epsilon * agents <= 1 + 1e-9:
        raise UserError(
            f"epsilon: got {epsilon!r}, allowed: above 0 and at most {1 / agents:.3f}, since the "
            f"sequential ways are tried at {agents} times it too"
        )
    few, many = f"{epsilon:.2g}", f"{agents * epsilon:.2g}"
    found = [("0", "epsilon_greedy", 0.0)]
    for number, of_greedy, of_sequential in (
        (many, epsilon, min(1.0, agents * epsilon)),
        (few, epsilon / agents, epsilon),
    ):
        for name in EXPLORATION_NAMES:
            own = of_greedy if name == "epsilon_greedy" else of_sequential
            found.append((number, name, own))
    return found


def compare(
    of: Snapshots, snapshot: int, epsilon: float, battles: int = 64, seed: int = 0
) -> pd.DataFrame:
    """Battles of one snapshot under each of `ways`; what was measured is kept beside the run.

    ε-greedy at ε and the decentralised way at ``N·ε`` are one thing, down to the battles, and are
    recorded once. Columns: `expected`, `exploration`, `epsilon`, `battles`, `steps`, and as
    `measure_of` gives them.
    """
    given, rows = ways(epsilon, of.spec.n_agents), []
    with kept(of.run, "side_by_side") as held:
        for number, exploration, own in tracked(given, "Ways to explore"):
            way, chance = exploration, own
            if exploration == "sequential_decentralised":
                way, chance = "epsilon_greedy", own / of.spec.n_agents
            name = key(of.files[snapshot], way, round(chance, 9), battles, seed)
            if name not in held:
                q = of.network(snapshot)
                held[name] = measure_of(record_with(q, of.config, way, chance, battles, seed), q)
            row = {"expected": number, "exploration": exploration, "epsilon": own}
            rows.append(row | {"battles": battles} | held[name])
    return pd.DataFrame(rows).astype({"cost": float, "joint": float, "states": float})


def which_way(table: pd.DataFrame) -> str:
    """What the ways do at the same ε, and at the same expected number of explorers, from the table
    of `compare`; whether the 95 % intervals (Wilson's) of all wins overlap."""
    rest = table[table.epsilon > 0]
    epsilon = rest.epsilon[rest.exploration == "epsilon_greedy"].max()
    same = [("At the same ε", rest[np.isclose(rest.epsilon, epsilon)])]
    same += [(f"At {n} explorers a step expected", rows) for n, rows in rest.groupby("expected")]
    said = []
    for heading, rows in same:
        each = [
            f"{EXPLORATION_NAMES[r.exploration]} {per_cent(r.won)} ({per_cent(r.several)})"
            for r in rows.itertuples()
        ]
        said.append(f"{heading}: {', '.join(each)}")
    nobody = table[table.epsilon == 0].iloc[0]
    low, high = wilson(table.won.to_numpy(), table.battles.to_numpy())
    apart = "" if low.max() > high.min() else (
        "; all 95 % intervals overlap"
    )  # fmt: skip
    return (
        "Battles won, and in brackets steps at which two or more explore. "
        f"{'. '.join(said)}. Where nobody explores {per_cent(nobody.won)} are won{apart}."
    )


def measure_of(battles: Sequence[Battle], q: QFunction) -> dict[str, float | None]:
    """Of battles that one network played.

    `steps`, `explorers` (agents exploring at a step) and `off_greedy` (agents whose action was
    another than the greedy one), `several` (share of steps with two explorers or more), `cost`
    (mean of an event, `prices.costs`; missing without one), `given_up` (mean over all steps of
    ``Q_tot(greedy) - Q_tot(what all did)``), `return`, `won`, `length`, and the numbers of
    different `joint` actions and coarse `states` expected among `DRAWS` of the steps (missing if
    there are fewer steps).
    """
    exploring, straying = [], []
    for battle in battles:
        assert battle.episode.exploration is not None
        exploring.append(battle.episode.exploration.explored.sum(1))
        straying.append((battle.episode.actions != battle.episode.exploration.greedy).sum(1))
    at_once, strayed = np.concatenate(exploring), np.concatenate(straying)
    events, steps = costs(q, battles), len(at_once)
    joint, states = (distinct(f(battles), DRAWS) for f in (joint_actions, coarse_states))
    whole = events.drop_duplicates(["battle", "step"])["all"].sum()
    return {
        "steps": steps,
        "explorers": float(at_once.mean()),
        "several": float((at_once > 1).mean()),
        "off_greedy": float(strayed.mean()),
        "cost": float(events.cost.mean()) if len(events) else None,
        "given_up": float(whole) / steps,
        "return": float(np.mean([b.episode.episode_return for b in battles])),
        "won": float(np.mean([bool(b.episode.won) for b in battles])),
        "length": steps / len(battles),
        "joint": None if np.isnan(joint) else joint,
        "states": None if np.isnan(states) else states,
    }
