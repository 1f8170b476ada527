"""Voxel downsampling on CPUs, compiled. The plain implementation is downsample.voxel_rows_plain."""

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse import points_cpu
from lidar_completion.sparse.compiled import compiled
from lidar_completion.sparse.coordinates import BITS, voxel_keys


def voxel_rows(points: Tensor, voxel_size_m: float, tie: float) -> Tensor:
    """Rows (V,) int64 of the point nearest to each voxel's centroid, of points (N, 3), N > 0, on the CPU."""
    keys = voxel_keys(points, voxel_size_m)
    order = points_cpu.sorted_order(keys, BITS)
    order = keys.argsort(stable=True) if order is None else order
    rows = _nearest_to_centroids(points.detach().float().numpy(), keys.numpy(), order.numpy(), tie)
    return torch.from_numpy(rows)


@compiled
def _nearest_to_centroids(points, keys, order, tie):  # type: ignore[no-untyped-def]
    rows = np.empty(len(order), np.int64)
    count = first = 0
    while first < len(order):
        last = first
        x = y = z = 0.0
        while last < len(order) and keys[order[last]] == keys[order[first]]:
            x, y, z = x + points[order[last], 0], y + points[order[last], 1], z + points[order[last], 2]
            last += 1
        n = last - first
        x, y, z = x / n, y / n, z / n
        smallest = np.inf
        for i in range(first, last):
            p = points[order[i]]
            smallest = min(smallest, (p[0] - x) ** 2 + (p[1] - y) ** 2 + (p[2] - z) ** 2)
        limit, found = smallest * (1.0 + tie), False
        best = points[order[first]]
        for i in range(first, last):
            p = points[order[i]]
            near = (p[0] - x) ** 2 + (p[1] - y) ** 2 + (p[2] - z) ** 2 <= limit
            if near and (not found or (p[0], p[1], p[2]) < (best[0], best[1], best[2])):
                best, found, rows[count] = p, True, order[i]
        count += 1
        first = last
    return rows[:count].copy()
