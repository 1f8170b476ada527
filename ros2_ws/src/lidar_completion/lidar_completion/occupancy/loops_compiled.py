"""The loops over points and rays, compiled. The plain implementation, with the meaning of the arguments, is loops_plain.py."""

import numpy as np

from lidar_completion.occupancy.loops_plain import STEPS_PER_CELL
from lidar_completion.sparse.compiled import compiled


def third_lowest(points, corner, cell_m, count):  # type: ignore[no-untyped-def]
    """As loops_plain.third_lowest."""
    return _third_lowest(_contiguous(points), corner, cell_m, count)


def mark_points(points, geometry, heights, value, values):  # type: ignore[no-untyped-def]
    """As loops_plain.mark_points."""
    corner, resolution, cells, floor = geometry
    low, high = map(float, heights)
    _mark_points(_contiguous(points), corner, resolution, cells, floor, low, high, value, values)


def lowest_ends(points, sensor, geometry):  # type: ignore[no-untyped-def]
    """As loops_plain.lowest_ends."""
    return _lowest_ends(_contiguous(points), sensor, *geometry[:3])


def mark_rays(ends, sensor, geometry, heights, value, values):  # type: ignore[no-untyped-def]
    """As loops_plain.mark_rays."""
    corner, resolution, cells, floor = geometry
    low, high = map(float, heights)
    _mark_rays(ends, sensor, corner, resolution, cells, floor, low, high, value, values)


def _contiguous(points: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(points, np.float32)


@compiled
def _third_lowest(points, corner, cell_m, count):  # type: ignore[no-untyped-def]
    lowest = np.full((3, count, count), np.inf)
    per_metre = 1.0 / cell_m
    for p in points:
        x, y = (p[0] - corner[0]) * per_metre, (p[1] - corner[1]) * per_metre
        if 0 <= x < count and 0 <= y < count:
            column, row, z = np.int64(x), np.int64(y), np.float64(p[2])
            for rank in range(3):  # insert z, and move higher values on
                if z < lowest[rank, row, column]:
                    z, lowest[rank, row, column] = lowest[rank, row, column], z
    return lowest[2]


@compiled
def _mark_points(points, corner, resolution, cells, floor, low, high, value, values):  # type: ignore[no-untyped-def]
    per_metre = 1.0 / resolution
    for p in points:
        x, y = (p[0] - corner[0]) * per_metre, (p[1] - corner[1]) * per_metre
        if 0 <= x < cells and 0 <= y < cells:
            column, row = np.int64(x), np.int64(y)
            if low <= p[2] - floor[row, column] <= high:
                values[row, column] = value


@compiled
def _lowest_ends(points, sensor, corner, resolution, cells):  # type: ignore[no-untyped-def]
    ends = np.empty((cells, cells, 3))
    ends[:, :, 2] = np.inf
    inner, per_metre = resolution * 1e-6, 1.0 / resolution
    for p in points:
        share = 1.0
        for axis in range(2):
            way = p[axis] - sensor[axis]
            low = corner[axis] + inner - sensor[axis]
            high = corner[axis] + resolution * cells - inner - sensor[axis]
            limit = high if way > 0 else low
            if abs(way) > abs(limit):
                share = min(share, limit / way)
        end = (
            sensor[0] + share * (p[0] - sensor[0]),
            sensor[1] + share * (p[1] - sensor[1]),
            sensor[2] + share * (p[2] - sensor[2]),
        )
        x, y = (end[0] - corner[0]) * per_metre, (end[1] - corner[1]) * per_metre
        if 0 <= x < cells and 0 <= y < cells and end[2] < ends[np.int64(y), np.int64(x), 2]:
            ends[np.int64(y), np.int64(x)] = end
    flat = ends.reshape(-1, 3)
    return flat[np.isfinite(flat[:, 2])]


@compiled
def _mark_rays(ends, sensor, corner, resolution, cells, floor, low, high, value, values):  # type: ignore[no-untyped-def]
    per_metre = 1.0 / resolution
    for end in ends:
        length = np.hypot(end[0] - sensor[0], end[1] - sensor[1])
        steps = max(np.int64(np.ceil(length / resolution * STEPS_PER_CELL)), np.int64(1))
        dx, dy, dz = (end[0] - sensor[0]) / steps, (end[1] - sensor[1]) / steps, (end[2] - sensor[2]) / steps
        for step in range(steps + 1):
            x = (sensor[0] + step * dx - corner[0]) * per_metre
            y = (sensor[1] + step * dy - corner[1]) * per_metre
            if 0 <= x < cells and 0 <= y < cells:
                column, row = np.int64(x), np.int64(y)
                if low <= sensor[2] + step * dz - floor[row, column] <= high:
                    values[row, column] = value
