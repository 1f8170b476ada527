"""Which points of a cloud are kept: finite ones, those within range, and completed ones within the scene's bounds.

All clouds are (N, 3) float32 metres in the sensor frame, on any device. Functions named `*_rows` return rows (n,) int64
in the order of the input.
"""

import torch
from torch import Tensor

from lidar_completion import crop_compiled
from lidar_completion.sparse import points_cpu


def finite_rows(points: Tensor) -> Tensor:
    """Rows of the points with three finite coordinates."""
    return torch.isfinite(points).all(dim=1).nonzero().squeeze(1)


def remove_invalid(points: Tensor) -> Tensor:
    """The points whose coordinates are all finite."""
    return points[finite_rows(points)]


def range_rows(points: Tensor, min_range_m: float, max_range_m: float) -> Tensor:
    """Rows of the points with min_range_m < distance from the sensor < max_range_m."""
    squared = points.square().sum(dim=1)
    return ((squared > min_range_m**2) & (squared < max_range_m**2)).nonzero().squeeze(1)


def crop_range(points: Tensor, min_range_m: float, max_range_m: float) -> Tensor:
    """The points with min_range_m < distance from the sensor < max_range_m."""
    return points[range_rows(points, min_range_m, max_range_m)]


def scene_rows(completed: Tensor, sweep: Tensor, max_range_m: float) -> Tensor:
    """Rows of the completed points (N, 3) inside the scene that the cropped sweep (M, 3) spans.

    These are finite, nearer than max_range_m, and between mean - 2 std and max of the sweep's heights (the rule of the
    published code).
    """
    lowest, highest = _heights(sweep)
    if points_cpu.usable(completed):
        return crop_compiled.scene_rows(completed, max_range_m, float(lowest), float(highest))
    return scene_rows_plain(completed, max_range_m, lowest, highest)


def scene_rows_plain(completed: Tensor, max_range_m: float, lowest: Tensor, highest: Tensor) -> Tensor:
    """The plain implementation, for any device; lowest and highest: limits of z."""
    z = completed[:, 2]
    inside = completed.square().sum(dim=1) < max_range_m**2
    return (inside & (z > lowest) & (z < highest)).nonzero().squeeze(1)


def _heights(sweep: Tensor) -> tuple[Tensor, Tensor]:
    """Mean - 2 std, and the maximum, of a sweep's heights."""
    height = sweep[:, 2]
    return height.mean() - 2.0 * height.std(correction=0), height.max()
