"""Learning-free baselines, which every table contains; a useful model beats all of them.

All take and return (N, 3) float32 metres in the sensor frame. To add one, write a function and add it to BASELINES.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from lidar_completion.downsample import voxel_downsample
from lidar_completion.holes import hole_points
from lidar_completion.starts import replicate

REPLICATION = 10
VOXEL_SIZE_M = 0.1
HOLE_CELL_M, HOLE_POINTS, MAX_RANGE_M = 0.4, 4, 50.0


def raw(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """The sweep itself; the seed is ignored."""
    return _finite(points)


def jittered(points: np.ndarray, seed: int = 0, *, sigma_m: float = 0.2) -> np.ndarray:
    """One point per 0.1 m voxel, replicated 10 times, with Gaussian noise of 0.2 m on every coordinate."""
    replicated = _replicated(points)
    return (replicated + np.random.default_rng(seed).normal(0.0, sigma_m, replicated.shape)).astype(np.float32)


def xy_jittered(
    points: np.ndarray,
    seed: int = 0,
    *,
    sigma_per_metre: float = 0.02,
    sigma_limits_m: tuple[float, float] = (0.1, 1.0),
    sigma_z_m: float = 0.05,
) -> np.ndarray:
    """Like `jittered`, but with horizontal noise of 2 % of the range (0.1 to 1 m) and vertical noise of 0.05 m.

    Usually the strongest baseline: gaps between the rings of a spinning LiDAR are horizontal and grow with range.
    """
    replicated = _replicated(points)
    sigma = np.clip(sigma_per_metre * np.linalg.norm(replicated, axis=1), *sigma_limits_m)
    noise = np.random.default_rng(seed).normal(0.0, 1.0, replicated.shape) * np.column_stack(
        [sigma, sigma, np.full_like(sigma, sigma_z_m)]
    )
    return (replicated + noise).astype(np.float32)


def interpolated(
    points: np.ndarray,
    seed: int = 0,
    *,
    column_deg: float = 0.2,
    spacing_m: float = 0.1,
    max_elevation_gap_deg: float = 2.5,
    max_range_gap: float = 0.1,
) -> np.ndarray:
    """The sweep plus straight lines between vertically neighbouring beams; the seed is ignored.

    Works without ring numbers: points are sorted by elevation within columns of azimuth, and neighbours are joined if
    their ranges differ by less than 10 %, which excludes object edges.
    """
    points = _finite(points)
    start, end = _neighbours(points, column_deg, max_elevation_gap_deg, max_range_gap)
    between = np.minimum(np.floor(np.linalg.norm(end - start, axis=1) / spacing_m).astype(np.int64), 100)
    line = np.repeat(np.arange(len(start)), between)
    step = np.arange(len(line)) - np.repeat(np.cumsum(between) - between, between) + 1
    share = (step / (between[line] + 1))[:, None]
    return np.concatenate([points, (start[line] * (1 - share) + end[line] * share).astype(np.float32)])


def with_ground(baseline: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A baseline that also fills holes of the sweep with estimated ground: HOLE_POINTS points per hole of HOLE_CELL_M."""

    def complete(points: np.ndarray, seed: int = 0) -> np.ndarray:
        holes = hole_points(torch.from_numpy(_finite(points)), MAX_RANGE_M, HOLE_CELL_M).numpy()
        ground = np.repeat(holes, HOLE_POINTS, axis=0)
        ground[:, :2] += np.random.default_rng(seed).uniform(-0.5, 0.5, (len(ground), 2)) * HOLE_CELL_M
        return np.concatenate([baseline(points, seed), ground])

    return complete


# row name -> completion(points, seed)
BASELINES: dict[str, Callable[..., np.ndarray]] = {
    "raw": raw,
    "jittered": jittered,
    "interpolated": interpolated,
    "xy_jittered": xy_jittered,
    "interpolated_ground": with_ground(interpolated),
    "xy_jittered_ground": with_ground(xy_jittered),
}


def _neighbours(
    points: np.ndarray, column_deg: float, max_elevation_gap_deg: float, max_range_gap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (P, 3), (P, 3) of points that are adjacent in elevation, in one azimuth column and on one surface."""
    horizontal = np.hypot(points[:, 0], points[:, 1])
    column = np.floor(np.degrees(np.arctan2(points[:, 1], points[:, 0])) / column_deg)
    elevation = np.degrees(np.arctan2(points[:, 2], horizontal))
    order = np.lexsort((elevation, column))
    upper, lower = order[1:], order[:-1]
    distance = np.linalg.norm(points, axis=1)
    nearer = np.minimum(distance[upper], distance[lower])
    joined = (column[upper] == column[lower]) & (elevation[upper] - elevation[lower] < max_elevation_gap_deg)
    joined &= np.abs(distance[upper] - distance[lower]) < max_range_gap * nearer
    return points[lower[joined]], points[upper[joined]]


def _replicated(points: np.ndarray) -> np.ndarray:
    thinned = voxel_downsample(torch.from_numpy(_finite(points)), VOXEL_SIZE_M)
    return replicate(thinned, REPLICATION).numpy()


def _finite(points: np.ndarray) -> np.ndarray:
    points = np.ascontiguousarray(points, dtype=np.float32)
    return points[np.isfinite(points).all(axis=1)]
