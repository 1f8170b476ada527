import os
import re
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin
from scipy.spatial.transform import Rotation
from street_bag import RATE_NS, START_NS, write_bag
from street_drive import a_street, poses_along_x, write_drive, write_poses

from lidar_completion.point_cloud_files import read_points, write_points
from lidar_completion_evaluation.benchmarks import BENCHMARKS
from lidar_completion_evaluation.drives import kitti_360
from lidar_completion_evaluation.drives.bags import open_bag
from lidar_completion_evaluation.drives.drive import DriveError, transform
from lidar_completion_evaluation.drives.open import open_drive
from lidar_completion_evaluation.drives.poses import interpolate_poses
from lidar_completion_evaluation.drives.semantic_kitti import open_sequence
from lidar_completion_evaluation.options import BenchmarkData

SHARED = Path(os.environ.get("LIDAR_COMPLETION_SHARED", Path(__file__).parents[3] / "shared"))
CAMERA = np.array(
    [[0, -1, 0, 0.1], [0, 0, -1, -0.2], [1, 0, 0, -0.3], [0, 0, 0, 1.0]]
)  # T_camera_lidar, as on KITTI's car


def refused(action, *parts: str) -> None:
    with pytest.raises(DriveError) as caught:
        action()
    for part in parts:
        assert re.search(part, str(caught.value)), f"{part!r} is not in: {caught.value}"


# --- SemanticKITTI ----------------------------------------------------------------------------------------------


@pytest.fixture
def sequence(tmp_path):
    """Four sweeps with camera poses, calibration and labels; every tenth point moves, every eleventh has no label."""
    poses = poses_along_x(4)
    folder = write_drive(tmp_path / "08", poses)
    write_poses(folder / "poses.txt", CAMERA @ poses @ np.linalg.inv(CAMERA))
    row = " ".join(f"{value:.9g}" for value in CAMERA[:3].ravel())
    (folder / "calib.txt").write_text(f"P0: 1 0 0 0 0 1 0 0 0 0 1 0\nTr: {row}\n")
    (folder / "labels").mkdir()
    for index in range(4):
        labels = np.full(len(a_street()), 40, np.uint32)
        labels[::10], labels[::11] = 252, 0
        ((7 << 16) | labels).astype("<u4").tofile(folder / f"labels/{index:06d}.label")
    return folder


def test_converts_camera_poses_to_lidar_poses(sequence):
    drive = open_sequence(sequence)
    np.testing.assert_allclose(drive.T_map_sensor, poses_along_x(4), atol=1e-6)
    np.testing.assert_allclose(transform(drive.T_map_sensor[3], drive.read(3).points), a_street(), atol=1e-4)


def test_reads_static_mask_from_labels(sequence):
    sweep = open_sequence(sequence).read(0)
    moving = np.zeros(len(a_street()), bool)
    moving[::10] = moving[::11] = True
    np.testing.assert_array_equal(sweep.static, ~moving)
    assert set(np.unique(sweep.labels)) == {0, 40, 252}  # without the instance in the upper half
    assert open_sequence(sequence, labels=False).read(0).static is None


def test_rejects_label_file_of_another_length(sequence):
    path = sequence / "labels/000002.label"
    path.write_bytes(path.read_bytes()[:-8])
    refused(
        lambda: open_sequence(sequence).read(2), "000002.label", "expected 12000 labels", "found 11998", "000002.bin"
    )


def test_rejects_missing_label_file(sequence):
    (sequence / "labels/000001.label").unlink()
    refused(lambda: open_sequence(sequence), "labels", "one .label file per sweep", "first 000001.label")


def test_rejects_calibration_without_lidar(sequence):
    (sequence / "calib.txt").write_text("P0: 1 0 0 0 0 1 0 0 0 0 1 0\n")
    refused(lambda: open_sequence(sequence), "calib.txt", "'Tr: '")
    (sequence / "calib.txt").write_text("Tr: 1 0 0 0 0 1\n")
    refused(lambda: open_sequence(sequence), "calib.txt, line 1", "12 numbers, found 6")


def test_benchmark_rejects_sequence_of_another_length(sequence):
    refused(lambda: BENCHMARKS["semantic-kitti-08"].open(sequence), "the 4071 sweeps of sequence 08", "found 4")


# --- KITTI-360 --------------------------------------------------------------------------------------------------


@pytest.fixture
def kitti_360_root(tmp_path):
    """Frames 3, 4, 6 with poses of a camera that does not look along the LiDAR's axes."""
    root, name = tmp_path / "KITTI-360", kitti_360.FIRST_DRIVE
    lines = []
    for frame, pose in zip((3, 4, 6), poses_along_x(3), strict=True):
        points = transform(np.linalg.inv(pose), a_street())
        write_points(root / "data_3d_raw" / name / f"velodyne_points/data/{frame:010d}.bin", points)
        lines.append(f"{frame} " + " ".join(f"{value:.9g}" for value in (pose @ np.linalg.inv(CAMERA)).ravel()))
    (root / "data_poses" / name).mkdir(parents=True)
    (root / "data_poses" / name / "cam0_to_world.txt").write_text("\n".join(lines) + "\n")
    (root / "calibration").mkdir()
    values = np.linalg.inv(CAMERA)[:3].ravel()
    (root / "calibration/calib_cam_to_velo.txt").write_text(" ".join(f"{value:.9g}" for value in values) + "\n")
    return root


def test_kitti_360_skips_frames_without_pose(kitti_360_root):
    drive = open_drive(kitti_360_root, check=False)
    assert drive.names == ("0000000003", "0000000004", "0000000006")
    np.testing.assert_allclose(transform(drive.T_map_sensor[2], drive.read(2).points), a_street(), atol=1e-4)


def test_every_kitti_360_drive_can_be_opened_by_its_path(kitti_360_root):
    other = "2013_05_28_drive_0003_sync"
    for part in ("data_3d_raw", "data_poses"):
        (kitti_360_root / part / kitti_360.FIRST_DRIVE).rename(kitti_360_root / part / other)
    path = kitti_360_root / "data_3d_raw" / other
    by_path = open_drive(path, check=False)
    assert (by_path.name, len(by_path)) == (other, 3)
    np.testing.assert_array_equal(
        by_path.T_map_sensor, open_drive(kitti_360_root, kitti_360_drive=other, check=False).T_map_sensor
    )
    benchmark = BenchmarkData.of("kitti-360", kitti_360_root, other, None, None)
    assert benchmark.name == f"kitti-360-{other}"
    assert benchmark.benchmark.open(benchmark.root).names == by_path.names
    refused(lambda: open_drive(kitti_360_root, check=False), kitti_360.FIRST_DRIVE, "found nothing there")


def test_rejects_inconsistent_kitti_360(kitti_360_root):
    name = kitti_360.FIRST_DRIVE
    refused(
        lambda: kitti_360.open_drive(kitti_360_root, "2013_05_28_drive_0099_sync"), "drive_0099", "found nothing there"
    )
    poses = kitti_360_root / "data_poses" / name / "cam0_to_world.txt"
    lines = poses.read_text().splitlines()
    poses.write_text("\n".join([lines[0], lines[2], lines[1]]) + "\n")
    refused(lambda: kitti_360.open_drive(kitti_360_root), "cam0_to_world.txt, line 3", "frame after 6, found 4")
    poses.write_text("\n".join(lines) + "\n")
    (kitti_360_root / "data_3d_raw" / name / "velodyne_points/data/0000000004.bin").unlink()
    refused(lambda: kitti_360.open_drive(kitti_360_root), "each of the 3 poses", "found 2", "0000000004.bin")


# --- rosbag2 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_opens_bag_with_odometry(tmp_path, storage):
    poses = poses_along_x(4)
    drive = open_drive(write_bag(tmp_path / "bag", poses, storage))
    np.testing.assert_allclose(drive.T_map_sensor, poses, atol=1e-6)
    sweep = drive.read(3)
    np.testing.assert_allclose(transform(poses[3], sweep.points), a_street(), atol=1e-4)
    assert sweep.intensity[0] == 7
    np.testing.assert_allclose(sweep.sweep_time[[0, -1]], (0, 1))


def test_interpolates_tum_poses_of_a_bag(tmp_path):
    bag = write_bag(tmp_path / "bag", poses_along_x(4), odometry=False)
    every_second = poses_along_x(5)[::2]
    quaternions = Rotation.from_matrix(every_second[:, :3, :3]).as_quat()
    lines = [
        f"{START_NS // 10**9}.{2 * row:d}00000000 " + " ".join(map(str, [*pose[:3, 3], *quaternion]))
        for row, (pose, quaternion) in enumerate(zip(every_second, quaternions, strict=True))
    ]
    (tmp_path / "poses.tum").write_text("# time x y z qx qy qz qw\n" + "\n".join(lines) + "\n")
    drive = open_bag(bag, poses=tmp_path / "poses.tum")
    np.testing.assert_allclose(drive.T_map_sensor, poses_along_x(4), atol=1e-3)


def test_rejects_bag_without_poses_or_topic(tmp_path):
    bag = write_bag(tmp_path / "bag", poses_along_x(2), odometry=False)
    refused(lambda: open_bag(bag), "nav_msgs/msg/Odometry", "/velodyne_points", "poses=POSE_FILE")
    refused(lambda: open_bag(bag, topic="/points"), "expected the topic /points", "the bag has: .*/velodyne_points")
    refused(lambda: open_bag(tmp_path / "nowhere"), "no such bag")


def test_rejects_bag_with_stamps_that_jump_back(tmp_path):
    stamps = [START_NS, START_NS + RATE_NS, START_NS - 3600 * 10**9]
    bag = write_bag(tmp_path / "bag", poses_along_x(3), stamps=stamps)
    refused(lambda: open_bag(bag), "/velodyne_points, message 3", "stamp after", "clock jumps back")


def test_rejects_truncated_bag(tmp_path):
    bag = write_bag(tmp_path / "bag", poses_along_x(2), StoragePlugin.SQLITE3)
    file = next(bag.glob("*.db3"))
    file.write_bytes(file.read_bytes()[:500])
    refused(lambda: open_bag(bag), "bag", "copy it again")


def test_rejects_stamps_outside_the_poses_and_gaps():
    times = np.array([0, 1, 5]) * 10**9
    poses = poses_along_x(3)
    refused(
        lambda: interpolate_poses(np.array([7 * 10**9]), times, poses, "odometry"), "odometry", "from 0.000 to 5.000"
    )
    refused(lambda: interpolate_poses(np.array([3 * 10**9]), times, poses, "odometry"), "none for 4.00 s", "3.000 s")


@pytest.mark.skipif(not (SHARED / "data/bags").is_dir(), reason="LIDAR_COMPLETION_SHARED names no data/bags")
@pytest.mark.parametrize("bag", ["street_mcap", "street_sqlite3"])
def test_real_bags_have_the_sweeps_of_the_drive(tmp_path, bag):
    poses = read_drive_poses()
    stamps = [1317384506 + index / 10 for index in range(len(poses))]
    table = [
        [stamp, *pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()]
        for stamp, pose in zip(stamps, poses, strict=True)
    ]
    (tmp_path / "poses.tum").write_text("\n".join(" ".join(f"{value:.9f}" for value in row) for row in table))
    drive = open_bag(SHARED / "data/bags" / bag, poses=tmp_path / "poses.tum")
    files = sorted((SHARED / "data/sequences/91/velodyne").glob("*.bin"))
    measured = drive.read(0).points
    assert any(np.isin(measured[:, 0], read_points(file).points[:, 0]).mean() > 0.99 for file in files)


def read_drive_poses() -> np.ndarray:
    return open_drive(SHARED / "data/sequences/91", check=False).T_map_sensor
