# mypy: allow-untyped-defs, no-check-untyped-defs
"""Compiled crop of ground truth to the surroundings of a sensor. The plain version is `crop_to_pose_plain`."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def crop_to_pose(points, pose, up, max_range_m):
    """World points (M, 3) float32 within max_range_m of a pose (4, 4) and less than 4 m below it, in the frame of the pose.

    up (3,): unit vector along which the height is measured.
    """
    kept = np.empty((len(points), 3), np.float32)
    count = 0
    for n in range(len(points)):
        dx, dy, dz = points[n, 0] - pose[0, 3], points[n, 1] - pose[1, 3], points[n, 2] - pose[2, 3]
        if dx * dx + dy * dy + dz * dz >= max_range_m * max_range_m:
            continue
        if dx * up[0] + dy * up[1] + dz * up[2] > -4.0:
            kept[count, 0] = dx * pose[0, 0] + dy * pose[1, 0] + dz * pose[2, 0]
            kept[count, 1] = dx * pose[0, 1] + dy * pose[1, 1] + dz * pose[2, 1]
            kept[count, 2] = dx * pose[0, 2] + dy * pose[1, 2] + dz * pose[2, 2]
            count += 1
    return kept[:count].copy()
