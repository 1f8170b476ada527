"""Rays against analytic solids and a height field, in numba.

A solid is a unit shape under an affine map: the unit box [-1, 1]^3, the unit cylinder (axis z), the unit ball, or the unit
cone (radius 1 at z = -1, apex at z = 1). A ray is mapped into the shape's own coordinates, where the parameter t
of the hit is unchanged, so one 3x4 matrix is all that a solid needs. Solids lie in a bounding volume hierarchy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numba import njit, prange

BOX, CYLINDER, ELLIPSOID, CONE = 0, 1, 2, 3
MISS, GROUND = -1, -2
LEAF_SIZE = 4
BLOCK = 8  # ground cells to a side of the coarse height blocks that rays skip over


@dataclass(frozen=True)
class Solids:
    """P solids in the world frame (metres) and the hierarchy over them.

    shape (P,) int8; to_local, to_world (P, 3, 4) float32 affine maps; see_through (P,) float32 probability that a ray passes (glass, wire mesh).
    node_bounds (K, 6) float32 lower, upper corner; node_links (K, 2) int32 (first child, 0) or (first place in order, count);
    order (P,) int32.
    """

    shape: np.ndarray
    to_local: np.ndarray
    to_world: np.ndarray
    see_through: np.ndarray
    node_bounds: np.ndarray
    node_links: np.ndarray
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.shape)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What the kernels take, in their order."""
        return self.shape, self.to_local, self.see_through, self.node_bounds, self.node_links, self.order


@dataclass(frozen=True)
class Ground:
    """Height field, bilinear between its nodes.

    height (X, Y) float32 metres at x = corner[0] + i * cell, y = corner[1] + j * cell; material (X, Y) uint8;
    highest (ceil, ceil) float32: the highest node of each block of BLOCK x BLOCK cells.
    """

    height: np.ndarray
    material: np.ndarray
    highest: np.ndarray
    corner: tuple[float, float]
    cell: float

    @property
    def arrays(self) -> tuple:
        return self.height, self.highest, self.corner[0], self.corner[1], self.cell

    def height_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Height (N,) in metres at x, y (N,); the border's height outside."""
        u = np.clip((np.asarray(x) - self.corner[0]) / self.cell, 0, self.height.shape[0] - 1.001)
        v = np.clip((np.asarray(y) - self.corner[1]) / self.cell, 0, self.height.shape[1] - 1.001)
        i, j = u.astype(int), v.astype(int)
        u, v = u - i, v - j
        z = self.height
        return (z[i, j] * (1 - u) + z[i + 1, j] * u) * (1 - v) + (z[i, j + 1] * (1 - u) + z[i + 1, j + 1] * u) * v

    def material_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Material (N,) uint8 of the nearest node."""
        i = np.clip(np.rint((np.asarray(x) - self.corner[0]) / self.cell).astype(int), 0, self.height.shape[0] - 1)
        j = np.clip(np.rint((np.asarray(y) - self.corner[1]) / self.cell).astype(int), 0, self.height.shape[1] - 1)
        return self.material[i, j]


def make_ground(height: np.ndarray, material: np.ndarray, corner: tuple[float, float], cell: float) -> Ground:
    """Height field with its coarse blocks."""
    height = np.ascontiguousarray(height, dtype=np.float32)
    return Ground(height, np.ascontiguousarray(material, dtype=np.uint8), _block_maxima(height), corner, cell)


def make_solids(shape: np.ndarray, to_world: np.ndarray, see_through: np.ndarray) -> Solids:
    """Solids with their hierarchy from shape (P,) and to_world (P, 3, 4)."""
    to_world = np.ascontiguousarray(to_world, dtype=np.float32).reshape(-1, 3, 4)
    shape = np.ascontiguousarray(shape, dtype=np.int8)
    linear = np.linalg.inv(to_world[:, :, :3].astype(np.float64))
    to_local = np.concatenate([linear, -linear @ to_world[:, :, 3:]], axis=2).astype(np.float32)
    lower, upper = _bounds(shape, to_world)
    bounds, links, order = _build(lower, upper)
    return Solids(shape, to_local, to_world, np.ascontiguousarray(see_through, dtype=np.float32), bounds, links, order)


def set_threads(threads: int | None) -> None:
    """Limit numba's threads (1 in worker processes); None leaves them."""
    if threads is not None:
        numba.set_num_threads(max(1, min(threads, numba.config.NUMBA_NUM_THREADS)))


def _bounds(shape: np.ndarray, to_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact corners of the axis-aligned box around each solid (cones as their cylinder)."""
    linear, centre = to_world[:, :, :3], to_world[:, :, 3]
    box = np.abs(linear).sum(axis=2)
    ball = np.linalg.norm(linear, axis=2)
    round_ = np.linalg.norm(linear[:, :, :2], axis=2) + np.abs(linear[:, :, 2])
    half = np.select([(shape == BOX)[:, None], (shape == ELLIPSOID)[:, None]], [box, ball], round_) + 1e-4
    return (centre - half).astype(np.float32), (centre + half).astype(np.float32)


@njit(cache=True)
def _block_maxima(height):
    nx, ny = height.shape
    bx, by = (nx - 2) // BLOCK + 1, (ny - 2) // BLOCK + 1
    highest = np.full((bx, by), -1e9, np.float32)
    for i in range(bx):
        for j in range(by):
            for a in range(i * BLOCK, min(i * BLOCK + BLOCK + 1, nx)):
                for b in range(j * BLOCK, min(j * BLOCK + BLOCK + 1, ny)):
                    if height[a, b] > highest[i, j]:
                        highest[i, j] = height[a, b]
    return highest


@njit(cache=True)
def _area(lo, hi):
    x, y, z = hi[0] - lo[0], hi[1] - lo[1], hi[2] - lo[2]
    return x * y + y * z + z * x


@njit(cache=True)
def _build(lower, upper):
    """Binned surface-area-heuristic hierarchy, 12 bins on the longest axis of the centroids."""
    count = len(lower)
    bounds = np.zeros((max(2 * count, 1), 6), np.float32)
    links = np.zeros((max(2 * count, 1), 2), np.int32)
    order = np.arange(count).astype(np.int32)
    centre = 0.5 * (lower + upper)
    bins = 12
    stack = np.zeros((128, 3), np.int32)
    stack[0, 0], stack[0, 1], stack[0, 2] = 0, 0, count
    depth, used = 1, 1
    bin_count = np.zeros(bins, np.int64)
    bin_lo = np.zeros((bins, 3))
    bin_hi = np.zeros((bins, 3))
    right_cost = np.zeros(bins)
    scratch = np.zeros(count, np.int32)
    while depth > 0:
        depth -= 1
        node, first, last = stack[depth, 0], stack[depth, 1], stack[depth, 2]
        c_lo, c_hi = np.full(3, 1e9), np.full(3, -1e9)
        for a in range(3):
            bounds[node, a], bounds[node, 3 + a] = 1e9, -1e9
        for k in range(first, last):
            p = order[k]
            for a in range(3):
                bounds[node, a] = min(bounds[node, a], lower[p, a])
                bounds[node, 3 + a] = max(bounds[node, 3 + a], upper[p, a])
                c_lo[a] = min(c_lo[a], centre[p, a])
                c_hi[a] = max(c_hi[a], centre[p, a])
        axis = 0
        for a in range(1, 3):
            if c_hi[a] - c_lo[a] > c_hi[axis] - c_lo[axis]:
                axis = a
        extent = c_hi[axis] - c_lo[axis]
        if last - first <= LEAF_SIZE or extent < 1e-6 or depth > 120:
            links[node, 0], links[node, 1] = first, last - first
            continue
        scale = bins / extent * 0.99999
        bin_count[:] = 0
        bin_lo[:] = 1e9
        bin_hi[:] = -1e9
        for k in range(first, last):
            p = order[k]
            b = int((centre[p, axis] - c_lo[axis]) * scale)
            bin_count[b] += 1
            for a in range(3):
                bin_lo[b, a] = min(bin_lo[b, a], lower[p, a])
                bin_hi[b, a] = max(bin_hi[b, a], upper[p, a])
        lo, hi, n = np.full(3, 1e9), np.full(3, -1e9), 0
        for b in range(bins - 1, 0, -1):
            n += bin_count[b]
            lo, hi = np.minimum(lo, bin_lo[b]), np.maximum(hi, bin_hi[b])
            right_cost[b - 1] = n * _area(lo, hi) if n > 0 else 0.0
        lo, hi, n = np.full(3, 1e9), np.full(3, -1e9), 0
        best, best_cost = 0, 1e30
        for b in range(bins - 1):
            n += bin_count[b]
            lo, hi = np.minimum(lo, bin_lo[b]), np.maximum(hi, bin_hi[b])
            if n == 0 or n == last - first:
                continue
            cost = n * _area(lo, hi) + right_cost[b]
            if cost < best_cost:
                best, best_cost = b, cost
        middle, tail = first, 0
        for k in range(first, last):
            p = order[k]
            if int((centre[p, axis] - c_lo[axis]) * scale) <= best:
                order[middle] = p
                middle += 1
            else:
                scratch[tail] = p
                tail += 1
        for k in range(tail):
            order[middle + k] = scratch[k]
        links[node, 0], links[node, 1] = used, 0
        stack[depth, 0], stack[depth, 1], stack[depth, 2] = used, first, middle
        stack[depth + 1, 0], stack[depth + 1, 1], stack[depth + 1, 2] = used + 1, middle, last
        depth += 2
        used += 2
    return bounds[:used].copy(), links[:used].copy(), order


@njit(cache=True, fastmath=True, inline="always")
def _enter_box(b, ox, oy, oz, ix, iy, iz, t_max):
    """Parameter at which the ray enters the bounds, or 1e30."""
    t0, t1 = (b[0] - ox) * ix, (b[3] - ox) * ix
    near, far = min(t0, t1), max(t0, t1)
    t0, t1 = (b[1] - oy) * iy, (b[4] - oy) * iy
    near, far = max(near, min(t0, t1)), min(far, max(t0, t1))
    t0, t1 = (b[2] - oz) * iz, (b[5] - oz) * iz
    near, far = max(near, min(t0, t1)), min(far, max(t0, t1))
    if near <= far and far > 0.0 and near < t_max:
        return near
    return 1e30


@njit(cache=True, fastmath=True)
def _hit(shape, m, ox, oy, oz, dx, dy, dz):
    """Parameter at which the ray enters the solid from outside, or 1e30."""
    px = m[0, 0] * ox + m[0, 1] * oy + m[0, 2] * oz + m[0, 3]
    py = m[1, 0] * ox + m[1, 1] * oy + m[1, 2] * oz + m[1, 3]
    pz = m[2, 0] * ox + m[2, 1] * oy + m[2, 2] * oz + m[2, 3]
    vx = m[0, 0] * dx + m[0, 1] * dy + m[0, 2] * dz
    vy = m[1, 0] * dx + m[1, 1] * dy + m[1, 2] * dz
    vz = m[2, 0] * dx + m[2, 1] * dy + m[2, 2] * dz
    if shape == ELLIPSOID:
        vv = vx * vx + vy * vy + vz * vz
        middle = -(px * vx + py * vy + pz * vz) / vv
        qx, qy, qz = px + middle * vx, py + middle * vy, pz + middle * vz
        rest = 1.0 - (qx * qx + qy * qy + qz * qz)
        if rest <= 0.0:
            return 1e30
        t = middle - np.sqrt(rest / vv)
        return t if t > 0.0 else 1e30
    if abs(vz) < 1e-12:
        vz = 1e-12
    if shape == BOX:
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
        return near if near <= far and near > 0.0 else 1e30
    a, b = (-1.0 - pz) / vz, (1.0 - pz) / vz
    slab_near, slab_far = min(a, b), max(a, b)
    if shape == CYLINDER:
        vv = vx * vx + vy * vy
        if vv < 1e-18:
            return slab_near if px * px + py * py <= 1.0 and slab_near > 0.0 else 1e30
        middle = -(px * vx + py * vy) / vv
        qx, qy = px + middle * vx, py + middle * vy
        rest = 1.0 - (qx * qx + qy * qy)
        if rest <= 0.0:
            return 1e30
        half = np.sqrt(rest / vv)
        near, far = max(slab_near, middle - half), min(slab_far, middle + half)
        return near if near <= far and near > 0.0 else 1e30
    # cone: x^2 + y^2 = ((1 - z) / 2)^2 between z = -1 and 1, and its base disc
    h, hv = 0.5 * (1.0 - pz), -0.5 * vz
    a = vx * vx + vy * vy - hv * hv
    b = px * vx + py * vy - h * hv
    c = px * px + py * py - h * h
    best = 1e30
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
def _chance(ray, solid, seed):
    """A number in [0, 1) that belongs to this pair of ray and solid."""
    mask = np.uint64(0xFFFFFFFF)  # numba widens 32-bit products to 64 bits
    h = (np.uint64(ray) * np.uint64(0x9E3779B1) ^ np.uint64(solid) * np.uint64(0x85EBCA77) ^ np.uint64(seed)) & mask
    h ^= h >> np.uint64(15)
    h = (h * np.uint64(0x2C1B3C6D)) & mask
    h ^= h >> np.uint64(12)
    h = (h * np.uint64(0x297A2D39)) & mask
    h ^= h >> np.uint64(15)
    return np.float64(h) / 4294967296.0


@njit(cache=True, fastmath=True)
def _safe_inverse(d):
    if abs(d) > 1e-12:
        return 1.0 / d
    return 1e12 if d > 0.0 else -1e12  # zero counts as downwards: see the steps of first_ground


@njit(cache=True, fastmath=True)
def first_solid(solids, ox, oy, oz, dx, dy, dz, t_max, ray, seed):
    """(t, solid) of the first solid that stops the ray before t_max, else (t_max, MISS)."""
    shape, to_local, see_through, bounds, links, order = solids
    best, best_solid = t_max, MISS
    if len(shape) == 0:
        return best, best_solid
    ix, iy, iz = _safe_inverse(dx), _safe_inverse(dy), _safe_inverse(dz)
    stack = np.empty(64, np.int32)
    entry = np.empty(64, np.float64)
    stack[0] = 0
    entry[0] = _enter_box(bounds[0], ox, oy, oz, ix, iy, iz, best)
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
                t = _hit(shape[p], to_local[p], ox, oy, oz, dx, dy, dz)
                if t < best and (see_through[p] == 0.0 or _chance(ray, p, seed) >= see_through[p]):
                    best, best_solid = t, p
            continue
        a = _enter_box(bounds[first], ox, oy, oz, ix, iy, iz, best)
        b = _enter_box(bounds[first + 1], ox, oy, oz, ix, iy, iz, best)
        near, far = first, first + 1
        if b < a:
            near, far, a, b = far, near, b, a
        if b < 1e30:
            stack[depth], entry[depth] = far, b
            depth += 1
        if a < 1e30:
            stack[depth], entry[depth] = near, a
            depth += 1
    return best, best_solid


@njit(cache=True, fastmath=True)
def any_solid(solids, ox, oy, oz, dx, dy, dz, t_max, guess):
    """An opaque solid between the origin and t_max, or MISS; the solid `guess` (or MISS) is tried first."""
    shape, to_local, see_through, bounds, links, order = solids
    if len(shape) == 0:
        return MISS
    if guess >= 0 and _hit(shape[guess], to_local[guess], ox, oy, oz, dx, dy, dz) < t_max:
        return guess
    ix, iy, iz = _safe_inverse(dx), _safe_inverse(dy), _safe_inverse(dz)
    if _enter_box(bounds[0], ox, oy, oz, ix, iy, iz, t_max) > 1e29:
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
                if see_through[p] == 0.0 and _hit(shape[p], to_local[p], ox, oy, oz, dx, dy, dz) < t_max:
                    return p
            continue
        for child in range(first, first + 2):
            if _enter_box(bounds[child], ox, oy, oz, ix, iy, iz, t_max) < 1e29:
                stack[depth] = child
                depth += 1
    return MISS


@njit(cache=True, fastmath=True, inline="always")
def _bilinear(height, i, j, u, v):
    return (height[i, j] * (1 - u) + height[i + 1, j] * u) * (1 - v) + (
        height[i, j + 1] * (1 - u) + height[i + 1, j + 1] * u
    ) * v


@njit(cache=True, fastmath=True)
def first_ground(ground, ox, oy, oz, dx, dy, dz, t_max):
    """Parameter at which the ray first dips under the height field, or t_max."""
    height, highest, cx, cy, cell = ground
    nx, ny = height.shape[0] - 1, height.shape[1] - 1
    # in cell units
    px, py, vx, vy = (ox - cx) / cell, (oy - cy) / cell, dx / cell, dy / cell
    ix, iy = _safe_inverse(vx), _safe_inverse(vy)
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
            gap_in = oz + t * dz - _bilinear(height, i, j, px + t * vx - i, py + t * vy - j)
            gap_out = oz + end * dz - _bilinear(height, i, j, px + end * vx - i, py + end * vy - j)
            if gap_in <= 0.0 and t <= enter + 1e-6:
                return t_max  # starts under the ground
            if gap_in <= 0.0:
                return t
            if min(gap_in, gap_out) < 0.1:
                half = 0.5 * (t + end)  # along a line a bilinear patch is a parabola: three values give its roots
                gap_half = oz + half * dz - _bilinear(height, i, j, px + half * vx - i, py + half * vy - j)
                bend = 2.0 * (gap_in + gap_out - 2.0 * gap_half)
                fall = gap_out - gap_in - bend
                inner = fall * fall - 4.0 * bend * gap_in
                if gap_out <= 0.0 or (inner >= 0.0 and bend > 0.0 and 0.0 < -fall < 2.0 * bend):
                    return t + (end - t) * 2.0 * gap_in / (np.sqrt(max(inner, 0.0)) - fall)
            t = end + nudge
    return t_max


@njit(cache=True, fastmath=True)
def _normal(shape, m, x, y, z):
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
def _ground_normal(ground, x, y):
    height, _, cx, cy, cell = ground
    u, v = (x - cx) / cell, (y - cy) / cell
    i = min(max(int(u), 0), height.shape[0] - 2)
    j = min(max(int(v), 0), height.shape[1] - 2)
    u, v = u - i, v - j
    gx = ((height[i + 1, j] - height[i, j]) * (1 - v) + (height[i + 1, j + 1] - height[i, j + 1]) * v) / cell
    gy = ((height[i, j + 1] - height[i, j]) * (1 - u) + (height[i + 1, j + 1] - height[i + 1, j]) * u) / cell
    length = np.sqrt(gx * gx + gy * gy + 1.0)
    return -gx / length, -gy / length, 1.0 / length


@njit(cache=True, fastmath=True, parallel=True)
def _cast(solids, to_local, shape, movers, movers_local, movers_shape, ground, origins, directions, t_max, seed):
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
            nx, ny, nz = _ground_normal(ground, x, y)
        elif hit < len(shape):
            nx, ny, nz = _normal(shape[hit], to_local[hit], x, y, z)
        else:
            nx, ny, nz = _normal(movers_shape[hit - len(shape)], movers_local[hit - len(shape)], x, y, z)
        cosine[r] = abs(nx * dx + ny * dy + nz * dz)
    return distance, solid, cosine


def cast(
    solids: Solids,
    movers: Solids,
    ground: Ground,
    origins: np.ndarray,
    directions: np.ndarray,
    max_range_m: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First hits of R rays in the world frame.

    origins, directions (R, 3) float64, directions of length 1. Returns distance (R,) float32 in metres, solid (R,) int32 (index
    into solids, then len(solids) + index into movers; GROUND or MISS), cosine (R,) float32 of the incidence angle.
    """
    return _cast(
        solids.arrays, solids.to_local, solids.shape, movers.arrays, movers.to_local, movers.shape,
        ground.arrays, np.ascontiguousarray(origins, dtype=np.float64), np.ascontiguousarray(directions, dtype=np.float64),
        float(max_range_m), seed % (2**32),
    )  # fmt: skip
