"""Loops of the ground filter on CPUs, compiled. The plain implementations are in ground.py."""

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, even_cuts, in_parallel


def lowest_returns(box: tuple[Tensor, Tensor], measured: Tensor, cell_m: float) -> tuple[Tensor, Tensor] | None:
    """The lowest return (X, Y) in each cell, inf if there is none, and the grid's corner (2,); None without returns.

    Only returns of measured (M, 3) near the box around the completed points count; its corners are (3,).
    """
    returns, margin, cell = measured.contiguous().numpy(), np.float32(2 * cell_m), np.float32(cell_m)
    low, high = (each[:2].numpy() for each in box)
    first, last = _bounds_within(returns, low - margin, high + margin)
    if first[0] > last[0]:
        return None
    corner = first - cell
    width, height = (((last - corner) / cell).astype(np.int64) + 2).tolist()
    lowest = torch.full((width, height), torch.inf)
    _lowest_returns(returns, low - margin, high + margin, corner, cell, lowest.numpy())
    return lowest, torch.from_numpy(corner)


def below_floor(points: Tensor, floor: Tensor, corner: Tensor, cell_m: float, tolerance_m: float) -> Tensor:
    """As ground.below_floor_plain, (N,) bool."""
    out = np.empty(len(points), np.bool_)
    arrays = [each.contiguous().numpy() for each in (points, floor, corner)]
    settings = (np.float32(cell_m), np.float32(tolerance_m))
    in_parallel(_below_floor, [(*arrays, *settings, out, *share) for share in even_cuts(np.arange(len(points) + 1))])
    return torch.from_numpy(out)


@compiled
def _bounds_within(points, low, high):  # type: ignore[no-untyped-def]
    """Smallest and largest x and y of the points between the corners `low` and `high`."""
    first, last = np.full(2, np.float32(np.inf)), np.full(2, np.float32(-np.inf))
    for p in points:
        if low[0] <= p[0] <= high[0] and low[1] <= p[1] <= high[1]:
            for axis in range(2):
                first[axis], last[axis] = min(first[axis], p[axis]), max(last[axis], p[axis])
    return first, last


@compiled
def _lowest_returns(points, low, high, corner, cell, lowest):  # type: ignore[no-untyped-def]
    for p in points:
        if low[0] <= p[0] <= high[0] and low[1] <= p[1] <= high[1]:
            x, y = np.int64((p[0] - corner[0]) / cell), np.int64((p[1] - corner[1]) / cell)
            lowest[x, y] = min(lowest[x, y], p[2])


@compiled
def _below_floor(points, floor, corner, cell, tolerance, out, first, last):  # type: ignore[no-untyped-def]
    width, height = floor.shape
    for i in range(first, last):
        x, y = np.floor((points[i, 0] - corner[0]) / cell), np.floor((points[i, 1] - corner[1]) / cell)
        out[i] = False
        if 0 <= x < width and 0 <= y < height:
            here = floor[np.int64(x), np.int64(y)]
            out[i] = np.isfinite(here) and points[i, 2] < here - tolerance
