"""The plain implementation of the loops over points and rays; loops_compiled.py gives the same values."""

import numpy as np

STEPS_PER_CELL = 2  # samples of a ray per cell


def third_lowest(points: np.ndarray, corner: np.ndarray, cell_m: float, count: int) -> np.ndarray:
    """The third-lowest z of the points (N, 3) in each cell (count, count) float64, [along y, along x]; inf with fewer."""
    cell, inside = _cells(points.astype(np.float64), corner, cell_m, count)
    z = points[inside, 2].astype(np.float64)
    order = np.lexsort((z, cell))
    cell, z = cell[order], z[order]
    third = np.flatnonzero(cell[2:] == cell[:-2]) + 2  # the third of each cell, and all after it
    heights = np.full(count * count, np.inf)
    np.minimum.at(heights, cell[third], z[third])
    return heights.reshape(count, count)


def mark_points(points, geometry, heights, value, values):  # type: ignore[no-untyped-def]
    """Set `value` in the cells of `values` that hold a point (N, 3) at heights (lowest, highest) above the floor."""
    points = points.astype(np.float64)
    cell, inside = _cells(points, geometry.corner, geometry.resolution, geometry.cells)
    height = points[inside, 2] - geometry.floor.reshape(-1)[cell]
    values.reshape(-1)[cell[(height >= heights[0]) & (height <= heights[1])]] = value


def lowest_ends(points, sensor, geometry):  # type: ignore[no-untyped-def]
    """The end (R, 3) of one ray per cell: the lowest of the points (N, 3) in it. Longer rays end at the edge of the grid."""
    ends = _clipped(points.astype(np.float64), sensor, geometry)
    cell, inside = _cells(ends, geometry.corner, geometry.resolution, geometry.cells)
    rows = np.flatnonzero(inside)
    order = np.lexsort((ends[rows, 2], cell))
    cell, rows = cell[order], rows[order]
    first = np.ones(len(cell), np.bool_)
    first[1:] = cell[1:] != cell[:-1]
    return ends[rows[first]]


def mark_rays(ends, sensor, geometry, heights, value, values):  # type: ignore[no-untyped-def]
    """Set `value` in the cells that rays from the sensor to the ends (R, 3) cross at heights (lowest, highest)."""
    length = np.hypot(ends[:, 0] - sensor[0], ends[:, 1] - sensor[1])
    steps = np.maximum(np.ceil(length / geometry.resolution * STEPS_PER_CELL).astype(np.int64), 1)
    ray = np.repeat(np.arange(len(ends)), steps + 1)
    step = np.arange(len(ray)) - np.repeat(np.cumsum(steps + 1) - (steps + 1), steps + 1)
    stride = (ends - sensor) / steps[:, None]
    mark_points(sensor + step[:, None] * stride[ray], geometry, heights, value, values)


def _clipped(points, sensor, geometry):  # type: ignore[no-untyped-def]
    """Points (N, 3) moved towards the sensor until they lie in the grid."""
    inner = geometry.resolution * 1e-6  # not on the edge, which belongs to the next cell
    low, high = geometry.corner + inner, geometry.corner + geometry.resolution * geometry.cells - inner
    way = points - sensor
    share = np.ones(len(points))
    for axis in range(2):
        limit = np.where(way[:, axis] > 0, high[axis] - sensor[axis], low[axis] - sensor[axis])
        outside = np.abs(way[:, axis]) > np.abs(limit)
        share[outside] = np.minimum(share[outside], limit[outside] / way[outside, axis])
    return sensor + share[:, None] * way


def _cells(points, corner, cell_m, count):  # type: ignore[no-untyped-def]
    """Index of the cell of each point that lies in the grid, and which points (N,) bool do."""
    x, y = (np.floor((points[:, axis] - corner[axis]) * (1.0 / cell_m)) for axis in range(2))
    inside = (x >= 0) & (x < count) & (y >= 0) & (y < count)
    return y[inside].astype(np.int64) * count + x[inside].astype(np.int64), inside
