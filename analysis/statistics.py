"""What a few seeds allow to be said: every seed, the median with its range, paired differences.

IQM, performance profiles and the probability of improvement (Agarwal et al. 2021, "Deep RL at the
edge of the statistical precipice") are for scores pooled over several maps, `[seeds, maps]`, and
are refused for one: there the IQM of three seeds is their mean. Resampled are seeds, never battles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

from ovmse.errors import UserError

Numbers = float | Sequence[float] | np.ndarray
LEVEL = 0.95  # of every interval
LITTLE = 0.05  # a win rate below it is nothing to keep, and nothing to advise
NEAR = 1.0  # of a return of at most 20: closer ones are called comparable
EXACT = 16  # signs are enumerated up to so many pairs, and drawn beyond


class Paired(NamedTuple):
    """Differences a - b [n] of the seeds that both have (runs of one form share the pre-training of
    a seed); their mean, its t interval (NaN for one pair), the sign-flip p of no difference."""

    differences: np.ndarray
    mean: float
    low: float
    high: float
    p: float


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Paired:
    """Compares two algorithms by seed -> score. Raises `UserError` if they share no seed, or have a
    score that is no number."""
    if not (seeds := sorted(set(a) & set(b))):
        raise UserError("the two share no seed: there is no pair to compare")
    d = np.array([a[s] - b[s] for s in seeds], float)
    if not np.isfinite(d).all():
        seed = seeds[int(np.isfinite(d).argmin())]
        raise UserError(f"seed {seed}: got {a[seed]} and {b[seed]}, allowed: two numbers")
    mean, half = float(d.mean()), _half(d)
    return Paired(d, mean, mean - half, mean + half, sign_flip(d))


def sign_flip(differences: Numbers, seed: int = 0) -> float:
    """Two-sided p of the mean if each difference were as likely its opposite: the share of all 2^n
    sign patterns (beyond `EXACT` pairs of 10,000 drawn ones and the observed one) whose mean is at
    least as far from 0. So n pairs give at least 2 / 2^n."""
    d = np.atleast_1d(np.asarray(differences, float))
    if len(d) <= EXACT:
        signs = np.array(list(product((1, -1), repeat=len(d))))
    else:
        drawn = np.random.default_rng(seed).choice((1, -1), (10_000, len(d)))
        signs = np.vstack([np.ones((1, len(d))), drawn])
    return float((np.abs(signs @ d) >= abs(d.sum()) - 1e-9).mean())


def holm(p: Numbers) -> np.ndarray:
    """Holm's adjusted p values [n], in the order given, of one table's family of comparisons."""
    p = np.atleast_1d(np.asarray(p, float))
    order = np.argsort(p, kind="stable")
    out = np.empty(len(p))
    out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return out


def wilson(won: Numbers, battles: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of one seed's win rate: `won`, a share 0..1 of so many `battles`."""
    z, won, n = ndtri((1 + LEVEL) / 2), np.asarray(won), np.asarray(battles)
    middle = (won + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(won * (1 - won) / n + z**2 / (4 * n**2))
    return middle - half, middle + half


def iqm(scores: np.ndarray) -> float:
    """Interquartile mean of `[seeds, maps]`: without the lowest and the highest quarter."""
    ordered = np.sort(_pooled(scores), axis=None)
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean())


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of the runs of `[seeds, maps]` that score above each threshold, `[thresholds]`."""
    return (_pooled(scores)[..., None] > np.asarray(thresholds)).mean((0, 1))


def probability_of_improvement(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over maps of P(a run of `a` scores above one of `b`), ties half; both [seeds, maps]."""
    above = _pooled(a)[:, None] - _pooled(b)[None]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def stratified_bootstrap(
    statistic: Callable[..., float], *scores: np.ndarray, draws: int = 2_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of `statistic(*scores)`, each `[seeds, maps]`: the seeds of every map
    are drawn anew with replacement, apart from those of the other maps."""
    rng = np.random.default_rng(seed)

    def again(of: np.ndarray) -> np.ndarray:
        return np.take_along_axis(of, rng.integers(len(of), size=of.shape), axis=0)

    values = [statistic(*(again(_pooled(of)) for of in scores)) for _ in range(draws)]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


class Story(NamedTuple):
    """One run's online phase in test win rates. Steps are environment steps, NaN where never."""

    start: float
    lowest: float
    end: float
    regret: float  # 1 - mean win rate over the online steps (trapezoids between tests)
    retention: float  # lowest / start; NaN, as is recover, of a start below `LITTLE`
    lowest_at: float
    recover: float  # steps from the lowest point to a test as good as the start; 0: never fell
    to_40: float  # steps to the first test with 40 % of the battles won
    to_80: float


def story(steps: Numbers, wins: Numbers) -> Story:
    """The story of tests at rising environment `steps` [n] with win rates `wins` [n], 0..1."""
    x, y = np.asarray(steps, float), np.asarray(wins, float)
    low, mean = int(y.argmin()), float(y[0])
    if len(x) > 1:
        mean = float(np.trapezoid(y, x) / (x[-1] - x[0]))

    def first(reached: np.ndarray) -> float:
        return float(x[reached.argmax()]) if reached.any() else float("nan")

    start, lowest, at = float(y[0]), float(y[low]), float(x[low])
    kept = recover = float("nan")
    if start >= LITTLE:
        kept, recover = lowest / start, first((y >= start) & (x >= at)) - at
    return Story(start, lowest, float(y[-1]), 1 - mean, kept, at, recover,
                 first(y >= 0.4), first(y >= 0.8))  # fmt: skip


def regime(returns: Numbers, dataset: float) -> str:
    """`superior`, `comparable` or `inferior`: the pre-trained policies' mean returns, one a seed,
    against the mean return of their dataset's episodes. Superior or inferior are those farther from
    it than `NEAR` and than half their t interval; of the others, those whose interval is wider than
    that `cannot be told`, and nor can one seed, which has none."""
    a = np.atleast_1d(np.asarray(returns, float))
    return regime_of(float(a.mean()) - dataset, _half(a))


def regime_of(gap: float, half: float) -> str:
    """`regime` of a policy's mean return less its data's, and half the gap's interval."""
    if abs(gap) > NEAR and abs(gap) > half:
        return "superior" if gap > 0 else "inferior"
    return "comparable" if half <= NEAR else "cannot be told"


def _half(values: np.ndarray) -> float:
    """Half the width of the t interval of the mean; NaN for one value."""
    if (n := len(values)) < 2:
        return float("nan")
    return float(stdtrit(n - 1, (1 + LEVEL) / 2) * values.std(ddof=1) / np.sqrt(n))


def _pooled(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise UserError(f"got scores of shape {list(scores.shape)}, allowed: [seeds, maps >= 2]")
    return scores
