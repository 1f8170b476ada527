"""Voxel downsampling on CPUs, compiled. The plain implementation is downsample.voxel_rows_plain."""

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse import points_cpu
from lidar_completion.sparse.compiled import compiled, equal_cuts, in_parallel
from lidar_completion.sparse.coordinates import BITS, voxel_keys


def voxel_rows(points: Tensor, voxel_size_m: float, tie: float) -> Tensor:
    """Rows (V,) int64 of the point nearest to each voxel's centroid, of points (N, 3), N > 0, on the CPU."""
    keys = voxel_keys(points, voxel_size_m)
    order = points_cpu.sorted_order(keys, BITS)
    order = keys.argsort(stable=True) if order is None else order
    arrays = points.detach().float().contiguous().numpy(), keys.numpy(), order.numpy()
    found = in_parallel(_nearest_to_centroids, [(*arrays, tie, *share) for share in equal_cuts(len(order))])
    return torch.from_numpy(np.concatenate(found))


@compiled
def _nearest_to_centroids(points, keys, order, tie, begin, end):  # type: ignore[no-untyped-def]
    """The rows of the voxels whose first point in the order is one of begin ... end - 1."""
    rows, count, first = np.empty(end - begin, np.int64), 0, begin
    while 0 < first < end and keys[order[first]] == keys[order[first - 1]]:
        first += 1  # the voxel began in the range before
    while first < end:
        key, last = keys[order[first]], first
        x = y = z = 0.0
        while last < len(order) and keys[order[last]] == key:
            row = order[last]
            x, y, z = x + points[row, 0], y + points[row, 1], z + points[row, 2]
            last += 1
        n = last - first
        rows[count] = order[first] if n == 1 else _nearest_to(x / n, y / n, z / n, points, order[first:last], tie)
        count += 1
        first = last
    return rows[:count].copy()


@compiled
def _nearest_to(x, y, z, points, rows, tie):  # type: ignore[no-untyped-def]
    """The row of the point nearest to (x, y, z); on ties the lexicographically smallest point."""
    smallest = np.inf
    for row in rows:
        smallest = min(smallest, (points[row, 0] - x) ** 2 + (points[row, 1] - y) ** 2 + (points[row, 2] - z) ** 2)
    limit, best = smallest * (1.0 + tie), np.int64(-1)
    for row in rows:
        a, b, c = points[row, 0], points[row, 1], points[row, 2]
        if (a - x) ** 2 + (b - y) ** 2 + (c - z) ** 2 <= limit and (
            best < 0 or (a, b, c) < (points[best, 0], points[best, 1], points[best, 2])
        ):
            best = row
    return best
