# mypy: allow-untyped-defs, no-check-untyped-defs
"""Compiled intersection of one ray with one solid or with the height field. The plain version is `plain.py`."""

from __future__ import annotations

import numpy as np
from numba import njit

from .shapes import BLOCK, BOX, CONE, CYLINDER, ELLIPSOID, NO_HIT


@njit(cache=True, fastmath=True, inline="always")
def enter_box(b, ox, oy, oz, ix, iy, iz, t_max):
    """Parameter at which a ray enters the bounds b (6,), or NO_HIT. ix, iy, iz: inverse direction."""
    t0, t1 = (b[0] - ox) * ix, (b[3] - ox) * ix
    near, far = min(t0, t1), max(t0, t1)
    t0, t1 = (b[1] - oy) * iy, (b[4] - oy) * iy
    near, far = max(near, min(t0, t1)), min(far, max(t0, t1))
    t0, t1 = (b[2] - oz) * iz, (b[5] - oz) * iz
    near, far = max(near, min(t0, t1)), min(far, max(t0, t1))
    if near <= far and far > 0.0 and near < t_max:
        return near
    return NO_HIT


@njit(cache=True, fastmath=True)
def hit_solid(shape, m, ox, oy, oz, dx, dy, dz):
    """Parameter at which a ray enters the solid from outside, or NO_HIT. m (3, 4): to_local."""
    px = m[0, 0] * ox + m[0, 1] * oy + m[0, 2] * oz + m[0, 3]
    py = m[1, 0] * ox + m[1, 1] * oy + m[1, 2] * oz + m[1, 3]
    pz = m[2, 0] * ox + m[2, 1] * oy + m[2, 2] * oz + m[2, 3]
    vx = m[0, 0] * dx + m[0, 1] * dy + m[0, 2] * dz
    vy = m[1, 0] * dx + m[1, 1] * dy + m[1, 2] * dz
    vz = m[2, 0] * dx + m[2, 1] * dy + m[2, 2] * dz
    if shape == ELLIPSOID:
        return _hit_ball(px, py, pz, vx, vy, vz)
    if abs(vz) < 1e-12:
        vz = 1e-12
    if shape == BOX:
        return _hit_box(px, py, pz, vx, vy, vz)
    if shape == CYLINDER:
        return _hit_cylinder(px, py, pz, vx, vy, vz)
    return _hit_cone(px, py, pz, vx, vy, vz)


@njit(cache=True, fastmath=True)
def _hit_ball(px, py, pz, vx, vy, vz):
    vv = vx * vx + vy * vy + vz * vz
    middle = -(px * vx + py * vy + pz * vz) / vv
    qx, qy, qz = px + middle * vx, py + middle * vy, pz + middle * vz
    rest = 1.0 - (qx * qx + qy * qy + qz * qz)
    if rest <= 0.0:
        return NO_HIT
    t = middle - np.sqrt(rest / vv)
    return t if t > 0.0 else NO_HIT


@njit(cache=True, fastmath=True)
def _hit_box(px, py, pz, vx, vy, vz):
    if abs(vx) < 1e-12:
        vx = 1e-12
    if abs(vy) < 1e-12:
        vy = 1e-12
    a, b = (-1.0 - px) / vx, (1.0 - px) / vx
    near, far = min(a, b), max(a, b)
    a, b = (-1.0 - py) / vy, (1.0 - py) / vy
    near, far = max(near, min(a, b)), min(far, max(a, b))
    a, b = (-1.0 - pz) / vz, (1.0 - pz) / vz
    near, far = max(near, min(a, b)), min(far, max(a, b))
    return near if near <= far and near > 0.0 else NO_HIT


@njit(cache=True, fastmath=True)
def _hit_cylinder(px, py, pz, vx, vy, vz):
    a, b = (-1.0 - pz) / vz, (1.0 - pz) / vz
    slab_near, slab_far = min(a, b), max(a, b)
    vv = vx * vx + vy * vy
    if vv < 1e-18:
        return slab_near if px * px + py * py <= 1.0 and slab_near > 0.0 else NO_HIT
    middle = -(px * vx + py * vy) / vv
    qx, qy = px + middle * vx, py + middle * vy
    rest = 1.0 - (qx * qx + qy * qy)
    if rest <= 0.0:
        return NO_HIT
    half = np.sqrt(rest / vv)
    near, far = max(slab_near, middle - half), min(slab_far, middle + half)
    return near if near <= far and near > 0.0 else NO_HIT


@njit(cache=True, fastmath=True)
def _hit_cone(px, py, pz, vx, vy, vz):
    """x^2 + y^2 = ((1 - z) / 2)^2 between z = -1 and 1, and the base disc at z = -1."""
    h, hv = 0.5 * (1.0 - pz), -0.5 * vz
    a = vx * vx + vy * vy - hv * hv
    b = px * vx + py * vy - h * hv
    c = px * px + py * py - h * h
    best = NO_HIT
    base = (-1.0 - pz) / vz
    x, y = px + base * vx, py + base * vy
    if pz < -1.0 and base > 0.0 and x * x + y * y <= 1.0:
        best = base
    rest = b * b - a * c
    inside = c <= 0.0 and abs(pz) <= 1.0
    if rest > 0.0 and abs(a) > 1e-18 and not inside:
        root = np.sqrt(rest)
        for t in ((-b - root) / a, (-b + root) / a):
            z = pz + t * vz
            if 0.0 < t < best and -1.0 <= z <= 1.0:
                best = t
    return best


@njit(cache=True, fastmath=True)
def safe_inverse(d):
    """1 / d; a large number if d is 0."""
    if abs(d) > 1e-12:
        return 1.0 / d
    return 1e12 if d > 0.0 else -1e12  # zero counts as negative, as in the cell steps of first_ground


@njit(cache=True, fastmath=True, inline="always")
def bilinear(height, i, j, u, v):
    """Height inside cell i, j at u, v in [0, 1]."""
    return (height[i, j] * (1 - u) + height[i + 1, j] * u) * (1 - v) + (
        height[i, j + 1] * (1 - u) + height[i + 1, j + 1] * u
    ) * v


@njit(cache=True, fastmath=True)
def first_ground(ground, ox, oy, oz, dx, dy, dz, t_max):
    """Parameter at which the ray first reaches the height field, or t_max."""
    height, highest, cx, cy, cell = ground
    nx, ny = height.shape[0] - 1, height.shape[1] - 1
    # cell units from here on
    px, py, vx, vy = (ox - cx) / cell, (oy - cy) / cell, dx / cell, dy / cell
    ix, iy = safe_inverse(vx), safe_inverse(vy)
    a, b = -px * ix, (nx - px) * ix
    enter, leave = min(a, b), max(a, b)
    a, b = -py * iy, (ny - py) * iy
    enter, leave = max(enter, min(a, b), 0.0), min(leave, max(a, b), t_max)
    t = enter + 1e-9
    step_x, step_y = (1 if vx > 0 else 0), (1 if vy > 0 else 0)
    nudge = 1e-6 / max(abs(vx), abs(vy), 1e-3)
    while t < leave:
        x, y = px + t * vx, py + t * vy
        i, j = min(max(int(x), 0), nx - 1), min(max(int(y), 0), ny - 1)
        block_i, block_j = i // BLOCK, j // BLOCK
        out = min(
            ((block_i + step_x) * BLOCK - px) * ix,
            ((block_j + step_y) * BLOCK - py) * iy,
            leave,
        )
        if min(oz + t * dz, oz + out * dz) > highest[block_i, block_j]:
            t = max(out, t) + nudge
            continue
        while t < out:  # cell by cell through this block
            x, y = px + t * vx, py + t * vy
            i, j = min(max(int(x), 0), nx - 1), min(max(int(y), 0), ny - 1)
            end = min((i + step_x - px) * ix, (j + step_y - py) * iy, leave)
            end = max(end, t)
            gap_in = oz + t * dz - bilinear(height, i, j, px + t * vx - i, py + t * vy - j)
            gap_out = oz + end * dz - bilinear(height, i, j, px + end * vx - i, py + end * vy - j)
            if gap_in <= 0.0 and t <= enter + 1e-6:
                return t_max  # starts under the ground
            if gap_in <= 0.0:
                return t
            if min(gap_in, gap_out) < 0.1:
                half = 0.5 * (t + end)  # along a line a bilinear patch is a parabola: three values give its roots
                gap_half = oz + half * dz - bilinear(height, i, j, px + half * vx - i, py + half * vy - j)
                bend = 2.0 * (gap_in + gap_out - 2.0 * gap_half)
                fall = gap_out - gap_in - bend
                inner = fall * fall - 4.0 * bend * gap_in
                if gap_out <= 0.0 or (inner >= 0.0 and bend > 0.0 and 0.0 < -fall < 2.0 * bend):
                    return t + (end - t) * 2.0 * gap_in / (np.sqrt(max(inner, 0.0)) - fall)
            t = end + nudge
    return t_max


@njit(cache=True, fastmath=True)
def solid_normal(shape, m, x, y, z):
    """Outward unit normal of the solid at the world point (x, y, z) on it."""
    px = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]
    py = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]
    pz = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
    nx, ny, nz = px, py, pz
    if shape == BOX:
        ax, ay, az = abs(px), abs(py), abs(pz)
        nx = np.sign(px) if ax >= ay and ax >= az else 0.0
        ny = np.sign(py) if ay > ax and ay >= az else 0.0
        nz = np.sign(pz) if az > ax and az > ay else 0.0
    elif shape == CYLINDER:
        if abs(pz) > 0.9999 and px * px + py * py < 0.9998:
            nx, ny, nz = 0.0, 0.0, np.sign(pz)
        else:
            nz = 0.0
    elif shape == CONE:
        if pz < -0.9999:
            nx, ny, nz = 0.0, 0.0, -1.0
        else:
            nz = 0.5 * np.sqrt(px * px + py * py)
    wx = m[0, 0] * nx + m[1, 0] * ny + m[2, 0] * nz
    wy = m[0, 1] * nx + m[1, 1] * ny + m[2, 1] * nz
    wz = m[0, 2] * nx + m[1, 2] * ny + m[2, 2] * nz
    length = np.sqrt(wx * wx + wy * wy + wz * wz) + 1e-30
    return wx / length, wy / length, wz / length


@njit(cache=True, fastmath=True)
def ground_normal(ground, x, y):
    height, _, cx, cy, cell = ground
    u, v = (x - cx) / cell, (y - cy) / cell
    i = min(max(int(u), 0), height.shape[0] - 2)
    j = min(max(int(v), 0), height.shape[1] - 2)
    u, v = u - i, v - j
    gx = ((height[i + 1, j] - height[i, j]) * (1 - v) + (height[i + 1, j + 1] - height[i, j + 1]) * v) / cell
    gy = ((height[i, j + 1] - height[i, j]) * (1 - u) + (height[i + 1, j + 1] - height[i + 1, j]) * u) / cell
    length = np.sqrt(gx * gx + gy * gy + 1.0)
    return -gx / length, -gy / length, 1.0 / length
