"""Tiny drives through a street of points, written to disk in the layouts that the loaders read."""

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from lidar_completion.point_cloud_files import write_points
from lidar_completion_training.data.drives import transform


def poses_along_x(count: int, step_m: float = 1.0, turn_deg: float = 2.0) -> np.ndarray:
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 0, 3] = step_m * np.arange(count)
    for index, pose in enumerate(poses):
        pose[:3, :3] = Rotation.from_euler("z", turn_deg * index, degrees=True).as_matrix()
    return poses


def a_street(count: int = 4000) -> np.ndarray:
    """Points of a street in the map frame: ground, two walls with pillars, so that a shift along it shows.

    No plane lies on the border of 0.1 m voxels, where rounding would decide."""
    random = np.random.default_rng(0)
    ground = np.column_stack([random.uniform(-20, 40, count), random.uniform(-8, 8, count), np.full(count, -1.73)])
    x = random.uniform(-20, 40, count)
    wall = np.column_stack([x, 8.03 + (x % 7 < 1), random.uniform(-1.73, 4, count)])
    return np.concatenate([ground, wall, wall * (1, -1, 1)])


def write_drive(folder: Path, poses: np.ndarray, suffix: str = ".bin", rows: int = 12, street=None) -> Path:
    for index, pose in enumerate(poses):
        points = a_street() if street is None else street(index)
        write_points(folder / f"velodyne/{index:06d}{suffix}", transform(np.linalg.inv(pose), points))
    write_poses(folder / "poses.txt", poses, rows)
    return folder


def write_poses(path: Path, poses: np.ndarray, rows: int = 12) -> None:
    if rows == 8:
        table = np.column_stack(
            [np.arange(len(poses)), poses[:, :3, 3], Rotation.from_matrix(poses[:, :3, :3]).as_quat()]
        )
    else:
        table = poses.reshape(len(poses), 16)[:, :rows]
    path.write_text("\n".join(" ".join(f"{value:.9g}" for value in row) for row in table) + "\n")
