"""The two phases: pretrain() on a dataset, finetune() in battles, evaluate() in tests.

``train`` is both, and what most callers want. All are generators of ``Progress`` events: a
notebook draws them, the command line shows a bar, a batch run logs them. Nothing here prints.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovmse.algorithms import ALGORITHMS
from ovmse.code import require_expected_code
from ovmse.config import Config
from ovmse.datasets.hdf5 import (
    Dataset,
    file_checksum,
    find_dataset,
    load_dataset,
    write_dataset,
)
from ovmse.envs import make_env
from ovmse.envs.base import EnvSpec, VectorEnv
from ovmse.episodes import (
    Episode,
    EpisodeBatch,
    pack_episodes,
    sample_episodes,
    unpack_episodes,
)
from ovmse.learner import DivergedError, Learner, UpdateSettings, new_q_function
from ovmse.networks import QFunction
from ovmse.rollout import Rollout, collect
from ovmse.runs import RunDirectory, RunError, load_weights, read_metrics, read_tensors
from ovmse.schedules import linear_decay

# One seed for everything: each use has a stream of its own, so that none shifts another.
_STREAMS = ("weights", "offline batches", "offline cql", "collecting", "test", "battles",
            "exploration", "online batches", "online cql", "fixed")  # fmt: skip
FIXED_FILE = "fixed.h5"
FINAL_SNAPSHOT = "offline_final"
# Seconds to wait for a run directory: the kernel of a worker that was killed lives on for a moment.
LAST_BREATH = 10


@dataclass(frozen=True)
class Progress:
    """One event of a phase: ``done`` of ``total`` (in ``unit``), and the metrics row if one was
    just written."""

    phase: str
    done: int
    total: int
    unit: str
    row: dict[str, Any] | None = None


@dataclass(frozen=True)
class Evaluation:
    """Greedy battles: their number, the share won, the mean return (best 20) and length."""

    battles: int
    win_rate: float
    mean_return: float
    mean_length: float


def stream_seed(seed: int, stream: str, extra: int = 0) -> int:
    """A seed for one use of randomness, 31 bits."""
    words = np.random.SeedSequence([seed, _STREAMS.index(stream), extra]).generate_state(1)
    return int(words[0]) >> 1


def evaluate(q: QFunction, env: VectorEnv, battles: int, seed: int) -> Evaluation:
    """Plays exactly ``battles`` greedy battles; the same seed gives the same battles."""
    env.reset(seed)
    rng = np.random.default_rng(seed)
    episodes = [(e.won, e.episode_return, e.length) for e in collect(q, env, battles, rng)]
    won, returns, lengths = np.array(episodes, np.float64).mean(0)
    return Evaluation(battles, float(won), float(returns), float(lengths))


def train(config: Config, run_dir: str | Path) -> Iterator[Progress]:
    """Pre-trains if no run beside this one has, then fine-tunes; skips what is finished.

    The pre-training lies in ``pretrain/`` beside the run and is shared by every run of the same
    folder that agrees on the seed, the data and the offline settings. Raises RunError if another
    process runs in ``run_dir`` or it holds a run with other settings, DatasetError on bad data.
    """
    run_dir = Path(run_dir)
    _require_device(config)  # before the run directory takes these settings as its own
    pretrained = None
    if ALGORITHMS[config.algorithm].pretrained:
        pretrained = pretrain_directory(config, run_dir.parent)
    known = config.model_dump()
    known["pretrained"] = os.path.relpath(pretrained, run_dir) if pretrained else None
    with RunDirectory(run_dir, known, wait=LAST_BREATH) as run:
        if run.finished:
            yield Progress("online", config.online_steps, config.online_steps, "environment steps")
            return
        if pretrained:
            yield from pretrain(config, pretrained)
        yield from finetune(config, run, pretrained)


def pretrain_directory(config: Config, folder: str | Path) -> Path:
    """Where the pre-training of a config lies: one place for all configs that agree on it."""
    settings = _pretraining_settings(config)
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
    quality = Path(config.dataset).stem
    name = f"{config.task}_{quality}_seed{config.seed}_{key}"
    return Path(folder) / "pretrain" / name


def dataset_name(config: Config) -> str:
    """What ``load_dataset`` is asked for: ``{task}_{quality}``, or a path as it was given."""
    is_path = os.sep in config.dataset or config.dataset.endswith((".h5", ".hdf5"))
    return config.dataset if is_path else f"{config.task}_{config.dataset}"


def _pretraining_settings(config: Config) -> dict[str, Any]:
    checksum = file_checksum(find_dataset(dataset_name(config)))
    return {**config.pretraining, "dataset": checksum}


# The offline phase.


def pretrain(config: Config, directory: str | Path) -> Iterator[Progress]:
    """Minimises eq. 10 on the dataset, then stores the fixed trajectories of the policy.

    If another process is at it, waits and shares the outcome. Rows have ``phase`` "offline".
    """
    total = config.offline_updates
    yield Progress("offline", 0, total, "updates")  # shown while another process is waited for
    with RunDirectory(directory, _pretraining_settings(config), wait=-1) as run:
        if run.finished:
            return
        env = make_env(config.task, config.backend, config.num_envs)
        require_expected_code()
        dataset = load_dataset(dataset_name(config), env.spec)
        _require_episodes(dataset, config.batch_size)
        learner = _new_learner(config, env.spec, _offline_settings(config), "offline cql")
        rng = np.random.default_rng(stream_seed(config.seed, "offline batches"))
        clock = _Clock()
        point = run.load_point()
        if point is not None:
            meta, tensors, _ = point
            try:
                learner.load_state_dict(tensors)
                rng.bit_generator.state, clock.spent = meta["rng"], meta["wall_s"]
            except (LookupError, RuntimeError, TypeError, ValueError) as error:
                raise _foreign_point(run, error) from None
        losses: list[float] = []
        yield Progress("offline", learner.updates, total, "updates")
        while learner.updates < total:
            batch = EpisodeBatch.from_episodes(
                sample_episodes(dataset.episodes, rng, config.batch_size)
            )
            try:
                losses.append(learner.update(batch.to(config.device))["loss"])
            except DivergedError as error:
                raise _stopped(error, "pre-training", run) from None
            row = None
            if learner.updates % config.offline_test_interval == 0 or learner.updates == total:
                test_seed = stream_seed(config.seed, "test", learner.updates)
                test = evaluate(learner.q, env, config.test_battles, test_seed)
                row = {
                    "phase": "offline",
                    "env_steps": 0,
                    "updates": learner.updates,
                    "test_win_rate": test.win_rate,
                    "test_return": test.mean_return,
                    "loss": float(np.mean(losses)),
                    "wall_s": clock.seconds(),
                }
                losses.clear()
                run.append("metrics.jsonl", row)
                run.snapshot(f"offline_{learner.updates:08d}", learner.q.state_dict())
                meta = {"rng": rng.bit_generator.state, "wall_s": row["wall_s"]}
                run.save_point(meta, learner.state_dict())
            yield Progress("offline", learner.updates, total, "updates", row)
        seed = stream_seed(config.seed, "fixed")
        env.reset(seed)
        fixed = list(collect(learner.q, env, config.fixed_battles, np.random.default_rng(seed)))
        origin = {"policy": "greedy, at the end of pre-training", "seed": config.seed}
        write_dataset(run.path / FIXED_FILE, fixed, env.spec, origin)
        run.snapshot(FINAL_SNAPSHOT, learner.state_dict())
        run.finish({"updates": learner.updates, "wall_s": clock.seconds(), **machine()})


# The online phase.


def finetune(
    config: Config, run: RunDirectory, pretrained: str | Path | None
) -> Iterator[Progress]:
    """Algorithm 1: explore, draw a batch, update, anneal. Rows have ``phase`` "online".

    ``pretrained`` is a finished pre-training directory, or None to start from scratch. The first
    row, at 0 environment steps, is measured before any online update.
    """
    if ALGORITHMS[config.algorithm].pretrained and pretrained is None:
        raise ValueError(f"{config.algorithm} starts from a pre-training, and none is given")
    online = OnlinePhase(config, run, pretrained)
    total = config.online_steps
    if not online.restore():
        if pretrained:
            for offline_row in read_metrics(pretrained):
                run.append("metrics.jsonl", offline_row)
        yield Progress("online", 0, total, "environment steps", online.measure())
    while online.env_steps < total:
        online.step()
        row = None
        if online.env_steps >= min(online.next_test, total):
            row = online.measure()
        if row is not None or online.env_steps % (16 * config.num_envs) == 0:
            yield Progress("online", online.env_steps, total, "environment steps", row)
    last = read_metrics(run.path)[-1]
    run.finish({"env_steps": online.env_steps, "wall_s": last["wall_s"], **machine()})


class OnlinePhase:
    """The state of the online phase between two steps, and how it is saved."""

    def __init__(self, config: Config, run: RunDirectory, pretrained: str | Path | None) -> None:
        self.config, self.run = config, run
        self.algorithm = ALGORITHMS[config.algorithm]
        seed = config.seed
        env = make_env(config.task, config.backend, config.num_envs, stream_seed(seed, "battles"))
        require_expected_code()
        self.spec: EnvSpec = env.spec
        self.test_env = make_env(config.task, config.backend, config.num_envs)
        self.learner = _new_learner(config, env.spec, _online_settings(config), "online cql")
        # What the algorithm's target asks of the offline phase: Q_tot-offline of eq. 4, or the
        # policy that proposes actions.
        self.frozen: QFunction | None = None
        self.fixed: EpisodeBatch | None = None
        if pretrained:
            self._load_pretrained(Path(pretrained))
        self.offline_episodes: list[Episode] = []
        self.offline_count = round(config.mixing_ratio * config.batch_size)
        if self.offline_count:
            dataset = load_dataset(dataset_name(config), env.spec)
            _require_episodes(dataset, self.offline_count)
            self.offline_episodes = dataset.episodes
            self._memorise(self.offline_episodes)
        self.rollout_rng = np.random.default_rng(stream_seed(seed, "exploration"))
        self.batch_rng = np.random.default_rng(stream_seed(seed, "online batches"))
        self.rollout = Rollout(env, self.rollout_rng, config.hidden_size)
        self.buffer: deque[Episode] = deque(maxlen=config.buffer_episodes)
        self.new_episodes: list[Episode] = []  # since the last resume point
        self.part_sizes: list[int] = []
        self.env_steps = self.episodes = self.due = 0
        self._plan_test()
        self.clock = _Clock()
        self._forget_sums()

    def _load_pretrained(self, directory: Path) -> None:
        c = self.config
        path = directory / "snapshots" / f"{FINAL_SNAPSHOT}.safetensors"
        load_weights(self.learner.q, path, "q.")
        load_weights(self.learner.target, path, "target.")
        if c.optimizer_carry_over:
            self.learner.load_optimizer(read_tensors(path))
        if self.algorithm.target == "ovm":
            # Algorithm 1, line 1: the memory is the *target* network as offline training left it.
            self.frozen = self.learner.target.frozen_copy()
        elif self.algorithm.target == "action_proposal":
            self.frozen = self.learner.q.frozen_copy()
        fixed = load_dataset(directory / FIXED_FILE, self.spec).episodes
        self.fixed = EpisodeBatch.from_episodes(fixed).to(c.device)
        self.mc_fixed = mean_return_to_go(fixed, c.gamma)

    def step(self) -> None:
        """One step of every battle, and the updates that are then due."""
        c = self.config
        warming_up = self.env_steps < c.policy_warmup_steps
        finished = self.rollout.step(self.learner.q, c.exploration, self.epsilon)
        self.env_steps += c.num_envs
        for _, episode in finished:
            self.episodes += 1
            self._record(episode)
            episode.exploration = None  # written down; the buffer need not carry it
            self.buffer.append(episode)
            self.new_episodes.append(episode)
        if not warming_up:
            self.due += len(finished)
        while self.due >= c.episodes_per_update:
            self.due -= c.episodes_per_update
            if len(self.buffer) >= c.batch_size - self.offline_count:
                self._update()

    def _update(self) -> None:
        c = self.config
        batch = sample_episodes(self.offline_episodes, self.batch_rng, self.offline_count)
        batch += sample_episodes(self.buffer, self.batch_rng, c.batch_size - self.offline_count)
        self._memorise(self.new_episodes)
        lambda_memory = self.lambda_memory if self.algorithm.target == "ovm" else None
        try:
            stats = self.learner.update(
                EpisodeBatch.from_episodes(batch).to(c.device), lambda_memory
            )
        except DivergedError as error:
            raise _stopped(error, f"environment step {self.env_steps}", self.run) from None
        for name, value in stats.items():
            self.sums.setdefault(name, []).append(value)

    @property
    def epsilon(self) -> float:
        """eq. 7; 0 while the offline policy warms the buffer up."""
        c, t = self.config, self.env_steps - self.config.policy_warmup_steps
        return linear_decay(c.epsilon_start, c.epsilon_end, c.epsilon_anneal, t) if t >= 0 else 0.0

    @property
    def lambda_memory(self) -> float:
        """lambda of eq. 5, annealed by eq. 6."""
        c, t = self.config, max(0, self.env_steps - self.config.policy_warmup_steps)
        return linear_decay(1.0, c.memory_end, c.memory_anneal, t)

    def _plan_test(self) -> None:
        """The next test is due at the next multiple of the interval."""
        interval = self.config.test_interval
        self.next_test = (self.env_steps // interval + 1) * interval

    def _memorise(self, episodes: Sequence[Episode]) -> None:
        """What the frozen network says of episodes that lack it; it never changes afterwards."""
        if self.frozen is None:
            return
        memory = self.algorithm.target == "ovm"
        missing = [e for e in episodes if (e.q_offline if memory else e.proposal) is None]
        for start in range(0, len(missing), 64):
            some = sorted(missing[start : start + 64], key=lambda e: -e.length)
            batch = EpisodeBatch.from_episodes(some).to(self.config.device)
            if memory:
                for episode, row in zip(some, self.frozen.q_tot_taken(batch).cpu(), strict=True):
                    episode.q_offline = row[: episode.length].numpy().copy()
            else:
                actions = self.frozen.greedy_actions(batch).byte().cpu()
                for episode, row in zip(some, actions, strict=True):
                    episode.proposal = row[: episode.length + 1].numpy().copy()

    def _record(self, episode: Episode) -> None:
        """One line in ``events.jsonl``: ``explored`` lists [step, agent, action, greedy, gap]."""
        who = episode.exploration
        assert who is not None
        explored = [
            [int(t), int(i), int(episode.actions[t, i]), int(who.greedy[t, i]),
             round(float(who.gap[t, i]), 4)]
            for t, i in zip(*np.nonzero(who.explored), strict=True)
        ]  # fmt: skip
        self.explorer_count += len(explored)
        self.explorer_steps += episode.length
        self.run.append(
            "events.jsonl",
            {
                "env_steps": self.env_steps,
                "episode": self.episodes,
                "length": episode.length,
                "return": round(episode.episode_return, 4),
                "won": bool(episode.won),
                "explored": explored,
            },
        )

    def measure(self) -> dict[str, Any]:
        """Tests, writes a row and a snapshot, and makes this the point to resume from."""
        c = self.config
        self._plan_test()
        ends = self.env_steps == 0 or self.env_steps >= c.online_steps
        seed = stream_seed(c.seed, "test", 1_000_000 + self.env_steps)
        battles = c.final_battles if ends else c.test_battles
        test = evaluate(self.learner.q, self.test_env, battles, seed)
        row: dict[str, Any] = {
            "phase": "online",
            "env_steps": self.env_steps,
            "updates": self.learner.updates,
            "test_win_rate": test.win_rate,
            "test_return": test.mean_return,
            "epsilon": self.epsilon,
        }
        if self.fixed is not None:
            row["q_fixed"] = mean_q_tot(self.learner.q, self.fixed)
            row["mc_fixed"] = self.mc_fixed
        if self.algorithm.target == "ovm":
            row["lambda_memory"] = self.lambda_memory
        row |= {name: float(np.mean(values)) for name, values in self.sums.items()}
        if self.explorer_steps:
            row["explorers"] = self.explorer_count / self.explorer_steps
        row["wall_s"] = self.clock.seconds()
        self.run.append("metrics.jsonl", row)
        self.run.snapshot(f"online_{self.env_steps:08d}", self.learner.q.state_dict())
        self._forget_sums()
        self._save(row["wall_s"])
        return row

    def _forget_sums(self) -> None:
        self.sums: dict[str, list[float]] = {}
        self.explorer_count = self.explorer_steps = 0

    def _save(self, wall_s: float) -> None:
        self._memorise(self.new_episodes)
        # An old part is needed while the newer ones do not fill the buffer.
        sizes, held = [len(self.new_episodes)] if self.new_episodes else [], len(self.new_episodes)
        for size in reversed(self.part_sizes):
            if held >= self.config.buffer_episodes:
                break
            sizes.insert(0, size)
            held += size
        part = pack_episodes(self.new_episodes) if self.new_episodes else None
        tensors = self.learner.state_dict()
        for name, array in self.rollout.state_dict().items():
            tensors[f"rollout.{name}"] = torch.from_numpy(np.array(array))
        meta = {
            "env_steps": self.env_steps,
            "episodes": self.episodes,
            "due": self.due,
            "part_sizes": sizes,
            "rollout_rng": self.rollout_rng.bit_generator.state,
            "batch_rng": self.batch_rng.bit_generator.state,
            "wall_s": wall_s,
        }
        self.run.save_point(meta, tensors, part, keep_parts=len(sizes) - (part is not None))
        self.part_sizes, self.new_episodes = sizes, []

    def restore(self) -> bool:
        """Continues from the last whole point; False if there is none yet."""
        point = self.run.load_point()
        if point is None:
            return False
        try:
            self._restore(*point)
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise _foreign_point(self.run, error) from None
        return True

    def _restore(
        self, meta: dict[str, Any], tensors: dict[str, Tensor], parts: list[dict[str, Tensor]]
    ) -> None:
        self.learner.load_state_dict(tensors)
        self.rollout.load_state_dict(
            {k.removeprefix("rollout."): v.numpy() for k, v in tensors.items()
             if k.startswith("rollout.")}
        )  # fmt: skip
        for part in parts:
            self.buffer.extend(unpack_episodes(part))
        self.env_steps, self.episodes, self.due = meta["env_steps"], meta["episodes"], meta["due"]
        self._plan_test()
        self.part_sizes = meta["part_sizes"]
        self.rollout_rng.bit_generator.state = meta["rollout_rng"]
        self.batch_rng.bit_generator.state = meta["batch_rng"]
        self.clock.spent = meta["wall_s"]


# Shared by both phases.


def mean_q_tot(q: QFunction, batch: EpisodeBatch) -> float:
    """``q_fixed``: the mean of ``Q_tot(tau, a)`` over the filled steps of fixed trajectories."""
    return float(q.q_tot_taken(batch)[batch.filled].mean())


def mean_return_to_go(episodes: Sequence[Episode], gamma: float) -> float:
    """``mc_fixed``: the mean discounted return-to-go over the same steps."""
    return float(np.concatenate([e.returns_to_go(gamma) for e in episodes]).mean())


def machine() -> dict[str, Any]:
    """What stands beside every number: the machine and the versions that made it."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


class _Clock:
    """Wall time of a phase, summed over its resumes."""

    def __init__(self) -> None:
        self.spent, self._start = 0.0, time.monotonic()

    def seconds(self) -> float:
        return round(self.spent + time.monotonic() - self._start, 2)


def network_sizes(config: Config) -> tuple[int, int, int]:
    """``(hidden, embed, hypernet)`` for ``QFunction``."""
    return config.hidden_size, config.embed_size, config.hypernet_size


def _offline_settings(c: Config) -> UpdateSettings:
    return UpdateSettings(
        lr=c.offline_lr,
        warmup_updates=0,
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


def _online_settings(c: Config) -> UpdateSettings:
    return dataclasses.replace(
        _offline_settings(c),
        lr=c.online_lr,
        warmup_updates=c.warmup_updates,
        decay_updates=0,
        target_interval=c.online_target_interval,
        td_lambda=c.online_td_lambda,
        cql_alpha=c.cql_alpha if c.online_cql else 0.0,
    )


def _new_learner(c: Config, spec: EnvSpec, settings: UpdateSettings, stream: str) -> Learner:
    """A learner on the config's device, and torch's threads as the config says."""
    _require_device(c)
    torch.set_num_threads(c.threads)
    # cuDNN would round its products to 10 bits: the unrolled and the acting network would differ.
    torch.backends.cudnn.allow_tf32 = False
    q = new_q_function(spec, network_sizes(c), stream_seed(c.seed, "weights"))
    return Learner(q.to(c.device), settings, stream_seed(c.seed, stream))


def _require_device(c: Config) -> None:
    if c.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: got 'cuda', allowed: 'cpu' (no CUDA device is present here)")


def _stopped(error: DivergedError, where: str, run: RunDirectory) -> RunError:
    """What a run that diverged says; its files stay as the last measurement left them."""
    snapshots = sorted(path.name for path in (run.path / "snapshots").glob("*.safetensors"))
    last = f"its last good snapshot is {snapshots[-1]}" if snapshots else "it has no snapshot yet"
    return RunError(f"{run.path}: {error} ({where}); {last}")


def _foreign_point(run: RunDirectory, error: Exception) -> RunError:
    what = str(error).splitlines()[0]
    return RunError(f"{run.path}/resume.json and resume/ are no resume state of this run ({what})")


def _require_episodes(dataset: Dataset, count: int) -> None:
    if len(dataset.episodes) < count:
        raise ValueError(
            f"batch_size: a batch takes {count} episodes of {dataset.path.name}, "
            f"which holds {len(dataset.episodes)}"
        )
