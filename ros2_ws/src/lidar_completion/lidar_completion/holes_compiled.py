"""Distances in a grid on CPUs, compiled. The plain implementation is holes.distance_plain."""

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse.compiled import compiled

FAR = np.int64(1) << 30  # more than any squared distance in cells


def distance_to(occupied: Tensor) -> Tensor:
    """As holes.distance_plain, on the CPU."""
    squared = _squared_distance(np.ascontiguousarray(occupied.numpy()))
    return torch.from_numpy(np.sqrt(squared.astype(np.float64)).astype(np.float32))


@compiled
def _squared_distance(occupied):  # type: ignore[no-untyped-def]
    """The squared distance of each cell (X, Y) int64: first along y, then the smallest sum along x; FAR if nothing is occupied."""
    across, along = occupied.shape
    own, best = np.full((across, along), FAR), np.full((across, along), FAR)
    for x in range(across):
        for direction in (1, -1):
            last = -1
            for step in range(along):
                y = step if direction == 1 else along - 1 - step
                last = y if occupied[x, y] else last
                if last >= 0:
                    own[x, y] = min(own[x, y], (y - last) * (y - last))
    for x in range(across):
        for other in range(across):
            apart = (x - other) * (x - other)
            for y in range(along):
                best[x, y] = min(best[x, y], own[other, y] + apart)
    return best
