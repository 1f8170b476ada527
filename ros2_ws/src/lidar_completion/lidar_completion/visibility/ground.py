"""Completed points below the ground. The compiled loops for CPUs are in ground_compiled.py."""

import torch
from torch import Tensor
from torch.nn import functional

from lidar_completion.neighbours_compiled import Box
from lidar_completion.sparse import points_cpu
from lidar_completion.visibility import ground_compiled

GROUND_CELL_M = 2.0
# Lowest height around each cell (X, Y) in metres, inf if unknown; x and y (2,) of the grid's corner.
Floor = tuple[Tensor, Tensor]


def below_ground(points: Tensor, measured: Tensor, tolerance_m: float, box: Box | None = None) -> Tensor:
    """Which completed points (N, 3) lie more than tolerance_m below the lowest measured point around them, (N,) bool.

    "Around" means in the same 2 m cell or its eight neighbours, so that points on slopes and kerbs are kept. Points with no
    measured point around them are never below ground. box: smallest and largest coordinates (3,) that the points can have;
    default: those that they have. The grid of cells begins at the lowest coordinates of the measured points in and around it.
    """
    if not len(points):
        return torch.zeros_like(points[:, 0], dtype=torch.bool)
    compiled = points_cpu.usable(points, measured)
    if box is None:
        box = points_cpu.bounds(points) if compiled else (points.amin(0), points.amax(0))
    floor = floor_compiled(box, measured) if compiled else floor_plain(box, measured)
    if floor is None:
        return torch.zeros_like(points[:, 0], dtype=torch.bool)
    if compiled:
        return ground_compiled.below_floor(points, *floor, GROUND_CELL_M, tolerance_m)
    return below_floor_plain(points, *floor, tolerance_m)


def floor_plain(box: Box, measured: Tensor) -> Floor | None:
    """The plain implementation, for any device: the floor from measured (M, 3) around the box of the completed points.

    None if nothing was measured there.
    """
    # Only returns around the completed points: a stray return at 1e5 m would make a grid of gigabytes.
    low, high = box[0][:2] - 2 * GROUND_CELL_M, box[1][:2] + 2 * GROUND_CELL_M
    measured = measured[((measured[:, :2] >= low) & (measured[:, :2] <= high)).all(dim=1)]
    if not len(measured):
        return None
    corner = measured[:, :2].amin(0) - GROUND_CELL_M
    cell = ((measured[:, :2] - corner) / GROUND_CELL_M).long()
    width, height = (cell.amax(0) + 2).tolist()
    lowest = torch.full((width * height,), torch.inf, device=measured.device)
    lowest.scatter_reduce_(0, cell[:, 0] * height + cell[:, 1], measured[:, 2].float(), "amin")
    return _lowest_around(lowest.view(width, height)), corner


def floor_compiled(box: Box, measured: Tensor) -> Floor | None:
    """As floor_plain, on the CPU."""
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
