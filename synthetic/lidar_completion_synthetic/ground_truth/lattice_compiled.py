# mypy: allow-untyped-defs, no-check-untyped-defs
"""Compiled lattice of points on the faces of solids. The plain version is in `plain.py`."""

from __future__ import annotations

import numpy as np
from numba import njit

from ..raycast import BOX, CONE, CYLINDER, ELLIPSOID
from ..raycast.intersect_compiled import solid_normal

SPACING_M = 0.085  # finer than a voxel, so that every voxel with a large piece of surface in it receives a point


@njit(cache=True, fastmath=True)
def _on_surface(shape, face, u, v):
    """Local point of a face at u, v in [-1, 1]; (0, 0, 0) if the face has no point there."""
    if shape in (CYLINDER, CONE):
        if face == 0:
            angle = np.pi * u
            r = 1.0 if shape == CYLINDER else 0.5 * (1.0 - v)
            return r * np.cos(angle), r * np.sin(angle), v
        if u * u + v * v > 1.0 or (shape == CONE and face == 1):
            return 0.0, 0.0, 0.0
        return u, v, (1.0 if face == 1 else -1.0)
    x, y, z = 1.0, u, v
    s = 1.0 if face % 2 == 0 else -1.0
    if face // 2 == 0:
        x, y, z = s, u, v
    elif face // 2 == 1:
        x, y, z = u, s, v
    else:
        x, y, z = u, v, s
    if shape == ELLIPSOID:
        r = 1.0 / np.sqrt(x * x + y * y + z * z)
        return x * r, y * r, z * r
    return x, y, z


@njit(cache=True, fastmath=True)
def face_size(shape, face, sx, sy, sz):
    """Lengths of a face along u and v in metres."""
    if shape in (CYLINDER, CONE):
        if face == 0:
            return 2 * np.pi * max(sx, sy), 2 * np.sqrt(sz * sz + (0.0 if shape == CYLINDER else 0.25 * sx * sx))
        return 2 * sx, 2 * sy
    if face // 2 == 0:
        return 2 * sy, 2 * sz
    if face // 2 == 1:
        return 2 * sx, 2 * sz
    return 2 * sx, 2 * sy


@njit(cache=True, fastmath=True)
def lattice_size(shape, m):
    """Number of lattice points on all faces of a solid."""
    sx = np.sqrt(m[0, 0] ** 2 + m[1, 0] ** 2 + m[2, 0] ** 2)
    sy = np.sqrt(m[0, 1] ** 2 + m[1, 1] ** 2 + m[2, 1] ** 2)
    sz = np.sqrt(m[0, 2] ** 2 + m[1, 2] ** 2 + m[2, 2] ** 2)
    total = 0
    for face in range(3 if shape in (CYLINDER, CONE) else 6):
        lu, lv = face_size(shape, face, sx, sy, sz)
        total += max(1, int(np.ceil(lu / SPACING_M))) * max(1, int(np.ceil(lv / SPACING_M)))
    return total


@njit(cache=True, fastmath=True)
def world_point(shape, to_local, m, face, u, v):
    """World point and outward unit normal; zeros if the face has no point at u, v."""
    a, b, c = _on_surface(shape, face, u, v)
    if a == 0.0 and b == 0.0 and c == 0.0:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    x = m[0, 0] * a + m[0, 1] * b + m[0, 2] * c + m[0, 3]
    y = m[1, 0] * a + m[1, 1] * b + m[1, 2] * c + m[1, 3]
    z = m[2, 0] * a + m[2, 1] * b + m[2, 2] * c + m[2, 3]
    if shape == BOX:  # by face: an edge point belongs to its own face
        axis, sign = face // 2, (1.0 if face % 2 == 0 else -1.0)
        nx, ny, nz = sign * to_local[axis, 0], sign * to_local[axis, 1], sign * to_local[axis, 2]
        r = 1.0 / np.sqrt(nx * nx + ny * ny + nz * nz)
        return x, y, z, nx * r, ny * r, nz * r
    nx, ny, nz = solid_normal(shape, to_local, x, y, z)
    return x, y, z, nx, ny, nz
