"""Poses estimated from the sweeps alone, by KISS-ICP."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from street_drive import poses_along_x, write_drive

from lidar_completion.deskew import deskew, velocity
from lidar_completion_evaluation.drives.bags import BagDrive, open_bag, sweeps_of_bag
from lidar_completion_evaluation.drives.drive import DriveError, DriveSweep, transform
from lidar_completion_evaluation.drives.folder import open_folder
from lidar_completion_evaluation.drives.odometry import estimate_poses, with_estimated_poses
from lidar_completion_evaluation.drives.open import open_drive
from lidar_completion_evaluation.drives.poses import read_pose_file
from lidar_completion_evaluation.drives.write_bag import folder_to_bag

pytest.importorskip("kiss_icp", reason="needs KISS-ICP: pip install 'lidar_completion_evaluation[odometry]'")

POSES = poses_along_x(6, step_m=0.6, turn_deg=0.5)


def position_errors_m(estimated: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Distances of positions, both trajectories starting at the identity."""
    return np.linalg.norm(estimated[:, :3, 3] - (np.linalg.inv(true[0]) @ true)[:, :3, 3], axis=1)


@pytest.fixture
def folder(tmp_path):
    """Sweeps of a street, without poses."""
    folder = write_drive(tmp_path / "drive", POSES)
    (folder / "poses.txt").unlink()
    return folder


@pytest.mark.parametrize("as_bag", [False, True])
def test_folders_and_bags_without_poses(tmp_path, folder, as_bag):
    path = folder_to_bag(folder, tmp_path / "bag", progress=False) if as_bag else folder
    drive = open_drive(path, poses="auto", pose_cache=tmp_path / "cache.txt")
    assert position_errors_m(drive.T_map_sensor, POSES).max() < 0.1


@pytest.mark.parametrize("as_bag", [False, True])
def test_estimated_poses_are_cached_as_a_pose_file(tmp_path, folder, monkeypatch, as_bag):
    path = folder_to_bag(folder, tmp_path / "bag", progress=False) if as_bag else folder
    cache = tmp_path / "runs/cache.txt"
    first = open_drive(path, poses="auto", pose_cache=cache).T_map_sensor
    monkeypatch.setattr("lidar_completion_evaluation.drives.odometry.estimate_poses", None)  # not called again
    np.testing.assert_array_equal(open_drive(path, poses="auto", pose_cache=cache).T_map_sensor, first)
    np.testing.assert_allclose(open_drive(path, poses=cache).T_map_sensor, first)
    assert (read_pose_file(cache).times_ns is not None) == as_bag


def test_cache_of_another_drive_is_replaced(tmp_path, folder):
    cache = tmp_path / "cache.txt"
    open_drive(folder, poses="auto", pose_cache=cache)
    (folder / "velodyne/000005.bin").unlink()
    assert len(open_drive(folder, poses="auto", pose_cache=cache)) == 5


def test_rejects_a_sweep_without_points(folder):
    (folder / "velodyne/000002.bin").write_bytes(b"")
    with pytest.raises(DriveError, match=r"000002: expected at least 100 points .* found 0"):
        open_drive(folder, poses="auto")


class SkewedDrive(BagDrive):
    """A drive whose points are in the sensor frame of their own time, as a raw sensor gives them."""

    motion = np.linalg.inv(POSES[0]) @ POSES[1]

    def read(self, index: int) -> DriveSweep:
        sweep = super().read(index)
        share = np.linspace(0, 1, len(sweep.points), dtype=np.float32)
        np.random.default_rng(index).shuffle(share)
        points = deskew(sweep.points, 0.5 - share, *velocity(self.motion, 1.0))
        return dataclasses.replace(sweep, points=points, sweep_time=share, duration_s=0.1)


def test_sweeps_with_times_are_deskewed(tmp_path, folder):
    bag = sweeps_of_bag(folder_to_bag(folder, tmp_path / "bag", progress=False))
    drive = SkewedDrive(**{field.name: getattr(bag, field.name) for field in dataclasses.fields(bag)})
    assert position_errors_m(estimate_poses(drive, progress=False), POSES).max() < 0.1


@pytest.mark.parametrize(("name", "way_m", "within_m"), [("90", 11.7, 0.07), ("91", 16.8, 0.13)])
def test_poses_of_the_real_drives(shared, name, way_m, within_m):
    true = open_folder(shared / "data/sequences" / name).T_map_sensor
    assert np.linalg.norm(np.diff(true[:, :3, 3], axis=0), axis=1).sum() == pytest.approx(way_m, abs=0.1)
    estimated = estimate_poses(open_folder(shared / "data/sequences" / name), progress=False)
    assert position_errors_m(estimated, true).max() < within_m


def test_poses_of_the_shipped_sample():
    sample = Path(__file__).parents[2] / "samples/street"
    drive = open_bag(sample, poses=sample / "poses.txt")
    assert position_errors_m(estimate_poses(drive, progress=False), drive.T_map_sensor).max() < 0.1


def test_cached_poses_keep_the_points_of_a_drive(tmp_path, folder):
    drive = with_estimated_poses(sweeps_of_bag(folder_to_bag(folder, tmp_path / "bag")), tmp_path / "cache.txt")
    map_of_first, map_of_last = (transform(drive.T_map_sensor[i], drive.read(i).points) for i in (0, 5))
    np.testing.assert_allclose(map_of_first, map_of_last, atol=0.15)
