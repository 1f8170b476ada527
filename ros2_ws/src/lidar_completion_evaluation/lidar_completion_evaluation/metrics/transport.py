"""Optimal transport: the exact Wasserstein-1 distance (earth mover's distance) of two voxelised clouds."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from lidar_completion_evaluation.metrics.clouds import MetricError, cloud, unique_voxels

TRANSPORT_VOXEL_M = 0.5


@dataclass(frozen=True)
class Transport:
    """Wasserstein-1 distance of two voxelised clouds, metres.

    lower <= true W1 of the voxel measures <= upper (equal when solved exactly); value is upper.
    discretisation_m: W1 of the clouds themselves differs from that of the voxel measures by at most this much.
    """

    lower: float
    upper: float
    discretisation_m: float

    @property
    def value(self) -> float:
        return self.upper


def wasserstein_1(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    voxel_size_m: float = TRANSPORT_VOXEL_M,
    max_pairs: int = 50_000_000,
    max_pivots: int = 10**8,
) -> Transport:
    """Earth mover's distance (W1, Euclidean cost) between the normalised point densities on voxels.

    Mass that both clouds have in a voxel does not move (optimal for a metric cost); POT's network simplex transports
    the rest exactly. Above max_pairs (surplus voxels times deficit voxels), voxels are merged to twice the edge until
    the problem fits; the result is then an interval that contains the exact value.
    """
    prediction, truth = cloud(prediction, "prediction"), cloud(truth, "truth")
    fine = _signed_density(prediction, truth, voxel_size_m)
    spread = sum(_to_voxel_centre(points, voxel_size_m) for points in (prediction, truth))
    coarse, edge, moved = fine, voxel_size_m, 0.0
    while _pairs(coarse) > max_pairs:
        edge *= 2
        coarse, step = _merge(coarse, edge)
        moved += step
    cost = _transport_cost(*coarse, max_pivots)
    return Transport(max(cost - moved, 0.0), cost + moved, spread)


def _signed_density(prediction: np.ndarray, truth: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """Voxel centres (V, 3) and share of the prediction minus share of the truth (V,)."""
    voxels, row = unique_voxels(np.floor(np.concatenate([prediction, truth]) / edge).astype(np.int64))
    share = np.concatenate([np.full(len(prediction), 1 / len(prediction)), np.full(len(truth), -1 / len(truth))])
    return (voxels + 0.5) * edge, np.bincount(row, weights=share, minlength=len(voxels))


def _to_voxel_centre(points: np.ndarray, edge: float) -> float:
    return float(np.linalg.norm(points - (np.floor(points / edge) + 0.5) * edge, axis=1).mean())


def _pairs(density: tuple[np.ndarray, np.ndarray]) -> int:
    return int((density[1] > 0).sum()) * int((density[1] < 0).sum())


def _merge(density: tuple[np.ndarray, np.ndarray], edge: float) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """The density on voxels of the given edge, and the cost of merging (mass times metres)."""
    centres, excess = density
    voxels, row = unique_voxels(np.floor(centres / edge).astype(np.int64))
    merged = (voxels + 0.5) * edge
    moved = float((np.abs(excess) * np.linalg.norm(centres - merged[row], axis=1)).sum())
    return (merged, np.bincount(row, weights=excess, minlength=len(voxels))), moved


def _transport_cost(centres: np.ndarray, excess: np.ndarray, max_pivots: int) -> float:
    ot = _optimal_transport_library()
    rounding = 1e-15
    have, want = excess > rounding, excess < -rounding
    if not have.any() or not want.any():
        return 0.0
    supply, demand = excess[have], -excess[want]
    demand *= supply.sum() / demand.sum()
    cost, log = ot.emd2(supply, demand, cdist(centres[have], centres[want]), numItermax=max_pivots, log=True)
    if log["warning"]:
        raise MetricError(f"wasserstein_1: the network simplex did not converge ({log['warning']}); raise max_pivots")
    return float(cost)


def _optimal_transport_library() -> ModuleType:
    try:
        import ot
    except ImportError as error:
        raise MetricError("wasserstein_1: needs the package POT: pip install POT") from error
    return ot
