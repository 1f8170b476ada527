"""Pose files of every kind give the same poses, for folders and for bags."""

import numpy as np
import pytest
from street_bag import RATE_NS, START_NS, write_bag
from street_drive import poses_along_x, write_drive
from street_drive import write_poses as write_rows

from lidar_completion_evaluation.drives.drive import DriveError
from lidar_completion_evaluation.drives.open import open_drive
from lidar_completion_evaluation.drives.poses import poses_of_sweeps, read_pose_file, write_poses

POSES = poses_along_x(5)
STAMPS = START_NS + RATE_NS * np.arange(5)
NAMES = [f"{index:06d}.bin" for index in range(5)]


@pytest.mark.parametrize("columns", [8, 12, 16])
def test_pose_file_kind_is_detected_by_its_columns(tmp_path, columns):
    write_rows(tmp_path / "poses.txt", POSES, columns)
    file = read_pose_file(tmp_path / "poses.txt")
    assert (file.times_ns is not None) == (columns == 8)
    np.testing.assert_allclose(file.T_map_sensor, POSES, atol=1e-6)


@pytest.mark.parametrize("stamps", [None, STAMPS])
def test_written_poses_are_read_back(tmp_path, stamps):
    path = write_poses(tmp_path / "poses.txt", POSES, stamps)
    np.testing.assert_allclose(poses_of_sweeps(path, NAMES, stamps), POSES, atol=1e-6)
    if stamps is not None:
        np.testing.assert_array_equal(read_pose_file(path).times_ns, stamps)


@pytest.mark.parametrize("stamps", [None, STAMPS])
def test_bag_accepts_kitti_and_tum_poses(tmp_path, stamps):
    bag = write_bag(tmp_path / "bag", POSES, odometry=False)
    path = write_poses(tmp_path / "poses.txt", POSES, stamps)
    drive = open_drive(bag, poses=path)
    np.testing.assert_allclose(drive.T_map_sensor, POSES, atol=1e-6)


@pytest.mark.parametrize("stamps", [None, STAMPS])
def test_folder_accepts_kitti_and_tum_poses(tmp_path, stamps):
    folder = write_drive(tmp_path / "drive", POSES)
    path = write_poses(tmp_path / "other.txt", POSES, stamps)
    drive = open_drive(folder, poses=path)
    np.testing.assert_allclose(drive.T_map_sensor, POSES, atol=1e-6)


def test_kitti_poses_of_a_bag_are_one_per_sweep(tmp_path):
    bag = write_bag(tmp_path / "bag", POSES, odometry=False)
    path = write_poses(tmp_path / "poses.txt", POSES[:4])
    with pytest.raises(DriveError, match="expected 5 poses, one per sweep, found 4"):
        open_drive(bag, poses=path)
