import os
import re
from pathlib import Path

import numpy as np
import pytest
from street_drive import a_street, poses_along_x, write_drive, write_poses

from lidar_completion.point_cloud_files import PointCloudFileError, write_points
from lidar_completion_evaluation.baselines import BASELINES
from lidar_completion_evaluation.drives.drive import DriveError, transform
from lidar_completion_evaluation.drives.folder import open_folder
from lidar_completion_evaluation.drives.foreign_poses import refuse_foreign_poses
from lidar_completion_evaluation.drives.poses import read_poses
from lidar_completion_evaluation.metrics import nearest_distances
from lidar_completion_evaluation.truth.rules import DRIVE_RULES, aggregated_truth, in_range, truth_for_sweep

SHARED = Path(os.environ.get("LIDAR_COMPLETION_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.fixture
def drive_folder(tmp_path):
    return write_drive(tmp_path / "drive", poses_along_x(6))


def edit_line(path: Path, line: int, text: str | None) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1 : line] = [] if text is None else [text]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("suffix", [".bin", ".ply", ".pcd", ".npz"])
@pytest.mark.parametrize("rows", [12, 16, 8])
def test_opens_folder_of_clouds_with_poses(tmp_path, suffix, rows):
    poses = poses_along_x(3)
    drive = open_folder(write_drive(tmp_path / "drive", poses, suffix, rows))
    assert len(drive) == 3
    assert drive.names == ("000000", "000001", "000002")
    np.testing.assert_allclose(drive.T_map_sensor, poses, atol=1e-6)
    np.testing.assert_allclose(transform(poses[2], drive.read(2).points), a_street(), atol=1e-4)


def test_opens_pose_file_in_another_folder(tmp_path):
    folder = write_drive(tmp_path / "drive", poses_along_x(3))
    (folder / "poses.txt").rename(tmp_path / "elsewhere.txt")
    drive = open_folder(folder / "velodyne", tmp_path / "elsewhere.txt")
    assert len(drive) == 3


# --- damaged drives ----------------------------------------------------------------------------------------------


def read_all(folder: Path) -> None:
    drive = open_folder(folder)
    for index in range(len(drive)):
        drive.read(index)


def refused(folder: Path, *parts: str) -> None:
    with pytest.raises((DriveError, PointCloudFileError)) as caught:
        read_all(folder)
    for part in parts:
        assert re.search(part, str(caught.value)), f"{part!r} is not in: {caught.value}"


def test_rejects_missing_pose_row(drive_folder):
    edit_line(drive_folder / "poses.txt", 6, None)
    refused(drive_folder, "poses.txt", "expected 6 poses", "found 5", "sweep 000005.bin has none", "same sequence")


def test_rejects_empty_pose_row(drive_folder):
    edit_line(drive_folder / "poses.txt", 3, "")
    refused(drive_folder, "poses.txt, line 3", "expected 12 numbers, found 0", "write it again")


def test_rejects_truncated_pose_row(drive_folder):
    edit_line(drive_folder / "poses.txt", 4, "1 0 0 3 0 1 0")
    refused(drive_folder, "poses.txt, line 4", "expected 12 numbers, found 7")


def test_rejects_nan_pose(drive_folder):
    edit_line(drive_folder / "poses.txt", 2, "1 0 0 nan 0 1 0 0 0 0 1 0")
    refused(drive_folder, "poses.txt, line 2", "found nan", "drop this sweep")


def test_rejects_text_in_poses(drive_folder):
    edit_line(drive_folder / "poses.txt", 2, "one 0 0 0 0 1 0 0 0 0 1 0")
    refused(drive_folder, "poses.txt, line 2", "expected numbers")


def test_rejects_scaled_rotation(drive_folder):
    edit_line(drive_folder / "poses.txt", 5, "2 0 0 3 0 2 0 0 0 0 2 0")
    refused(drive_folder, "poses.txt, line 5", "rigid pose")


def test_rejects_quaternion_that_is_not_unit(tmp_path):
    (tmp_path / "poses.txt").write_text("0 1 2 3 0.1 0.1 0.1 5\n")
    with pytest.raises(DriveError, match="line 1: expected a finite position and a unit quaternion"):
        read_poses(tmp_path / "poses.txt")


def test_rejects_truncated_sweep(drive_folder):
    path = drive_folder / "velodyne/000003.bin"
    path.write_bytes(path.read_bytes()[:-7])
    refused(drive_folder, "000003.bin", "multiple of 16 bytes", "truncated")


def test_rejects_empty_folder(tmp_path):
    (tmp_path / "velodyne").mkdir()
    refused(tmp_path, "velodyne", "expected sweeps", "found none")
    refused(tmp_path / "nowhere", "found nothing there")


def test_rejects_missing_sweep(drive_folder):
    (drive_folder / "velodyne/000002.bin").unlink()
    refused(drive_folder, "expected the sweep 000002 after 000001.bin", "found 000003.bin")


def test_rejects_mixed_formats(drive_folder):
    write_points(drive_folder / "velodyne/000006.ply", np.zeros((1, 3)))
    refused(drive_folder, "one format", ".bin, .ply")


def test_rejects_jump_in_poses(tmp_path):
    poses = poses_along_x(6)
    poses[3:, 0, 3] += 100
    refused(write_drive(tmp_path / "drive", poses), "poses.txt, pose 4", "found 101.0 m", "mixed up")


def test_rejects_poses_of_another_sequence(drive_folder):
    refuse_foreign_poses(open_folder(drive_folder))  # its own are fine
    write_poses(drive_folder / "poses.txt", np.linalg.inv(poses_along_x(6, 2.0)))
    with pytest.raises(DriveError, match="another sequence"):
        refuse_foreign_poses(open_folder(drive_folder))


# --- the real drives --------------------------------------------------------------------------------------------


@pytest.mark.slow  # half a minute of processor time: whole maps and four baselines of long sweeps
@pytest.mark.skipif(not (SHARED / "data/sequences").is_dir(), reason="LIDAR_COMPLETION_SHARED names no data/sequences")
@pytest.mark.parametrize(("name", "raw_cd"), [("90", 0.21), ("91", 0.35)])
def test_baselines_on_the_real_drives(name, raw_cd):
    """CD of the raw sweep and of the baselines, every fifth sweep."""
    drive = open_folder(SHARED / "data/sequences" / name)
    refuse_foreign_poses(drive)
    surface = aggregated_truth(drive)
    figures = {row: [] for row in BASELINES}
    for index in range(0, len(drive), 5):
        sweep = in_range(drive.read(index).points, DRIVE_RULES)
        truth = truth_for_sweep(surface, drive.T_map_sensor[index])
        for row, complete in BASELINES.items():
            figures[row].append(nearest_distances(complete(sweep), truth).chamfer)
    mean = {row: np.mean(values) for row, values in figures.items()}
    assert mean["raw"] == pytest.approx(raw_cd, abs=0.005)
    assert 0.12 < 1 - mean["xy_jittered"] / mean["raw"] < 0.24
    assert mean["interpolated"] < mean["raw"]
    assert mean["jittered"] < mean["raw"]
