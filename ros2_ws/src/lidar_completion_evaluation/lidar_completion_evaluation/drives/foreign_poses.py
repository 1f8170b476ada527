"""Detects poses that do not belong to the sweeps, by comparing sweeps with each other."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from lidar_completion_evaluation.drives.drive import Drive, DriveError, transform


def refuse_foreign_poses(drive: Drive, apart: int = 10, pairs: int = 5) -> None:
    """Raise DriveError if sweeps match each other worse with their poses than without them: the poses are then wrong.

    Compares `pairs` pairs of sweeps that are `apart` sweeps and at least 2 m apart.
    """
    step = min(apart, len(drive) - 1)
    if step < 1:
        return
    worse = []
    for index in np.unique(np.linspace(0, len(drive) - 1 - step, pairs).astype(int)):
        a, b = drive.T_map_sensor[index], drive.T_map_sensor[index + step]
        if np.linalg.norm(a[:3, 3] - b[:3, 3]) >= 2.0:
            moved, still = _misfit(drive, index, index + step)
            worse.append(moved > still)
    if worse and np.mean(worse) > 0.5:
        raise DriveError(
            f"{drive.name}: expected sweeps that match each other by their poses, found that they match better without them; "
            "the poses belong to another sequence, to another sensor, or are inverted (they must take sensor to map)"
        )


def _misfit(drive: Drive, first: int, second: int, sample: int = 4000) -> tuple[float, float]:
    """Median nearest distance between two sweeps with and without their poses, metres."""
    random = np.random.default_rng(0)
    clouds = []
    for index in (first, second):
        points = drive.read(index).points
        points = points[np.isfinite(points).all(axis=1)].astype(np.float64)
        # The ground matches itself at any shift. Objects above it do not, and nearby they are dense.
        near = (np.hypot(points[:, 0], points[:, 1]) < 30) & (points[:, 2] > np.median(points[:, 2]) + 0.5)
        clouds.append(points[near] if near.sum() > 100 else points)
    tree = cKDTree(clouds[0])
    chosen = clouds[1][random.choice(len(clouds[1]), min(sample, len(clouds[1])), replace=False)]
    T_first_second = np.linalg.inv(drive.T_map_sensor[first]) @ drive.T_map_sensor[second]
    moved = float(np.median(tree.query(transform(T_first_second, chosen))[0]))
    return moved, float(np.median(tree.query(chosen)[0]))
