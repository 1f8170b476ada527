"""Which points of a cloud are kept: finite ones, those within range, and completed ones within the scene's bounds.

All clouds are (N, 3) float32 metres in the sensor frame, on any device. Functions named `*_rows` return rows (n,) int64
in the order of the input.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lidar_completion import crop_compiled
from lidar_completion.sparse import points_cpu


def finite_rows(points: Tensor) -> Tensor:
    """Rows of the points with three finite coordinates."""
    return crop_compiled.finite_rows(points) if points_cpu.usable(points) else finite_rows_plain(points)


def finite_rows_plain(points: Tensor) -> Tensor:
    """The plain implementation, for any device."""
    return torch.isfinite(points).all(dim=1).nonzero().squeeze(1)


def remove_invalid(points: Tensor) -> Tensor:
    """The points whose coordinates are all finite."""
    return points.index_select(0, finite_rows(points))


def range_rows(points: Tensor, min_range_m: float, max_range_m: float) -> Tensor:
    """Rows of the points with min_range_m < distance from the sensor < max_range_m."""
    rows = crop_compiled.range_rows if points_cpu.usable(points) else range_rows_plain
    return rows(points, min_range_m, max_range_m)


def range_rows_plain(points: Tensor, min_range_m: float, max_range_m: float) -> Tensor:
    """The plain implementation, for any device."""
    squared = points.square().sum(dim=1)
    return ((squared > min_range_m**2) & (squared < max_range_m**2)).nonzero().squeeze(1)


def crop_range(points: Tensor, min_range_m: float, max_range_m: float) -> Tensor:
    """The points with min_range_m < distance from the sensor < max_range_m."""
    return points.index_select(0, range_rows(points, min_range_m, max_range_m))


class SceneLimits(NamedTuple):
    """The scene that a cropped sweep spans: finite points nearer than max_range_m, between two heights (metres, exclusive)."""

    max_range_m: float
    lowest: Tensor
    highest: Tensor

    @classmethod
    def of(cls, sweep: Tensor, max_range_m: float, floor: str = "published") -> "SceneLimits":
        """Between floor and highest point of the sweep (M, 3).

        floor: "published" is mean - 2 std of the heights, which removes the lower part of the ground if the sensor is tilted;
        "measured" is the lowest point.
        """
        height = sweep[:, 2]
        lowest = height.min() if floor == "measured" else height.mean() - 2.0 * height.std(correction=0)
        return cls(max_range_m, lowest, height.max())

    def box(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest coordinates (3,) that a point within the limits can have."""
        far = torch.full((2,), self.max_range_m, dtype=self.lowest.dtype, device=self.lowest.device)
        return torch.cat([-far, self.lowest[None]]), torch.cat([far, self.highest[None]])

    def as_array(self) -> np.ndarray:
        """(3,) float32: squared range, lowest and highest z, for compiled loops."""
        return np.array([self.max_range_m**2, float(self.lowest), float(self.highest)], np.float32)


def scene_rows(completed: Tensor, limits: SceneLimits) -> Tensor:
    """Rows of the completed points (N, 3) within the limits."""
    if points_cpu.usable(completed):
        return crop_compiled.scene_rows(completed, limits.as_array())
    return scene_rows_plain(completed, limits)


def scene_rows_plain(completed: Tensor, limits: SceneLimits) -> Tensor:
    """The plain implementation, for any device."""
    z = completed[:, 2]
    inside = completed.square().sum(dim=1) < limits.max_range_m**2
    return (inside & (z > limits.lowest) & (z < limits.highest)).nonzero().squeeze(1)
