"""What both phases share: events, tests, learners made from a config, and the fixed battles."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovmse.config import Config
from ovmse.datasets.dataset import Dataset, dataset_path, dataset_size
from ovmse.datasets.hdf5 import load_dataset
from ovmse.envs.base import EnvSpec, VectorEnv
from ovmse.episodes import Episode, EpisodeBatch
from ovmse.errors import UserError
from ovmse.method.learner import DivergedError, Learner, UpdateSettings, new_q_function
from ovmse.method.networks import QFunction
from ovmse.runs.code import made_by
from ovmse.runs.directory import RunDirectory, read_tensors
from ovmse.runs.reading import RunError
from ovmse.training.rollout import collect

# One seed for everything: each use has a stream of its own, so that none shifts another.
_STREAMS = ("weights", "offline batches", "offline cql", "collecting", "test", "battles",
            "exploration", "online batches", "online cql", "fixed")  # fmt: skip
FIXED_FILE = "fixed.h5"
FINAL_SNAPSHOT = "offline_final"
LARGE = 100  # megabytes of a dataset that is read for some seconds


@dataclass(frozen=True)
class Progress:
    """One event of a phase: ``done`` of ``total`` (in ``unit``), the metrics row if one was just
    written (of a finished run the last), and a note if something happened that a person should
    know. ``earlier`` are the rows that a run which is continued, or only read, wrote before."""

    phase: str
    done: int
    total: int
    unit: str
    row: dict[str, Any] | None = None
    note: str = ""
    earlier: Sequence[dict[str, Any]] = ()


@dataclass(frozen=True)
class Evaluation:
    """Greedy battles: their number, the share won, the mean return (best 20) and length."""

    battles: int
    win_rate: float
    mean_return: float
    mean_length: float


class Clock:
    """Wall time of a phase in seconds, summed over its resumes."""

    def __init__(self) -> None:
        self.spent, self._start = 0.0, time.monotonic()

    def seconds(self) -> float:
        """So far; to be stored as ``spent`` when a phase is continued."""
        return round(self.spent + time.monotonic() - self._start, 2)


def stream_seed(seed: int, stream: str, extra: int = 0) -> int:
    """A seed for one use of randomness, 31 bits."""
    words = np.random.SeedSequence([seed, _STREAMS.index(stream), extra]).generate_state(1)
    return int(words[0]) >> 1


def evaluate(q: QFunction, env: VectorEnv, battles: int, seed: int) -> Evaluation:
    """Plays exactly ``battles`` greedy battles; the same seed gives the same battles."""
    played = collect(q, env, battles, np.random.default_rng(seed), seed=seed)
    scores = np.array([(e.won, e.episode_return, e.length) for e in played], np.float64)
    won, returns, lengths = scores.mean(0)
    return Evaluation(battles, float(won), float(returns), float(lengths))


# Learners and datasets from a config.


def new_learner(c: Config, spec: EnvSpec, settings: UpdateSettings, stream: str) -> Learner:
    """A learner on the config's device, and torch's threads as the config says."""
    require_device(c)
    torch.set_num_threads(c.threads)
    # cuDNN would round its products to 10 bits: the unrolled and the acting network would differ.
    torch.backends.cudnn.allow_tf32 = False
    q = new_q_function(spec, network_sizes(c), stream_seed(c.seed, "weights"))
    return Learner(q.to(c.device), settings, stream_seed(c.seed, stream))


def network_sizes(config: Config) -> tuple[int, int, int]:
    """``(hidden, embed, hypernet)`` for ``QFunction``."""
    return config.hidden_size, config.embed_size, config.hypernet_size


def offline_settings(c: Config) -> UpdateSettings:
    """What the offline phase asks of an update."""
    return UpdateSettings(
        lr=c.offline_lr,
        lr_warmup_updates=0,
        decay_updates=c.offline_updates,
        target_interval=c.offline_target_interval,
        td_lambda=c.offline_td_lambda,
        gamma=c.gamma,
        grad_clip=c.grad_clip,
        cql_alpha=c.cql_alpha,
        cql_form=c.cql_form,
        cql_samples=c.cql_samples,
        cql_data_action=c.cql_data_action,
    )


def online_settings(c: Config) -> UpdateSettings:
    """What the online phase asks of an update."""
    return dataclasses.replace(
        offline_settings(c),
        lr=c.online_lr,
        lr_warmup_updates=c.lr_warmup_updates,
        decay_updates=0,
        target_interval=c.online_target_interval,
        td_lambda=c.online_td_lambda,
        cql_alpha=c.cql_alpha if c.online_cql else 0.0,
    )


def require_device(c: Config) -> None:
    """Raises UserError if the config's device is not there."""
    if c.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: got 'cuda', allowed: 'cpu' (no CUDA device is present here)")


def open_dataset(c: Config, spec: EnvSpec, per_batch: int) -> Dataset:
    """The config's dataset, without cut battles if it says so; raises UserError if fewer episodes
    are left than a batch takes."""
    dataset = load_dataset(dataset_path(c.task, c.dataset, c.backend), spec)
    kind = "" if c.cut_battles else " that the time limit did not cut"
    if not c.cut_battles:
        dataset.episodes = [episode for episode in dataset.episodes if episode.terminated]
    if len(dataset.episodes) < per_batch:
        raise UserError(
            f"batch_size: a batch takes {per_batch} episodes of {dataset.path.name}, "
            f"which holds {len(dataset.episodes)}{kind}"
        )
    return dataset


def reading(c: Config) -> str:
    """A note before a dataset whose reading takes a while; "" before a small one."""
    path = dataset_path(c.task, c.dataset, c.backend)
    size = dataset_size(path) / 1e6
    return f"Reading {path.name} ({size:,.0f} MB) ..." if size > LARGE else ""


def load_weights(q: QFunction, path: str | Path, prefix: str = "") -> None:
    """Puts a snapshot's weights into a network of the task; ``prefix`` "q." or "target." of a
    learner's. Raises RunError if the file is foreign, of an older layout or of another map."""
    whole = read_tensors(path)
    tensors = {k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix)}
    expected = q.state_dict()
    if missing := sorted(expected.keys() - tensors.keys()):
        raise RunError(
            f"{path} is no snapshot of this version of ovmse: it has no {prefix}{missing[0]}"
        )
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            raise RunError(
                f"{path} is a snapshot of another map or of other network sizes: {name} has shape "
                f"{tuple(tensors[name].shape)}, here {tuple(tensor.shape)} is needed"
            )
    q.load_state_dict({name: tensors[name] for name in expected})


# The fixed battles.


class FixedBattles:
    """The offline policy's own battles, which never change: what are they worth by now?

    ``measure`` gives the means over their filled steps of ``Q_tot(tau, a)`` (``q_fixed``) and of
    the discounted Monte-Carlo return-to-go (``mc_fixed``). A battle that the time limit cut has
    returned less than it would have, while ``Q_tot`` values it to its end; so both are given over
    the battles that truly ended too (``q_ended``, ``mc_ended``, left out if none did), and only
    these two are like for like.
    """

    def __init__(self, episodes: Sequence[Episode], gamma: float, device: str = "cpu") -> None:
        self.batch = EpisodeBatch.from_episodes(episodes).to(device)
        self.ended = self.batch.filled & self.batch.terminated[:, None]
        self._returns = {"mc_fixed": mean_return_to_go(episodes, gamma)}
        if ended := [e for e in episodes if e.terminated]:
            self._returns["mc_ended"] = mean_return_to_go(ended, gamma)

    def measure(self, q: QFunction) -> dict[str, float]:
        """``q_fixed``, ``mc_fixed``, ``q_ended``, ``mc_ended`` for this network."""
        q_tot = q.q_tot_taken(self.batch)
        found = {"q_fixed": float(q_tot[self.batch.filled].mean())}
        if "mc_ended" in self._returns:
            found["q_ended"] = float(q_tot[self.ended].mean())
        return found | self._returns


def mean_return_to_go(episodes: Sequence[Episode], gamma: float) -> float:
    """The mean discounted return-to-go over all steps of the episodes."""
    return float(np.concatenate([e.returns_to_go(gamma) for e in episodes]).mean())


# What stands beside a result, and what is said when a run cannot go on.


def machine() -> dict[str, Any]:
    """What stands beside every number: the machine, the versions and the code that made it."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        **made_by(),
        "torch": torch.__version__,
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def stopped(error: DivergedError, where: str, run: RunDirectory) -> RunError:
    """What a run that diverged says; its files stay as the last measurement left them."""
    snapshots = sorted(path.name for path in (run.path / "snapshots").glob("*.safetensors"))
    last = f"its last good snapshot is {snapshots[-1]}" if snapshots else "it has no snapshot yet"
    return RunError(f"{run.path}: {error} ({where}); {last}")


def foreign_point(run: RunDirectory, error: Exception) -> RunError:
    """What is said of a resume state that does not fit the run."""
    what = str(error).splitlines()[0]
    return RunError(f"{run.path}/resume.json and resume/ are no resume state of this run ({what})")
