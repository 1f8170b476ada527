"""Compiled ray traversal of observed_space.py (Amanatides and Woo 1987); the plain implementation is free_rays_plain.py."""

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def free_rays(state: np.ndarray, origin: np.ndarray, ends: np.ndarray) -> None:  # pragma: no cover (compiled)
    """Mark every voxel between the origin (3,) and each end (N, 3) as free (1) in state (X, Y, Z) uint8; voxel units."""
    step = np.empty(3, np.int64)
    voxel = np.empty(3, np.int64)
    next_wall = np.empty(3)
    per_voxel = np.empty(3)
    for ray in range(len(ends)):
        count, done, leaves = 0.0, 0, False
        for axis in range(3):
            length = ends[ray, axis] - origin[axis]
            voxel[axis] = int(np.floor(origin[axis]))
            step[axis] = 1 if length > 0 else -1
            per_voxel[axis] = abs(1.0 / length) if length != 0.0 else np.inf
            wall = voxel[axis] + 1 if length > 0 else voxel[axis]
            next_wall[axis] = abs(wall - origin[axis]) * per_voxel[axis] if length != 0.0 else np.inf
            count += abs(np.floor(ends[ray, axis]) - voxel[axis])
        while done <= count and not leaves:  # a ray never re-enters the grid, and a stray return may lie at 1e10 m
            inside = True
            for axis in range(3):
                inside &= 0 <= voxel[axis] < state.shape[axis]
            if inside:
                state[voxel[0], voxel[1], voxel[2]] = 1
            axis = 0
            if next_wall[1] < next_wall[axis]:
                axis = 1
            if next_wall[2] < next_wall[axis]:
                axis = 2
            voxel[axis] += step[axis]
            next_wall[axis] += per_voxel[axis]
            leaves = voxel[axis] >= state.shape[axis] if step[axis] > 0 else voxel[axis] < 0
            done += 1
