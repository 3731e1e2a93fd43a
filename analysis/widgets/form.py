"""The form of 01_train: it writes the cell of parameters, starts a training and stops it.

The training runs in a process of its own, below the kernel: so the kernel is free, and after a
reload of the page the form, run again, finds it. It ends with the kernel, and Start continues it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from IPython.display import display
from ipywidgets import VBox

from analysis.answers import trained
from analysis.charts.theme import label
from analysis.notebook import OWN, SHIPPED, TRAINING, parameters_in, training_given
from analysis.tables import curves
from analysis.widgets.live import Live, has_front_end
from ovmse.config import PRESETS, TASKS, Config
from ovmse.errors import UserError
from ovmse.method.algorithms import ALGORITHMS
from ovmse.runs.files import PROJECT, RUNS
from ovmse.runs.reading import RunError, find_runs, read_config, read_metrics
from ovmse.training.phase import Progress

CHOICES: dict[str, list[str]] = {
    "algorithm": list(ALGORITHMS),
    "task": list(TASKS),
    "dataset": ["medium", "medium_replay"],
    "preset": list(PRESETS),
    "seed": [],  # any whole number
}
# From the runs most like it to those that tell least.
ALIKE = (("preset", "task", "algorithm"), ("preset", "task"), ("preset",))
RULE = {"tiny": "A minute", "quick": "Some minutes", "paper": "Hours"}
MEMORY = "1.2 GB"  # of a run on SMAX, as measured


class Training:
    """`ovmse train` of the settings that a cell gives, as a process of its own."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.config, self.run = training_given(given)
        settings = {n: v for n, v in given.items() if n != "run_dir" and v is not None}
        words = [f"{n}={v if isinstance(v, str) else json.dumps(v)}" for n, v in settings.items()]
        command = [sys.executable, "-m", "ovmse.cli", "train", str(self.run), "--json", *words]
        self.process = subprocess.Popen(
            command, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def events(self) -> Iterator[Progress]:
        """Its events, to its end; raises UserError with its sentence if it ended otherwise."""
        assert self.process.stdout and self.process.stderr
        for line in self.process.stdout:
            yield Progress(**json.loads(line))
        said = self.process.stderr.read().strip().splitlines()
        if code := self.process.wait():
            stopped = code < 0 or not said
            raise UserError(
                "stopped; Start continues it" if stopped else said[-1].removeprefix("ovmse: ")
            )

    def stop(self) -> None:
        """Ends it at once; what it measured is kept. (Started from some shells, a process is deaf
        to SIGINT.)"""
        self.process.terminate()


class TrainingForm(anywidget.AnyWidget):
    """choices: the values of each field, none for a number. source: the cell as it stands in the
    page. said: what the settings cost, how it goes, or what is wrong. busy: whether it trains."""

    _esm = Path(__file__).with_name("form.js")
    own = traitlets.Unicode(OWN).tag(sync=True)
    choices: Any = traitlets.Dict(CHOICES).tag(sync=True)
    source = traitlets.Unicode().tag(sync=True)
    said = traitlets.Unicode().tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)


class _Desk:
    """The form and, while a training goes on, its curves below."""

    def __init__(self) -> None:
        self.form = TrainingForm()
        self.training: Training | None = None
        self.box = VBox([self.form])
        self.known = durations((RUNS, SHIPPED))
        self.form.observe(self._tell, "source")
        self.form.on_msg(lambda _, message, __: self._do(message))

    def _tell(self, _: Any) -> None:
        if self.form.busy:
            return
        try:
            config, _ = training_given(parameters_in(self.form.source, TRAINING))
            self.form.said = cost(config, self.known)
        except UserError as error:
            self.form.said = f"{error}."

    def _do(self, message: Any) -> None:
        if message == "stop" and self.training:
            self.training.stop()
        elif message == "start" and not self.form.busy:
            try:
                self.training = Training(parameters_in(self.form.source, TRAINING))
            except UserError as error:
                self.form.said = f"{error}."
                return
            self.form.busy = True
            threading.Thread(target=self._watch, args=(self.training,), daemon=True).start()

    def _watch(self, training: Training) -> None:
        """Shows a training until it ends, and then what came of it."""
        config = training.config
        name = f"{label(config.algorithm)} on {config.task}, seed {config.seed}"
        live = Live(name, config.algorithm)
        self.form.said = f"{name} trains in {_short(training.run)}."
        self.box.children = (self.form, live.widget)
        try:
            for event in training.events():
                if event.note:
                    self.form.said = f"{name}: {event.note}"
                live.update(replace(event, note=""))
            self.form.said = f"{trained(curves([training.run]))} The cells below show more."
        except UserError as error:
            self.form.said = f"{name}: {error}."
        self.form.busy, self.box.children = False, (self.form,)
        live.close()


_desk: _Desk | None = None  # of this kernel: a page that was loaded anew finds it again


def training_form() -> None:
    """Shows the form. What is trained is always what the cell below it says: the form only writes
    there, and follows what is typed. Where no person is in front, nothing is shown."""
    global _desk
    if not has_front_end():
        return
    if _desk is None or not _desk.form.busy:
        _desk = _Desk()
    display(_desk.box)


def durations(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Of every finished run below the folders its settings, with the seconds of its `offline` and
    its `online` phase."""
    found = []
    for folder in folders:
        with suppress(RunError):  # none there yet
            for run in find_runs(folder):
                with suppress(RunError, ValueError, KeyError):
                    spent = {row["phase"]: row["wall_s"] for row in read_metrics(run)}
                    if "online" in spent and (run / "result.json").exists():
                        found.append(read_config(run) | {"spent": spent})
    return found


def cost(config: Config, known: list[dict[str, Any]]) -> str:
    """What a run with these settings will take, from the finished runs most like it."""
    memory = f"It needs about {MEMORY} of memory."
    for names in ALIKE:
        values = [getattr(config, name) for name in names]
        alike = [one["spent"] for one in known if [one.get(name) for name in names] == values]
        if alike:
            online = sum(spent["online"] for spent in alike) / len(alike)
            runs = "run" if len(alike) == 1 else f"{len(alike)} runs"
            return (
                f"About {_time(online)} of online training, as the finished {runs} of "
                f"{', '.join(values)} took. {memory}"
            )
    return f"{RULE[config.preset]} as a rule; no finished run tells more. {memory}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _short(path: Path) -> str:
    return str(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path)
