"""Making the offline datasets: train QMIX from scratch until it is medium, then collect.

Medium is a policy that wins well over half of its battles when it does not explore, and about half
with the little exploration that collects the data: training stops at the first test won to
``MEDIUM_WIN_RATE`` that a second test of 128 battles confirms. medium_replay is the replay buffer
of that training, or its newest battles.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovmse.config import Config
from ovmse.datasets.hdf5 import write_dataset
from ovmse.envs import make_env
from ovmse.episodes import Episode
from ovmse.learner import new_q_function
from ovmse.rollout import collect
from ovmse.runs import RunDirectory, RunError, read_metrics, read_tensors
from ovmse.training import OnlinePhase, Progress, evaluate, network_sizes, stream_seed

QUALITIES = ("medium", "medium_replay")
MEDIUM_WIN_RATE = 0.6
POLICY_BATTLES = 512  # greedy battles behind the policy's win rate on the card
MEDIUM_EPSILON = 0.05  # exploration of each agent while the medium dataset is collected
RECIPE = {
    "algorithm": "qmix",
    "online_lr": 5e-4,
    # Battles that the time limit cuts bootstrap from values that nothing else anchors. At 0.6 those
    # values inflate and the team learns to run away; nearer to the Monte-Carlo return they do not.
    "online_td_lambda": 0.9,
    "episodes_per_update": 2,
    "online_target_interval": 40,
    "warmup_updates": 0,
    "epsilon_anneal": 50_000,
    "online_steps": 400_000,
    "test_interval": 10_000,
    "test_battles": 96,
}


def make_dataset(
    task: str,
    quality: str,
    path: str | Path,
    work_dir: str | Path,
    episodes: int = 2_000,
    seed: int = 0,
    checkpoint: str | Path | None = None,
) -> Iterator[Progress]:
    """Writes the dataset to ``path``; what it took is in the file's attributes.

    The training lies in ``work_dir``, resumes there, and serves both qualities. With a
    ``checkpoint`` (a safetensors file of a QFunction of this task) the medium dataset is
    collected from it at once. Raises RunError if training ends without a medium policy, or if a
    replay buffer is asked of a checkpoint.
    """
    if quality not in QUALITIES:
        raise ValueError(f"quality: got {quality!r}, allowed: {', '.join(QUALITIES)}")
    if quality == "medium_replay" and checkpoint:
        raise ValueError("quality medium_replay is a training's buffer; a checkpoint has none")
    config = Config.from_parameters(task=task, seed=seed, **RECIPE)
    env = make_env(task, config.backend, config.num_envs)
    origin: dict[str, Any] = {"quality": quality, "seed": seed, "see_enemy_actions": 0}
    command = f"ovmse data make --task {task} --quality {quality} --seed {seed}"
    made: Iterator[Episode] | list[Episode]
    if checkpoint is None:
        with RunDirectory(work_dir, config.model_dump()) as run:
            trained = OnlinePhase(config, run, None)
            yield from train_to_medium(config, run, trained)
            q, made = trained.learner.q, list(trained.buffer)[-episodes:]
            if quality == "medium_replay":
                origin["newest_of"] = len(trained.buffer)  # battles in the whole buffer
            origin["training_steps"] = trained.env_steps
    else:
        command += f" --checkpoint {Path(checkpoint).name}"
        q = new_q_function(env.spec, network_sizes(config), 0)
        try:
            q.load_state_dict(read_tensors(checkpoint))
        except RuntimeError:
            raise RunError(f"{checkpoint} is not a QFunction of {task}") from None
    # Battles of their own: those that stopped the training flatter the policy.
    test = evaluate(q, env, POLICY_BATTLES, stream_seed(seed, "test", 2))
    origin["policy_win_rate"], origin["policy_return"] = test.win_rate, test.mean_return
    origin["policy_battles"] = POLICY_BATTLES
    if quality == "medium":
        collect_seed = stream_seed(seed, "fixed")
        env.reset(collect_seed)
        rng = np.random.default_rng(collect_seed)
        made = collect(q, env, episodes, rng, epsilon=MEDIUM_EPSILON)
        origin["epsilon"] = MEDIUM_EPSILON
    origin["command"] = f"{command} --episodes {episodes}"
    write_dataset(path, made, env.spec, origin)


def train_to_medium(config: Config, run: RunDirectory, online: OnlinePhase) -> Iterator[Progress]:
    """Trains from scratch until the policy is medium; the run keeps its resume state."""
    torch.set_num_threads(config.threads)
    total = config.online_steps
    row = read_metrics(run.path)[-1] if online.restore() else online.measure()
    while not _is_medium(row, online):
        if online.env_steps >= total:
            raise RunError(f"no policy won {MEDIUM_WIN_RATE:.0%} within {total:,} steps")
        online.step()
        if online.env_steps >= online.next_test:
            row = online.measure()
            yield Progress("online", online.env_steps, total, "environment steps", row)
    yield Progress("online", online.env_steps, total, "environment steps")


def _is_medium(row: dict[str, Any], online: OnlinePhase) -> bool:
    if row["test_win_rate"] < MEDIUM_WIN_RATE:
        return False
    seed = stream_seed(online.config.seed, "test", 1)
    confirmed = evaluate(online.learner.q, online.test_env, 128, seed)
    return confirmed.win_rate >= MEDIUM_WIN_RATE
