"""The vote for the ground plane, compiled. The plain implementation is ground_plane.votes_plain."""

import numpy as np

from lidar_completion.sparse.compiled import compiled


def votes(voxels: np.ndarray, planes: np.ndarray, inlier_m: float) -> np.ndarray:
    """Number (P,) int64 of points (V, 3) float64 within inlier_m of each plane (P, 4)."""
    found = np.zeros(len(planes), np.int64)
    _vote(np.ascontiguousarray(voxels), np.ascontiguousarray(planes), inlier_m, found)
    return found


@compiled
def _vote(voxels, planes, inlier_m, found):  # type: ignore[no-untyped-def]
    for i in range(len(planes)):
        a, b, c, d = planes[i, 0], planes[i, 1], planes[i, 2], planes[i, 3]
        count = 0
        for j in range(len(voxels)):
            count += abs(a * voxels[j, 0] + b * voxels[j, 1] + c * voxels[j, 2] + d) < inlier_m
        found[i] = count
