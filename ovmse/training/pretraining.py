"""The offline phase: eq. 10 on a dataset, then the fixed battles of the policy it made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from ovmse.config import Config
from ovmse.datasets.hdf5_writing import write_dataset
from ovmse.envs import make_env
from ovmse.envs.base import VectorEnv
from ovmse.episodes import EpisodeBatch, sample_episodes
from ovmse.method.learner import DivergedError
from ovmse.runs.code import require_expected_code
from ovmse.runs.directory import RunDirectory
from ovmse.runs.reading import read_metrics
from ovmse.runs.sharing import pretraining_settings
from ovmse.training.phase import (
    FINAL_SNAPSHOT,
    FIXED_FILE,
    Clock,
    Progress,
    evaluate,
    foreign_point,
    machine,
    new_learner,
    offline_settings,
    open_dataset,
    reading,
    stopped,
    stream_seed,
)
from ovmse.training.recording import EngineNote
from ovmse.training.rollout import collect


def pretrain(config: Config, directory: str | Path) -> Iterator[Progress]:
    """Minimises eq. 10 on the dataset, then stores the fixed trajectories of the policy.

    If another process is at it, waits and shares the outcome. Rows have ``phase`` "offline".
    """
    # Shown while another process is waited for.
    yield Progress("offline", 0, config.offline_updates, "updates")
    with RunDirectory(directory, pretraining_settings(config), wait=-1) as run:
        if run.finished:
            return
        with closing(make_env(config.task, config.backend, config.num_envs)) as env:
            require_expected_code()
            yield from _learn(config, run, env)


def _learn(config: Config, run: RunDirectory, env: VectorEnv) -> Iterator[Progress]:
    total = config.offline_updates
    if note := reading(config):
        yield Progress("offline", 0, total, "updates", note=note)
    dataset = open_dataset(config, env.spec, config.batch_size)
    learner = new_learner(config, env.spec, offline_settings(config), "offline cql")
    rng = np.random.default_rng(stream_seed(config.seed, "offline batches"))
    clock, engine = Clock(), EngineNote(run, env)
    point = run.load_point()
    if point is not None:
        meta, tensors, _ = point
        try:
            learner.load_state_dict(tensors)
            rng.bit_generator.state, clock.spent = meta["rng"], meta["wall_s"]
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise foreign_point(run, error) from error
    losses: list[float] = []
    rows = read_metrics(run.path) if point is not None else []
    yield Progress("offline", learner.updates, total, "updates", note=run.said, earlier=rows)
    while learner.updates < total:
        batch = EpisodeBatch.from_episodes(
            sample_episodes(dataset.episodes, rng, config.batch_size)
        )
        try:
            losses.append(learner.update(batch.to(config.device))["loss"])
        except DivergedError as error:
            raise stopped(error, "pre-training", run) from None
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
    rng = np.random.default_rng(seed)
    fixed = list(collect(learner.q, env, config.fixed_battles, rng, seed=seed))
    origin = {"policy": "greedy, at the end of pre-training", "seed": config.seed}
    engine.write()
    write_dataset(run.path / FIXED_FILE, fixed, env.spec, origin)
    run.snapshot(FINAL_SNAPSHOT, learner.state_dict())
    run.finish({"updates": learner.updates, "wall_s": clock.seconds(), **machine()})
