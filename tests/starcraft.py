"""The double of StarCraft II where the installed package would be, and its book of events."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from conftest import ROOT

MAPS = ("2s3z", "3m", "MMM")


class Double:
    """A folder with the package ``smac`` (the double), a game without content, and a log."""

    def __init__(self, folder: Path, set_variable: Callable[[str, str], None]) -> None:
        self.folder, self.log, self._set = folder, folder / "log", set_variable
        self.package, self.game = folder / "packages" / "smac", folder / "game"
        (self.package / "env").mkdir(parents=True)
        (self.package / "__init__.py").write_text("")
        (self.package / "env" / "__init__.py").write_text("from smac_double import StarCraft2Env\n")
        (self.game / "Versions" / "Base75689").mkdir(parents=True)
        (self.game / "Maps" / "SMAC_Maps").mkdir(parents=True)
        for task in MAPS:
            (self.game / "Maps" / "SMAC_Maps" / f"{task}.SC2Map").touch()
        self.log.mkdir()
        set_variable("PYTHONPATH", os.pathsep.join([str(folder / "packages"), str(ROOT / "tests")]))
        set_variable("SC2PATH", str(self.game))
        self.plan()

    def plan(self, **plan: Any) -> None:
        """What goes wrong from now on, in children that start from now on."""
        self._set("SMAC_DOUBLE", json.dumps({"log": str(self.log), **plan}))

    def noted(self, what: str) -> list[dict[str, Any]]:
        """All notes of a kind, of all processes."""
        lines = [x for f in self.log.glob("*.jsonl") for x in f.read_text().splitlines()]
        return [note for note in map(json.loads, lines) if note["what"] == what]

    def living(self, seconds: float = 8.0) -> list[int]:
        """Children and games that are alive, once none is or the time is up."""
        until = time.monotonic() + seconds
        while (found := self._living()) and time.monotonic() < until:
            time.sleep(0.02)
        return found

    def _living(self) -> list[int]:
        launched = self.noted("launched")
        names = {note["game"]: "sleep" for note in launched}
        names |= {int(file.stem): "python" for file in self.log.glob("*.jsonl")}
        found = []
        for pid, name in names.items():
            try:
                process = psutil.Process(pid)
                if name in process.name() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(pid)
            except psutil.NoSuchProcess:
                continue
        return found
