# mypy: allow-untyped-defs, no-check-untyped-defs
"""Compiled intersection of rays with the boxes of the ego vehicle. The plain version is in `own_vehicle.py`."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def nearest_box(boxes, beams, starts, highest):
    """Distance (R,) at which rays from starts (R, 3) enter the first of the boxes (B, 6), lower and upper corner; inf without a hit.

    Rays whose z component is `highest` or more are skipped.
    """
    nearest = np.full(len(beams), np.inf)
    for r in range(len(beams)):
        if beams[r, 2] >= highest:
            continue
        for b in range(len(boxes)):
            near, far = 0.0, np.inf
            for axis in range(3):
                start = starts[r, axis]
                way = beams[r, axis] if beams[r, axis] != 0.0 else 1e-300
                t0, t1 = (boxes[b, axis] - start) / way, (boxes[b, 3 + axis] - start) / way
                near, far = max(near, min(t0, t1)), min(far, max(t0, t1))
            if 0.0 < near <= far:
                nearest[r] = min(nearest[r], near)
    return nearest
