"""The two schedules of the online phase (eq. 6 and 7).

As printed, both equations are misprints: with ``min`` they stay at their end value until T and
then fall below zero, and eq. 7 has 1 in the place of epsilon_start. What the text describes, and
what stands here, is a linear decay that then holds.
"""

from __future__ import annotations


def linear_decay(start: float, end: float, duration: int, env_steps: int) -> float:
    """``max(end, start - (start - end) * t / T)``, with t and T in environment steps.

    t counts the steps of the online phase, summed over the parallel battles. A duration of 0
    means the end value from the first step. eq. 6 is ``linear_decay(1, lambda_end, T, t)``,
    eq. 7 is ``linear_decay(epsilon_start, epsilon_end, T, t)``.
    """
    if duration <= 0:
        return end
    return max(end, start - (start - end) * env_steps / duration)
