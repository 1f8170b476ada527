"""A sweep on the device, as the completer uses it: points, their rows in the input, and their intensity."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lidar_completion.crop import SceneLimits, crop_range, finite_rows, range_rows, remove_invalid
from lidar_completion.errors import SweepError
from lidar_completion.model.card import Pipeline

Array = np.ndarray | Tensor


@dataclass(frozen=True)
class MeasuredPoints:
    """Points (n, 3) float32 of a sweep, their rows (n,) int64 in the input, and their intensity (n,) float32, if given."""

    points: Tensor
    rows: Tensor
    intensity: Tensor | None = None

    def __len__(self) -> int:
        return len(self.points)

    def at(self, rows: Tensor) -> "MeasuredPoints":
        """The points of these rows (m,) int64."""
        intensity = None if self.intensity is None else self.intensity.index_select(0, rows)
        return MeasuredPoints(self.points.index_select(0, rows), self.rows.index_select(0, rows), intensity)

    def rays(self, pipeline: Pipeline) -> Tensor:
        """End points (R, 3) of the rays that left the vehicle; nearer returns are the vehicle, or (0, 0, 0) for no return."""
        return crop_range(self.points, pipeline.min_range_m, math.inf)


def finite_points(points: Array, intensity: Array | None, device: torch.device) -> MeasuredPoints:
    """The finite points of a sweep (N, 3) on the device; intensity (N,), one value per point.

    Raises SweepError for other shapes, and if no point is finite.
    """
    sweep = as_cloud(points).to(device)
    strength = None if intensity is None else torch.as_tensor(intensity).to(device, torch.float32)
    if strength is not None and strength.shape != sweep.shape[:1]:
        raise SweepError(
            f"intensity has shape {tuple(strength.shape)}, expected one value for each of {len(sweep)} points"
        )
    rows = finite_rows(sweep)
    if not len(rows):
        raise SweepError(f"none of {len(sweep)} points is finite")
    measured = MeasuredPoints(sweep, torch.arange(len(sweep), device=device), strength)
    return measured if len(rows) == len(sweep) else measured.at(rows)


def within_range(sweep: MeasuredPoints, pipeline: Pipeline) -> MeasuredPoints:
    """The points within the pipeline's range limits; SweepError if there are none."""
    near = sweep.at(range_rows(sweep.points, pipeline.min_range_m, pipeline.max_range_m))
    if not len(near):
        raise SweepError(
            f"none of the sweep's {len(sweep)} finite points lies between {pipeline.min_range_m} and "
            f"{pipeline.max_range_m} m from the sensor"
        )
    return near


def scene_limits(near: MeasuredPoints, pipeline: Pipeline) -> SceneLimits:
    """The limits of completed points, from the measured points within range."""
    return SceneLimits.of(near.points, pipeline.max_range_m, pipeline.scene_floor)


def prior_within_range(prior: Array | None, pipeline: Pipeline, device: torch.device) -> Tensor | None:
    """The finite points of a temporal prior (P, 3) within the pipeline's range limits."""
    if prior is None:
        return None
    points = remove_invalid(as_cloud(prior).to(device))
    return points[range_rows(points, pipeline.min_range_m, pipeline.max_range_m)]


def as_cloud(points: Array) -> Tensor:
    """A float32 tensor (N, 3), without a copy if the input already is one; SweepError for other shapes."""
    if isinstance(points, np.ndarray) and not points.flags.writeable:
        points = points.copy()  # PyTorch warns about arrays that cannot be written to
    tensor = torch.as_tensor(points)
    if tensor.dim() != 2 or tensor.shape[1] != 3:
        raise SweepError(f"a sweep is an array (N, 3), this one has shape {tuple(tensor.shape)}")
    return tensor.to(torch.float32)
