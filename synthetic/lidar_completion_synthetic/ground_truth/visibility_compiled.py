# mypy: allow-untyped-defs, no-check-untyped-defs
"""Compiled visibility tests between viewpoints of the drive and surface points.

Arguments that all functions share: solids, ground: arrays of `Solids` and `Ground`; views (K, 6): sensor position and up axis;
view: (sine of the lowest beam, sine of the highest beam, range in metres, smallest solid angle per area in sr / m2).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..raycast.cast_compiled import any_solid
from ..raycast.intersect_compiled import bilinear, first_ground

FAR_STRIDE = 4  # step of the search over viewpoints
MARGIN_M = 1.0  # no patch of lattice points is wider


@njit(cache=True)
def solids_in_view(to_world, views, view, around, tilt):
    """Indices of solids that may be in range of `around` and of a viewpoint, and below its highest beam. tilt: sensor tilt, rad."""
    chosen = np.zeros(len(to_world), np.bool_)
    slope = np.tan(np.arcsin(view[1]) + 0.12 + tilt)  # margin for the pitch of the vehicle
    for p in range(len(to_world)):
        m = to_world[p]
        reach = np.sqrt((m[:, :3] ** 2).sum())
        if distance_to_nearest(around, m[0, 3], m[1, 3]) - reach > view[2] + MARGIN_M:
            continue
        for k in range(0, len(views), 3):
            d = np.hypot(m[0, 3] - views[k, 0], m[1, 3] - views[k, 1])
            if d - reach < view[2] and m[2, 3] - reach - views[k, 2] < slope * min(d + reach, view[2]):
                chosen[p] = True
                break
    return np.flatnonzero(chosen)


@njit(cache=True, fastmath=True)
def sees(solids, ground, views, view, occluders, k, x, y, z, nx, ny, nz):
    """Whether viewpoint k sees the surface point with outward normal n.

    occluders (K,): the solid that occluded the last point from each viewpoint. It often occludes the next one too and is tested first.
    """
    low, high, within, least = view  # sines of the lowest and highest beam, metres, sr / m2
    dx, dy, dz = x - views[k, 0], y - views[k, 1], z - views[k, 2]
    d = np.sqrt(dx * dx + dy * dy + dz * dz)
    if d > within or d < 1.0 or dx * nx + dy * ny + dz * nz >= -0.01 * d:
        return False
    up = (dx * views[k, 3] + dy * views[k, 4] + dz * views[k, 5]) / d
    if up < low or up > high or -(dx * nx + dy * ny + dz * nz) < least * d * d * d:
        return False
    dx, dy, dz = dx / d, dy / d, dz / d
    reach = d - 0.03
    occluder = any_solid(solids, views[k, 0], views[k, 1], views[k, 2], dx, dy, dz, reach, occluders[k])
    if occluder >= 0:
        occluders[k] = occluder
        return False
    return first_ground(ground, views[k, 0], views[k, 1], views[k, 2], dx, dy, dz, reach) >= reach


@njit(cache=True, fastmath=True)
def nearest_view(views, x, y):
    best, at = 1e30, 0
    for k in range(len(views)):
        d = (views[k, 0] - x) ** 2 + (views[k, 1] - y) ** 2
        if d < best:
            best, at = d, k
    return at


@njit(cache=True, fastmath=True)
def distance_to_nearest(places, x, y):
    """Metres from x, y to the nearest of the places (C, 2)."""
    best = 1e30
    for k in range(len(places)):
        best = min(best, (places[k, 0] - x) ** 2 + (places[k, 1] - y) ** 2)
    return np.sqrt(best)


@njit(cache=True, fastmath=True)
def first_view(solids, ground, views, view, occluders, x, y, z, nx, ny, nz, nearest, stride):
    """The first viewpoint, searched outwards from the nearest, that sees the point; -1 if none does."""
    count = len(views)
    for step in range(0, count, stride):
        a, b = nearest + step, nearest - step
        if a < count and sees(solids, ground, views, view, occluders, a, x, y, z, nx, ny, nz):
            return a
        if step > 0 and b >= 0 and sees(solids, ground, views, view, occluders, b, x, y, z, nx, ny, nz):
            return b
        if (
            step > 0
            and (a >= count or (views[a, 0] - x) ** 2 + (views[a, 1] - y) ** 2 > view[2] ** 2)
            and (b < 0 or (views[b, 0] - x) ** 2 + (views[b, 1] - y) ** 2 > view[2] ** 2)
        ):
            return -1
    return -1


@njit(cache=True, fastmath=True)
def ground_height(ground, x, y):
    height, _, cx, cy, cell = ground
    u, v = (x - cx) / cell, (y - cy) / cell
    a, b = min(max(int(u), 0), height.shape[0] - 2), min(max(int(v), 0), height.shape[1] - 2)
    return bilinear(height, a, b, u - a, v - b)
