"""The schedules of eq. 6 and 7: linear, then held."""

from __future__ import annotations

import pytest

from ovmse.method.schedules import linear_decay


@pytest.mark.parametrize(("start", "end", "duration"), [(1.0, 0.1, 30_000), (0.6, 0.05, 997)])
def test_linear_then_held(start: float, end: float, duration: int) -> None:
    assert linear_decay(start, end, duration, 0) == start
    for t in range(0, 3 * duration, duration // 11):
        straight = start - (start - end) * t / duration
        expected = straight if t < duration else end
        assert linear_decay(start, end, duration, t) == pytest.approx(expected, abs=1e-12)


def test_the_end_is_exact_and_never_undershot() -> None:
    values = [linear_decay(1.0, 0.1, 1_000, t) for t in range(0, 5_000, 7)]
    assert min(values) == values[-1] == 0.1
    assert values == sorted(values, reverse=True)


def test_half_way_is_the_mean() -> None:
    """As printed, with ``min``, eq. 6 would still be at its end value and eq. 7 start at 1."""
    assert linear_decay(1.0, 0.1, 50_000, 25_000) == pytest.approx(0.55)
    assert linear_decay(0.5, 0.05, 50_000, 25_000) == pytest.approx(0.275)


def test_no_duration_means_the_end_value_at_once() -> None:
    assert linear_decay(1.0, 0.2, 0, 0) == 0.2


def test_equal_ends_are_constant() -> None:
    assert {linear_decay(0.3, 0.3, 10, t) for t in range(0, 40)} == {0.3}
