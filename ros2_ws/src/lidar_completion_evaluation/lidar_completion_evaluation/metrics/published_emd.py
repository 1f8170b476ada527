"""The figure that the published tables call EMD. Its plain implementation is published_emd_plain.py."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft
from scipy.spatial.distance import cdist

from lidar_completion_evaluation.metrics.clouds import MetricError, cloud, unique_voxels
from lidar_completion_evaluation.metrics.transport import TRANSPORT_VOXEL_M


def emd_as_published(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    voxel_size_m: float = TRANSPORT_VOXEL_M,
    tolerance: float = 1e-4,
    max_rounds: int = 3000,
    max_voxels: int = 130_000,
) -> float:
    """The published "EMD", for comparison with the tables only: it is not an earth mover's distance.

    Sinkhorn iterations between the voxel counts with the kernel exp(-d / 0.001) + 1e-9, d the distance of voxel
    centres in metres. Between different voxels exp(-d / 0.001) is below 1e-217, so the kernel is 1e-9 everywhere plus 1
    on equal voxels, and each iteration is linear in the number of voxels. Raises MetricError above max_voxels.
    """
    a, share_a = _voxel_shares(cloud(prediction, "prediction"), voxel_size_m)
    b, share_b = _voxel_shares(cloud(truth, "truth"), voxel_size_m)
    if max(len(a), len(b)) > max_voxels:
        raise MetricError(
            f"emd_as_published: expected up to {max_voxels} voxels, found {max(len(a), len(b))}; "
            "the published evaluation skips such scenes; skip it too or raise max_voxels"
        )
    in_a, in_b = _common_rows(a, b)
    u, v = np.ones(len(a)), np.ones(len(b))
    for _ in range(max_rounds):
        before = u
        u = share_a / _floored_kernel(v, len(a), in_b, in_a)
        v = share_b / _floored_kernel(u, len(b), in_a, in_b)
        if np.abs(u - before).sum() < tolerance:
            break
    return 1e-9 * voxel_size_m * _weighted_distance_sum(a, u, b, v)


def _voxel_shares(points: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray]:
    voxels, row = unique_voxels(np.floor(points / edge).astype(np.int64))
    return voxels, np.bincount(row) / len(points)


def _common_rows(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a and rows of b that hold the same voxel; voxels are unique within a and within b."""
    both, row = unique_voxels(np.concatenate([a, b]))
    where_a, where_b = np.full(len(both), -1), np.full(len(both), -1)
    where_a[row[: len(a)]] = np.arange(len(a))
    where_b[row[len(a) :]] = np.arange(len(b))
    common = (where_a >= 0) & (where_b >= 0)
    return where_a[common], where_b[common]


def _floored_kernel(weights: np.ndarray, rows: int, columns_in: np.ndarray, rows_in: np.ndarray) -> np.ndarray:
    product = np.full(rows, 1e-9 * weights.sum())
    product[rows_in] += weights[columns_in]
    return product


def _weighted_distance_sum(a: np.ndarray, u: np.ndarray, b: np.ndarray, v: np.ndarray) -> float:
    """u^T D v with D the distances between the integer rows of a (N, 3) and b (M, 3), without building D."""
    corner = np.minimum(a.min(axis=0), b.min(axis=0))
    extent = np.maximum(a.max(axis=0), b.max(axis=0)) - corner + 1
    if np.prod(2.0 * extent) < min(50_000_000, len(a) * len(b)):  # a large grid costs more than a few pairs
        return _distance_sum_by_convolution(a - corner, u, b - corner, v, extent)
    block = 1000
    return float(sum(u[i : i + block] @ (cdist(a[i : i + block], b) @ v) for i in range(0, len(a), block)))


def _distance_sum_by_convolution(
    a: np.ndarray, u: np.ndarray, b: np.ndarray, v: np.ndarray, extent: np.ndarray
) -> float:
    """The same sum by FFT: D v is the convolution of v, on a grid, with the length of the offset."""
    shape = [fft.next_fast_len(int(2 * cells), real=True) for cells in extent]
    offsets = [np.minimum(np.arange(size), size - np.arange(size)) for size in shape]
    length = np.sqrt(
        sum(np.square(axis.astype(np.float64)) for axis in np.meshgrid(*offsets, indexing="ij", sparse=True))
    )
    grid = np.zeros(shape)
    grid[tuple(b.T)] = v
    spectrum = fft.rfftn(grid, workers=-1) * fft.rfftn(length, workers=-1)
    return float(u @ fft.irfftn(spectrum, s=shape, workers=-1)[tuple(a.T)])
