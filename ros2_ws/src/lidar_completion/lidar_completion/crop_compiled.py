"""The crop of completed points on CPUs, in one pass. The plain implementation is crop.scene_rows_plain."""

import numpy as np
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, in_parallel
from lidar_completion.sparse.rows_cpu import rows_with, shares_of


def scene_rows(points: Tensor, max_range_m: float, lowest: float, highest: float) -> Tensor:
    """Rows (n,) int64 of points (N, 3) nearer than max_range_m with lowest < z < highest."""
    array, inside = points.detach().contiguous().numpy(), np.empty(len(points), np.uint8)
    limits = (np.float32(max_range_m**2), np.float32(lowest), np.float32(highest))
    in_parallel(_mark_inside, [(array, *limits, inside, *share) for share in shares_of(len(array))])
    return rows_with(1, inside)


@compiled
def _mark_inside(points, squared_range, lowest, highest, inside, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        inside[i] = (x * x + y * y + z * z < squared_range) & (z > lowest) & (z < highest)
