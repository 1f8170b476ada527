"""Occupancy metrics on a voxel grid: intersection over union and Jensen-Shannon distance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import jensenshannon

from lidar_completion_evaluation.metrics.clouds import MetricError, cloud

PUBLISHED_IOU_VOXELS_M = (0.5, 0.2, 0.1)
PUBLISHED_HALF_EXTENT_M = 50.0
# Grid of SSCBench and of SemanticKITTI's scene completion benchmark, sensor frame: 256 x 256 x 32 voxels
BENCHMARK_CORNER_M = (0.0, -25.6, -2.0)
BENCHMARK_SHAPE = (256, 256, 32)
BENCHMARK_VOXEL_M = 0.2


def voxel_iou(
    prediction: ArrayLike, truth: ArrayLike, voxel_size_m: float, *, half_extent_m: float = PUBLISHED_HALF_EXTENT_M
) -> float:
    """Intersection over union of occupied voxels in the cube of ±half_extent_m around the sensor, in [0, 1]."""
    a = np.unique(_grid_keys(prediction, "prediction", voxel_size_m, half_extent_m))
    b = np.unique(_grid_keys(truth, "truth", voxel_size_m, half_extent_m))
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def observed_iou(prediction: ArrayLike, truth: ArrayLike, observed: Callable[[np.ndarray], np.ndarray]) -> float:
    """IoU of occupied 0.2 m voxels on the grid of SSCBench (in front of the sensor), in [0, 1].

    observed: which points are in observed space, (N, 3) metres -> (N,) bool. A predicted voxel without truth counts only if
    its centre is observed. Raises MetricError if no truth lies in the grid.
    """
    a, b = (_benchmark_voxels(cloud(points, name)) for points, name in ((prediction, "prediction"), (truth, "truth")))
    if not len(b):
        raise MetricError("truth: no point in the grid of SSCBench (0 to 51.2 m ahead, 25.6 m to each side)")
    extra = np.setdiff1d(a, b, assume_unique=True)
    index = np.stack(np.unravel_index(extra, BENCHMARK_SHAPE), axis=1)
    wrong = int(np.count_nonzero(observed((index + 0.5) * BENCHMARK_VOXEL_M + BENCHMARK_CORNER_M)))
    return (len(a) - len(extra)) / (len(b) + wrong)


def _benchmark_voxels(points: np.ndarray) -> np.ndarray:
    """Ascending flat indices of the occupied voxels of the benchmark's grid."""
    index = np.floor((points - BENCHMARK_CORNER_M) / BENCHMARK_VOXEL_M).astype(np.int64)
    index = index[((index >= 0) & (index < BENCHMARK_SHAPE)).all(axis=1)]
    return np.unique(np.ravel_multi_index(tuple(index.T), BENCHMARK_SHAPE))


def voxel_iou_as_published(prediction: ArrayLike, truth: ArrayLike, voxel_size_m: float) -> float:
    """IoU as the released script computes it, in [0, 1]: voxel indices are rounded, and only those up to ±50 count.

    The script applies limits in metres to indices, so its region is ±25, ±10 and ±5 m for voxels of 0.5, 0.2 and 0.1 m.
    It also sums intersections and unions over all scenes; here each scene has its own IoU.
    """
    a, b = (
        _unique_indices(cloud(points, name), voxel_size_m)
        for points, name in ((prediction, "prediction"), (truth, "truth"))
    )
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / max(len(a) + len(b) - shared, 1)


def _unique_indices(points: np.ndarray, voxel_size_m: float) -> np.ndarray:
    limit = int(PUBLISHED_HALF_EXTENT_M)
    index = np.round(points / voxel_size_m).astype(np.int64)
    index = index[(np.abs(index) <= limit).all(axis=1)] + limit
    return np.unique((index[:, 0] * (2 * limit + 1) + index[:, 1]) * (2 * limit + 1) + index[:, 2])


def jensen_shannon_3d(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    voxel_size_m: float = 0.5,
    half_extent_m: float = PUBLISHED_HALF_EXTENT_M,
) -> float:
    """Jensen-Shannon distance (root of the divergence, natural logarithm) of the histograms of point counts."""
    histograms = (
        np.unique(_grid_keys(points, name, voxel_size_m, half_extent_m), return_counts=True)
        for points, name in ((prediction, "prediction"), (truth, "truth"))
    )
    return _jensen_shannon(*histograms)


def jensen_shannon_birds_eye(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    voxel_size_m: float = 0.5,
    half_extent_m: float = PUBLISHED_HALF_EXTENT_M,
) -> float:
    """Jensen-Shannon distance of the histograms of occupied voxels summed over z; most likely the published JSD."""
    cells = _cells_per_axis(voxel_size_m, half_extent_m)
    histograms = (
        np.unique(np.unique(_grid_keys(points, name, voxel_size_m, half_extent_m)) // cells, return_counts=True)
        for points, name in ((prediction, "prediction"), (truth, "truth"))
    )
    return _jensen_shannon(*histograms)


def _jensen_shannon(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    cells = np.union1d(a[0], b[0])
    dense = np.zeros((2, len(cells)))
    for row, (keys, counts) in zip(dense, (a, b), strict=True):
        row[np.searchsorted(cells, keys)] = counts
    return float(jensenshannon(*dense))


def _grid_keys(points: ArrayLike, name: str, voxel_size_m: float, half_extent_m: float) -> np.ndarray:
    """One integer per point inside the cube, z fastest. Edges as in numpy.histogramdd: the last cell is closed."""
    points = cloud(points, name)
    cells = _cells_per_axis(voxel_size_m, half_extent_m)
    inside = points[(np.abs(points) <= half_extent_m).all(axis=1)]
    if not len(inside):
        raise MetricError(
            f"{name}: expected points within ±{half_extent_m:g} m of the origin, found none of {len(points)}; "
            "pass points in the sensor frame"
        )
    index = _cell_of(inside, np.linspace(-half_extent_m, half_extent_m, cells + 1))
    return (index[:, 0] * cells + index[:, 1]) * cells + index[:, 2]


def _cell_of(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The cell [edge, next edge) of each value; the last is closed. Compares with the evenly spaced edges themselves."""
    last = len(edges) - 2
    guess = np.clip(((values - edges[0]) * (len(edges) - 1) / (edges[-1] - edges[0])).astype(np.int64), 0, last)
    guess -= values < edges[guess]
    guess += values >= edges[guess + 1]
    return np.minimum(guess, last)


def _cells_per_axis(voxel_size_m: float, half_extent_m: float) -> int:
    cells = round(2 * half_extent_m / voxel_size_m)
    if not 1 <= cells < 2**20:
        raise MetricError(
            f"voxel_size_m: expected up to {2 * half_extent_m:g} m, found {voxel_size_m}; choose 0.1 to 1 m"
        )
    return cells
