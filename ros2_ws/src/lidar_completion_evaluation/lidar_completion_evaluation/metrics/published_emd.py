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
    centres in metres. Raises MetricError above max_voxels.
    """
    a, share_a = _voxel_shares(cloud(prediction, "prediction"), voxel_size_m)
    b, share_b = _voxel_shares(cloud(truth, "truth"), voxel_size_m)
    if max(len(a), len(b)) > max_voxels:
        raise MetricError(
            f"emd_as_published: expected up to {max_voxels} voxels, found {max(len(a), len(b))}; "
            "the published evaluation skips such scenes; skip it too or raise max_voxels"
        )
    u, v = _sinkhorn(share_a, share_b, *_common_rows(a, b), tolerance, max_rounds)
    return 1e-9 * voxel_size_m * _weighted_distance_sum(a, u, b, v)


def _sinkhorn(
    share_a: np.ndarray, share_b: np.ndarray, in_a: np.ndarray, in_b: np.ndarray, tolerance: float, max_rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """The weights of the voxels of a (N,) and of b (M,), whose common voxels are the rows in_a (C,) and in_b (C,).

    Between different voxels exp(-d / 0.001) is below 1e-217, so the kernel is 1e-9 everywhere plus 1 on equal voxels: the
    weight of a voxel that is not common is its share divided by a number, and an iteration only needs the sum of these.
    """
    common_a, common_b = share_a[in_a], share_b[in_b]
    rest_a, rest_b = np.delete(share_a, in_a).sum(), np.delete(share_b, in_b).sum()
    u, others_a = np.ones(len(in_a)), float(len(share_a) - len(in_a))  # weights of common voxels, sum of all others
    v, others_b = np.ones(len(in_b)), float(len(share_b) - len(in_b))
    for _ in range(max_rounds):
        before, others_before = u, others_a
        floor_a = 1e-9 * (v.sum() + others_b)
        u, others_a = common_a / (floor_a + v), rest_a / floor_a
        floor_b = 1e-9 * (u.sum() + others_a)
        v, others_b = common_b / (floor_b + u), rest_b / floor_b
        if np.abs(u - before).sum() + abs(others_a - others_before) < tolerance:
            break
    all_a, all_b = share_a / floor_a, share_b / floor_b
    all_a[in_a], all_b[in_b] = u, v
    return all_a, all_b


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
