"""What the commands share: options, NAME=VALUE, and how a mistake ends."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ovmse.envs import BACKENDS
from ovmse.errors import UserError
from ovmse.runs.files import named_path


def given_path(text: str) -> Path:
    """A path as it was typed: a shell expands no `~` in `--out=~/x`."""
    with one_sentence():
        return named_path(text)


path_argument = partial(typer.Argument, parser=given_path)
path_option = partial(typer.Option, parser=given_path, metavar="PATH")


def number_option(
    name: str, kind: type, least: float = -math.inf, most: float = math.inf, help: str = ""
) -> Any:
    """An option that is an `int` or a `float`; a wrong one ends in one sentence."""
    allowed = "a whole number" if kind is int else "a number"
    if most < math.inf:
        allowed += f" from {least:,} to {most:,}"
    elif least > -math.inf:
        allowed += f" of {least:,} or more"

    def parsed(given: str) -> Any:
        try:
            value = kind(given)
        except ValueError:
            value = math.nan
        with one_sentence():
            if not least <= value <= most:
                raise UserError(f"{name}: got {given!r}, allowed: {allowed}")
        return value

    return typer.Option(name, parser=parsed, metavar="NUMBER", help=help)


# What an option can bear: episodes are held in memory, 0.1 MB each, and a worker takes 1.2 GB.
MOST_EPISODES, MOST_WORKERS, MOST_SECONDS = 100_000, 256, 10**9

Task = Annotated[str, typer.Option(help="The map, such as 2s3z.")]
Backend = Annotated[str, typer.Option(help=f"One of {', '.join(BACKENDS)}.")]


def known_backend(name: str) -> None:
    """Raises UserError for a backend that is none."""
    if name not in BACKENDS:
        raise UserError(f"--backend: got {name!r}, allowed: {', '.join(BACKENDS)}")


def settings_given(texts: list[str] | None) -> dict[str, str]:
    """What NAME=VALUE says, each name once."""
    given: dict[str, str] = {}
    for name, value in map(_setting, texts or []):
        if name in given:
            raise UserError(f"{name}: got it twice")
        given[name] = value
    return given


def parameters_given(texts: list[str] | None) -> dict[str, Any]:
    """What -p NAME=VALUES says, with values as a grid file has them."""
    from ovmse.sweep.grid import grid_value

    given: dict[str, Any] = {}
    for name, value in map(_setting, texts or []):
        if name in given or not value:
            what = "it twice; give a list, such as [0, 1]" if value else "no value"
            raise UserError(f"{name}: got {what}")
        given[name] = grid_value(name, value)
    return given


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"got {text!r}, allowed: NAME=VALUE, such as seed=1")
    return name, value


def printable(text: object) -> str:
    """Text of a file as a terminal can show it: what is no character stands as its escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


@contextmanager
def one_sentence(program: str = "ovmse") -> Iterator[None]:
    """What a user can cause ends in one sentence and exit code 2, without a traceback."""
    try:
        yield
    except (UserError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print(f"{program}: stopped; the same command continues", file=sys.stderr)
        raise typer.Exit(130) from None
