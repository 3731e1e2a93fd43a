"""The form of 01_train: it writes the cell of parameters, starts a training and stops it.

The training runs in a process of its own, below the kernel: so the kernel is free, and after a
reload of the page the form, run again, finds it. It ends with the kernel, and Start continues it.
"""

from __future__ import annotations

import json
import signal
import statistics
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
from analysis.widgets.picker import place
from ovmse.config import PRESETS, TASKS, Config
from ovmse.errors import UserError
from ovmse.method.algorithms import ALGORITHMS
from ovmse.runs.files import PROJECT, RUNS
from ovmse.runs.reading import RunError, find_runs, read_config, read_metrics
from ovmse.sweep.estimate import ALIKE
from ovmse.training.phase import Progress

CHOICES: dict[str, list[str]] = {
    "algorithm": list(ALGORITHMS),
    "task": list(TASKS),
    "dataset": ["medium", "medium_replay"],
    "preset": list(PRESETS),
    "seed": [],  # any whole number
}
# Interrupting a cell signals every process of the kernel's group: this one is not meant.
DEAF = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "from ovmse.cli.app import app; app(prog_name='ovmse')"
)
RULE = {"tiny": "A minute", "quick": "Some minutes", "paper": "Hours"}
GB = 1.2  # of memory, of a run on SMAX, as measured; a game of StarCraft II takes one more


class Training:
    """`ovmse train` of the settings that a cell gives, as a process of its own."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.config, self.run = training_given(given)
        settings = {n: v for n, v in given.items() if n != "run_dir" and v is not None}
        words = [f"{n}={v if isinstance(v, str) else json.dumps(v)}" for n, v in settings.items()]
        command = [sys.executable, "-c", DEAF, "train", str(self.run), "--json", *words]
        self.stopped = False
        self.process = subprocess.Popen(
            command, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def events(self) -> Iterator[Progress]:
        """Its events, to its end; raises UserError with its sentence if it ended otherwise."""
        assert self.process.stdout and self.process.stderr
        for line in self.process.stdout:
            yield Progress(**json.loads(line))
        said = self.process.stderr.read().strip().splitlines()
        code = self.process.wait()
        if self.stopped:
            raise UserError("stopped; Start continues it")
        if code < 0:
            raise UserError(
                f"its process was killed ({signal.Signals(-code).name}), perhaps for want of "
                "memory; Start continues it"
            )
        if code:
            raise UserError(said[-1].removeprefix("ovmse: ") if said else f"it ended with {code}")

    def stop(self) -> None:
        """Ends it at once; what it measured is kept."""
        self.stopped = True
        self.process.terminate()


class TrainingForm(anywidget.AnyWidget):
    """choices: the values of each field, none for a number. defaults: what a field is that the
    cell does not name. source: the cell as it stands in the page. said: what the settings cost,
    how it goes, or what is wrong. busy: whether it trains."""

    _esm = Path(__file__).with_name("form.js")
    own = traitlets.Unicode(OWN).tag(sync=True)
    choices: Any = traitlets.Dict(CHOICES).tag(sync=True)
    defaults: Any = traitlets.Dict({n: str(getattr(Config(), n)) for n in CHOICES}).tag(sync=True)
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
        self.form.said = f"{name} trains in {place(training.run)}."
        self.box.children = (self.form, live.widget)
        try:
            for event in training.events():
                if event.note:
                    self.form.said = f"{name}: {event.note}"
                live.update(replace(event, note=""))
            self.form.said = f"{trained(curves([training.run]))} The cells below show more."
        except Exception as error:  # whatever it is, a person has to see it and to go on
            self.form.said = f"{name}: {error}."
        finally:
            training.process.kill()
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
                    settings = read_config(run)
                    whole = "online" in spent and (run / "result.json").exists()
                    if whole and settings["online_steps"] and settings["offline_updates"]:
                        found.append(settings | {"spent": spent})
    return found


def cost(config: Config, known: list[dict[str, Any]]) -> str:
    """What a run with these settings will take, from the finished runs most like it."""
    games = config.num_envs if config.backend == "smac" else 0
    memory = f"It needs about {GB + games:.1f} GB of memory."
    known = [one for one in known if one.get("backend") == config.backend]
    for names in ALIKE:
        values = [getattr(config, name) for name in names]
        alike = [one for one in known if [one.get(name) for name in names] == values]
        if alike:
            online = statistics.fmean(one["spent"]["online"] / one["online_steps"] for one in alike)
            said = f"About {_time(online * config.online_steps)} of online training"
            before = [one for one in alike if one["spent"].get("offline")]
            if before and ALGORITHMS[config.algorithm].pretrained:
                offline = statistics.fmean(
                    one["spent"]["offline"] / one["offline_updates"] for one in before
                )
                said += f", after {_time(offline * config.offline_updates)} of pre-training unless "
                said += "a run of its folder has done it"
            runs = "run" if len(alike) == 1 else f"{len(alike)} runs"
            return f"{said}: by the finished {runs} of {', '.join(values)}. {memory}"
    return f"{RULE[config.preset]} as a rule; no finished run tells more. {memory}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
