"""KITTI-360: data_3d_raw (sweeps), data_poses (camera poses of some frames) and calibration.

Only frames with a pose are part of the drive. KITTI-360's sweeps are not motion-compensated and have no labels per point.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lidar_completion_evaluation.drives.drive import DriveError, refuse_jumps
from lidar_completion_evaluation.drives.folder import FolderDrive
from lidar_completion_evaluation.drives.poses import checked_pose, number_rows

SWEEPS = "data_3d_raw"
FIRST_DRIVE = "2013_05_28_drive_0000_sync"


def is_kitti_360(path: Path) -> bool:
    """Whether the path is a root of KITTI-360 or one of its drives."""
    return (path / SWEEPS).is_dir() or path.absolute().parent.name == SWEEPS


def open_drive(path: str | Path, drive: str | None = None) -> FolderDrive:
    """Open a drive of KITTI-360.

    path: one drive, ROOT/data_3d_raw/DRIVE, or the root (with data_3d_raw, data_poses and calibration), of which `drive` is opened;
    default: the first. Raises DriveError if sweeps, poses and calibration do not match.
    """
    root = Path(path).absolute()
    if root.parent.name == SWEEPS:
        root, drive = root.parents[1], drive or root.name
    drive = drive or FIRST_DRIVE
    folder = root / SWEEPS / drive / "velodyne_points" / "data"
    if not folder.is_dir():
        raise DriveError(f"{folder}: expected the sweeps of {drive}, found nothing there; check the root of KITTI-360")
    T_camera_lidar = _camera_from_lidar(root / "calibration" / "calib_cam_to_velo.txt")
    poses_file = root / "data_poses" / drive / "cam0_to_world.txt"
    frames, T_world_camera = _camera_poses(poses_file)
    files = [folder / f"{frame:010d}.bin" for frame in frames]
    have = [row for row, file in enumerate(files) if file.exists()]
    if len(have) < 0.9 * len(files):  # a few frames of the published drives have a pose but no sweep
        first = next(file for file in files if not file.exists())
        raise DriveError(
            f"{folder}: expected a sweep for each of the {len(files)} poses of {poses_file}, found {len(have)} "
            f"(the first missing is {first.name}); the download is incomplete or of another drive"
        )
    poses = T_world_camera[have] @ T_camera_lidar
    refuse_jumps(poses_file, poses)
    chosen = [files[row] for row in have]
    return FolderDrive(drive, tuple(file.stem for file in chosen), poses, tuple(chosen))


def _camera_from_lidar(path: Path) -> np.ndarray:
    rows = number_rows(path, (12,))
    if len(rows) != 1:
        raise DriveError(f"{path}: expected one row of 12 numbers, found {len(rows)} rows; take KITTI-360's own file")
    T_lidar_camera = np.eye(4)
    T_lidar_camera[:3] = rows[0][1].reshape(3, 4)
    return np.linalg.inv(checked_pose(T_lidar_camera, f"{path}, line {rows[0][0]}"))


def _camera_poses(path: Path) -> tuple[list[int], np.ndarray]:
    rows = number_rows(path, (17,))
    if not rows:
        raise DriveError(f"{path}: expected rows of a frame number and 16 numbers, found none; copy the poses again")
    frames = [int(values[0]) for _, values in rows]
    for (line, _), before, after in zip(rows[1:], frames, frames[1:], strict=False):
        if after <= before:
            raise DriveError(
                f"{path}, line {line}: expected a frame after {before}, found {after}; the rows are mixed up, sort them"
            )
    return frames, np.stack([checked_pose(values[1:].reshape(4, 4), f"{path}, line {line}") for line, values in rows])
