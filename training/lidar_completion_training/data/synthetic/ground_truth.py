"""Exact ground truth: the static surface that a vehicle driving past would see.

Every surface is covered with a lattice finer than the voxel; a lattice point is kept when at least one pose of the drive has it inside the
sensor's field of view with nothing opaque in between. One point a voxel remains.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import njit, prange

from . import raycast
from .lidar import SpinningLidar
from .raycast import BOX, CONE, CYLINDER, ELLIPSOID
from .world import World

SPACING_M = 0.075  # of the lattice: finer than the voxel, so that no voxel that a surface crosses widely stays empty
PATCH = 5  # lattice points to a side of a patch that is looked at as a whole first


def visible_surface(
    world: World, sensor: SpinningLidar, *, voxel_m: float = 0.1, seen_within_m: float = 60.0, pose_step_m: float = 2.0, lanes: str = "own"
) -> np.ndarray:
    """Points (M, 3) float32, world frame, metres: one a voxel of voxel_m, on static surfaces that the drive sees.

    seen_within_m: no farther than this from the pose that sees it. lanes: "own" (the car's path) or "both" (also the opposite lane).
    """
    viewpoints = _viewpoints(world, sensor, pose_step_m, lanes)
    low, high = np.radians(sensor.field_of_view_deg)
    view = (float(low), float(high), float(seen_within_m))
    points = np.concatenate(
        [_ground_points(world, viewpoints, view), _solid_points(world, viewpoints, view)]
    )
    return one_per_voxel(points, voxel_m)


def one_per_voxel(points: np.ndarray, voxel_m: float) -> np.ndarray:
    """The first point (in order) of every voxel."""
    cell = np.floor(points / np.float32(voxel_m)).astype(np.int64)
    cell -= cell.min(axis=0, initial=0)
    size = cell.max(axis=0, initial=0) + 1
    key = (cell[:, 0] * size[1] + cell[:, 1]) * size[2] + cell[:, 2]
    _, first = np.unique(key, return_index=True)
    return points[np.sort(first)]


def _viewpoints(world: World, sensor: SpinningLidar, step_m: float, lanes: str) -> np.ndarray:
    """Sensor positions and up axes (K, 6) along the drive."""
    if lanes not in ("own", "both"):
        raise ValueError(f"lanes: expected 'own' or 'both', found {lanes!r}")
    half = world.drive_length_m / 2
    poses = np.array([world.pose_at(a, sensor.height_m) for a in np.arange(-half, half, step_m)])
    views = np.concatenate([poses[:, :3, 3], poses[:, :3, 2]], axis=1)
    if lanes == "both":
        _, lateral = world.streets[0].offsets(views[:, 0], views[:, 1])
        other = views.copy()
        other[:, :3] -= 2 * lateral[:, None] * poses[:, :3, 1] * np.sign(poses[:, 0, 0])[:, None]
        views = np.concatenate([views, other])
    return np.ascontiguousarray(views)


def _ground_points(world: World, views: np.ndarray, view) -> np.ndarray:
    ground = world.ground
    reach = view[2]
    low, high = views[:, :2].min(axis=0) - reach, views[:, :2].max(axis=0) + reach
    size = 2 * PATCH * SPACING_M
    low = np.maximum(low, ground.corner)
    high = np.minimum(high, np.array(ground.corner) + (np.array(ground.height.shape) - 1) * ground.cell - 1e-3)
    count = np.maximum(((high - low) / size).astype(int), 0)
    return _see_ground(world.solids.arrays, ground.arrays, views, view, low[0], low[1], count[0], count[1], size)


def _solid_points(world: World, views: np.ndarray, view) -> np.ndarray:
    s = world.solids
    near = _near(s.to_world[:, :, 3], np.linalg.norm(s.to_world[:, :, :3], axis=(1, 2)), views[:, :3], view[2])
    kept, starts = _see_solids(s.arrays, s.to_world, world.ground.arrays, views, view, np.flatnonzero(near))
    return kept[: starts]


def _near(centre: np.ndarray, reach: np.ndarray, eyes: np.ndarray, within: float) -> np.ndarray:
    d = np.full(len(centre), 1e9)
    for e in eyes[::4]:
        np.minimum(d, np.hypot(centre[:, 0] - e[0], centre[:, 1] - e[1]), out=d)
    return d - reach < within


@njit(cache=True, fastmath=True)
def _sees(solids, ground, views, view, k, x, y, z, nx, ny, nz):
    """Whether viewpoint k sees the surface point with outward normal n."""
    low, high, within = view
    dx, dy, dz = x - views[k, 0], y - views[k, 1], z - views[k, 2]
    d = np.sqrt(dx * dx + dy * dy + dz * dz)
    if d > within or d < 1.0 or dx * nx + dy * ny + dz * nz >= -0.01 * d:
        return False
    up = (dx * views[k, 3] + dy * views[k, 4] + dz * views[k, 5]) / d
    if up < np.sin(low) or up > np.sin(high):
        return False
    dx, dy, dz = dx / d, dy / d, dz / d
    reach = d - 0.03
    if raycast.any_solid(solids, views[k, 0], views[k, 1], views[k, 2], dx, dy, dz, reach):
        return False
    return raycast.first_ground(ground, views[k, 0], views[k, 1], views[k, 2], dx, dy, dz, reach) >= reach


@njit(cache=True, fastmath=True)
def _nearest_view(views, x, y):
    best, at = 1e30, 0
    for k in range(len(views)):
        d = (views[k, 0] - x) ** 2 + (views[k, 1] - y) ** 2
        if d < best:
            best, at = d, k
    return at


@njit(cache=True, fastmath=True)
def _first_view(solids, ground, views, view, x, y, z, nx, ny, nz, nearest, stride):
    """The first viewpoint, going outwards from the nearest, that sees the point; -1 if none does."""
    count = len(views)
    for step in range(0, count, stride):
        a, b = nearest + step, nearest - step
        if a < count and _sees(solids, ground, views, view, a, x, y, z, nx, ny, nz):
            return a
        if step > 0 and b >= 0 and _sees(solids, ground, views, view, b, x, y, z, nx, ny, nz):
            return b
        if step > 0 and (a >= count or (views[a, 0] - x) ** 2 + (views[a, 1] - y) ** 2 > view[2] ** 2) and (
            b < 0 or (views[b, 0] - x) ** 2 + (views[b, 1] - y) ** 2 > view[2] ** 2
        ):
            return -1
    return -1


@njit(cache=True, fastmath=True)
def _see_point(solids, ground, views, view, x, y, z, nx, ny, nz, last, nearest):
    """Like _first_view, trying first the viewpoint that saw the neighbour."""
    if last >= 0 and _sees(solids, ground, views, view, last, x, y, z, nx, ny, nz):
        return last
    return _first_view(solids, ground, views, view, x, y, z, nx, ny, nz, nearest, 3)


@njit(cache=True, fastmath=True, parallel=True)
def _see_ground(solids, ground, views, view, x0, y0, nx, ny, size):
    height, _, cx, cy, cell = ground
    per = 2 * PATCH
    kept = np.empty((nx, ny * per * per, 3), np.float32)
    counts = np.zeros(nx, np.int64)
    for i in prange(nx):
        n = 0
        for j in range(ny):
            mx, my = x0 + (i + 0.5) * size, y0 + (j + 0.5) * size
            nearest = _nearest_view(views, mx, my)
            if (views[nearest, 0] - mx) ** 2 + (views[nearest, 1] - my) ** 2 > view[2] ** 2:
                continue
            last = -1
            for probe in range(3):  # a patch of which three points are hidden is taken as hidden
                px = x0 + (i + 0.25 + 0.25 * probe) * size
                py = y0 + (j + (0.5, 0.2, 0.8)[probe]) * size
                u, v = (px - cx) / cell, (py - cy) / cell
                a, b = int(u), int(v)
                pz = raycast._bilinear(height, a, b, u - a, v - b) + 0.03
                last = _first_view(solids, ground, views, view, px, py, pz, 0.0, 0.0, 1.0, nearest, 4)
                if last >= 0:
                    break
            if last < 0:
                continue
            for p in range(per * per):
                x = x0 + i * size + (p // per + 0.5) * size / per
                y = y0 + j * size + (p % per + 0.5) * size / per
                u, v = (x - cx) / cell, (y - cy) / cell
                a, b = int(u), int(v)
                z = raycast._bilinear(height, a, b, u - a, v - b)
                seen = _see_point(solids, ground, views, view, x, y, z + 0.03, 0.0, 0.0, 1.0, last, nearest)
                if seen >= 0:
                    last = seen
                    kept[i, n, 0], kept[i, n, 1], kept[i, n, 2] = x, y, z
                    n += 1
        counts[i] = n
    out = np.empty((counts.sum(), 3), np.float32)
    at = 0
    for i in range(nx):
        out[at : at + counts[i]] = kept[i, : counts[i]]
        at += counts[i]
    return out


@njit(cache=True, fastmath=True)
def _on_surface(shape, face, u, v):
    """Local point of face at u, v in [-1, 1]; (0, 0, 0) where the face has no point."""
    if shape == CYLINDER or shape == CONE:
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
def _face_size(shape, face, sx, sy, sz):
    """Length in metres of u and v from -1 to 1."""
    if shape == CYLINDER or shape == CONE:
        if face == 0:
            return 2 * np.pi * max(sx, sy), 2 * np.sqrt(sz * sz + (0.0 if shape == CYLINDER else 0.25 * sx * sx))
        return 2 * sx, 2 * sy
    if face // 2 == 0:
        return 2 * sy, 2 * sz
    if face // 2 == 1:
        return 2 * sx, 2 * sz
    return 2 * sx, 2 * sy


@njit(cache=True, fastmath=True)
def _see_face(solids, to_world, ground, views, view, p, face, nearest, out, n):
    """Appends the visible lattice points of one face to out from row n on; the new n. With an empty out only counts the lattice."""
    shape, to_local = solids[0], solids[1]
    m = to_world[p]
    sx = np.sqrt(m[0, 0] ** 2 + m[1, 0] ** 2 + m[2, 0] ** 2)
    sy = np.sqrt(m[0, 1] ** 2 + m[1, 1] ** 2 + m[2, 1] ** 2)
    sz = np.sqrt(m[0, 2] ** 2 + m[1, 2] ** 2 + m[2, 2] ** 2)
    lu, lv = _face_size(shape[p], face, sx, sy, sz)
    if shape[p] == ELLIPSOID:
        lu, lv = lu * 0.8, lv * 0.8
    nu, nv = max(1, int(np.ceil(lu / SPACING_M))), max(1, int(np.ceil(lv / SPACING_M)))
    pu, pv = (nu + PATCH - 1) // PATCH, (nv + PATCH - 1) // PATCH
    for patch in range(pu * pv):
        iu, iv = (patch // pv) * PATCH, (patch % pv) * PATCH
        last = -1
        for probe in range(3):
            a = iu if probe == 1 else (min(iu + PATCH, nu) - 1 if probe == 2 else (iu + min(iu + PATCH, nu)) // 2)
            b = iv if probe == 1 else (min(iv + PATCH, nv) - 1 if probe == 2 else (iv + min(iv + PATCH, nv)) // 2)
            x, y, z, nx, ny, nz = _world_point(shape[p], to_local[p], m, face, (2 * a + 1) / nu - 1, (2 * b + 1) / nv - 1)
            if nx * nx + ny * ny + nz * nz < 0.5:
                continue
            last = _first_view(solids, ground, views, view, x, y, z, nx, ny, nz, nearest, 4)
            if last >= 0:
                break
        if last < 0:
            continue
        for a in range(iu, min(iu + PATCH, nu)):
            for b in range(iv, min(iv + PATCH, nv)):
                x, y, z, nx, ny, nz = _world_point(
                    shape[p], to_local[p], m, face, (2 * a + 1) / nu - 1, (2 * b + 1) / nv - 1
                )
                if nx * nx + ny * ny + nz * nz < 0.5:
                    continue
                seen = _see_point(solids, ground, views, view, x, y, z, nx, ny, nz, last, nearest)
                if seen >= 0:
                    last = seen
                    out[n, 0], out[n, 1], out[n, 2] = x, y, z
                    n += 1
    return n


@njit(cache=True, fastmath=True)
def _lattice_size(shape, m):
    """Lattice points on all faces of a solid."""
    sx = np.sqrt(m[0, 0] ** 2 + m[1, 0] ** 2 + m[2, 0] ** 2)
    sy = np.sqrt(m[0, 1] ** 2 + m[1, 1] ** 2 + m[2, 1] ** 2)
    sz = np.sqrt(m[0, 2] ** 2 + m[1, 2] ** 2 + m[2, 2] ** 2)
    total = 0
    for face in range(3 if shape == CYLINDER or shape == CONE else 6):
        lu, lv = _face_size(shape, face, sx, sy, sz)
        total += max(1, int(np.ceil(lu / SPACING_M))) * max(1, int(np.ceil(lv / SPACING_M)))
    return total


@njit(cache=True, fastmath=True)
def _world_point(shape, to_local, m, face, u, v):
    """World point and outward unit normal; a zero normal where the face has no point."""
    a, b, c = _on_surface(shape, face, u, v)
    if a == 0.0 and b == 0.0 and c == 0.0:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    x = m[0, 0] * a + m[0, 1] * b + m[0, 2] * c + m[0, 3]
    y = m[1, 0] * a + m[1, 1] * b + m[1, 2] * c + m[1, 3]
    z = m[2, 0] * a + m[2, 1] * b + m[2, 2] * c + m[2, 3]
    if shape == BOX:  # by face: an edge point belongs to its own face
        n = np.zeros(3)
        n[face // 2] = 1.0 if face % 2 == 0 else -1.0
        nx = to_local[0, 0] * n[0] + to_local[1, 0] * n[1] + to_local[2, 0] * n[2]
        ny = to_local[0, 1] * n[0] + to_local[1, 1] * n[1] + to_local[2, 1] * n[2]
        nz = to_local[0, 2] * n[0] + to_local[1, 2] * n[1] + to_local[2, 2] * n[2]
        r = 1.0 / np.sqrt(nx * nx + ny * ny + nz * nz)
        return x, y, z, nx * r, ny * r, nz * r
    nx, ny, nz = raycast._normal(shape, to_local, x, y, z)
    return x, y, z, nx, ny, nz


@njit(cache=True, fastmath=True, parallel=True)
def _see_solids(solids, to_world, ground, views, view, chosen):
    """Visible lattice points of the chosen solids, (n, 3) float32 and n."""
    shape = solids[0]
    room = np.zeros(len(chosen) + 1, np.int64)
    for c in range(len(chosen)):
        room[c + 1] = room[c] + _lattice_size(shape[chosen[c]], to_world[chosen[c]])
    out = np.empty((room[-1], 3), np.float32)
    counts = np.zeros(len(chosen), np.int64)
    for c in prange(len(chosen)):
        p = chosen[c]
        nearest = _nearest_view(views, to_world[p, 0, 3], to_world[p, 1, 3])
        n = room[c]
        for face in range(3 if shape[p] == CYLINDER or shape[p] == CONE else 6):
            n = _see_face(solids, to_world, ground, views, view, p, face, nearest, out, n)
        counts[c] = n - room[c]
    at = 0
    for c in range(len(chosen)):
        for k in range(counts[c]):
            for a in range(3):
                out[at, a] = out[room[c] + k, a]
            at += 1
    return out, at


def set_threads(threads: int | None) -> None:
    """See `raycast.set_threads`."""
    if threads is not None:
        numba.set_num_threads(threads)
