"""`make-bag`: what was in the folder is in the bag."""

import numpy as np
import pytest
import typer
from street_drive import a_street, poses_along_x, write_drive
from typer.testing import CliRunner

from lidar_completion.point_cloud_files import write_points
from lidar_completion_evaluation.drives.bags import sweeps_of_bag
from lidar_completion_evaluation.drives.drive import DriveError, transform
from lidar_completion_evaluation.drives.open import open_drive
from lidar_completion_evaluation.drives.poses import write_poses
from lidar_completion_evaluation.drives.write_bag import folder_to_bag, read_times
from lidar_completion_evaluation.own_data_commands import make_bag_command

POSES = poses_along_x(4)


@pytest.mark.parametrize("suffix", [".bin", ".ply", ".pcd", ".npy", ".npz"])
def test_bag_holds_points_and_poses_of_the_folder(tmp_path, suffix):
    folder = write_drive(tmp_path / "drive", POSES, suffix)
    drive = open_drive(folder_to_bag(folder, tmp_path / "bag", progress=False))
    np.testing.assert_allclose(drive.T_map_sensor, POSES, atol=1e-6)
    np.testing.assert_allclose(transform(POSES[2], drive.read(2).points), a_street(), atol=1e-4)


def test_intensity_and_missing_returns_are_kept(tmp_path):
    points = np.array([[1, 2, 3], [np.nan, np.nan, np.nan]], np.float32)
    write_points(tmp_path / "clouds/a.npz", points, intensity=np.array([7, 0], np.float32))
    sweep = sweeps_of_bag(folder_to_bag(tmp_path / "clouds", tmp_path / "bag", progress=False)).read(0)
    np.testing.assert_array_equal(sweep.points, points)
    np.testing.assert_array_equal(sweep.intensity, [7, 0])


def test_folder_without_poses_or_times_gets_a_constant_rate(tmp_path):
    folder = write_drive(tmp_path / "drive", POSES)
    (folder / "poses.txt").unlink()
    drive = sweeps_of_bag(folder_to_bag(folder, tmp_path / "bag", rate_hz=5, progress=False))
    np.testing.assert_array_equal(drive.stamps_ns, [1_000_000_000, 1_200_000_000, 1_400_000_000, 1_600_000_000])
    with pytest.raises(DriveError, match="nav_msgs/msg/Odometry"):
        open_drive(tmp_path / "bag")


def test_stamps_come_from_the_times_file(tmp_path):
    folder = write_drive(tmp_path / "drive", POSES)
    (folder / "times.txt").write_text("1.0e+01\n10.104875000\n10.25\n10.31\n")
    drive = sweeps_of_bag(folder_to_bag(folder, tmp_path / "bag", progress=False))
    np.testing.assert_array_equal(drive.stamps_ns, [10_000_000_000, 10_104_875_000, 10_250_000_000, 10_310_000_000])


def test_stamps_come_from_tum_poses(tmp_path):
    folder = write_drive(tmp_path / "drive", POSES)
    stamps = 1_700_000_000_000_000_001 * np.ones(4, np.int64) + 100_000_000 * np.arange(4)
    write_poses(folder / "poses.txt", POSES, stamps)
    drive = open_drive(folder_to_bag(folder, tmp_path / "bag", progress=False))
    assert np.abs(drive.stamps_ns - stamps).max() < 500  # float64 seconds
    np.testing.assert_allclose(drive.T_map_sensor, POSES, atol=1e-6)


def test_tum_poses_are_interpolated_at_the_times(tmp_path):
    folder = write_drive(tmp_path / "drive", POSES)
    write_poses(folder / "poses.txt", poses_along_x(9, step_m=0.5, turn_deg=0), np.arange(9) * 50_000_000)
    (folder / "times.txt").write_text("0.025\n0.1\n0.2\n0.3\n")
    drive = open_drive(folder_to_bag(folder, tmp_path / "bag", progress=False), check=False)
    np.testing.assert_allclose(drive.T_map_sensor[:, 0, 3], [0.25, 1, 2, 3], atol=1e-6)


def test_date_and_time_keep_their_nanoseconds(tmp_path):
    (tmp_path / "times.txt").write_text("2011-09-30 12:35:06.964389445\n2011-09-30T12:35:07\n")
    np.testing.assert_array_equal(read_times(tmp_path / "times.txt", 2), [1317386106_964389445, 1317386107_000000000])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\n", "expected 3 times, one per sweep, found 2"),
        ("1\n2\n2\n", "time 3: expected a later time"),
        ("1\nnoon\n3\n", "time 2: expected seconds or a date and time, found 'noon'"),
        ("1\n-2\n3\n", "time 2: expected seconds of 0 or more"),
    ],
)
def test_rejects_broken_times(tmp_path, text, message):
    (tmp_path / "times.txt").write_text(text)
    with pytest.raises(DriveError, match=message):
        read_times(tmp_path / "times.txt", 3)


def test_rejects_existing_output_and_removes_an_incomplete_bag(tmp_path):
    folder = write_drive(tmp_path / "drive", POSES)
    (tmp_path / "there").mkdir()
    with pytest.raises(DriveError, match="exists already"):
        folder_to_bag(folder, tmp_path / "there")
    (folder / "velodyne/000002.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"000002\.bin"):
        folder_to_bag(folder, tmp_path / "bag", progress=False)
    assert not (tmp_path / "bag").exists()


def test_command_writes_a_bag(tmp_path):
    app = typer.Typer()
    app.command()(make_bag_command)
    folder = write_drive(tmp_path / "drive", POSES)
    arguments = [str(folder), "--output", str(tmp_path / "bag"), "--topic", "/lidar", "--rate", "20"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert open_drive(tmp_path / "bag", topic="/lidar").stamps_ns[1] == 1_050_000_000
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code != 0
