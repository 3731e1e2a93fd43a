"""Arrays of numbers as short strings, which a Vega expression reads.

A notebook file has a line for each number of a list: 64 kB of floats become 143 kB. A string has
one line. A number is two characters (one, for a small whole one), in base `BASE`, spread evenly
from the least to the greatest of its array: so it is right within half of its array's ``step``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Every printable character that neither JSON nor HTML writes as several.
ALPHABET = "".join(c for c in map(chr, range(33, 127)) if c not in "\"\\<>&'")
BASE = len(ALPHABET)
LEVELS = BASE**2 - 1
BITS = 6  # flags in one character


def numbers(values: np.ndarray) -> dict[str, Any]:
    """Finite numbers of any shape, in C order: ``low``, ``step`` and ``text``."""
    flat = np.asarray(values, np.float64).ravel()
    if not np.isfinite(flat).all():
        raise ValueError("only finite numbers can be packed")
    low, high = (float(flat.min()), float(flat.max())) if len(flat) else (0.0, 0.0)
    step = (high - low) / LEVELS
    levels = np.round((flat - low) / step).astype(int) if step else np.zeros(len(flat), int)
    pairs = np.stack(np.divmod(levels, BASE), 1)
    return {"low": low, "step": step, "text": codes(pairs)}


def codes(values: np.ndarray) -> str:
    """Whole numbers from 0 to ``BASE - 1``, a character each, in C order."""
    flat = np.asarray(values, np.int64).ravel()
    if len(flat) and not (flat.min() >= 0 and flat.max() < BASE):
        raise ValueError(f"only whole numbers from 0 to {BASE - 1} have a character")
    return "".join(map(ALPHABET.__getitem__, flat))


def flags(values: np.ndarray) -> str:
    """Booleans ``[..., A]``: each row begins a new character, which holds `BITS` of them."""
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % BITS)])
    groups = padded.reshape(*values.shape[:-1], -1, BITS)
    return codes(groups @ (1 << np.arange(BITS)))


def number_at(name: str, at: str) -> str:
    """The Vega expression of one of the `numbers` of the battle ``b``."""
    first, second = (_code(f"b.{name}.text", f"2 * ({at}) + {n}") for n in (0, 1))
    return f"b.{name}.low + b.{name}.step * ({BASE} * {first} + {second})"


def code_at(name: str, at: str) -> str:
    """The Vega expression of one of the `codes` of the battle ``b``."""
    return _code(f"b.{name}", at)


def flag_at(name: str, row: str, place: str, size: int) -> str:
    """The Vega expression of one of the `flags` of the battle ``b``, in rows of `size`: 0 or 1."""
    group = _code(f"b.{name}", f"({row}) * {-(-size // BITS)} + floor({place} / {BITS})")
    return f"floor({group} / pow(2, {place} % {BITS})) % 2"


def _code(text: str, at: str) -> str:
    return f"indexof(alphabet, {text}[{at}])"
