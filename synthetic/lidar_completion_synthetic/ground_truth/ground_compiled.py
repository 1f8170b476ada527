# mypy: allow-untyped-defs, no-check-untyped-defs
"""Compiled visibility of the height field. The plain version is in `plain.py`."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ..raycast import MISS
from .visibility_compiled import (
    FAR_STRIDE,
    MARGIN_M,
    distance_to_nearest,
    first_view,
    ground_height,
    nearest_view,
    sees,
)

PATCH = 5  # side of a patch in voxel columns: all of them are seen if its four corners are
LIFT_M = 0.03  # the ground at the target must not block a grazing ray


@njit(cache=True, fastmath=True, parallel=True)
def corner_views(solids, ground, views, view, around, x0, y0, nx, ny, size):
    """A viewpoint (nx + 1, ny + 1) int32 that sees each patch corner; -1 if none does."""
    by = np.full((nx + 1, ny + 1), -1, np.int32)
    for i in prange(nx + 1):
        occluders = np.full(len(views), MISS, np.int32)
        for j in range(ny + 1):
            x, y = x0 + i * size, y0 + j * size
            if distance_to_nearest(around, x, y) > view[2] + MARGIN_M:
                continue
            nearest = nearest_view(views, x, y)
            z = ground_height(ground, x, y) + LIFT_M
            last = by[i, j - 1] if j > 0 else -1
            if last >= 0 and sees(solids, ground, views, view, occluders, last, x, y, z, 0.0, 0.0, 1.0):
                by[i, j] = last
            else:
                by[i, j] = first_view(
                    solids, ground, views, view, occluders, x, y, z, 0.0, 0.0, 1.0, nearest, FAR_STRIDE
                )
    return by


@njit(cache=True, fastmath=True, parallel=True)
def see_ground(solids, ground, views, view, around, x0, y0, nx, ny, voxel):
    """Whether each voxel column of the height field is seen, (nx * PATCH, ny * PATCH) bool, starting at x0, y0.

    All columns of a patch count as seen if its four corners are, none if no corner is. Otherwise each column is tested from the
    viewpoints that see the corners.
    """
    by = corner_views(solids, ground, views, view, around, x0, y0, nx, ny, PATCH * voxel)
    seen = np.zeros((nx * PATCH, ny * PATCH), np.bool_)
    for i in prange(nx):
        occluders = np.full(len(views), MISS, np.int32)
        for j in range(ny):
            corners = (by[i, j], by[i + 1, j], by[i, j + 1], by[i + 1, j + 1])
            count = 0
            for c in corners:
                count += c >= 0
            if count == 0:
                continue
            for a in range(i * PATCH, i * PATCH + PATCH):
                for b in range(j * PATCH, j * PATCH + PATCH):
                    if count == 4:
                        seen[a, b] = True
                        continue
                    x, y = x0 + (a + 0.5) * voxel, y0 + (b + 0.5) * voxel
                    z = ground_height(ground, x, y) + LIFT_M
                    for c in corners:
                        if c >= 0 and sees(solids, ground, views, view, occluders, c, x, y, z, 0.0, 0.0, 1.0):
                            seen[a, b] = True
                            break
    return seen
