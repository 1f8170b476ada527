"""The crops of measured and completed points on CPUs, each in one pass. The plain implementations are in crop.py."""

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, equal_cuts, in_parallel
from lidar_completion.sparse.rows_cpu import rows_with

CHUNK = 256  # points that are worked on at once; they stay in the first-level cache
INFINITY = np.float32(np.inf)


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


def bounds_inside(points: Tensor, limits: np.ndarray | None) -> tuple[Tensor, Tensor]:
    """Smallest and largest coordinates (3,) of the points (N, 3) within the limits (None: of all); inf and -inf without any."""
    array, wanted = points.detach().contiguous().numpy(), np.zeros(0, np.float32) if limits is None else limits
    found = in_parallel(_bounds_inside, [(array, wanted, *share) for share in equal_cuts(len(array))])
    if not found:
        return torch.full((3,), torch.inf), torch.full((3,), -torch.inf)
    return torch.from_numpy(np.min(found, axis=0)[0]), torch.from_numpy(np.max(found, axis=0)[1])


@compiled
def _bounds_inside(points, limits, begin, end):  # type: ignore[no-untyped-def]
    xyz, inside = np.empty((3, CHUNK), np.float32), np.empty(CHUNK, np.bool_)
    low, high = np.full((3, CHUNK), INFINITY), np.full((3, CHUNK), -INFINITY)
    for first in range(begin, end, CHUNK):
        n = min(CHUNK, end - first)
        by_axis(points[first : first + n], limits, xyz, inside)
        for axis in range(3):
            widen(xyz[axis, :n], inside, low[axis], high[axis])
    bounds = np.empty((2, 3), np.float32)
    for axis in range(3):
        bounds[0, axis], bounds[1, axis] = low[axis].min(), high[axis].max()
    return bounds


@compiled
def by_axis(points, limits, xyz, inside):  # type: ignore[no-untyped-def]
    """The points (n, 3) by axis (3, n), and which of them are inside the limits (3,), or none; the others become zero."""
    n, zero = len(points), np.float32(0)
    x, y, z = xyz[0, :n], xyz[1, :n], xyz[2, :n]
    for i in range(n):
        x[i], y[i], z[i] = points[i, 0], points[i, 1], points[i, 2]
    if len(limits) == 0:
        inside[:] = True
        return
    squared_range, lowest, highest = limits[0], limits[1], limits[2]
    for i in range(n):
        within = (x[i] * x[i] + y[i] * y[i] + z[i] * z[i] < squared_range) & (z[i] > lowest) & (z[i] < highest)
        inside[i] = within
        x[i] = x[i] if within else zero
        y[i] = y[i] if within else zero
        z[i] = z[i] if within else zero


@compiled
def widen(values, inside, low, high):  # type: ignore[no-untyped-def]
    """Smallest and largest values of each place in a chunk, without those that are not inside, and without NaN."""
    for i in range(len(values)):
        value = values[i]
        low[i] = value if inside[i] & (value < low[i]) else low[i]
        high[i] = value if inside[i] & (value > high[i]) else high[i]
