"""Plain implementation of the published "EMD": dense Sinkhorn, as in the released code. For tests; quadratic in memory."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist


def emd_as_published_plain(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    voxel_size_m: float = 0.5,
    tolerance: float = 1e-4,
    max_rounds: int = 3000,
) -> float:
    """Same value as published_emd.emd_as_published for clouds (N, 3) and (M, 3) in metres."""
    measures = [np.unique(np.floor(each / voxel_size_m), axis=0, return_counts=True) for each in (prediction, truth)]
    (a, count_a), (b, count_b) = measures
    distance = cdist(a * voxel_size_m, b * voxel_size_m)
    kernel = np.exp(-distance / 0.001) + 1e-9
    u, v = np.ones(len(a)), np.ones(len(b))
    for _ in range(max_rounds):
        before = u
        u = count_a / count_a.sum() / (kernel @ v)
        v = count_b / count_b.sum() / (kernel.T @ u)
        if np.abs(u - before).sum() < tolerance:
            break
    return float(u @ (kernel * distance) @ v)
