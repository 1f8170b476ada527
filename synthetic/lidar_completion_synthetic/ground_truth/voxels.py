"""One point per voxel."""

from __future__ import annotations

import numpy as np

from .voxels_compiled import first_of_voxel


def one_per_voxel(points: np.ndarray, voxel_m: float) -> np.ndarray:
    """The first point (M, 3) of every voxel, in the given order."""
    if not len(points):
        return points
    return points[first_of_voxel(np.ascontiguousarray(points, dtype=np.float32), float(voxel_m))]


def one_per_voxel_plain(points: np.ndarray, voxel_m: float) -> np.ndarray:
    """Plain implementation of `one_per_voxel`."""
    cells = np.floor(np.asarray(points, np.float32) / voxel_m).astype(np.int64)
    return points[np.sort(np.unique(cells, axis=0, return_index=True)[1])]
