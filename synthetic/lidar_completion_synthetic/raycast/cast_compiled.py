# mypy: allow-untyped-defs, no-check-untyped-defs
"""Compiled traversal of the bounding volume hierarchy and the ray loop. The plain version is `plain.py`."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from .intersect_compiled import enter_box, first_ground, ground_normal, hit_solid, safe_inverse, solid_normal
from .shapes import GROUND, MISS, NO_HIT


@njit(cache=True, fastmath=True)
def _chance(ray, solid, seed):
    """Hash of ray, solid and seed in [0, 1), so that passing a see-through solid does not depend on the order of traversal."""
    mask = np.uint64(0xFFFFFFFF)  # 32-bit arithmetic: numba widens the products to 64 bits
    h = (np.uint64(ray) * np.uint64(0x9E3779B1) ^ np.uint64(solid) * np.uint64(0x85EBCA77) ^ np.uint64(seed)) & mask
    h ^= h >> np.uint64(15)
    h = (h * np.uint64(0x2C1B3C6D)) & mask
    h ^= h >> np.uint64(12)
    h = (h * np.uint64(0x297A2D39)) & mask
    h ^= h >> np.uint64(15)
    return np.float64(h) / 4294967296.0


@njit(cache=True, fastmath=True)
def first_solid(solids, ox, oy, oz, dx, dy, dz, t_max, ray, seed):
    """(t, solid) of the first solid that stops the ray before t_max, else (t_max, MISS)."""
    shape, to_local, see_through, bounds, links, order = solids
    best, best_solid = t_max, MISS
    if len(shape) == 0:
        return best, best_solid
    ix, iy, iz = safe_inverse(dx), safe_inverse(dy), safe_inverse(dz)
    stack = np.empty(64, np.int32)
    entry = np.empty(64, np.float64)
    stack[0] = 0
    entry[0] = enter_box(bounds[0], ox, oy, oz, ix, iy, iz, best)
    depth = 1
    while depth > 0:
        depth -= 1
        if entry[depth] >= best:
            continue
        node = stack[depth]
        first, count = links[node, 0], links[node, 1]
        if count > 0:
            for k in range(first, first + count):
                p = order[k]
                t = hit_solid(shape[p], to_local[p], ox, oy, oz, dx, dy, dz)
                if t < best and (see_through[p] == 0.0 or _chance(ray, p, seed) >= see_through[p]):
                    best, best_solid = t, p
            continue
        a = enter_box(bounds[first], ox, oy, oz, ix, iy, iz, best)
        b = enter_box(bounds[first + 1], ox, oy, oz, ix, iy, iz, best)
        near, far = first, first + 1
        if b < a:
            near, far, a, b = far, near, b, a
        if b < NO_HIT:
            stack[depth], entry[depth] = far, b
            depth += 1
        if a < NO_HIT:
            stack[depth], entry[depth] = near, a
            depth += 1
    return best, best_solid


@njit(cache=True, fastmath=True)
def any_solid(solids, ox, oy, oz, dx, dy, dz, t_max, guess):
    """Any opaque solid between the origin and t_max, or MISS. The solid `guess` is tested first, unless it is MISS."""
    shape, to_local, see_through, bounds, links, order = solids
    if len(shape) == 0:
        return MISS
    if guess >= 0 and hit_solid(shape[guess], to_local[guess], ox, oy, oz, dx, dy, dz) < t_max:
        return guess
    ix, iy, iz = safe_inverse(dx), safe_inverse(dy), safe_inverse(dz)
    if enter_box(bounds[0], ox, oy, oz, ix, iy, iz, t_max) >= NO_HIT:
        return MISS
    stack = np.empty(64, np.int32)
    stack[0] = 0
    depth = 1
    while depth > 0:
        depth -= 1
        first, count = links[stack[depth], 0], links[stack[depth], 1]
        if count > 0:
            for k in range(first, first + count):
                p = order[k]
                if see_through[p] == 0.0 and hit_solid(shape[p], to_local[p], ox, oy, oz, dx, dy, dz) < t_max:
                    return p
            continue
        for child in range(first, first + 2):
            if enter_box(bounds[child], ox, oy, oz, ix, iy, iz, t_max) < NO_HIT:
                stack[depth] = child
                depth += 1
    return MISS


@njit(cache=True, fastmath=True, parallel=True)
def cast_rays(solids, to_local, shape, movers, movers_local, movers_shape, ground, origins, directions, t_max, seed):
    """Distance, solid and cosine of the incidence angle (R,) of the first hits; see `cast`."""
    count = len(directions)
    distance = np.empty(count, np.float32)
    solid = np.empty(count, np.int32)
    cosine = np.zeros(count, np.float32)
    for r in prange(count):
        ox, oy, oz = origins[r, 0], origins[r, 1], origins[r, 2]
        dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
        best, hit = t_max, MISS
        t = first_ground(ground, ox, oy, oz, dx, dy, dz, best)
        if t < best:
            best, hit = t, GROUND
        t, s = first_solid(solids, ox, oy, oz, dx, dy, dz, best, r, seed)
        if s >= 0:
            best, hit = t, s
        t, s = first_solid(movers, ox, oy, oz, dx, dy, dz, best, r, seed + 1)
        if s >= 0:
            best, hit = t, s + len(shape)
        distance[r], solid[r] = best, hit
        if hit == MISS:
            continue
        x, y, z = ox + best * dx, oy + best * dy, oz + best * dz
        if hit == GROUND:
            nx, ny, nz = ground_normal(ground, x, y)
        elif hit < len(shape):
            nx, ny, nz = solid_normal(shape[hit], to_local[hit], x, y, z)
        else:
            nx, ny, nz = solid_normal(movers_shape[hit - len(shape)], movers_local[hit - len(shape)], x, y, z)
        cosine[r] = abs(nx * dx + ny * dy + nz * dz)
    return distance, solid, cosine
