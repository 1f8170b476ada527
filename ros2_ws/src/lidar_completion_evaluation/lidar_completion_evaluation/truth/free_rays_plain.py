"""Plain implementation of free_rays.py: the voxels of a ray are those between its crossings of the grid planes. For tests."""

import numpy as np


def free_rays_plain(state: np.ndarray, origin: np.ndarray, ends: np.ndarray) -> None:
    """Mark every voxel between the origin (3,) and each end (N, 3) as free (1) in state (X, Y, Z) uint8; voxel units."""
    for end in ends:
        direction = end - origin
        crossings = [np.array([0.0, 1.0])]
        for axis in np.flatnonzero(direction):
            low, high = sorted((origin[axis], end[axis]))
            planes = np.arange(np.ceil(low), np.floor(high) + 1)
            crossings.append((planes - origin[axis]) / direction[axis])
        shares = np.unique(np.clip(np.concatenate(crossings), 0.0, 1.0))
        middles = origin + (shares[:-1, None] + shares[1:, None]) / 2 * direction
        index = np.floor(middles).astype(np.int64)
        index = index[((index >= 0) & (index < state.shape)).all(axis=1)]
        state[tuple(index.T)] = 1
