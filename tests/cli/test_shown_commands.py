"""Every `ovmse` command that README and docs show: its options and its settings exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from conftest import ROOT

from ovmse.cli.app import app
from ovmse.cli.options import parameters_given, settings_given
from ovmse.config import Config

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[list[str]]:
    """The words of each command in a page's blocks of shell."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [w[1:] for w in words if w and w[0] in ("ovmse", ".venv/bin/ovmse")]


def parsed(words: list[str]) -> dict[str, object]:
    """What a command would be called with; raises click's UsageError where it cannot be."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return command.make_context("ovmse", list(words)).params


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_that_is_shown_exists(page: Path) -> None:
    for words in commands(page):
        given = parsed(words)
        names = settings_given(given.get("settings")).keys()
        names |= parameters_given(given.get("parameter")).keys()
        assert names <= Config.model_fields.keys(), words


def test_it_would_find_a_wrong_one() -> None:
    assert len(commands(ROOT / "docs" / "starcraft.md")) > 8
    with pytest.raises(Exception, match="--backed"):
        parsed(["data", "info", "x", "--backed", "smac"])
