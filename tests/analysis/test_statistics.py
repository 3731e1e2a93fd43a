"""Statistics against scipy, and against what can be worked out by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import (
    holm,
    iqm,
    paired,
    performance_profile,
    probability_of_improvement,
    regime,
    regime_of,
    sign_flip,
    story,
    stratified_bootstrap,
    wilson,
)
from ovmse.errors import UserError

RNG = np.random.default_rng(0)
A, B = RNG.random((8, 3)), RNG.random((6, 3)) + 0.2


def test_pairs_are_matched_by_seed_and_agree_with_scipy() -> None:
    a = {20: 0.7, 21: 0.6, 22: 0.9, 23: 0.8, 30: 5.0}
    b = {23: 0.5, 22: 0.8, 21: 0.6, 20: 0.4, 40: 9.0}
    found = paired(a, b)
    assert found.differences == pytest.approx([0.3, 0.0, 0.1, 0.3])
    own = stats.ttest_1samp([0.3, 0.0, 0.1, 0.3], 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((0.175, own.low, own.high))
    one = paired({1: 0.5}, {1: 0.2})
    assert np.isnan([one.low, one.high]).all() and one.p == 1
    with pytest.raises(UserError, match="share no seed"):
        paired({1: 0.5}, {2: 0.2})
    with pytest.raises(UserError, match="seed 2: got nan and 0.3, allowed: two numbers"):
        paired({1: 0.5, 2: np.nan}, {1: 0.2, 2: 0.3})


def test_sign_flips_are_counted() -> None:
    # By hand: |±1 ±2 ±3| >= 6 in two of eight patterns; a mix, |sum| >= 2, in six of eight.
    assert sign_flip([1, 2, 3]) == 2 / 8
    assert sign_flip([1, -2, 3]) == 6 / 8
    assert sign_flip([0.1] * 6) == 2 / 64 and sign_flip([0.1] * 10) == 2 / 1024
    assert sign_flip([0.0, 0.0]) == 1
    d = RNG.normal(0.3, 1, 9)
    own = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(d) == pytest.approx(own.pvalue)
    many = RNG.normal(0.3, 1, 24)
    drawn = stats.permutation_test((many,), np.mean, permutation_type="samples", n_resamples=20_000)
    assert sign_flip(many) == pytest.approx(drawn.pvalue, abs=0.02)
    assert sign_flip(many) == sign_flip(many)
    assert 0 < sign_flip(np.ones(24)) < 0.001  # never a p of nothing


def test_holm_by_hand() -> None:
    # .01 x 4, .02 x 3, .03 x 2 = .06, .04 x 1 lifted to .06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1, 1])


def test_wilson_agrees_with_scipy() -> None:
    for won, n in ((0, 8), (16, 64), (20, 20)):
        own = stats.binomtest(won, n).proportion_ci(method="wilson")
        assert wilson(won / n, n) == pytest.approx((own.low, own.high), abs=1e-9)


def test_iqm_agrees_with_scipy_and_needs_several_maps() -> None:
    for scores in (A, B, A[:5, :2]):
        assert iqm(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))
    for wrong in (A[:, :1], A[:, 0]):
        for of in (iqm, lambda s: performance_profile(s, np.zeros(1)),
                   lambda s: probability_of_improvement(s, s)):  # fmt: skip
            with pytest.raises(UserError, match="maps >= 2"):
                of(wrong)


def test_profiles_and_probability_of_improvement_against_loops() -> None:
    at = np.linspace(0, 1, 5)
    loop = [np.mean([a > t for a in A.flat]) for t in at]
    assert performance_profile(A, at) == pytest.approx(loop)
    a, b = A.round(1), B.round(1)  # with ties
    maps = []
    for m in range(3):
        u = stats.mannwhitneyu(a[:, m], b[:, m]).statistic
        pairs = [(x > y) + 0.5 * (x == y) for x, y in product(a[:, m], b[:, m])]
        assert u / len(pairs) == pytest.approx(np.mean(pairs))
        maps.append(np.mean(pairs))
    assert probability_of_improvement(a, b) == pytest.approx(np.mean(maps))


def test_the_bootstrap_draws_seeds_within_each_map() -> None:
    def mean(scores: np.ndarray) -> float:
        return float(scores.mean())

    got = stratified_bootstrap(mean, A, draws=4_000)
    assert got == stratified_bootstrap(mean, A, draws=4_000)  # seeded
    own = stats.bootstrap(
        tuple(A.T), lambda *maps, axis: np.mean([m.mean(axis) for m in maps], axis=0),
        method="percentile", vectorized=True, n_resamples=4_000, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert got == pytest.approx((own.low, own.high), abs=0.01)
    # Maps far apart, no spread within: drawn across maps, the mean would move.
    assert stratified_bootstrap(mean, np.array([[0.0, 1.0]] * 4)) == (0.5, 0.5)


def test_a_story_by_hand() -> None:
    fell = story([0, 10, 20, 40], [0.5, 0.1, 0.4, 0.9])
    # Trapezoids: 3 + 2.5 + 13 = 18.5 of 40.
    assert fell.regret == pytest.approx(1 - 18.5 / 40)
    assert (fell.start, fell.lowest, fell.end) == (0.5, 0.1, 0.9)
    assert (fell.retention, fell.lowest_at, fell.recover) == (0.2, 10, 30)
    assert (fell.to_40, fell.to_80) == (0, 40)
    never = story([0, 10], [0.5, 0.2])
    assert np.isnan([never.recover, never.to_80]).all()
    rose = story([0, 10], [0.5, 0.7])
    assert (rose.recover, rose.retention) == (0, 1)
    for little in (0.0, 1 / 640):  # one battle of 640, lost again, is nothing that was forgotten
        nothing = story([0, 10], [little, 0.2])
        assert np.isnan([nothing.retention, nothing.recover]).all()
    assert story([0], [0.5]).regret == 0.5


def test_regimes() -> None:
    assert regime([14.0, 15, 16], 10) == "superior"
    assert regime([14.0, 15, 16], 14) == "cannot be told"  # t interval: 15 +- 2.48
    assert regime([15.0, 15.1, 15.2], 15.9) == "comparable"  # 15.1 +- .25
    assert regime([15.0, 15.1, 15.2], 16.2) == "inferior"
    assert regime([14.0, 15, 16], 18) == "inferior"
    assert regime([14.0, 15, 16], 13) == "cannot be told"  # by 2, which is more than 1
    assert regime([14.0], 3) == "cannot be told"
    assert [regime_of(gap, 0.8) for gap in (1.1, 0.5, -1.1)] == [
        "superior", "comparable", "inferior",
    ]  # fmt: skip
    assert regime_of(1.5, 1.6) == "cannot be told"
