"""Sensor poses of a drive from its sweeps alone, by LiDAR odometry: KISS-ICP (Vizzo et al. 2023, `pip install kiss-icp`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from lidar_completion.deskew import deskew, velocity
from lidar_completion_evaluation.drives.drive import Drive, DriveError, DriveSweep, refuse_jumps
from lidar_completion_evaluation.drives.poses import read_pose_file, write_poses

AnyDrive = TypeVar("AnyDrive", bound=Drive)

MAX_RANGE_M = 100.0
MIN_RANGE_M = 3.0  # nearer returns come from the vehicle, which does not move in the sensor frame
VOXEL_M = 1.0  # KISS-ICP's default for 100 m
MIN_POINTS = 100
NO_TIMES = np.zeros(0)


def estimate_poses(drive: Drive, *, progress: bool = True) -> np.ndarray:
    """Poses (S, 4, 4) of all sweeps in the frame of the first one, at mid-sweep. Ignores the poses that the drive has.

    Sweeps with per-point times are registered twice: as they are, then deskewed with the velocities of the first pass.
    About 0.1 s per sweep and pass on one core. Raises DriveError for a sweep with fewer than 100 points in range, and
    ImportError with the command that installs KISS-ICP.
    """
    poses = _register(drive, drive.read, f"poses of {drive.name}", progress)
    if drive.read(0).duration_s is None or drive.stamps_ns is None:
        return poses
    return _register(drive, lambda index: _deskewed(drive, index, poses), "deskewed", progress)


def _register(drive: Drive, read: Callable[[int], DriveSweep], what: str, progress: bool) -> np.ndarray:
    odometry = _kiss_icp()
    poses = []
    for index in tqdm(range(len(drive)), desc=what, unit="sweep", disable=not progress):
        points = read(index).points
        inside = _in_range(points)
        if inside.sum() < MIN_POINTS:
            raise DriveError(
                f"{drive.name}, sweep {drive.names[index]}: expected at least {MIN_POINTS} points between {MIN_RANGE_M:g} "
                f"and {MAX_RANGE_M:g} m, found {inside.sum()}; remove the sweep, or pass poses from another source"
            )
        odometry.register_frame(points[inside].astype(np.float64), NO_TIMES)
        poses.append(odometry.last_pose)
    return np.stack(poses)


def with_estimated_poses(drive: AnyDrive, cache: str | Path, *, progress: bool = True) -> AnyDrive:
    """The drive with poses from `estimate_poses`, which are kept in the file `cache` for the next call.

    The cache is a pose file (TUM rows for a bag, KITTI rows for a folder) and can be passed as one. It is rewritten if the
    drive has other sweeps.
    """
    cache = Path(cache)
    header = f"# KISS-ICP, {len(drive)} sweeps, names {_fingerprint(drive)}"
    if not (cache.is_file() and cache.read_text().startswith(header + "\n")):
        poses = estimate_poses(drive, progress=progress)
        refuse_jumps(cache, poses)
        write_poses(cache, poses, drive.stamps_ns, header=header)
    return replace(drive, T_map_sensor=read_pose_file(cache).T_map_sensor)


def _kiss_icp() -> Any:
    try:
        from kiss_icp.config import KISSConfig
        from kiss_icp.config.config import DataConfig, MappingConfig
        from kiss_icp.kiss_icp import KissICP
    except ImportError as error:
        raise ImportError(
            f"poses from the sweeps need KISS-ICP ({error}): pip install 'lidar_completion_evaluation[odometry]'"
        ) from error
    data = DataConfig(max_range=MAX_RANGE_M, min_range=MIN_RANGE_M, deskew=False)  # deskewed here, to mid-sweep
    return KissICP(KISSConfig(data=data, mapping=MappingConfig(voxel_size=VOXEL_M)))


def _deskewed(drive: Drive, index: int, poses: np.ndarray) -> DriveSweep:
    """The sweep as seen at mid-sweep, with the mean velocity between its neighbours."""
    sweep = drive.read(index)
    first, last = max(index - 1, 0), min(index + 1, len(drive) - 1)
    stamps_ns = drive.stamps_ns
    if sweep.sweep_time is None or sweep.duration_s is None or stamps_ns is None or first == last:
        return sweep
    seconds = (stamps_ns[last] - stamps_ns[first]) / 1e9
    motion = velocity(np.linalg.inv(poses[first]) @ poses[last], seconds)
    return replace(sweep, points=deskew(sweep.points, (sweep.sweep_time - 0.5) * sweep.duration_s, *motion))


def _in_range(points: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm(points, axis=1)
    return (distance > MIN_RANGE_M) & (distance < MAX_RANGE_M)  # False for NaN


def _fingerprint(drive: Drive) -> str:
    return hashlib.sha256("\n".join(drive.names).encode()).hexdigest()[:16]
