# mypy: allow-untyped-defs, no-check-untyped-defs
"""Compiled visibility of the lattice on solids. The plain version is in `plain.py`."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ..raycast import CONE, CYLINDER, ELLIPSOID, MISS
from .lattice_compiled import SPACING_M, face_size, lattice_size, world_point
from .visibility_compiled import FAR_STRIDE, first_view, nearest_view, sees

PATCH = 8  # lattice points on a side of a patch, which is probed at its centre and corners
RUN = 64  # consecutive solids, which are neighbours and are often hidden by the same occluders
MAX_PROBES = 5


@njit(cache=True, fastmath=True)
def _probe(solids, ground, views, view, occluders, m, p, face, nu, nv, corners, probes, nearest, found):
    """Tests the centre and the corners of a patch, given as (u0, v0, u1, v1) lattice indices.

    Writes the viewpoint that sees each probe, or -1, to found (5,). Returns how many probes are hidden.
    """
    shape, to_local = solids[0], solids[1]
    u0, v0, u1, v1 = corners
    hidden, last = 0, -1
    for probe in range(probes):
        a, b = (u0 + u1 - 1) / 2, (v0 + v1 - 1) / 2
        if probe > 0:  # corners, one diagonal after the other
            a, b = (u0 if probe % 2 else u1 - 1), (v0 if probe == 1 or probe == 4 else v1 - 1)
        if probe == 3 and hidden == 3:
            return probes
        x, y, z, nx, ny, nz = world_point(shape[p], to_local[p], m, face, (2 * a + 1) / nu - 1, (2 * b + 1) / nv - 1)
        found[probe] = -1
        if nx * nx + ny * ny + nz * nz < 0.5:
            pass
        elif last >= 0 and sees(solids, ground, views, view, occluders, last, x, y, z, nx, ny, nz):
            found[probe] = last
        else:
            found[probe] = first_view(solids, ground, views, view, occluders, x, y, z, nx, ny, nz, nearest, FAR_STRIDE)
        last = max(last, found[probe])
        hidden += found[probe] < 0
    return hidden


@njit(cache=True, fastmath=True)
def _seen_from_any(solids, ground, views, view, occluders, found, probes, x, y, z, nx, ny, nz):
    """Whether one of the viewpoints in found sees the point."""
    for probe in range(probes):
        k = found[probe]
        if k >= 0 and sees(solids, ground, views, view, occluders, k, x, y, z, nx, ny, nz):
            return True
    return False


@njit(cache=True, fastmath=True)
def _see_face(solids, to_world, ground, views, view, occluders, p, face, nearest, out, n):
    """Appends the visible lattice points of one face to out from row n on; returns the next free row."""
    shape, to_local = solids[0], solids[1]
    m = to_world[p]
    sx = np.sqrt(m[0, 0] ** 2 + m[1, 0] ** 2 + m[2, 0] ** 2)
    sy = np.sqrt(m[0, 1] ** 2 + m[1, 1] ** 2 + m[2, 1] ** 2)
    sz = np.sqrt(m[0, 2] ** 2 + m[1, 2] ** 2 + m[2, 2] ** 2)
    lu, lv = face_size(shape[p], face, sx, sy, sz)
    if shape[p] == ELLIPSOID:
        lu, lv = lu * 0.8, lv * 0.8
    nu, nv = max(1, int(np.ceil(lu / SPACING_M))), max(1, int(np.ceil(lv / SPACING_M)))
    pu, pv = (nu + PATCH - 1) // PATCH, (nv + PATCH - 1) // PATCH
    found = np.empty(MAX_PROBES, np.int64)
    for patch in range(pu * pv):
        u0, v0 = (patch // pv) * PATCH, (patch % pv) * PATCH
        u1, v1 = min(u0 + PATCH, nu), min(v0 + PATCH, nv)
        probes = 1 if (u1 - u0) * (v1 - v0) <= 4 or (shape[p] == ELLIPSOID and pu * pv == 1) else MAX_PROBES
        hidden = _probe(
            solids, ground, views, view, occluders, m, p, face, nu, nv, (u0, v0, u1, v1), probes, nearest, found
        )
        if hidden == probes:
            continue
        for a in range(u0, u1):
            for b in range(v0, v1):
                x, y, z, nx, ny, nz = world_point(
                    shape[p], to_local[p], m, face, (2 * a + 1) / nu - 1, (2 * b + 1) / nv - 1
                )
                keep = nx * nx + ny * ny + nz * nz > 0.5
                if keep and hidden > 0:
                    keep = _seen_from_any(solids, ground, views, view, occluders, found, probes, x, y, z, nx, ny, nz)
                if keep:
                    out[n, 0], out[n, 1], out[n, 2] = x, y, z
                    n += 1
    return n


@njit(cache=True, fastmath=True, parallel=True)
def see_solids(solids, to_world, ground, views, view, chosen):
    """Visible lattice points of the chosen solids: (n, 3) float32 in the first n rows, and n."""
    shape = solids[0]
    room = np.zeros(len(chosen) + 1, np.int64)
    for c in range(len(chosen)):
        room[c + 1] = room[c] + lattice_size(shape[chosen[c]], to_world[chosen[c]])
    out = np.empty((room[-1], 3), np.float32)
    counts = np.zeros(len(chosen), np.int64)
    for run in prange((len(chosen) + RUN - 1) // RUN):
        occluders = np.full(len(views), MISS, np.int32)
        for c in range(run * RUN, min(run * RUN + RUN, len(chosen))):
            p = chosen[c]
            nearest = nearest_view(views, to_world[p, 0, 3], to_world[p, 1, 3])
            n = room[c]
            for face in range(3 if shape[p] == CYLINDER or shape[p] == CONE else 6):
                n = _see_face(solids, to_world, ground, views, view, occluders, p, face, nearest, out, n)
            counts[c] = n - room[c]
    at = 0
    for c in range(len(chosen)):
        for k in range(counts[c]):
            for a in range(3):
                out[at, a] = out[room[c] + k, a]
            at += 1
    return out, at
