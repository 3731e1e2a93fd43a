"""What is inside a dataset, and what follows from it for learning. Tables only, no drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.battles import Battle
from analysis.exploration import coarse_states, distinct, joint_actions
from analysis.notebook import SHIPPED, runs_given
from analysis.snapshots import Snapshots
from analysis.statistics import regime_of
from analysis.tables import Columns, per_cent
from analysis.widgets.progress import tracked
from ovmse.datasets import Audit, Dataset, DatasetError, audit, load_dataset
from ovmse.envs import make_env, smac_units
from ovmse.envs.base import EnvSpec
from ovmse.episodes import Episode
from ovmse.errors import UserError
from ovmse.runs.files import PROJECT
from ovmse.runs.reading import read_config

DRAWS = 1_000  # steps among which different joint actions and states are counted
SOME = 300  # battles of a file whose states are decoded
MAKE = "ovmse data make --task {task} --quality {quality}"
# What the table of `overview` is called for readers.
READABLE: Columns = {
    "dataset": ("dataset", str),
    "battles": ("battles", "{:,.0f}".format),
    "distinct": ("different ones", "{:,.0f}".format),
    "steps": ("steps", "{:,.0f}".format),
    "won": ("won", per_cent),
    "return": ("return", "{:.1f}".format),
    "value": ("value", "{:.1f}".format),
    "length": ("steps a battle", "{:.0f}".format),
    "cut": ("battles cut", per_cent),
    "cut_steps": ("steps cut", per_cent),
    "joint": ("joint actions in 1,000 steps", "{:.0f}".format),
    "states": ("coarse states in 1,000 steps", "{:.0f}".format),
}


@dataclass(frozen=True)
class Looked:
    """A dataset, and its name in tables and charts."""

    name: str
    data: Dataset

    @cached_property
    def audit(self) -> Audit:
        """What is wrong with it, in numbers and words."""
        return audit(self.data, self.spec.action_names)

    @cached_property
    def spec(self) -> EnvSpec:
        """The task's sizes and names, as its environment has them; of an unknown task only the
        sizes. StarCraft II is not started: a map's size is then a guess, so are its distances."""
        d = self.data
        task, backend = str(d.attrs.get("task", "")), str(d.attrs.get("backend", ""))
        if task and backend in ("smax", "climb"):
            return make_env(task, backend, num_envs=1).spec
        if not backend:  # the public files say their map by their name alone
            named = [m for m in smac_units.MAPS if d.path.stem.startswith(f"{m}_")]
            fits = [m for m in named if smac_units.state_size(m, d.n_actions) == d.state_size]
            task, backend = (fits[0], "smac") if fits else (task, backend)
        if backend == "smac" and task in smac_units.MAPS:
            return smac_units.task_spec(task, d.sizes)
        return EnvSpec(task, backend, **d.sizes)

    @cached_property
    def some(self) -> list[Battle]:
        """At most `SOME` of its battles, evenly over the file, decoded where that is known."""
        step = -(-len(self.data.episodes) // SOME)
        return decoded(self.data.episodes[::step], self.spec)


def decoded(episodes: Sequence[Episode], spec: EnvSpec) -> list[Battle]:
    """Battles as the other tables take them."""
    return [
        Battle(e, [spec.decode_state(s) for s in e.state] if spec.decoder else [], [],
               action_names=spec.action_names)
        for e in episodes
    ]  # fmt: skip


def look(names: Sequence[str], backend: str = "smax") -> list[Looked]:
    """Datasets by name or path, each read whole. Where one is missing, UserError says the command
    that makes it and how long that takes."""
    listed = isinstance(names, list | tuple) and names
    if not listed or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"datasets: got {names!r}, allowed: a list of names or paths")
    found, called = [], dict(zip(names, _distinct(names)))
    for name in tracked(names, "Datasets read"):
        there = PROJECT / name if (PROJECT / name).exists() else name
        try:
            data = load_dataset(there, backend=backend)
        except DatasetError as error:
            raise UserError(f"{error}; {how_to_make(str(name), backend)}") from None
        found.append(Looked(called[name], data))
    return found


def _distinct(names: Sequence[str]) -> list[str]:
    """What files are called in charts: by the file, or where that is said of two by the whole."""
    stems = [Path(name).stem for name in names]
    said = [stem if stems.count(stem) == 1 else str(Path(name).with_suffix(""))
            for stem, name in zip(stems, names)]  # fmt: skip
    if twice := [name for name in said if said.count(name) > 1]:
        raise UserError(f"datasets: got {twice[0]} twice, allowed: each dataset once")
    return said


def how_to_make(name: str, backend: str = "smax") -> str:
    """The command that makes a dataset of a shipped ladder, and its time; of StarCraft II none
    ships."""
    if backend == "smac":
        return "docs/starcraft.md says where the public ones are and how to make one"
    for quality in ("medium_replay", "medium"):
        task = name.removesuffix(f"_{quality}")
        if task != name and (PROJECT / "data" / "ladders" / task).is_dir():
            made = MAKE.format(task=task, quality=quality)
            return f"`{made}` makes it in one to three minutes"
    return "`ovmse data make --help` says which can be made"


def overview(looked: Sequence[Looked], gamma: float = 0.99) -> pd.DataFrame:
    """One row a dataset: size, returns, wins, cut battles, distinct battles, and how many
    different joint actions and coarse states stand in 1,000 of its steps. `value`: the discounted
    return from the first step, mean over battles that ended, the value of the behaviour."""
    rows = []
    for one in looked:
        n = one.audit.numbers
        ended = [e for e in one.data.episodes if e.terminated]
        rows.append(
            {
                "dataset": one.name,
                "battles": n["episodes"],
                "steps": n["transitions"],
                "distinct": n["distinct_episodes"],
                "won": n["win_rate"],
                "return": n["return_mean"],
                "value": np.mean([e.returns_to_go(gamma)[0] for e in ended]) if ended else np.nan,
                "length": n["length_mean"],
                "cut": n["truncated"],
                "cut_steps": n["cut_steps"],
                "joint": distinct(joint_actions(one.some), DRAWS),
                "states": distinct(coarse_states(one.some), DRAWS),
            }
        )
    return pd.DataFrame(rows)


def returns(looked: Sequence[Looked]) -> pd.DataFrame:
    """One row a battle: `dataset`, `return`, `length`, `end` (won, lost, cut)."""
    return pd.concat(
        [
            pd.DataFrame({
                "dataset": one.name,
                "return": one.audit.returns,
                "length": one.audit.lengths,
                "end": np.select([one.audit.cut, one.audit.won == 1, one.audit.won == 0],
                                 ["cut", "won", "lost"], "unknown"),
            })
            for one in looked
        ],
        ignore_index=True,
    )  # fmt: skip


def action_use(looked: Sequence[Looked]) -> pd.DataFrame:
    """`dataset`, `agent` (with its kind, where it is known), `action`, `share` (of the steps at
    which the agent had a choice and the action was offered), `offered` (steps)."""
    tables = []
    for one in looked:
        agents = one.some[0].agents
        names = one.spec.action_names or [str(a) for a in range(one.data.n_actions)]
        with np.errstate(invalid="ignore"):
            share = one.audit.taken / one.audit.offered
        pairs = [(a, b) for a in agents for b in names]
        table = pd.DataFrame(pairs, columns=["agent", "action"])
        tables.append(table.assign(dataset=one.name, share=share.ravel(),
                                   offered=one.audit.offered.ravel()))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def outside(one: Looked, policy: Sequence[Episode]) -> pd.DataFrame:
    """How far a policy's battles lie outside of a dataset: `whose` (the policy's battles; about as
    many of the file's own, left out), `states` and `joint`: shares of their steps whose coarse
    state, or whose joint action, is in none of the other battles that are looked at."""
    own, battles = one.some, decoded(policy, one.spec)
    step = max(len(own) // len(battles), 2)
    groups = [[b for n, b in enumerate(own) if n % step], battles, own[::step]]
    ends = np.cumsum([sum(b.episode.length for b in g) for g in groups])[:-1]
    rows: dict[str, list[float]] = {"joint": [], "states": []}
    for name, labels_of in (("joint", joint_actions), ("states", coarse_states)):
        held, *others = np.split(labels_of([b for g in groups for b in g]), ends)
        rows[name] = [float(1 - np.isin(labels, held).mean()) for labels in others]
    return pd.DataFrame({"whose": ["the pre-trained policy's", "the file's own, left out"], **rows})


def policy_battles(one: Looked, run: str = "") -> list[Episode]:
    """The battles of the policy that a run's pre-training left, recorded before its online phase.

    No run named means one that ships and learned from this very dataset; empty where none did.
    Raises UserError where a named one is of another task, or learned from another dataset: the
    regime is that of a policy and its own data.
    """
    task, backend = (str(one.data.attrs.get(name, "")) for name in ("task", "backend"))
    if not run and (backend != "smax" or not (SHIPPED / task / "pretrain").is_dir()):
        return []
    of = Snapshots(runs_given(run or str(SHIPPED / task))[0])
    if (of.spec.state_size, of.spec.n_agents) != (one.data.state_size, one.data.n_agents):
        raise UserError(f"pretrained: the run is of {of.config.task}, {one.name} is not")
    if read_config(of.run).get("dataset_sha256") != one.data.checksum:
        if not run:
            return []
        raise UserError(
            f"pretrained: the run learned from {of.config.dataset}, and not from this {one.name}"
        )
    return of.fixed


def regime(one: Looked, policy: Sequence[Episode]) -> tuple[str, float, float]:
    """How the pre-trained policy stands to the data (`statistics.regime_of`, within two standard
    errors), and the two mean returns (policy, data) that say so. The regime is said to decide
    whether offline data online help."""
    both = np.array([e.episode_return for e in policy]), one.audit.returns
    ours, theirs = (returns.mean() for returns in both)
    error = sum(returns.var() / len(returns) for returns in both) ** 0.5
    return regime_of(float(ours - theirs), 2 * error), float(ours), float(theirs)


def answer(looked: Sequence[Looked], policy: Sequence[Episode]) -> str:
    """The sentence that the notebook opens with."""
    bad = [f"{len(one.audit.warnings)} in {one.name}" for one in looked if one.audit.warnings]
    parts = [
        f"{one.name} holds {one.audit.numbers['distinct_episodes']:,} different battles with a "
        f"mean return of {one.audit.numbers['return_mean']:.1f}"
        for one in looked
    ]
    defects = f"finds defects ({', '.join(bad)})" if bad else "finds no defect in them"
    said = f"{'; '.join(parts)}; the audit {defects}, and"
    if not policy:
        return f"{said} no pre-trained policy of {looked[0].name} ships to compare it with."
    word, ours, theirs = regime(looked[0], policy)
    found = f"the pre-trained policy is {word}"
    if word == "cannot be told":
        found = f"whether the pre-trained policy is better or worse {word}"
    return f"{said} {found}: it returns {ours:.1f} where {looked[0].name} returns {theirs:.1f}."
