"""The two phases: pretrain() on a dataset, finetune() in battles, evaluate() in tests.

``train`` is both, and what most callers want. All are generators of ``Progress`` events: a
notebook draws them, the command line shows a bar, a batch run logs them. Nothing here prints.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ovmse.config import Config
from ovmse.datasets.dataset import dataset_path, file_checksum
from ovmse.datasets.hdf5 import require_source
from ovmse.method.algorithms import ALGORITHMS
from ovmse.runs.code import made_by
from ovmse.runs.directory import RunDirectory
from ovmse.runs.files import named_path
from ovmse.runs.reading import RunError, read_config, read_metrics
from ovmse.runs.sharing import pretrain_directory
from ovmse.training.finetuning import finetune
from ovmse.training.phase import Evaluation, Progress, evaluate, require_device
from ovmse.training.pretraining import pretrain

# Seconds to wait for a run directory: the kernel of a worker that was killed lives on for a moment.
LAST_BREATH = 10


def train(config: Config, run_dir: str | Path) -> Iterator[Progress]:
    """Pre-trains if no run beside this one has, then fine-tunes; skips what is finished.

    The pre-training lies in ``pretrain/`` beside the run and is shared by every run of the same
    folder that agrees on the seed, the data, the offline settings and the learning code. Raises
    RunError if another process runs in ``run_dir``, if it holds a run with other settings, or an
    unfinished one that other learning code began; DatasetError on bad data.
    """
    run_dir = named_path(run_dir, "run_dir")
    require_device(config)  # before the run directory takes these settings as its own
    settings = config.model_dump()
    notes: dict[str, str | None] = {"pretrained": None}
    if config.uses_data:
        file = dataset_path(config.task, config.dataset, config.backend)
        require_source(file, config.task, config.backend)
        settings["dataset_sha256"] = file_checksum(file)
    if ALGORITHMS[config.algorithm].pretrained:
        notes["pretrained"] = os.path.relpath(pretrain_directory(config, run_dir.parent), run_dir)
    with RunDirectory(run_dir, settings, wait=LAST_BREATH, notes=notes) as run:
        if run.finished:
            rows, total = read_metrics(run_dir), config.online_steps
            if not rows:  # a run of an earlier version does not know what it wrote
                raise RunError(f"{run_dir} is finished, but its metrics.jsonl is empty")
            note = "finished before: what it measured is read"
            yield Progress("online", total, total, "environment steps", rows[-1], note, rows)
            return
        # As it was when the run began: other learning code has a pre-training of its own.
        shared = read_config(run_dir)["pretrained"]
        if shared is None:
            yield from finetune(config, run, None)
            return
        pretrained = Path(os.path.normpath(run_dir / shared))
        if not (pretrained / "result.json").exists():
            if run.begun:
                raise RunError(
                    f"{run_dir} continues from the pre-training in {pretrained}, which is no "
                    "longer there whole: put it back, or choose another run directory"
                )
            pretrained = pretrain_directory(config, run_dir.parent)
            run.note(pretrained=os.path.relpath(pretrained, run_dir))
            yield from pretrain(config, pretrained)
        yield from finetune(config, run, pretrained)


made_by()  # reads the key of the code as it was just imported; an edit comes too late

__all__ = ["Evaluation", "Progress", "evaluate", "finetune", "pretrain", "train"]
