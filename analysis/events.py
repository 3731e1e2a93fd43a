"""Who explored when: `events.jsonl` of a run as tidy tables.

`events.jsonl` has a line a battle; its `explored` lists [step, agent, action, greedy action, gap].
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from analysis.battles import Battle, record_with
from analysis.each import spaced
from analysis.snapshots import Snapshots, settings_of
from analysis.widgets.progress import tracked
from ovmse.config import Config
from ovmse.method.schedules import linear_decay
from ovmse.runs.reading import RunError, read_config, snapshot_steps

FILE, PACKED = "events.jsonl", "events.jsonl.gz"  # as training writes them, and as they ship
CHUNK = 2**20  # bytes of a file between two looks at the clock
SNAPSHOTS = 8  # from so many battles are recorded anew, to see how a run changes


@dataclass(frozen=True)
class Events:
    """Every exploration event of a run.

    battles: a row a battle: `battle` (its number), `env_steps` (when it ended), `length`, `return`,
    `won`, `explorers` and `strayed` (events, and those whose action was not the greedy one).
    explored: a row an event: `battle`, `step`, `agent`, `action`, `greedy`, `gap` (`Q_i(greedy) -
    Q_i(taken)`), `env_steps` (when the step was played), `at_once` (agents exploring at that step).
    clock: environment steps at which each step of every battle was played, battle by battle.
    agents: ``N``. recorded: battles were recorded anew, since the run wrote down no events.
    """

    config: Config
    agents: int
    battles: pd.DataFrame
    explored: pd.DataFrame
    clock: np.ndarray
    recorded: bool = False

    def per_step(self, strayed: bool = False) -> np.ndarray:
        """How many agents explored (or `strayed`: took another action than the greedy one) at each
        step of every battle, battle by battle: ``[steps]``."""
        first = self.battles.length.cumsum().to_numpy() - self.battles.length.to_numpy()
        rows = self.explored
        if strayed:
            rows = rows[rows.action != rows.greedy]
        where = first[np.searchsorted(self.battles.battle, rows.battle)] + rows.step
        return np.bincount(where, minlength=len(self.clock))


class _Line(NamedTuple):
    battle: int
    env_steps: int
    length: int
    score: float
    won: bool
    explored: np.ndarray  # [events, 5]


def events(run: str | Path) -> Events:
    """The events of a run as training wrote them; a last line that is still being written is left
    out. Raises RunError where there are none, or where a line is damaged."""
    config = config_of(run)
    agents = team_size(run)
    return _tables(_lines(Path(run), agents), config, agents, config.num_envs)


def events_or_recorded(run: str | Path, battles: int = 16) -> Events:
    """As `events`; of a run without them, the battles of `recorded_along`, numbered from 1."""
    if any((Path(run) / name).exists() for name in (FILE, PACKED)):
        return events(run)
    return events_of(recorded_along(run, battles), config_of(run))


def events_of(recorded: Iterable[tuple[int, Sequence[Battle]]], config: Config) -> Events:
    """The events of battles that were recorded anew, each lot at its environment steps; numbered
    from 1."""
    lines: list[_Line] = []
    agents = 0
    for at, battles in recorded:
        lines += [_line(battle, len(lines) + n, at) for n, battle in enumerate(battles, 1)]
        agents = battles[0].episode.actions.shape[1]
    return _tables(lines, config, agents, 0, recorded=True)


def recorded_along(run: str | Path, battles: int = 16) -> Iterator[tuple[int, list[Battle]]]:
    """So many `exploring_battles` from each of some snapshots: ``(env_steps, battles)``."""
    for at, _ in tracked(some_snapshots(run), "Snapshots whose battles are recorded anew"):
        yield at, exploring_battles(Snapshots(run), at, battles, seed=at)


def exploring_battles(
    of: Snapshots, env_steps: int, battles: int = 16, seed: int = 0
) -> list[Battle]:
    """Battles of a snapshot that explores as its run did at that time. The last ones recorded are
    held in memory: several questions are asked of them."""
    c, file = of.config, of.files[env_steps]
    given = (c.exploration, float(epsilon_at(c, env_steps)), battles, seed)
    return _recorded(str(of.run), env_steps, file.stat().st_mtime_ns, *given)


@functools.lru_cache(maxsize=2 * SNAPSHOTS)
def _recorded(run: str, at: int, written: int, *given: Any) -> list[Battle]:
    of = Snapshots(run)
    return record_with(of.network(at), of.config, *given)


def some_snapshots(run: str | Path) -> list[tuple[int, Path]]:
    """At most `SNAPSHOTS` of a run's, the first and the last among them."""
    files = snapshot_steps(run)
    if not files:
        raise RunError(f"{run} has no snapshot yet")
    return [files[i] for i in spaced(len(files), SNAPSHOTS)]


def config_of(run: str | Path) -> Config:
    """The settings of a run."""
    return settings_of(read_config(run))


def epsilon_at(config: Config, env_steps: np.ndarray | float) -> np.ndarray:
    """ε of eq. 7 at environment steps of the online phase; 0 in a warm-up by the offline policy.

    It is what `metrics.jsonl` says, at every step instead of at the tests alone."""
    t = np.asarray(env_steps, float) - config.policy_warmup_steps
    share = np.clip(t / config.epsilon_anneal, 0, 1) if config.epsilon_anneal else np.ones_like(t)
    epsilon = config.epsilon_start - (config.epsilon_start - config.epsilon_end) * share
    return np.where(t < 0, 0.0, epsilon)


def lambda_at(config: Config, env_steps: int) -> float:
    """λ of eq. 6 at environment steps of the online phase; a warm-up delays its fall."""
    t = max(0, env_steps - config.policy_warmup_steps)
    return linear_decay(1.0, config.memory_end, config.memory_anneal, t)


def team_size(run: str | Path) -> int:
    """``N``, from the shape of a snapshot's mixer; no environment is started for it."""
    file = some_snapshots(run)[0][1]
    try:
        with safe_open(file, "pt") as stored:
            rows = stored.get_slice("mixer.hyper_w1.2.weight").get_shape()[0]
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} is no snapshot of this version of ovmse ({error})") from None
    return rows // config_of(run).embed_size


def _line(battle: Battle, number: int, env_steps: int) -> _Line:
    e, who = battle.episode, battle.episode.exploration
    assert who is not None
    t, i = np.nonzero(who.explored)
    columns = (t, i, e.actions[t, i], who.greedy[t, i], who.gap[t, i])
    explored = np.stack([np.asarray(c, np.float32) for c in columns], 1)
    return _Line(number, env_steps, e.length, e.episode_return, bool(e.won), explored)


def _lines(run: Path, agents: int) -> Iterator[_Line]:
    path = run / FILE
    try:
        if path.exists():
            size, file = path.stat().st_size, cast(IO[bytes], path.open("rb"))
        else:
            path = run / PACKED
            whole = gzip.decompress(path.read_bytes())
            size, file = len(whole), io.BytesIO(whole)
    except FileNotFoundError:
        raise RunError(f"{run} holds no {FILE}: who explored was not written down") from None
    except (OSError, EOFError, zlib.error) as error:
        raise RunError(f"{path} cannot be read ({error})") from None
    number = 0
    with file:
        for _ in tracked(range(0, size, CHUNK), "Events read, in MB"):
            for line in file.readlines(CHUNK):
                number += 1
                if not line.endswith(b"\n"):
                    return  # still being written
                try:
                    yield _parsed(json.loads(line), agents)
                except (ValueError, TypeError, KeyError, OverflowError):
                    raise RunError(
                        f"{path} is damaged: line {number} is no battle of {agents} agents"
                    ) from None


def _parsed(line: dict[str, Any], agents: int) -> _Line:
    """Raises ValueError, TypeError or KeyError where a line is not what training writes."""
    explored = np.array(line["explored"], np.float32).reshape(-1, 5)
    length, won = line["length"], line["won"]
    step, agent, action, greedy, _ = explored.T
    sizes = (line["episode"], line["env_steps"], length)
    whole = all(type(n) is int and n > 0 for n in sizes) and type(won) is bool
    indices = explored[:, :4]
    if not (
        whole
        and np.isfinite(explored).all()
        and (indices >= 0).all()
        and (indices % 1 == 0).all()
        and (step < length).all()
        and (agent < agents).all()
        and (action < 256).all()
        and (greedy < 256).all()
    ):
        raise ValueError
    return _Line(*sizes, float(line["return"]), won, explored)


def _tables(
    lines: Iterable[_Line], config: Config, agents: int, num_envs: int, recorded: bool = False
) -> Events:
    """num_envs: battles side by side, which all move the clock on with each of their steps."""
    heads, parts = [], [np.zeros((0, 5), np.float32)]
    for line in lines:
        heads.append(line[:-1])
        parts.append(line.explored)
    if not heads:
        raise RunError("no battle of this run has ended yet: nobody explored")
    table = pd.DataFrame(heads, columns=["battle", "env_steps", "length", "return", "won"])
    if not table.battle.is_monotonic_increasing or not table.battle.is_unique:
        raise RunError("events.jsonl is damaged: its battles are not in order")
    length = table.length.to_numpy(np.int64)
    end = np.repeat(table.env_steps.to_numpy(np.int64), length)
    left = np.repeat(length.cumsum(), length) - np.arange(length.sum())  # L - t
    clock = np.maximum(end - num_envs * left, 0).astype(np.int32)

    rows = np.concatenate(parts)
    which = np.repeat(np.arange(len(table)), [len(p) for p in parts[1:]])
    step = rows[:, 0].astype(np.int16)
    at = (length.cumsum() - length)[which] + step
    explored = pd.DataFrame(
        {
            "battle": table.battle.to_numpy(np.int32)[which],
            "step": step,
            "agent": rows[:, 1].astype(np.uint8),
            "action": rows[:, 2].astype(np.uint8),
            "greedy": rows[:, 3].astype(np.uint8),
            "gap": rows[:, 4],
            "env_steps": clock[at],
            "at_once": np.bincount(at, minlength=1)[at].astype(np.uint8),
        }
    )
    strayed = which[(explored.action != explored.greedy).to_numpy()]
    table["explorers"] = np.bincount(which, minlength=len(table))
    table["strayed"] = np.bincount(strayed, minlength=len(table))
    return Events(config, agents, table, explored, clock, recorded)
