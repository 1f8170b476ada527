"""Checks the input of every metric: point clouds as finite (N, 3) float64 arrays; raises MetricError for anything else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike


class MetricError(ValueError):
    """The metric is undefined for this input; the message names the argument, what was found and the fix."""


def cloud(points: ArrayLike, name: str) -> np.ndarray:
    """points as a finite, non-empty (N, 3) float64 array; `name` is the argument's name in the MetricError."""
    to_numpy: Callable | None = getattr(points, "detach", None)
    array = np.asarray(to_numpy().cpu().numpy() if to_numpy else points)
    if array.ndim != 2 or array.shape[1] != 3:
        raise MetricError(f"{name}: expected shape (N, 3), found {array.shape}; pass x, y, z columns in metres")
    if not len(array):
        raise MetricError(f"{name}: expected at least one point, found none; skip this scene or count it as failed")
    array = array.astype(np.float64)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise MetricError(
            f"{name}: expected finite coordinates, found {array[row].tolist()} in row {row} "
            f"({int((~finite).sum())} of {len(array)} rows); drop them before the evaluation"
        )
    return array


def share_of(mask: ArrayLike, name: str = "mask") -> float:
    """Share of True in a non-empty boolean array (N,), in [0, 1]; for instance the rate of free-space violations."""
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.ndim != 1 or not len(mask):
        raise MetricError(
            f"{name}: expected a non-empty boolean array, found {mask.dtype} {mask.shape}; pass one value per point"
        )
    return float(mask.mean())


def unique_voxels(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows (V, 3) of integer voxel indices (N, 3), and the row (N,) of each input in them."""
    corner = index.min(axis=0)
    size = index.max(axis=0) - corner + 1
    if np.prod(size.astype(np.float64)) > 2**62:  # the extent is too large to number its cells with int64
        voxels, row = np.unique(index, axis=0, return_inverse=True)
        return voxels, row.ravel()
    keys = ((index[:, 0] - corner[0]) * size[1] + index[:, 1] - corner[1]) * size[2] + index[:, 2] - corner[2]
    keys, row = np.unique(keys, return_inverse=True)
    voxels = np.column_stack([keys // (size[1] * size[2]), keys // size[2] % size[1], keys % size[2]])
    return voxels + corner, row.ravel()
