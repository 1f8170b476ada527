"""A drive: sweeps in order and the sensor's pose at each of them.

Poses are T_map_sensor (4, 4) float64: they take points from the sensor frame to the map frame, metres. A wrong pose gives
wrong ground truth, so any inconsistency in a drive raises DriveError with the file, the line and the fix.

To add a format: subclass Drive in a file of this folder, and add an entry to FORMATS in open.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAX_STEP_M = 10.0  # between two sweeps: 360 km/h at 10 Hz


class DriveError(ValueError):
    """Inconsistent or damaged data; the message names file and line, what was expected and found, and the fix."""


@dataclass(frozen=True)
class DriveSweep:
    """One sweep in the sensor frame, rows in the order of the file.

    points (N, 3) float32 metres; intensity (N,) float32 or None; labels (N,) uint16 semantic classes or None;
    static (N,) bool, False for points that are labelled as moving or have no label, None without labels;
    sweep_time (N,) float32 in [0, 1], when within the sweep the point was measured, or None;
    duration_s: seconds from its first to its last point, None without sweep_time.
    """

    points: np.ndarray
    intensity: np.ndarray | None = None
    labels: np.ndarray | None = None
    static: np.ndarray | None = None
    sweep_time: np.ndarray | None = None
    duration_s: float | None = None


@dataclass(frozen=True)
class Drive(ABC):
    """Sweeps that are read one by one: names (S,), T_map_sensor (S, 4, 4) float64, read(index)."""

    name: str
    names: tuple[str, ...]
    T_map_sensor: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def stamps_ns(self) -> np.ndarray | None:
        """Stamps (S,) int64 of the sweeps in nanoseconds, or None."""
        return None

    @abstractmethod
    def read(self, index: int) -> DriveSweep:
        """The sweep of this index as measured, not cropped. Raises DriveError or PointCloudFileError if it is damaged."""


def identity_poses(count: int) -> np.ndarray:
    """The poses (S, 4, 4) of a drive whose poses are not known yet."""
    return np.tile(np.eye(4), (count, 1, 1))


def refuse_jumps(path: Path, poses: np.ndarray) -> None:
    """Raise DriveError if consecutive poses (S, 4, 4) are more than MAX_STEP_M apart."""
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    if (steps > MAX_STEP_M).any():
        row = int(np.argmax(steps > MAX_STEP_M))
        raise DriveError(
            f"{path}, pose {row + 2}: expected a step of less than {MAX_STEP_M:g} m from the pose before, "
            f"found {steps[row]:.1f} m; the sequence is mixed up: sort sweeps and poses by time"
        )


def transform(T_target_source: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 3) from the source frame to the target frame, float64; T_target_source (4, 4)."""
    return points.astype(np.float64) @ T_target_source[:3, :3].T + T_target_source[:3, 3]
