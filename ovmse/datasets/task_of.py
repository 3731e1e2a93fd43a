"""Whether a dataset can be of a task: other projects' files do not say which they are of."""

from __future__ import annotations

from pathlib import Path

from ovmse.datasets.dataset import Dataset, check_task
from ovmse.datasets.vault import vault_task
from ovmse.envs import MAPS, make_env, smac_units
from ovmse.envs.base import EnvSpec
from ovmse.errors import UserError


def named_after(source: Path, backend: str) -> str:
    """The map of the backend that a dataset's file or vault is named after; raises UserError if
    there is none."""
    named = [m for m in MAPS[backend] if source.name.startswith(f"{m}_") or vault_task(source) == m]
    if not named:
        raise UserError(f"task: {source} is not named after a map of {backend}: say it by --task")
    return max(named, key=len)


def require_task(read: Dataset, task: str, backend: str) -> None:
    """Raises UserError where a dataset cannot be of a task: by what it says of itself, by its
    sizes, or by its longest battle. (What SMAC puts into observations and states depends on its
    options.)"""
    if task not in MAPS[backend]:
        raise UserError(f"task: got {task!r}, allowed: {', '.join(MAPS[backend])}")
    sizes = {name: size for name, size in read.sizes.items() if name != "episode_limit"}
    if backend == "smac":
        ours, theirs = (sum(number for _, number in team) for team in smac_units.MAPS[task])
        asked = sizes | {"n_agents": ours, "n_actions": len(smac_units.MOVES) + theirs}
        spec = EnvSpec(task, backend, **asked, episode_limit=smac_units.LIMITS[task])
    else:
        spec = make_env(task, backend, num_envs=1).spec
    check_task(read.path, spec, read.attrs, sizes)
    if (longest := max(e.length for e in read.episodes)) > spec.episode_limit:
        raise UserError(
            f"{read.path} has a battle of {longest} steps; {task} on {backend} allows "
            f"{spec.episode_limit}"
        )
