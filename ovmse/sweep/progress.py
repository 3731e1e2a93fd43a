"""How a sweep stands: what a terminal, a log or a notebook shows of it."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ovmse.method.algorithms import ALGORITHMS
from ovmse.runs.listing import read_record
from ovmse.runs.reading import RunError, read_metrics
from ovmse.runs.sharing import pretrain_directory
from ovmse.sweep.grid import NotebookRun

HEADER = ("run", "state", "phase", "at", "test battles won", "Q on fixed battles")
OFFLINE_SHARE = 1 / 2  # of the time of a run, at the settings of `quick`


class Watched:
    """A run seen from outside, by the files it writes."""

    def __init__(self, run: NotebookRun, retry_failed: bool, anew: bool = False) -> None:
        self.run, self.label = run, run.label
        record = read_record(run.folder)
        self.state, before = "waiting", record.get("state")
        # Of those that have ended: another sweep may be at one just now.
        self.attempts = record.get("attempts", 0) - (before == "unfinished")
        if not anew and (before == "done" or (before == "failed" and not retry_failed)):
            self.state = before
        self.error = record.get("error", "") if self.state == "failed" else ""
        self.queued = False  # handed out, and no worker has room yet
        self.elsewhere = 0  # how often in a row another sweep was at it
        self.not_before = 0.0
        self.give_ups, self.reached_then = 0, ""  # how often Dask gave up, and where
        self.begun_at = 0.0 if self.state == "waiting" else 1.0  # share when it was handed out

    @cached_property
    def folders(self) -> list[Path]:
        """Its own, and that of the pre-training it shares, if there is one."""
        config, own = self.run.config, self.run.folder
        if config is None or not ALGORITHMS[config.algorithm].pretrained:
            return [own]
        return [own, pretrain_directory(config, own.parent)]

    @property
    def shown(self) -> str:
        """The state that people see."""
        if self.elsewhere and self.state in ("waiting", "running"):
            return "elsewhere"
        return "waiting" if self.queued and self.state == "running" else self.state

    def start(self) -> None:
        """It is handed to a worker."""
        self.state, self.begun_at = "running", self.share()

    def row(self) -> dict[str, Any]:
        """Its own last measurement, or that of the pre-training it waits for; empty before one."""
        for path in self.folders:
            with suppress(RunError, ValueError):  # none yet, or a line that is damaged
                if rows := read_metrics(path):
                    return rows[-1]
        return {}

    def reached(self) -> str:
        """Changes whenever the run gets further."""
        row = self.row()
        return f"{row.get('phase')} {row.get('updates')} {row.get('env_steps')}"

    def share(self) -> float:
        """How much is done, 0 to 1."""
        if self.state in ("done", "failed"):
            return 1.0
        row, config = self.row(), self.run.config
        if not row or config is None:
            return 0.0
        offline = OFFLINE_SHARE if ALGORITHMS[config.algorithm].pretrained else 0.0
        if row["phase"] == "offline":
            return offline * row["updates"] / config.offline_updates
        return offline + (1 - offline) * min(1.0, row["env_steps"] / config.online_steps)

    def cells(self) -> list[str]:
        """One line of a table, under ``HEADER``."""
        row = {} if self.state == "waiting" else self.row()
        if not row:
            return [self.label, self.shown, "", "", "", ""]
        offline = row["phase"] == "offline"
        return [
            self.label,
            self.shown,
            "pre-training" if offline else "online",
            f"{row['updates']:,} updates" if offline else f"{row['env_steps']:,} steps",
            f"{row['test_win_rate']:.0%}",
            f"{row['q_fixed']:.1f}" if "q_fixed" in row else "",
        ]


@dataclass
class SweepProgress:
    """All runs of a sweep, when it began, and the address of its scheduler."""

    runs: list[Watched]
    began: float = field(default_factory=time.monotonic)
    where: str = ""
    workers: int | None = None  # that are there

    def failed(self) -> list[Watched]:
        return [one for one in self.runs if one.state == "failed"]

    def shown(self, most: int = 24) -> list[Watched]:
        """The runs that a table has room for: those that run or failed, then those to come."""
        rank = {"running": 0, "failed": 1, "waiting": 2, "done": 3}
        ordered = sorted(self.runs, key=lambda one: rank[one.state])[:most]
        return [one for one in self.runs if one in ordered]

    def summary(self) -> str:
        """`3 done, 2 running, 3 waiting of 8; 4.0 min so far, about 7 min left`."""
        counts = Counter(one.shown for one in self.runs)
        said = ", ".join(
            f"{counts[state]} {state}"
            for state in ("done", "running", "elsewhere", "failed", "waiting")
            if counts[state]
        )
        spent = time.monotonic() - self.began
        none = "; no worker is there yet" if self.workers == 0 else ""
        time_said = f"{spent / 60:.1f} min so far, {self._left(spent)}"
        return f"{said} of {len(self.runs)}; {time_said}{none}"

    def _left(self, spent: float) -> str:
        """Going by the runs so far; a pre-training that several runs share is still to do once."""
        gained = left = 0.0
        pretrained = set()
        for one in self.runs:
            begun = one.state != "waiting"
            shared = not begun and one.folders[-1] in pretrained
            pretrained.add(one.folders[-1])
            share = one.share() if begun else OFFLINE_SHARE if shared else 0.0
            gained += share - one.begun_at if begun else 0.0
            left += 1 - share
        if not left:
            return "nothing left"
        if gained < 0.2:
            return "time left not known yet"
        minutes = spent * left / gained / 60
        long = minutes >= 120
        return f"about {minutes / 60:.0f} h left" if long else f"about {minutes:.0f} min left"
