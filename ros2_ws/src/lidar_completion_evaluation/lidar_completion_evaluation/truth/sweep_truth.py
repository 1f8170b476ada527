"""Compiled loops of rules.py: the truth of one sweep (plain implementation: rules.truth_for_sweep_plain) and the range of points."""

import numpy as np

from lidar_completion.sparse.compiled import compiled

CELL_BITS = 21
CELL_OFFSET = 1 << (CELL_BITS - 1)  # makes the indices of cells positive


@compiled
def sweep_truth(  # type: ignore[no-untyped-def]
    points_map, T_sensor_map, max_range_m, min_z_m, max_z_m, edge_m, start, cells
):  # pragma: no cover (compiled)
    """The points (K, 3) float32, sensor frame, of the map (M, 3) float64 that lie within the limits and in one of the cells.

    start (3,), cells: start of the grid of view cells of edge_m, and the sorted keys of its cells; edge_m 0: no restriction.
    """
    kept = np.empty((len(points_map), 3), np.float32)
    count, last_key, last_is_cell = 0, -1, False  # neighbouring points mostly share a cell
    place = np.empty(3)
    for row in range(len(points_map)):
        for axis in range(3):
            place[axis] = T_sensor_map[axis, 3]
            for i in range(3):
                place[axis] += T_sensor_map[axis, i] * points_map[row, i]
        x, y, z = place
        if not (np.sqrt(x * x + y * y + z * z) < max_range_m and min_z_m < z < max_z_m):
            continue
        if edge_m > 0:
            key = 0
            for axis in range(3):
                key = key << CELL_BITS | int(np.floor((place[axis] - start[axis]) / edge_m)) + CELL_OFFSET
            if key != last_key:
                found = np.searchsorted(cells, key)
                last_key, last_is_cell = key, bool(found < len(cells) and cells[found] == key)
            if not last_is_cell:
                continue
        kept[count, 0], kept[count, 1], kept[count, 2] = x, y, z
        count += 1
    return kept[:count].copy()


@compiled
def range_mask(points, min_range_m, max_range_m):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    """Which points (N, 3) are finite and between the two ranges, (N,) bool."""
    inside = np.empty(len(points), np.bool_)
    for row in range(len(points)):
        x, y, z = points[row, 0], points[row, 1], points[row, 2]
        inside[row] = min_range_m < np.sqrt(x * x + y * y + z * z) < max_range_m  # False for NaN and infinity
    return inside
