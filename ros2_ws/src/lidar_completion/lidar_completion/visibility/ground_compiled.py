"""Loops of the ground filter on CPUs, compiled. The plain implementations are in ground.py."""

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, equal_cuts, in_parallel


def lowest_returns(box: tuple[Tensor, Tensor], measured: Tensor, cell_m: float) -> tuple[Tensor, Tensor] | None:
    """The lowest return (X, Y) in each cell, inf if there is none, and the grid's corner (2,); None without returns.

    Only returns of measured (M, 3) near the box around the completed points count; its corners are (3,).
    """
    returns, margin, cell = measured.contiguous().numpy(), np.float32(2 * cell_m), np.float32(cell_m)
    low, high = (each[:2].numpy() for each in box)
    found = in_parallel(
        _bounds_within, [(returns, low - margin, high + margin, *each) for each in equal_cuts(len(returns))]
    )
    first, last = np.min([each[0] for each in found], axis=0), np.max([each[1] for each in found], axis=0)
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
    in_parallel(_below_floor, [(*arrays, *settings, out, *share) for share in equal_cuts(len(points))])
    return torch.from_numpy(out)


@compiled
def _bounds_within(points, low, high, begin, end):  # type: ignore[no-untyped-def]
    """Smallest and largest x and y of the points between the corners `low` and `high`."""
    infinity = np.float32(np.inf)
    first, last = np.full(2, infinity), np.full(2, -infinity)
    for i in range(begin, end):
        x, y = points[i, 0], points[i, 1]
        inside = (low[0] <= x) & (x <= high[0]) & (low[1] <= y) & (y <= high[1])
        first[0], last[0] = min(first[0], x if inside else infinity), max(last[0], x if inside else -infinity)
        first[1], last[1] = min(first[1], y if inside else infinity), max(last[1], y if inside else -infinity)
    return first, last


@compiled
def _lowest_returns(points, low, high, corner, cell, lowest):  # type: ignore[no-untyped-def]
    for i in range(len(points)):
        x, y = points[i, 0], points[i, 1]
        if (low[0] <= x) & (x <= high[0]) & (low[1] <= y) & (y <= high[1]):
            column, row = np.int32((x - corner[0]) / cell), np.int32((y - corner[1]) / cell)
            lowest[column, row] = min(lowest[column, row], points[i, 2])


@compiled
def _below_floor(points, floor, corner, cell, tolerance, out, first, last):  # type: ignore[no-untyped-def]
    width, height = floor.shape
    for i in range(first, last):
        x, y = np.floor((points[i, 0] - corner[0]) / cell), np.floor((points[i, 1] - corner[1]) / cell)
        out[i] = False
        if 0 <= x < width and 0 <= y < height:
            here = floor[np.int64(x), np.int64(y)]
            out[i] = np.isfinite(here) and points[i, 2] < here - tolerance
