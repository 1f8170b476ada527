"""Completed points below the ground. The compiled loops for CPUs are in ground_compiled.py."""

import torch
from torch import Tensor
from torch.nn import functional

from lidar_completion.sparse import points_cpu
from lidar_completion.visibility import ground_compiled

GROUND_CELL_M = 2.0
# Lowest height around each cell (X, Y) in metres, inf if unknown; x and y (2,) of the grid's corner.
Floor = tuple[Tensor, Tensor]


def below_ground(points: Tensor, measured: Tensor, tolerance_m: float) -> Tensor:
    """Which completed points (N, 3) lie more than tolerance_m below the lowest measured point around them, (N,) bool.

    "Around" means in the same 2 m cell or its eight neighbours, so that points on slopes and kerbs are kept. Points with no
    measured point around them are never below ground.
    """
    compiled = points_cpu.usable(points, measured)
    floor = floor_compiled(points_cpu.bounds(points), measured) if compiled else floor_plain(points, measured)
    if floor is None:
        return torch.zeros_like(points[:, 0], dtype=torch.bool)
    if compiled:
        return ground_compiled.below_floor(points, *floor, GROUND_CELL_M, tolerance_m)
    return below_floor_plain(points, *floor, tolerance_m)


def floor_plain(points: Tensor, measured: Tensor) -> Floor | None:
    """The plain implementation, for any device: the floor from measured (M, 3) around completed points (N, 3).

    None if nothing was measured around the completed points.
    """
    if not len(points) or not len(measured):
        return None
    # Only returns around the completed points: a stray return at 1e5 m would make a grid of gigabytes.
    low, high = points[:, :2].amin(0) - 2 * GROUND_CELL_M, points[:, :2].amax(0) + 2 * GROUND_CELL_M
    measured = measured[((measured[:, :2] >= low) & (measured[:, :2] <= high)).all(dim=1)]
    if not len(measured):
        return None
    corner = measured[:, :2].amin(0) - GROUND_CELL_M
    cell = ((measured[:, :2] - corner) / GROUND_CELL_M).long()
    width, height = (cell.amax(0) + 2).tolist()
    lowest = torch.full((width * height,), torch.inf, device=points.device)
    lowest.scatter_reduce_(0, cell[:, 0] * height + cell[:, 1], measured[:, 2].float(), "amin")
    return _lowest_around(lowest.view(width, height)), corner


def floor_compiled(box: tuple[Tensor, Tensor], measured: Tensor) -> Floor | None:
    """As floor_plain, on the CPU; box: smallest and largest coordinates (3,) of the completed points."""
    if not len(measured):
        return None
    found = ground_compiled.lowest_returns(box, measured, GROUND_CELL_M)
    return None if found is None else (_lowest_around(found[0]), found[1])


def _lowest_around(lowest: Tensor) -> Tensor:
    return -functional.max_pool2d(-lowest[None, None], 3, stride=1, padding=1)[0, 0]


def below_floor_plain(points: Tensor, floor: Tensor, corner: Tensor, tolerance_m: float) -> Tensor:
    """The plain implementation, for any device: which points (N, 3) lie below the floor of their cell, (N,) bool."""
    width, height = floor.shape
    cell = ((points[:, :2] - corner) / GROUND_CELL_M).floor().long()
    inside = ((cell >= 0) & (cell < torch.tensor([width, height], device=points.device))).all(dim=1)
    here = floor[cell[:, 0].clamp(0, width - 1), cell[:, 1].clamp(0, height - 1)]
    return inside & torch.isfinite(here) & (points[:, 2] < here - tolerance_m)
