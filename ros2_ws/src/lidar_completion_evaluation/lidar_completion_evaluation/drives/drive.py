"""A drive: sweeps in order and the pose of the sensor for each.

Poses are T_map_sensor (4, 4) float64: they take points from the sensor frame (metres) to the map frame (metres). What is
broken in a drive is refused with the file, the line and the fix (DriveError), because a wrong pose makes a wrong truth.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

# Ten sweeps a second at 360 km/h: a longer way between two sweeps is a mixed up pose file.
MAX_STEP_M = 10.0


class DriveError(ValueError):
    """A drive that cannot be trusted; the message names file and line, what was expected and found, and the fix."""


@dataclass(frozen=True)
class Sweep:
    """One sweep in the sensor frame, rows in the order of the file.

    points (N, 3) float32 metres; intensity (N,) float32 or None; labels (N,) uint16 semantic classes or None;
    static (N,) bool, False for points on things that move or have no label, or None where nobody labelled;
    sweep_time (N,) float32 in [0, 1], the share of the sweep that had passed when the point was measured, or None;
    duration_s: seconds from its first to its last point, None where sweep_time is.
    """

    points: np.ndarray
    intensity: np.ndarray | None = None
    labels: np.ndarray | None = None
    static: np.ndarray | None = None
    sweep_time: np.ndarray | None = None
    duration_s: float | None = None


@dataclass(frozen=True)
class Drive(ABC):
    """Sweeps that can be read one by one: names (S,), T_map_sensor (S, 4, 4) float64, read(index)."""

    name: str
    names: tuple[str, ...]
    T_map_sensor: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def stamps_ns(self) -> np.ndarray | None:
        """Stamps (S,) int64 of the sweeps in nanoseconds, None where they have none."""
        return None

    @abstractmethod
    def read(self, index: int) -> Sweep:
        """The sweep of this index, as measured (no crop). Raises DriveError or PointCloudFileError for a broken file."""


def identity_poses(count: int) -> np.ndarray:
    """The poses (S, 4, 4) of a drive whose poses are not known yet."""
    return np.tile(np.eye(4), (count, 1, 1))


def refuse_jumps(path: Path, poses: np.ndarray) -> None:
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    if (steps > MAX_STEP_M).any():
        row = int(np.argmax(steps > MAX_STEP_M))
        raise DriveError(
            f"{path}, pose {row + 2}: expected a step of less than {MAX_STEP_M:g} m from the pose before, "
            f"found {steps[row]:.1f} m; the sequence is mixed up: sort sweeps and poses by time"
        )


def refuse_foreign_poses(drive: Drive, apart: int = 10, pairs: int = 5) -> None:
    """Raise DriveError where the poses fit the sweeps worse than standing still would: poses of another sequence.

    Looks at a few pairs of sweeps that are `apart` sweeps apart and at least 2 m of way.
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
            f"{drive.name}: expected sweeps that lie on each other by their poses, found that they fit better unmoved; "
            "the poses belong to another sequence, to another sensor, or are inverted (they must take sensor to map)"
        )


def _misfit(drive: Drive, first: int, second: int, sample: int = 4000) -> tuple[float, float]:
    """Median nearest distance between two sweeps, moved by the poses and left as they are, metres."""
    random = np.random.default_rng(0)
    clouds = []
    for index in (first, second):
        points = drive.read(index).points
        points = points[np.isfinite(points).all(axis=1)].astype(np.float64)
        # The ground fits itself at any shift, so only what stands above it can tell; near things, as they are dense.
        near = (np.hypot(points[:, 0], points[:, 1]) < 30) & (points[:, 2] > np.median(points[:, 2]) + 0.5)
        clouds.append(points[near] if near.sum() > 100 else points)
    tree = cKDTree(clouds[0])
    chosen = clouds[1][random.choice(len(clouds[1]), min(sample, len(clouds[1])), replace=False)]
    T_first_second = np.linalg.inv(drive.T_map_sensor[first]) @ drive.T_map_sensor[second]
    moved = float(np.median(tree.query(transform(T_first_second, chosen))[0]))
    return moved, float(np.median(tree.query(chosen)[0]))


def transform(T_target_source: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 3) from the source frame to the target frame, float64."""
    return points.astype(np.float64) @ T_target_source[:3, :3].T + T_target_source[:3, 3]
