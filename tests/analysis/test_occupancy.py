"""The classifier of states: a case with a closed form, a planted leak, and a real run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from exploring import climb_run
from scipy.stats import norm

from analysis.diagnostics.occupancy import auc, shift, told_apart
from ovmse.episodes import Episode
from ovmse.errors import UserError


def episode(states: np.ndarray) -> Episode:
    steps = len(states) - 1
    avail = np.ones((steps + 1, 1, 2), bool)
    return Episode(
        np.zeros((steps + 1, 1, 1), np.float16), states.astype(np.float16), avail,
        np.zeros((steps, 1), np.uint8), np.zeros(steps, np.float32), True,
    )  # fmt: skip


def battles(rng: np.random.Generator, mean: float, count: int = 100, own: int = 4) -> list[Episode]:
    """Battles of 40 steps: one feature of normal steps around `mean`, some of noise that stays the
    same within a battle, and one that is always 3."""
    out = []
    for _ in range(count):
        same = np.repeat(rng.normal(0, 1, (1, own)), 41, axis=0)
        steps = rng.normal(mean, 1, (41, 1))
        out.append(episode(np.hstack([steps, same, np.full((41, 1), 3.0)])))
    return out


def test_the_auc_is_that_of_all_pairs(rng: np.random.Generator) -> None:
    score, positive = rng.integers(0, 4, 60).astype(float), rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    assert auc(score, positive) == pytest.approx(np.mean(pairs))


def test_two_normals_are_told_apart_as_the_closed_form_says(rng: np.random.Generator) -> None:
    found = told_apart(battles(rng, 0.0), battles(rng, 1.5))
    assert found == pytest.approx(norm.cdf(1.5 / np.sqrt(2)), abs=0.02)


def test_battles_of_one_kind_are_not_told_apart(rng: np.random.Generator) -> None:
    # Forty features name each of forty battles: split by step, all would be recognised.
    few = [battles(rng, 0.0, 20, 40) for _ in range(2)]
    assert 0.2 < told_apart(*few) < 0.8
    assert told_apart(battles(rng, 0.0), battles(rng, 0.0)) == pytest.approx(0.5, abs=0.1)


def test_each_snapshot_of_a_run_is_compared_with_its_dataset(tmp_path: Path) -> None:
    run = climb_run(tmp_path, online_steps=400)
    table = shift(run)
    assert table.env_steps.is_monotonic_increasing and table.auc.between(0, 1).all()
    (tmp_path / "climb.h5").unlink()
    with pytest.raises(UserError, match=r"climb\.h5"):
        shift(run, seed=1)
