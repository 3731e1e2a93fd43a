"""What StarCraft II needs on a machine, and one sentence for each thing that is missing.

Imports neither the game's packages nor anything heavy: the command line asks it too.
"""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

INSTALL = 'pip install "protobuf<3.21" "smac @ git+https://github.com/oxwhirl/smac.git"'
GUIDE = "docs/starcraft.md"
KNOWN_BUILDS = {"75689": "4.10", "69232": "4.6.2"}  # the field's two; the paper's numbers are 4.10
GAME_BYTES = 2**30  # memory of one game, about


def game_folder() -> Path:
    """Where pysc2 looks for the game: ``SC2PATH``, or its default for the system."""
    default = {"Darwin": "/Applications/StarCraft II"}.get(platform.system(), "~/StarCraftII")
    return Path(os.environ.get("SC2PATH") or default).expanduser()


def game_version() -> str | None:
    """The version of the newest build there, or None without one; an unknown build by number."""
    versions = game_folder() / "Versions"
    builds = sorted(p.name for p in versions.glob("Base*") if re.fullmatch(r"Base\d+", p.name))
    if not builds:
        return None
    number = builds[-1].removeprefix("Base")
    return KNOWN_BUILDS.get(number, f"build {number}")


def map_file(task: str) -> Path | None:
    """The file of a map below ``Maps``, or None."""
    return next(game_folder().glob(f"Maps/**/{task}.SC2Map"), None)


def game_problem(task: str | None = None) -> str | None:
    """What is missing of the game and, where asked, of a map; one sentence, or None."""
    folder, named = game_folder(), bool(os.environ.get("SC2PATH"))
    if not folder.is_dir():
        told = f"SC2PATH names {folder}, which is no folder" if named else (
            f"SC2PATH is not set and {folder} does not exist"
        )  # fmt: skip
        return f"{told}: install StarCraft II 4.10 and set SC2PATH to its folder ({GUIDE})"
    if game_version() is None:
        return (
            f"{folder} holds no game (no Versions/Base...): install StarCraft II 4.10 there, or "
            f"set SC2PATH to the folder that holds it ({GUIDE})"
        )
    if task and map_file(task) is None:
        return (
            f"the map {task} is missing: unpack the SMAC maps into {folder / 'Maps' / 'SMAC_Maps'} "
            f"({GUIDE})"
        )
    return None


def import_problem(error: BaseException) -> str | None:
    """What to install where ``from smac.env import StarCraft2Env`` raised this; None: unknown."""
    text = str(error)
    if "Descriptors cannot" in text or "google.protobuf" in text or "protobuf" in text.lower():
        return (
            "StarCraft II's protocol and the installed protobuf do not fit together: "
            'pip install "protobuf<3.21", or leave PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python '
            f"to the battles ({GUIDE})"
        )
    if not isinstance(error, ImportError):
        return None
    if isinstance(error, ModuleNotFoundError) and error.name == "smac":
        return (
            "backend 'smac' needs the package smac from its Git repository (on the package index "
            f"that name is another project): {INSTALL}"
        )
    if (error.name or "").split(".")[0] == "smac" or "StarCraft2Env" in text:
        return (
            "the installed package smac is not StarCraft II's but another project of that name: "
            f"pip uninstall smac, then {INSTALL}"
        )
    return f"the package smac lacks {error.name or text}: {INSTALL} (or {GUIDE})"


def versions() -> dict[str, str]:
    """The installed versions of what the battles run on; "missing" where one is not."""
    found = {"game": game_version() or "missing"}
    for name in ("smac", "pysc2", "protobuf"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found
