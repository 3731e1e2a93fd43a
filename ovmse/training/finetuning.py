"""The online phase, Algorithm 1: explore, draw a batch, update, anneal, test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovmse.config import Config
from ovmse.datasets.hdf5 import load_dataset
from ovmse.envs import make_env
from ovmse.envs.base import VectorEnv
from ovmse.episodes import Episode
from ovmse.errors import UserError
from ovmse.method.algorithms import ALGORITHMS
from ovmse.method.learner import DivergedError
from ovmse.method.networks import QFunction
from ovmse.method.schedules import linear_decay
from ovmse.runs.code import require_expected_code
from ovmse.runs.directory import RunDirectory, read_tensors, require_whole
from ovmse.runs.reading import read_metrics
from ovmse.training.phase import (
    FINAL_SNAPSHOT,
    FIXED_FILE,
    Clock,
    FixedBattles,
    Progress,
    evaluate,
    foreign_point,
    load_weights,
    machine,
    new_learner,
    online_settings,
    open_dataset,
    stopped,
    stream_seed,
)
from ovmse.training.recording import EngineNote, Recorder
from ovmse.training.replay import ReplayBuffer
from ovmse.training.rollout import Rollout

REPORT_EVERY = 16  # steps of every battle between two events
NEW_BATTLES = "this backend cannot save battles under way, so new ones begin"


def finetune(
    config: Config, run: RunDirectory, pretrained: str | Path | None
) -> Iterator[Progress]:
    """Algorithm 1: explore, draw a batch, update, anneal. Rows have ``phase`` "online".

    ``pretrained`` is a finished pre-training directory, or None to start from scratch. The first
    row, at 0 environment steps, is measured before any online update.
    """
    if ALGORITHMS[config.algorithm].pretrained and pretrained is None:
        raise UserError(f"{config.algorithm} starts from a pre-training, and none is given")
    total, unit = config.online_steps, "environment steps"
    with ExitStack() as stack:

        def battles() -> VectorEnv:
            env = make_env(config.task, config.backend, config.num_envs)
            return stack.enter_context(closing(env))

        env = battles()
        test_env = env if env.shares_tests else battles()
        require_expected_code()
        online = OnlinePhase(config, run, pretrained, env, test_env)
        if online.restore():
            note = "" if env.exact_state else NEW_BATTLES
            rows = read_metrics(run.path)
            yield Progress("online", online.env_steps, total, unit, note=note, earlier=rows)
        else:
            if pretrained:
                for offline_row in read_metrics(pretrained):
                    run.append("metrics.jsonl", offline_row)
            yield Progress("online", 0, total, unit, online.measure(), note=run.said)
        stepped = 0
        while not online.ended:
            online.step()
            stepped += 1
            row = None
            if online.env_steps >= min(online.next_test, total):
                row = online.measure()
            if row is not None or stepped % REPORT_EVERY == 0:
                yield Progress("online", online.env_steps, total, unit, row)
        wall_s = read_metrics(run.path)[-1]["wall_s"]
        run.finish({"env_steps": online.env_steps, "wall_s": wall_s, **machine()})


class OnlinePhase:
    """The state of the online phase between two steps, and how it is saved.

    Collecting is the rollout's, remembering the buffer's, writing down the recorder's.
    ``env_steps`` are those of the battles that count, summed over all of them.
    """

    def __init__(
        self,
        config: Config,
        run: RunDirectory,
        pretrained: str | Path | None,
        env: VectorEnv,
        test_env: VectorEnv,
    ) -> None:
        self.config, self.run, self.env, self.test_env = config, run, env, test_env
        self.target = ALGORITHMS[config.algorithm].target
        self.learner = new_learner(config, env.spec, online_settings(config), "online cql")
        # What the algorithm's target asks of the offline phase: Q_tot-offline of eq. 4, or the
        # policy that proposes actions.
        frozen: QFunction | None = None
        self.fixed: FixedBattles | None = None
        if pretrained:
            frozen = self._load_pretrained(Path(pretrained))
        offline: list[Episode] = []
        offline_count = round(config.mixing_ratio * config.batch_size)
        if offline_count:
            offline = open_dataset(config, env.spec, offline_count).episodes
        self.rollout_rng = np.random.default_rng(stream_seed(config.seed, "exploration"))
        self.batch_rng = np.random.default_rng(stream_seed(config.seed, "online batches"))
        self.rollout = Rollout(env, self.rollout_rng, config.hidden_size)
        self.buffer = ReplayBuffer(
            config.buffer_episodes, config.batch_size, offline, offline_count,
            frozen, self.target == "ovm", self.batch_rng,
        )  # fmt: skip
        self.recorder, self.clock = Recorder(run), Clock()
        self.engine = EngineNote(run, env)
        self.env_steps = self.next_test = 0
        self.due = 0  # battles that no update has answered yet

    def _load_pretrained(self, directory: Path) -> QFunction | None:
        """Starts from the offline phase; the frozen network that the target asks, if it does."""
        require_whole(directory)
        path = directory / "snapshots" / f"{FINAL_SNAPSHOT}.safetensors"
        learner = self.learner
        load_weights(learner.q, path, "q.")
        load_weights(learner.target, path, "target.")
        if self.config.optimizer_carry_over:
            learner.load_optimizer(read_tensors(path))
        battles = load_dataset(directory / FIXED_FILE, self.env.spec).episodes
        self.fixed = FixedBattles(battles, self.config.gamma, self.config.device)
        if self.target == "ovm":
            # Algorithm 1, line 1: the memory is the *target* network as offline training left it.
            return learner.target.frozen_copy()
        return learner.q.frozen_copy() if self.target == "action_proposal" else None

    @property
    def ended(self) -> bool:
        """Whether all environment steps are taken."""
        return self.env_steps >= self.config.online_steps

    # The schedules. t: environment steps since the warm-up by the offline policy, if there is one.

    @property
    def t(self) -> int:
        """Negative while the offline policy fills the buffer."""
        return self.env_steps - self.config.policy_warmup_steps

    @property
    def epsilon(self) -> float:
        """eq. 7; 0 while the offline policy fills the buffer."""
        c = self.config
        if self.t < 0:
            return 0.0
        return linear_decay(c.epsilon_start, c.epsilon_end, c.epsilon_anneal, self.t)

    @property
    def lambda_memory(self) -> float | None:
        """lambda of eq. 5, annealed by eq. 6; None without an offline memory."""
        if self.target != "ovm":
            return None
        return linear_decay(1.0, self.config.memory_end, self.config.memory_anneal, max(0, self.t))

    @property
    def cql_weight(self) -> float | None:
        """alpha of eq. 10 where it is annealed; None where it stays."""
        c = self.config
        if c.cql_anneal is None:
            return None
        return linear_decay(c.cql_alpha, c.cql_end, c.cql_anneal, max(0, self.t))

    # One step.

    def step(self) -> None:
        """One step of every battle, and the updates that are then due."""
        c, warming_up = self.config, self.t < 0
        if not self.rollout.started:
            self.rollout.start(stream_seed(c.seed, "battles", self.env_steps))
        finished, void = self.rollout.step(self.learner.q, c.exploration, self.epsilon)
        self.env_steps += self.rollout.played - sum(void)
        self.recorder.void(len(void))
        for _, episode in finished:
            self.recorder.battle(episode, self.env_steps)
            episode.exploration = None  # written down; the buffer need not carry it
            self.buffer.add(episode)
        if not warming_up:
            self.due += len(finished)
        while self.due >= c.episodes_per_update:
            self.due -= c.episodes_per_update
            if self.buffer.ready:
                self._update()

    def _update(self) -> None:
        batch = self.buffer.sample().to(self.config.device)
        try:
            stats = self.learner.update(
                batch, self.lambda_memory, self.cql_weight, self.target == "action_proposal"
            )
        except DivergedError as error:
            raise stopped(error, f"environment step {self.env_steps}", self.run) from None
        self.recorder.update(stats)

    def measure(self) -> dict[str, Any]:
        """Tests, writes a row and a snapshot, and makes this the point to resume from."""
        c = self.config
        self.next_test = (self.env_steps // c.test_interval + 1) * c.test_interval
        outer = self.env_steps == 0 or self.ended
        seed = stream_seed(c.seed, "test", 1_000_000 + self.env_steps)
        battles = c.long_test_battles if outer else c.test_battles
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
            row |= self.fixed.measure(self.learner.q)
        for name in ("lambda_memory", "cql_weight"):
            if (weight := getattr(self, name)) is not None:
                row[name] = weight
        row |= self.recorder.means()
        row["wall_s"] = self.clock.seconds()
        self.run.append("metrics.jsonl", row)
        self.run.snapshot(f"online_{self.env_steps:08d}", self.learner.q.state_dict())
        if self.env.shares_tests and not self.ended:
            self.env_steps -= self.rollout.give_up()  # the tests took the place of these battles
        self.engine.write()
        self._save(row["wall_s"])
        return row

    # Resuming.

    def _save(self, wall_s: float) -> None:
        part, sizes = self.buffer.new_part()
        tensors = self.learner.state_dict()
        counted = self.env_steps
        if self.rollout.started and self.env.exact_state:
            for name, array in self.rollout.state_dict().items():
                tensors[f"rollout.{name}"] = torch.from_numpy(np.array(array))
        elif not self.ended:  # a resumed run begins new battles
            counted -= self.rollout.steps_under_way
        meta = {
            "env_steps": counted,
            "next_test": self.next_test,
            "episodes": self.recorder.battles,
            "due": self.due,
            "part_sizes": sizes,
            "rollout_rng": self.rollout_rng.bit_generator.state,
            "batch_rng": self.batch_rng.bit_generator.state,
            "wall_s": wall_s,
        }
        self.run.save_point(meta, tensors, part, keep_parts=len(sizes) - (part is not None))

    def restore(self) -> bool:
        """Continues from the last whole point; False if there is none yet."""
        point = self.run.load_point()
        if point is None:
            return False
        try:
            self._restore(*point)
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise foreign_point(self.run, error) from error
        return True

    def _restore(
        self, meta: dict[str, Any], tensors: dict[str, Tensor], parts: list[dict[str, Tensor]]
    ) -> None:
        self.learner.load_state_dict(tensors)
        under_way = {
            name.removeprefix("rollout."): tensor.numpy()
            for name, tensor in tensors.items()
            if name.startswith("rollout.")
        }
        if under_way:
            self.rollout.load_state_dict(under_way)
        self.buffer.load_parts(parts, meta["part_sizes"])
        self.env_steps, self.next_test = meta["env_steps"], meta["next_test"]
        self.recorder.battles, self.due = meta["episodes"], meta["due"]
        self.rollout_rng.bit_generator.state = meta["rollout_rng"]
        self.batch_rng.bit_generator.state = meta["batch_rng"]
        self.clock.spent = meta["wall_s"]
