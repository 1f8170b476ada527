"""Sweeps for the 3-D view, with completions: from files, a bag or a drive, completed by a model if one is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lidar_completion.completer import SceneCompleter
from lidar_completion.point_cloud_files import read_points
from lidar_completion.point_clouds import scalar_fields
from lidar_completion.visibility import COMPLETED, MEASURED
from lidar_completion_evaluation.drives.bags import BagDrive
from lidar_completion_evaluation.drives.drive import Drive
from lidar_completion_evaluation.truth.ground_truth_map import GroundTruthMap
from lidar_completion_evaluation.truth.rules import DRIVE_RULES, distance_to_truth, truth_for_sweep

TRUTH_NAME = "truth.npz"  # beside the shipped sample: its exact surface, in the frame of its poses


@dataclass(frozen=True)
class ViewedSweep:
    """One sweep in the sensor frame, metres.

    measured (N, 3), completed (M, 3) float32, confidence (M,) in [0, 1]; distance_m (M,) of each completed point to the
    truth (K, 3), NaN where the truth is not known; None without truth.
    """

    title: str
    measured: np.ndarray
    completed: np.ndarray
    confidence: np.ndarray
    truth: np.ndarray | None = None
    distance_m: np.ndarray | None = None


class SweepSource(Protocol):
    def __len__(self) -> int: ...

    def load(self, index: int) -> ViewedSweep: ...


@dataclass(frozen=True)
class FileSweeps:
    """Cloud files, one sweep each. Completed clouds are shown as they are; others are completed, if there is a model."""

    files: Sequence[Path]
    completer: SceneCompleter | None = None

    def __len__(self) -> int:
        return len(self.files)

    def load(self, index: int) -> ViewedSweep:
        cloud = read_points(self.files[index])
        return viewed_sweep(
            self.files[index].name, cloud.points, cloud.provenance, cloud.confidence, completer=self.completer
        )


@dataclass(frozen=True)
class DriveSweeps:
    """Sweeps of a bag or folder. truth: the ground truth (K, 3) of the sweep of an index, in its sensor frame."""

    drive: Drive
    completer: SceneCompleter | None = None
    truth: Callable[[int], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.drive)

    def load(self, index: int) -> ViewedSweep:
        title = f"{self.drive.name}, sweep {index + 1} of {len(self)}"
        truth = None if self.truth is None else self.truth(index)
        if isinstance(self.drive, BagDrive):
            return sweep_of_message(self.drive.message(index), title, self.completer, truth)
        return viewed_sweep(title, self.drive.read(index).points, completer=self.completer, truth=truth)


def sweep_of_message(
    message: Any, title: str, completer: SceneCompleter | None = None, truth: np.ndarray | None = None
) -> ViewedSweep:
    """A PointCloud2 of rclpy or rosbags: a completion of the node, or a sweep."""
    fields = scalar_fields(message)
    points = np.stack([fields[axis] for axis in "xyz"], axis=1).astype(np.float32)
    return viewed_sweep(
        title, points, fields.get("provenance"), fields.get("confidence"), completer=completer, truth=truth
    )


def viewed_sweep(
    title: str,
    points: np.ndarray,
    provenance: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    *,
    completer: SceneCompleter | None = None,
    truth: np.ndarray | None = None,
) -> ViewedSweep:
    """Split points (N, 3) by provenance (N,). Without provenance they are a sweep, which the completer completes, if given."""
    if provenance is None and completer is not None:
        completion = completer.complete(points)
        points, provenance, confidence = completion.points, completion.provenance, completion.confidence
    if provenance is None:
        provenance = np.full(len(points), MEASURED)
    if confidence is None:
        confidence = np.ones(len(points), np.float32)
    finite = np.isfinite(points).all(axis=1)
    completed = finite & (provenance == COMPLETED)
    distance = None if truth is None else distance_to_truth(points[completed], truth)
    return ViewedSweep(
        title, points[finite & (provenance == MEASURED)], points[completed], confidence[completed], truth, distance
    )


def truth_of_map(drive: Drive, map_file: Path) -> Callable[[int], np.ndarray]:
    """Ground truth of each sweep of a drive, from its map built by `lidar-completion map`."""
    whole = GroundTruthMap(map_file)

    def truth(index: int) -> np.ndarray:
        pose = drive.T_map_sensor[index]
        return truth_for_sweep(whole.around(pose[:3, 3], DRIVE_RULES.max_range_m), pose)

    return truth


def truth_of_surface(drive: Drive, surface: np.ndarray) -> Callable[[int], np.ndarray]:
    """Ground truth of each sweep of a drive from one cloud (K, 3) in the frame of its poses."""
    return lambda index: truth_for_sweep(surface, drive.T_map_sensor[index])
