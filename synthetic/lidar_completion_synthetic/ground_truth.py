"""Exact ground truth: the static surface that a vehicle driving past would see.

Every surface is covered with a lattice finer than the voxel; a lattice point is kept when at least one pose of the drive has it inside the
sensor's field of view with nothing opaque in between. One point a voxel remains.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from . import raycast
from .lidar import SpinningLidar
from .raycast import BOX, CONE, CYLINDER, ELLIPSOID
from .world import World

SPACING_M = (
    0.085  # of the lattice on solids: finer than the voxel, so that no voxel that a surface crosses widely stays empty
)
PATCH = 5  # lattice points to a side of a patch: its corners decide for it unless they differ
SOLID_PATCH = 8  # the same on solids, with its centre
MARGIN_M = 1.0  # what is left out lies farther away than any patch is wide
RUN = 64  # solids that follow each other are neighbours: they share what is known of who hides them
FAR_STRIDE = 4  # of the viewpoints that are tried for what no neighbour's viewpoint sees


def visible_surface(
    world: World,
    sensor: SpinningLidar,
    *,
    voxel_m: float = 0.1,
    seen_within_m: float = 50.0,
    pose_step_m: float = 2.0,
    lanes: str = "own",
    least_angle_sr: float = 3e-7,
    around: np.ndarray | None = None,
) -> np.ndarray:
    """Points (M, 3) float32, world frame, metres: one a voxel of voxel_m, on static surfaces that the drive sees.

    seen_within_m: no farther than this from the pose that sees it. lanes: "own" (the car's path) or "both" (also the opposite lane).
    least_angle_sr: solid angle under which a voxel's face must appear from some pose. An HDL-64E has a ray for every 2e-5 sr, so that with 3e-7 about half of
    the voxels at the limit receive a ray while the car drives by; flat ground is lost beyond 38 m, a wall seen head on is not lost within 50 m.
    around (C, 2): only what lies within seen_within_m of one of these places, which costs less; every such point is as without.
    """
    viewpoints = _viewpoints(world, sensor, pose_step_m, lanes)
    around = np.ascontiguousarray(viewpoints[:, :2] if around is None else around, dtype=np.float64)
    low, high = np.sin(np.radians(sensor.field_of_view_deg))
    view = (float(low), float(high), float(seen_within_m), least_angle_sr / voxel_m**2)
    points = np.concatenate(
        [_solid_points(world, viewpoints, view, around), _ground_points(world, viewpoints, view, around, voxel_m)]
    )
    return one_per_voxel(points, voxel_m)


def one_per_voxel(points: np.ndarray, voxel_m: float) -> np.ndarray:
    """The first point (in order) of every voxel."""
    if not len(points):
        return points
    return points[_first_of_voxel(np.ascontiguousarray(points, dtype=np.float32), float(voxel_m))]


@njit(cache=True)
def _first_of_voxel(points, voxel_m):
    """Whether no earlier point has the same voxel: a hash set of 21-bit cells."""
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


def _viewpoints(world: World, sensor: SpinningLidar, step_m: float, lanes: str) -> np.ndarray:
    """Sensor positions and up axes (K, 6) along the drive."""
    if lanes not in ("own", "both"):
        raise ValueError(f"lanes: expected 'own' or 'both', found {lanes!r}")
    half = world.drive_length_m / 2
    poses = np.array(
        [world.pose_at(a, sensor.height_m + float(sensor.eyes_m.mean())) for a in np.arange(-half, half, step_m)]
    )
    views = np.concatenate([poses[:, :3, 3], poses[:, :3, 2]], axis=1)
    if lanes == "both":
        _, lateral = world.streets[0].offsets(views[:, 0], views[:, 1])
        other = views.copy()
        other[:, :3] -= 2 * lateral[:, None] * poses[:, :3, 1] * np.sign(poses[:, 0, 0])[:, None]
        views = np.concatenate([views, other])
    return np.ascontiguousarray(views)


def _ground_points(world: World, views: np.ndarray, view, around: np.ndarray, voxel_m: float) -> np.ndarray:
    """Seen points of the height field, one in the middle of every voxel column."""
    ground = world.ground
    end = np.array(ground.corner) + (np.array(ground.height.shape) - 1) * ground.cell
    low = np.maximum(views[:, :2].min(axis=0) - view[2], ground.corner)
    high = np.minimum(views[:, :2].max(axis=0) + view[2], end - 0.01)
    low = np.ceil(low / voxel_m) * voxel_m
    count = np.maximum(((high - low) / (PATCH * voxel_m)).astype(int), 0)
    seen = _see_ground(
        world.solids.arrays, ground.arrays, views, view, around, low[0], low[1], count[0], count[1], voxel_m
    )
    i, j = np.nonzero(seen)
    x, y = low[0] + (i + 0.5) * voxel_m, low[1] + (j + 0.5) * voxel_m
    return np.column_stack([x, y, ground.height_at(x, y)]).astype(np.float32)


def _solid_points(world: World, views: np.ndarray, view, around: np.ndarray) -> np.ndarray:
    """Seen lattice points of the solids that lie near the drive and in the field of view."""
    s = world.solids
    chosen = _near(s.to_world, views, view, around)
    points, count = _see_solids(s.arrays, s.to_world, world.ground.arrays, views, view, chosen)
    return points[:count]


@njit(cache=True)
def _near(to_world, views, view, around):
    """Solids of which a part may be wanted, in range, and below the highest beam of some viewpoint."""
    chosen = np.zeros(len(to_world), np.bool_)
    slope = np.tan(np.arcsin(view[1]) + 0.12)  # the car pitches with the road
    for p in range(len(to_world)):
        m = to_world[p]
        reach = np.sqrt((m[:, :3] ** 2).sum())
        if _distance(around, m[0, 3], m[1, 3]) - reach > view[2] + MARGIN_M:
            continue
        for k in range(0, len(views), 3):
            d = np.hypot(m[0, 3] - views[k, 0], m[1, 3] - views[k, 1])
            if d - reach < view[2] and m[2, 3] - reach - views[k, 2] < slope * min(d + reach, view[2]):
                chosen[p] = True
                break
    return np.flatnonzero(chosen)


@njit(cache=True, fastmath=True)
def _sees(solids, ground, views, view, hiders, k, x, y, z, nx, ny, nz):
    """Whether viewpoint k sees the surface point with outward normal n.

    hiders (K,): the solid that hid the last point from each viewpoint; it mostly hides the next one too, so it is tried first.
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
    hider = raycast.any_solid(solids, views[k, 0], views[k, 1], views[k, 2], dx, dy, dz, reach, hiders[k])
    if hider >= 0:
        hiders[k] = hider
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
def _distance(places, x, y):
    """Metres from x, y to the nearest of the places (C, 2)."""
    best = 1e30
    for k in range(len(places)):
        best = min(best, (places[k, 0] - x) ** 2 + (places[k, 1] - y) ** 2)
    return np.sqrt(best)


@njit(cache=True, fastmath=True)
def _first_view(solids, ground, views, view, hiders, x, y, z, nx, ny, nz, nearest, stride):
    """The first viewpoint, going outwards from the nearest, that sees the point; -1 if none does."""
    count = len(views)
    for step in range(0, count, stride):
        a, b = nearest + step, nearest - step
        if a < count and _sees(solids, ground, views, view, hiders, a, x, y, z, nx, ny, nz):
            return a
        if step > 0 and b >= 0 and _sees(solids, ground, views, view, hiders, b, x, y, z, nx, ny, nz):
            return b
        if (
            step > 0
            and (a >= count or (views[a, 0] - x) ** 2 + (views[a, 1] - y) ** 2 > view[2] ** 2)
            and (b < 0 or (views[b, 0] - x) ** 2 + (views[b, 1] - y) ** 2 > view[2] ** 2)
        ):
            return -1
    return -1


@njit(cache=True, fastmath=True)
def _height(ground, x, y):
    height, _, cx, cy, cell = ground
    u, v = (x - cx) / cell, (y - cy) / cell
    a, b = min(max(int(u), 0), height.shape[0] - 2), min(max(int(v), 0), height.shape[1] - 2)
    return raycast._bilinear(height, a, b, u - a, v - b)


@njit(cache=True, fastmath=True, parallel=True)
def _see_ground(solids, ground, views, view, around, x0, y0, nx, ny, voxel):
    """Seen voxel columns (nx * PATCH, ny * PATCH) bool of the height field."""
    size = PATCH * voxel
    by = np.full((nx + 1, ny + 1), -1, np.int32)  # the viewpoint that sees each patch corner
    lift = 0.03  # so that a grazing ray is not stopped by the very ground that it looks at
    for i in prange(nx + 1):
        hiders = np.full(len(views), raycast.MISS, np.int32)
        for j in range(ny + 1):
            x, y = x0 + i * size, y0 + j * size
            if _distance(around, x, y) > view[2] + MARGIN_M:
                continue
            nearest = _nearest_view(views, x, y)
            z = _height(ground, x, y) + lift
            last = by[i, j - 1] if j > 0 else -1
            if last >= 0 and _sees(solids, ground, views, view, hiders, last, x, y, z, 0.0, 0.0, 1.0):
                by[i, j] = last
            else:
                by[i, j] = _first_view(solids, ground, views, view, hiders, x, y, z, 0.0, 0.0, 1.0, nearest, FAR_STRIDE)
    seen = np.zeros((nx * PATCH, ny * PATCH), np.bool_)
    for i in prange(nx):
        hiders = np.full(len(views), raycast.MISS, np.int32)
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
                    z = _height(ground, x, y) + lift
                    for c in corners:
                        if c >= 0 and _sees(solids, ground, views, view, hiders, c, x, y, z, 0.0, 0.0, 1.0):
                            seen[a, b] = True
                            break
    return seen


@njit(cache=True, fastmath=True)
def _on_surface(shape, face, u, v):
    """Local point of face at u, v in [-1, 1]; (0, 0, 0) where the face has no point."""
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
def _face_size(shape, face, sx, sy, sz):
    """Length in metres of u and v from -1 to 1."""
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
def _see_face(solids, to_world, ground, views, view, hiders, p, face, nearest, out, n):
    """Appends the visible lattice points of one face to out from row n on; the new n."""
    shape, to_local = solids[0], solids[1]
    m = to_world[p]
    sx = np.sqrt(m[0, 0] ** 2 + m[1, 0] ** 2 + m[2, 0] ** 2)
    sy = np.sqrt(m[0, 1] ** 2 + m[1, 1] ** 2 + m[2, 1] ** 2)
    sz = np.sqrt(m[0, 2] ** 2 + m[1, 2] ** 2 + m[2, 2] ** 2)
    lu, lv = _face_size(shape[p], face, sx, sy, sz)
    if shape[p] == ELLIPSOID:
        lu, lv = lu * 0.8, lv * 0.8
    nu, nv = max(1, int(np.ceil(lu / SPACING_M))), max(1, int(np.ceil(lv / SPACING_M)))
    pu, pv = (nu + SOLID_PATCH - 1) // SOLID_PATCH, (nv + SOLID_PATCH - 1) // SOLID_PATCH
    found = np.empty(5, np.int64)
    for patch in range(pu * pv):
        u0, v0 = (patch // pv) * SOLID_PATCH, (patch % pv) * SOLID_PATCH
        u1, v1 = min(u0 + SOLID_PATCH, nu), min(v0 + SOLID_PATCH, nv)
        hidden, last = 0, -1
        probes = 1 if (u1 - u0) * (v1 - v0) <= 4 or (shape[p] == ELLIPSOID and pu * pv == 1) else 5
        for probe in range(probes):
            a, b = (u0 + u1 - 1) / 2, (v0 + v1 - 1) / 2
            if probe > 0:  # corners, the two diagonals in turn
                a, b = (u0 if probe % 2 else u1 - 1), (v0 if probe == 1 or probe == 4 else v1 - 1)
            if probe == 3 and hidden == 3:
                hidden = probes
                break
            x, y, z, nx, ny, nz = _world_point(
                shape[p], to_local[p], m, face, (2 * a + 1) / nu - 1, (2 * b + 1) / nv - 1
            )
            found[probe] = -1
            if nx * nx + ny * ny + nz * nz < 0.5:
                pass
            elif last >= 0 and _sees(solids, ground, views, view, hiders, last, x, y, z, nx, ny, nz):
                found[probe] = last
            else:
                found[probe] = _first_view(
                    solids, ground, views, view, hiders, x, y, z, nx, ny, nz, nearest, FAR_STRIDE
                )
            last = max(last, found[probe])
            hidden += found[probe] < 0
        if hidden == probes:
            continue
        for a in range(u0, u1):
            for b in range(v0, v1):
                x, y, z, nx, ny, nz = _world_point(
                    shape[p], to_local[p], m, face, (2 * a + 1) / nu - 1, (2 * b + 1) / nv - 1
                )
                keep = nx * nx + ny * ny + nz * nz > 0.5
                if keep and hidden > 0:
                    keep = False
                    for probe in range(probes):
                        k = found[probe]
                        if k >= 0 and _sees(solids, ground, views, view, hiders, k, x, y, z, nx, ny, nz):
                            keep = True
                            break
                if keep:
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
    for face in range(3 if shape in (CYLINDER, CONE) else 6):
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
        axis, sign = face // 2, (1.0 if face % 2 == 0 else -1.0)
        nx, ny, nz = sign * to_local[axis, 0], sign * to_local[axis, 1], sign * to_local[axis, 2]
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
    for run in prange((len(chosen) + RUN - 1) // RUN):
        hiders = np.full(len(views), raycast.MISS, np.int32)
        for c in range(run * RUN, min(run * RUN + RUN, len(chosen))):
            p = chosen[c]
            nearest = _nearest_view(views, to_world[p, 0, 3], to_world[p, 1, 3])
            n = room[c]
            for face in range(3 if shape[p] == CYLINDER or shape[p] == CONE else 6):
                n = _see_face(solids, to_world, ground, views, view, hiders, p, face, nearest, out, n)
            counts[c] = n - room[c]
    at = 0
    for c in range(len(chosen)):
        for k in range(counts[c]):
            for a in range(3):
                out[at, a] = out[room[c] + k, a]
            at += 1
    return out, at
