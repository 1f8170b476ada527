"""The most confident point of each voxel on CPUs, compiled. The plain implementation is output_voxels.most_confident_plain."""

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse.compiled import compiled


def most_confident(voxel: Tensor, confidence: Tensor, count: int) -> Tensor:
    """As output_voxels.most_confident_plain, on the CPU."""
    return torch.from_numpy(_most_confident(voxel.numpy(), confidence.detach().numpy(), count))


@compiled
def _most_confident(voxel, confidence, count):  # type: ignore[no-untyped-def]
    best, highest = np.full(count, -1, np.int64), np.empty(count, np.float32)
    for i in range(len(voxel)):
        v = voxel[i]
        if best[v] < 0 or confidence[i] > highest[v]:
            best[v], highest[v] = i, confidence[i]
    rows, kept = np.empty(count, np.int64), 0
    for i in range(len(voxel)):  # in the order of the points, without sorting
        if best[voxel[i]] == i:
            rows[kept] = i
            kept += 1
    return rows
