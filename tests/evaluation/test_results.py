"""A stored result is valid only for the poses, map, rules and protocol that it was computed with."""

from dataclasses import replace

import numpy as np
import pytest
from street_drive import a_street, poses_along_x, write_drive

from lidar_completion.point_cloud_files import PointCloudFileError
from lidar_completion_evaluation.drives.drive import DriveError
from lidar_completion_evaluation.drives.folder import open_folder
from lidar_completion_evaluation.drives.open import open_drive
from lidar_completion_evaluation.evaluate import evaluate
from lidar_completion_evaluation.evaluate_scene import SceneSettings
from lidar_completion_evaluation.methods import BaselineMethod
from lidar_completion_evaluation.protocols import PUBLISHED
from lidar_completion_evaluation.results import result_file, result_settings
from lidar_completion_evaluation.scenes import DriveScenes
from lidar_completion_evaluation.summary import summarise
from lidar_completion_evaluation.truth.ground_truth_map import build_map

RAW = BaselineMethod("raw")


@pytest.fixture
def drive(tmp_path):
    return open_folder(write_drive(tmp_path / "street", poses_along_x(6)))


def scenes_of(drive, folder, **map_options):
    file = build_map(drive, folder / "map.npz", progress=False, **{"moving": "keep", **map_options})
    return DriveScenes(drive, file, every=3)


def settings_of(source, settings=None):
    return result_settings(source, RAW, settings or SceneSettings())


def test_settings_change_with_poses_moving_deskew_and_protocol(drive, tmp_path):
    base = settings_of(scenes_of(drive, tmp_path))
    assert settings_of(scenes_of(drive, tmp_path)) == base
    moved = drive.T_map_sensor.copy()
    moved[3, 0, 3] += 0.01
    assert settings_of(scenes_of(replace(drive, T_map_sensor=moved), tmp_path)) != base
    assert settings_of(scenes_of(drive, tmp_path, moving="visibility")) != base
    assert settings_of(scenes_of(drive, tmp_path, deskew=True)) != base
    assert settings_of(scenes_of(drive, tmp_path), SceneSettings(protocol=PUBLISHED)) != base


def test_results_are_reused_after_changing_every(drive, tmp_path):
    source = scenes_of(drive, tmp_path)
    evaluate(source, [RAW], tmp_path, pictures=False, progress=False)
    first = result_file(tmp_path, "raw", "000000")
    written = first.stat().st_mtime_ns
    denser = DriveScenes(drive, source.map_file, every=1)
    assert set(summarise(denser, [RAW], tmp_path).rows[0].scenes) == {"000000", "000003"}
    evaluate(denser, [RAW], tmp_path, pictures=False, progress=False)
    assert first.stat().st_mtime_ns == written


def test_rejects_map_of_other_poses(drive, tmp_path):
    source = scenes_of(drive, tmp_path)
    moved = drive.T_map_sensor.copy()
    moved[:, 1, 3] += 1.0
    with pytest.raises(DriveError, match="expected a map of street with these poses"):
        DriveScenes(replace(drive, T_map_sensor=moved), source.map_file)


def test_five_column_bin_is_rejected_unless_named(tmp_path):
    folder = write_drive(tmp_path / "street", poses_along_x(2))
    for file in (folder / "velodyne").glob("*.bin"):
        points = a_street().astype("<f4")
        ring = np.arange(len(points)) % 32
        np.column_stack([points, np.full(len(points), 0.5), ring]).astype("<f4").tofile(file)
    with pytest.raises(PointCloudFileError, match=r"000000\.bin.*bin_columns \(5 for nuScenes"):
        open_drive(folder, check=False).read(0)
    drive = open_drive(folder, bin_columns=5, check=False)
    np.testing.assert_allclose(drive.read(0).points, a_street(), atol=1e-5)
