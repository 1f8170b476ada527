"""Refined points on CPUs, in one pass. The plain implementation is in unet.moved_points."""

import torch
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, equal_cuts, in_parallel


def add_offsets(points: Tensor, offsets: Tensor) -> Tensor:
    """(N, M, 3) points (N, 3) plus offsets (N, M, 3), float32."""
    out = torch.empty(offsets.shape)
    arrays = [each.contiguous().numpy() for each in (points, offsets, out)]
    in_parallel(_add_offsets, [(*arrays, *share) for share in equal_cuts(len(points))])
    return out


@compiled
def _add_offsets(points, offsets, out, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        for k in range(offsets.shape[1]):
            for axis in range(3):
                out[i, k, axis] = points[i, axis] + offsets[i, k, axis]
