# mypy: allow-untyped-defs, no-check-untyped-defs
"""Compiled voxel filter. The plain version is `one_per_voxel_plain`."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def first_of_voxel(points, voxel_m):
    """Whether a point (M,) is the first of its voxel: a hash set of cell indices with 21 bits per axis."""
    size = 1
    while size < 2 * len(points):
        size *= 2
    table = np.full(size, -1, np.int64)
    first = np.zeros(len(points), np.bool_)
    for n in range(len(points)):
        key = np.int64(0)
        for a in range(3):
            key = (key << 21) | (np.int64(np.floor(points[n, a] / voxel_m)) + 1048576)
        slot = (key * np.int64(-7046029254386353131) >> 20) & (size - 1)
        while table[slot] != -1 and table[slot] != key:
            slot = (slot + 1) & (size - 1)
        if table[slot] == -1:
            table[slot] = key
            first[n] = True
    return first
