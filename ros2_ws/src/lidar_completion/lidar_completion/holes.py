"""Holes of a scan: cells of a horizontal grid without a return, such as the blind disc around the sensor and shadows.

About a fifth of the ground truth lies there, out of reach of start points that are copies of the scan. A hole therefore gets
start points of its own, on the estimated ground and, if the model card asks for more levels, above it; the network moves them or
gives them a low confidence. Not in the paper.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from lidar_completion import holes_compiled
from lidar_completion.visibility import ClearSpace

SECTORS = 360  # of azimuth; most holes lie before the farthest return of their sector
LEVEL_M = 1.2  # height of a start point above the one below it
MAX_DISTANCE_M = 8.0  # of a hole from the nearest cell with a return; farther away, the ground is too uncertain
MIN_DISTANCE_M = 0.5  # of a hole from the nearest cell with a return; copies of scan points reach nearer cells
GROUND_CELL_M = 2.0  # the lowest return in a cell of this width and its neighbours is taken as ground
GROUND_NEIGHBOURS = 1  # cells to each side; beside a roof or wall there is usually a lower return
SMOOTHING = 5  # width in cells of the mean filter that fills cells without returns
SMOOTHING_PASSES = 4  # the ground extends to SMOOTHING_PASSES * (SMOOTHING // 2) cells from a return


def hole_columns(
    scan: Tensor, max_range_m: float, cell_m: float, levels: int, beyond_m: float, clear_space: ClearSpace | None
) -> Tensor:
    """hole_points (H, 3), then, of the points up to `levels` - 1 times LEVEL_M higher, those that a return hides; metres."""
    ground = hole_points(scan, max_range_m, cell_m, beyond_m=beyond_m)
    heights = LEVEL_M * torch.arange(1, levels, device=ground.device)
    above = ground.repeat(levels - 1, 1)
    above[:, 2] += heights.repeat_interleave(len(ground))
    if clear_space is not None:
        above = above[clear_space.hides(above)]
    return torch.cat([ground, above])


def hole_points(
    scan: Tensor,
    max_range_m: float,
    cell_m: float = 0.8,
    max_distance_m: float = MAX_DISTANCE_M,
    beyond_m: float = 0.0,
) -> Tensor:
    """One point (H, 3) on the ground at the centre of each hole of a scan (S, 3), S > 0; metres.

    A hole is a cell without a return, at least MIN_DISTANCE_M and at most max_distance_m from the nearest cell with a return;
    behind the farthest return of its sector, at most beyond_m. Sorted by cell; independent of the order of the scan.
    """
    x, y = _cell_centres(max_range_m, cell_m, scan.device)
    occupied = torch.zeros(x.shape, dtype=torch.bool, device=scan.device)
    occupied[_cells(scan, max_range_m, cell_m, len(x))] = True
    distance = _distance_to(occupied) * cell_m
    range_m, farthest = torch.hypot(x, y), _farthest_return(scan)[_sector(x, y)]
    in_reach = torch.where(range_m < farthest, max_distance_m, beyond_m)
    hole = ~occupied & (range_m < max_range_m) & (distance > MIN_DISTANCE_M) & (distance <= in_reach)
    cells = hole.nonzero(as_tuple=True)
    return torch.stack([x[cells], y[cells], _ground_height(scan, max_range_m, len(x))[cells]], dim=1)


def _cell_centres(max_range_m: float, cell_m: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """x and y (G, G) of the cells' centres; the grid is symmetric around the sensor."""
    half = math.ceil(max_range_m / cell_m)
    centre = (torch.arange(2 * half, device=device) - half + 0.5) * cell_m
    x, y = torch.meshgrid(centre, centre, indexing="ij")
    return x, y


def _cells(points: Tensor, max_range_m: float, cell_m: float, size: int) -> tuple[Tensor, Tensor]:
    """Row and column (N,) of points' cells in a grid of (size, size)."""
    corner = -math.ceil(max_range_m / cell_m) * cell_m
    cell = ((points[:, :2] - corner) / cell_m).long().clamp_(0, size - 1)
    return cell[:, 0], cell[:, 1]


def _sector(x: Tensor, y: Tensor) -> Tensor:
    return ((torch.atan2(y, x) + math.pi) * (SECTORS / (2 * math.pi))).long().clamp_(0, SECTORS - 1)


def _farthest_return(points: Tensor) -> Tensor:
    """The largest horizontal range (SECTORS,) in each sector; 0 without a return."""
    x, y = points[:, 0], points[:, 1]
    return points.new_zeros(SECTORS).scatter_reduce_(0, _sector(x, y), torch.hypot(x, y), "amax")


def _distance_to(occupied: Tensor) -> Tensor:
    """Distance (G, G) float32, in cells, from each cell to the nearest occupied one; occupied (G, G) bool."""
    return holes_compiled.distance_to(occupied.cpu()).to(occupied.device)


def distance_plain(occupied: Tensor) -> Tensor:
    """The plain implementation of _distance_to, over all pairs of cells; occupied (X, Y) bool with at least one occupied cell."""
    cells = torch.ones_like(occupied).nonzero().double()
    return torch.cdist(cells, occupied.nonzero().double()).amin(1).float().view(occupied.shape)


def _ground_height(points: Tensor, max_range_m: float, size: int) -> Tensor:
    """Height (size, size) of the ground: the lowest returns around each cell, extrapolated to cells without returns."""
    half = math.ceil(max_range_m / GROUND_CELL_M)
    row, column = _cells(points, max_range_m, GROUND_CELL_M, 2 * half)
    lowest = points.new_full((4 * half * half,), torch.inf)
    lowest.scatter_reduce_(0, row * 2 * half + column, points[:, 2], "amin")
    width = 2 * GROUND_NEIGHBOURS + 1
    lowest = -functional.max_pool2d(-lowest.view(1, 1, 2 * half, 2 * half), width, stride=1, padding=GROUND_NEIGHBOURS)
    known = torch.isfinite(lowest)
    smooth = _smoothed(torch.where(known, lowest, 0.0), known.to(points.dtype), points[:, 2].amin())
    return functional.interpolate(smooth, size=(size, size), mode="bilinear", align_corners=False)[0, 0]


def _smoothed(height: Tensor, weight: Tensor, default: Tensor) -> Tensor:
    """Mean of the known heights around each cell, (1, 1, G, G); where there are none, a wider mean, or else `default`."""
    total = height * weight
    smooth = torch.zeros_like(height)
    done = torch.zeros_like(weight, dtype=torch.bool)
    for _ in range(SMOOTHING_PASSES):
        total, weight = _mean(total), _mean(weight)
        reached = (weight > 1e-6) & ~done
        smooth = torch.where(reached, total / weight.clamp(min=1e-12), smooth)
        done |= reached
    return torch.where(done, smooth, default)


def _mean(grid: Tensor) -> Tensor:
    return functional.avg_pool2d(grid, SMOOTHING, stride=1, padding=SMOOTHING // 2)
