"""The crops of measured and completed points on CPUs, each in one pass. The plain implementations are in crop.py."""

import numpy as np
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, equal_cuts, in_parallel
from lidar_completion.sparse.rows_cpu import rows_with


def finite_rows(points: Tensor) -> Tensor:
    """Rows (n,) int64 of the points (N, 3) with three finite coordinates."""
    array, finite = points.detach().contiguous().numpy(), np.empty(len(points), np.uint8)
    in_parallel(_mark_finite, [(array, finite, *share) for share in equal_cuts(len(array))])
    return rows_with(1, finite)


@compiled
def _mark_finite(points, finite, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        finite[i] = (x - x == 0) & (y - y == 0) & (z - z == 0)  # infinity - infinity is NaN


def range_rows(points: Tensor, min_range_m: float, max_range_m: float) -> Tensor:
    """Rows (n,) int64 of the points (N, 3) with min_range_m < distance < max_range_m."""
    array, inside = points.detach().contiguous().numpy(), np.empty(len(points), np.uint8)
    limits = np.float32(min_range_m**2), np.float32(max_range_m**2)
    in_parallel(_mark_between, [(array, *limits, inside, *share) for share in equal_cuts(len(array))])
    return rows_with(1, inside)


@compiled
def _mark_between(points, low, high, inside, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        squared = x * x + y * y + z * z
        inside[i] = (squared > low) & (squared < high)


def scene_rows(points: Tensor, limits: np.ndarray) -> Tensor:
    """Rows (n,) int64 of points (N, 3) within the limits (3,): squared range, lowest and highest z."""
    array, inside = points.detach().contiguous().numpy(), np.empty(len(points), np.uint8)
    in_parallel(_mark_inside, [(array, limits, inside, *share) for share in equal_cuts(len(array))])
    return rows_with(1, inside)


@compiled
def _mark_inside(points, limits, inside, first, last):  # type: ignore[no-untyped-def]
    squared_range, lowest, highest = limits[0], limits[1], limits[2]
    for i in range(first, last):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        inside[i] = (x * x + y * y + z * z < squared_range) & (z > lowest) & (z < highest)
