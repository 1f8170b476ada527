"""Refined points on CPUs, in one pass. The plain implementation is in unet.moved_points."""

import torch
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, in_parallel
from lidar_completion.sparse.rows_cpu import shares_of


def add_offsets(points: Tensor, outputs: Tensor) -> Tensor:
    """(N, M, 3) points[:, None] + outputs[..., :3], for tensors (N, 3) and (N, M, 3 or more) float32."""
    out = torch.empty(*outputs.shape[:2], 3)
    arrays = [each.contiguous().numpy() for each in (points, outputs, out)]
    in_parallel(_add_offsets, [(*arrays, *share) for share in shares_of(len(points))])
    return out


@compiled
def _add_offsets(points, outputs, out, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        for k in range(outputs.shape[1]):
            for axis in range(3):
                out[i, k, axis] = points[i, axis] + outputs[i, k, axis]
