"""The rings of a spinning LiDAR, for files that do not store them."""

from __future__ import annotations

import numpy as np

from lidar_completion_evaluation.drives.drive import DriveError

MIN_RINGS, MAX_RINGS = 8, 300


def rings_of(points: np.ndarray, name: str = "sweep") -> np.ndarray:
    """Ring number (N,) int64 of the points (N, 3) of a sweep that is stored ring by ring, as KITTI's are.

    A new ring starts where the azimuth jumps back by more than half a turn. DriveError where the number of such jumps
    does not look like rings, as in clouds that are stored column by column.
    """
    azimuth = np.mod(np.arctan2(points[:, 1], points[:, 0]), 2 * np.pi)
    ring = np.concatenate([[0], np.cumsum(np.abs(np.diff(azimuth)) > np.pi)]) if len(points) else np.zeros(0, np.int64)
    found = int(ring[-1]) + 1 if len(ring) else 0
    if not MIN_RINGS <= found <= MAX_RINGS:
        raise DriveError(
            f"{name}: expected points stored ring by ring ({MIN_RINGS} to {MAX_RINGS} rings), found {found}; "
            "thin sweeps of this layout before the evaluation"
        )
    return ring


def every_nth_ring(points: np.ndarray, n: int, name: str = "sweep") -> np.ndarray:
    """Rows (N,) bool of the points (N, 3) on every n-th ring."""
    return rings_of(points, name) % n == 0 if n > 1 else np.ones(len(points), bool)
