"""What the online phase writes down between two tests: who explored, and what updates said."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import numpy as np

from ovmse.envs.base import VectorEnv
from ovmse.episodes import Episode
from ovmse.runs.directory import RunDirectory
from ovmse.runs.reading import stored_config


class Recorder:
    """A line in ``events.jsonl`` for every battle, and the means that the next row will carry."""

    def __init__(self, run: RunDirectory) -> None:
        self.run, self.battles = run, 0  # battles since the online phase began
        self._forget()

    def _forget(self) -> None:
        self._stats: dict[str, list[float]] = {}
        self._explored = self._steps = self._void = 0

    def battle(self, episode: Episode, env_steps: int) -> None:
        """A finished battle: ``explored`` lists [step, agent, action, greedy action, gap]."""
        who = episode.exploration
        assert who is not None
        explored = [
            [int(t), int(i), int(episode.actions[t, i]), int(who.greedy[t, i]),
             round(float(who.gap[t, i]), 4)]
            for t, i in zip(*np.nonzero(who.explored), strict=True)
        ]  # fmt: skip
        self.battles += 1
        self._explored += len(explored)
        self._steps += episode.length
        self.run.append(
            "events.jsonl",
            {
                "env_steps": env_steps,
                "episode": self.battles,
                "length": episode.length,
                "return": round(episode.episode_return, 4),
                "won": bool(episode.won),
                "explored": explored,
            },
        )

    def void(self, battles: int) -> None:
        """Battles that an engine lost: of them only the number is kept."""
        self._void += battles

    def update(self, stats: dict[str, float]) -> None:
        """What ``Learner.update`` returned."""
        for name, value in stats.items():
            self._stats.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        """Since the last call: the mean of each statistic of the updates, ``explorers`` (mean
        number of agents exploring per step) and ``void_battles`` (their number, if any)."""
        found: dict[str, float] = {n: float(np.mean(values)) for n, values in self._stats.items()}
        if self._steps:
            found["explorers"] = self._explored / self._steps
        if self._void:
            found["void_battles"] = self._void
        self._forget()
        return found


class EngineNote:
    """Writes down which game the battles of a run were played in, and with which seeds.

    In ``config.json`` as ``engine``, where an environment has one (``env.engine()``): its versions,
    and for each battle at once the seeds of its games, those of earlier starts of the run first.
    """

    def __init__(self, run: RunDirectory, env: VectorEnv) -> None:
        self.run, self.ask = run, getattr(env, "engine", None)
        before = stored_config(run.path).get("engine")
        self.before: list[list[int]] = before.get("seeds", []) if isinstance(before, dict) else []
        self.written: dict[str, Any] = {}

    def write(self) -> None:
        """To be called after battles; writes only what is new."""
        if self.ask is None or (now := self.ask()) == self.written:
            return
        both = zip_longest(self.before, now["seeds"], fillvalue=())
        self.run.note(engine={**now, "seeds": [[*old, *new] for old, new in both]})
        self.written = now
