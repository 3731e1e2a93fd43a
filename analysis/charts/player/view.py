"""What the battlefield shows at each step: a square that follows those who live."""

from __future__ import annotations

import numpy as np

from analysis.battles import Battle

MARGIN = 1.5  # map units around those who live
SMOOTH = 3  # steps to either side of one whose mean it sees


def view(battle: Battle) -> np.ndarray:
    """What the picture shows at each step, ``[L + 1, 3]``: its middle (x, y) and half its side, in
    map units. It moves smoothly, and every living unit is always within."""
    living = [u.position[u.health > 0] for u in battle.units]
    middle, at, reach = np.zeros(2), [], []
    for place in living:
        middle = (place.min(0) + place.max(0)) / 2 if len(place) else middle
        at.append(middle)
    smooth = _windows(np.array(at), SMOOTH).mean(-1)
    for place, (x, y) in zip(living, smooth):
        reach.append(float(np.abs(place - (x, y)).max()) if len(place) else 0.0)
    # The mean of what is enough for a step among others is enough for it.
    half = _windows(_windows(np.array(reach), SMOOTH).max(-1), SMOOTH).mean(-1)
    return np.column_stack([smooth, half + MARGIN])


def _windows(values: np.ndarray, radius: int) -> np.ndarray:
    """Each row's neighbours within `radius`, on a new last axis; the ends are repeated."""
    padded = np.pad(values, [(radius, radius)] + [(0, 0)] * (values.ndim - 1), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis=0)
