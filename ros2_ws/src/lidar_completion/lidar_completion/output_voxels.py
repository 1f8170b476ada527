"""Thinning of the output: one completed point per voxel, the most confident one. The compiled loop is in output_voxels_compiled.py."""

import torch
from torch import Tensor

from lidar_completion import output_voxels_compiled
from lidar_completion.sparse import points_cpu
from lidar_completion.sparse.coordinates import voxelise


def thinned_to_voxels(points: Tensor, confidence: Tensor, rows: Tensor, voxel_size_m: float) -> tuple[Tensor, int]:
    """Those of `rows` (K,) int64, rising, whose point is the most confident of its voxel, and the number of removed rows.

    points (C, 3) metres, confidence (C,). On ties the first row is kept. A voxel size of 0 keeps all rows.
    """
    if not voxel_size_m or not len(rows):
        return rows, 0
    voxels, voxel = voxelise(points.index_select(0, rows), voxel_size_m)
    confidence = confidence.index_select(0, rows)
    choose = output_voxels_compiled.most_confident if points_cpu.usable(confidence) else most_confident_plain
    kept = rows[choose(voxel, confidence, len(voxels))]
    return kept, len(rows) - len(kept)


def most_confident_plain(voxel: Tensor, confidence: Tensor, count: int) -> Tensor:
    """The plain implementation, for any device: of points in voxels (K,), the most confident of each, (count,) int64 rising."""
    order = confidence.argsort(descending=True, stable=True)
    order = order[voxel[order].argsort(stable=True)]  # by voxel, the most confident point first
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = voxel[order[1:]] != voxel[order[:-1]]
    return order[first].sort().values
