"""Making the offline datasets: a ladder of policies from one training, then battles of its rungs.

A ladder is what QMIX from scratch passed through on a map: ten snapshots at nearly even distances
and the untrained start. Ladders ship, so that both qualities are collected in minutes.

What medium and medium_replay mean is said once, in ``card.MEANINGS``, and in every card.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovmse.config import Config
from ovmse.datasets.card import MEANINGS
from ovmse.datasets.dataset import ladder_folder
from ovmse.datasets.hdf5_writing import write_dataset
from ovmse.envs import make_env
from ovmse.envs.base import VectorEnv
from ovmse.episodes import Episode
from ovmse.errors import UserError
from ovmse.method.learner import new_q_function
from ovmse.method.networks import QFunction
from ovmse.method.schedules import linear_decay
from ovmse.runs.directory import require_whole
from ovmse.runs.files import from_json, read_text, replacing, write_json
from ovmse.runs.reading import RunError, snapshot_steps
from ovmse.training import Progress, train
from ovmse.training.phase import load_weights, machine, network_sizes, stream_seed
from ovmse.training.rollout import collect

QUALITIES = tuple(MEANINGS)
RUNGS = 10  # above the untrained one
MEDIUM_EPSILON = 0.05  # exploration of each agent while medium data are recorded
# What is measured of a rung: without exploring, as medium data are recorded, as it trained then.
RECORDS = ("greedy", "medium", "replay")
RUNG_BATTLES = 256  # battles behind each number of a ladder
# One training is pinned (environment steps, SMAX, seed 0): its files ship, Figure 1 rests on them.
PINNED = {"2s3z": 140_000}
# How far a collected dataset may lie from its ladder: the sampling error of both, with room for
# another machine's rounding, which sends battles other ways.
WIN_TOLERANCE, RETURN_TOLERANCE = 0.1, 1.5

# How far a training goes, and how often it is tested; how it learns is QMIX's own recipe.
LADDER_TRAINING: dict[str, dict[str, Any]] = {
    "2s3z": {"online_steps": 350_000, "test_interval": 10_000},
    "3s5z": {"online_steps": 480_000, "test_interval": 30_000},
    "5m_vs_6m": {"online_steps": 630_000, "test_interval": 45_000},
    "6h_vs_8z": {"online_steps": 400_000, "test_interval": 20_000},
}


def ladder_config(task: str, seed: int, backend: str = "smax") -> Config:
    """The training behind a ladder; raises UserError for a task without one. On another backend
    than SMAX it is as long, but without SMAX's recipe."""
    if task not in LADDER_TRAINING:
        raise UserError(f"task: got {task!r}, allowed: {', '.join(LADDER_TRAINING)}")
    battles = {"test_battles": 96, "long_test_battles": 96}
    asked = {"algorithm": "qmix", "task": task, "seed": seed, "backend": backend}
    return Config.from_parameters(**asked, **battles, **LADDER_TRAINING[task])


def make_ladder(
    task: str, folder: str | Path, work_dir: str | Path, seed: int = 0, backend: str = "smax"
) -> Iterator[Progress]:
    """Trains QMIX from scratch, measures its rungs, and puts them in ``folder``.

    The training lies in ``work_dir`` and resumes there. ``folder`` gets one safetensors file a
    rung and ``ladder.json``, which is written last. Raises UserError for a task without a recipe,
    and what ``train`` raises.
    """
    config = ladder_config(task, seed, backend)
    folder, work_dir = Path(folder), Path(work_dir)
    yield from train(config, work_dir)
    torch.set_num_threads(config.threads)
    with closing(make_env(task, config.backend, config.num_envs)) as env:
        yield from _measure_rungs(config, env, folder, work_dir)


def _measure_rungs(
    config: Config, env: VectorEnv, folder: Path, work_dir: Path
) -> Iterator[Progress]:
    task, seed = config.task, config.seed
    q = new_q_function(env.spec, network_sizes(config), 0)
    require_whole(work_dir)
    taken = snapshot_steps(work_dir)
    rungs = []
    for k in range(RUNGS + 1):
        at, file = min(taken, key=lambda one: abs(one[0] - k * config.online_steps / RUNGS))
        load_weights(q, file)
        epsilon = linear_decay(config.epsilon_start, config.epsilon_end, config.epsilon_anneal, at)
        name = f"{at:08d}.safetensors"
        rung: dict[str, Any] = {"env_steps": at, "file": name, "epsilon": round(epsilon, 4)}
        test_seed = stream_seed(seed, "test", k)
        for what, explore in zip(RECORDS, (0.0, MEDIUM_EPSILON, epsilon), strict=True):
            rung[what] = _score(_battles(q, env, RUNG_BATTLES, test_seed, explore))
        with replacing(folder / name) as temporary:
            shutil.copyfile(file, temporary)
        rungs.append(rung)
        yield Progress("rungs", k + 1, RUNGS + 1, "rungs")
    steps = [rung["env_steps"] for rung in rungs]
    ladder = {
        "task": task,
        "backend": config.backend,
        "seed": seed,
        "command": f"ovmse data ladder --task {task} --seed {seed}{_elsewhere(config.backend)}",
        "settings": config.model_dump(),
        "battles": RUNG_BATTLES,
        "medium_epsilon": MEDIUM_EPSILON,
        "medium": steps.index(pinned)
        if (config.backend, seed) == ("smax", 0) and (pinned := PINNED.get(task)) in steps
        else medium_rung(rungs),
        "rungs": rungs,
        **machine(),
    }
    write_json(folder / "ladder.json", ladder)


def medium_rung(rungs: list[dict[str, Any]]) -> int:
    """The index of the medium rung, as ``card.MEANINGS`` defines it."""
    measure = "win_rate" if max(r["greedy"]["win_rate"] for r in rungs) >= 0.1 else "return"
    half = max(r["greedy"][measure] for r in rungs) / 2
    return min(range(1, len(rungs)), key=lambda i: abs(rungs[i]["greedy"][measure] - half))


def read_ladder(folder: str | Path) -> dict[str, Any]:
    """``ladder.json`` of a ladder; raises RunError if there is none."""
    path = Path(folder) / "ladder.json"
    try:
        ladder = from_json(read_text(path))
        for rung in ladder["rungs"]:
            rung["file"], rung["epsilon"], rung["env_steps"]
            [rung[what][name] for what in RECORDS for name in ("win_rate", "return")]
        ladder["task"], ladder["rungs"][ladder["medium"]]
        if ladder["medium"] < 0:
            raise LookupError
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} is no ladder of policies ({error})") from None
    except (LookupError, TypeError):  # other JSON
        raise RunError(f"{folder} is no ladder of policies: see its ladder.json") from None
    return ladder


def make_dataset(
    task: str,
    quality: str,
    path: str | Path,
    ladder_dir: str | Path | None = None,
    episodes: int = 2_000,
    seed: int = 0,
    backend: str = "smax",
) -> Iterator[Progress]:
    """Collects ``episodes`` battles from a ladder (the shipped one of the task) into ``path``.

    Raises RunError if the ladder is missing or of another task, or if the battles' win rate or
    mean return lies further from the ladder's own than ``WIN_TOLERANCE``, ``RETURN_TOLERANCE``
    (fewer than ``RUNG_BATTLES`` battles are not checked: chance alone takes them further).
    """
    if quality not in QUALITIES:
        raise UserError(f"quality: got {quality!r}, allowed: {', '.join(QUALITIES)}")
    config = ladder_config(task, seed, backend)
    folder = Path(ladder_dir) if ladder_dir else ladder_folder(task, config.backend)
    ladder = read_ladder(folder)
    if ladder["task"] != task:
        raise RunError(f"{folder} is a ladder of {ladder['task']}, not of {task}")
    if (of := ladder.get("backend", backend)) != backend:
        raise RunError(f"{folder} is a ladder on {of}, not on {backend}")
    rungs = ladder["rungs"][: ladder["medium"] + 1]
    medium = rungs[-1]
    if quality == "medium":
        chosen, record, epsilons, first_seed = [medium], "medium", [MEDIUM_EPSILON], 0
    else:
        chosen, record, epsilons, first_seed = rungs, "replay", [r["epsilon"] for r in rungs], 1
    measured = [rung[record] for rung in chosen]
    expected = {name: float(np.mean([m[name] for m in measured])) for name in measured[0]}

    torch.set_num_threads(config.threads)
    made: list[Episode] = []
    yield Progress("battles", 0, episodes, "battles")
    # 16 battles at once, whatever the training used: what is recorded does not depend on it.
    # (Each game of StarCraft II takes 1 GB.)
    at_once = config.num_envs if backend == "smac" else 16
    with closing(make_env(task, backend, at_once)) as env:
        spec = env.spec
        q = new_q_function(spec, network_sizes(config), 0)
        for i, (rung, epsilon) in enumerate(zip(chosen, epsilons, strict=True)):
            load_weights(q, folder / rung["file"])
            share = episodes * (i + 1) // len(chosen) - episodes * i // len(chosen)
            battle_seed = stream_seed(seed, "collecting", first_seed + i)
            made += _battles(q, env, share, battle_seed, epsilon)
            yield Progress("battles", len(made), episodes, "battles")
        engine = {"engine": env.engine()} if hasattr(env, "engine") else {}
    score = _score(made)
    far = abs(score["win_rate"] - expected["win_rate"]) > WIN_TOLERANCE
    if episodes >= RUNG_BATTLES and (
        far or abs(score["return"] - expected["return"]) > RETURN_TOLERANCE
    ):
        raise RunError(
            f"{path} was not written: its battles win {score['win_rate']:.0%} and return "
            f"{score['return']:.1f}, the ladder says {expected['win_rate']:.0%} and "
            f"{expected['return']:.1f}"
        )
    best = max(ladder["rungs"], key=lambda r: (r["greedy"]["win_rate"], r["greedy"]["return"]))
    origin = {
        "quality": quality,
        "seed": seed,
        "see_enemy_actions": 0,
        "medium_steps": medium["env_steps"],
        "medium_win_rate": medium["greedy"]["win_rate"],
        "medium_return": medium["greedy"]["return"],
        "best_win_rate": best["greedy"]["win_rate"],
        "best_return": best["greedy"]["return"],
        "policies": len(chosen),
        "epsilon": epsilons,
        "expected_win_rate": f"{expected['win_rate']:.3f} ± {WIN_TOLERANCE}",
        "expected_return": f"{expected['return']:.2f} ± {RETURN_TOLERANCE}",
        "command": f"ovmse data make --task {task} --quality {quality} --seed {seed} "
        f"--episodes {episodes}{_elsewhere(backend)}"
        + (f" --ladder {folder.name}" if ladder_dir else ""),
    }
    origin |= engine
    write_dataset(path, made, spec, origin)


def _elsewhere(backend: str) -> str:
    return "" if backend == "smax" else f" --backend {backend}"


def _battles(
    q: QFunction, env: VectorEnv, battles: int, seed: int, epsilon: float
) -> list[Episode]:
    rng = np.random.default_rng(seed)
    return list(collect(q, env, battles, rng, epsilon=epsilon, seed=seed))


def _score(episodes: list[Episode]) -> dict[str, float]:
    return {
        "win_rate": round(float(np.mean([e.won for e in episodes])), 4),
        "return": round(float(np.mean([e.episode_return for e in episodes])), 3),
    }
