"""The networks of a run as they were: those of its snapshots, the memory, and the fixed battles."""

from __future__ import annotations

from contextlib import closing
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from ovmse.config import Config
from ovmse.datasets import load_dataset
from ovmse.datasets.dataset import Dataset
from ovmse.envs import make_env
from ovmse.envs.base import EnvSpec
from ovmse.episodes import Episode
from ovmse.method.networks import QFunction
from ovmse.runs.directory import read_tensors, require_whole
from ovmse.runs.reading import RunError, read_config, snapshot_steps
from ovmse.training.phase import FINAL_SNAPSHOT, FIXED_FILE, load_weights, network_sizes

MEMORY_FILE = f"snapshots/{FINAL_SNAPSHOT}.safetensors"


def settings_of(stored: dict[str, Any]) -> Config:
    """The settings among what `config.json` of a run says."""
    return Config.from_parameters(**{n: v for n, v in stored.items() if n in Config.model_fields})


class Snapshots:
    """What a run left: `config`, `files` (environment steps -> file), `fixed` battles, networks.

    Reading a run that was pre-trained starts no environment, so it needs none. Raises RunError
    where a file is missing.
    """

    def __init__(self, run: str | Path) -> None:
        torch.set_num_threads(1)  # a second one doubles the CPU time and saves nothing
        self.run = Path(run)
        stored = read_config(run)
        self.config = settings_of(stored)
        self.files = dict(snapshot_steps(run))
        name = stored.get("pretrained")
        self.pretraining = None if name is None else (self.run / name).resolve()

    @property
    def fixed_file(self) -> Path:
        """The battles of the pre-trained policy, which every snapshot is asked about."""
        return self._of_pretraining(FIXED_FILE)

    @cached_property
    def fixed(self) -> list[Episode]:
        """The episodes of `fixed_file`."""
        return self._dataset.episodes

    @cached_property
    def spec(self) -> EnvSpec:
        """The sizes of the task: as the fixed battles have them, and then it decodes no state; of a
        run from scratch, which has none, as its environment says."""
        c = self.config
        if self.pretraining is None:
            with closing(make_env(c.task, c.backend, 1)) as env:
                return env.spec
        return EnvSpec(c.task, c.backend, **self._dataset.sizes)

    def network(self, env_steps: int) -> QFunction:
        """The online network as it was after so many environment steps."""
        if env_steps not in self.files:
            known = ", ".join(f"{n:,}" for n in self.files) or "none"
            raise RunError(f"{self.run} has no snapshot at {env_steps:,} steps, but at: {known}")
        return self.load(self.files[env_steps])

    def nearest(self, env_steps: int) -> int:
        """The environment steps of the snapshot nearest to so many."""
        if not self.files:
            raise RunError(f"{self.run} has no snapshot yet")
        return min(self.files, key=lambda at: abs(at - env_steps))

    def in_half_precision(self, env_steps: int) -> bool:
        """Whether the snapshot after so many steps is kept in half precision, as shipped ones are.
        Raises RunError if its file is no snapshot."""
        return any(t.dtype == torch.float16 for t in read_tensors(self.files[env_steps]).values())

    def memory(self) -> QFunction:
        """The frozen offline network of eq. 4: the target network as offline training left it."""
        return self.load(self._of_pretraining(MEMORY_FILE), "target.")

    @property
    def memory_file(self) -> Path | None:
        """What `memory` loads; None where the run has come without it."""
        file = self.pretraining and self.pretraining / MEMORY_FILE
        return file if file and file.exists() else None

    @property
    def offline_file(self) -> Path:
        """What `offline` loads."""
        return self.memory_file or self.files[min(self.files)]

    def offline(self) -> QFunction:
        """The memory; where the run has come without its file, the network before the first online
        update, which a target network lags behind by less than `offline_target_interval` updates.
        """
        return self.memory() if self.memory_file else self.network(min(self.files))

    def load(self, file: Path, prefix: str = "") -> QFunction:
        """A frozen network with the weights of a snapshot; `prefix` as in `load_weights`.

        Raises RunError if it is not what its run wrote.
        """
        require_whole(file.parents[1], [f"snapshots/{file.name}"])
        q = QFunction(self.spec, *network_sizes(self.config)).requires_grad_(False)
        load_weights(q, file, prefix)
        return q

    @cached_property
    def _dataset(self) -> Dataset:
        return _fixed(self.fixed_file, self.fixed_file.stat().st_mtime_ns)

    def _of_pretraining(self, name: str) -> Path:
        if self.pretraining is None:
            raise RunError(f"{self.run} is from scratch: it has no pre-training")
        file = self.pretraining / name
        if not file.exists():
            raise RunError(f"{self.run} names a pre-training without {name}: {file.parent}")
        return file


@lru_cache(maxsize=2)
def _fixed(file: Path, written: int) -> Dataset:
    """The fixed battles, held in memory: the runs of a pre-training share them."""
    require_whole(file.parent, [file.name])
    return load_dataset(file)
