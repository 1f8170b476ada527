"""A small drive, its scenes, and perfect predictions for them."""

import numpy as np
import pytest
from street_drive import a_street, poses_along_x, write_drive

from lidar_completion.point_cloud_files import write_points
from lidar_completion_evaluation.drives.drive import transform
from lidar_completion_evaluation.drives.folder import open_folder
from lidar_completion_evaluation.scenes import DriveScenes
from lidar_completion_evaluation.truth.ground_truth_map import build_map
from lidar_completion_evaluation.truth.observed_space import RayRules


@pytest.fixture(scope="session")
def drive_folder(tmp_path_factory):
    """Six sweeps with every third point of the street each."""

    def part(index):
        return a_street()[index % 3 :: 3]

    return write_drive(tmp_path_factory.mktemp("evaluate") / "street", poses_along_x(6), street=part)


@pytest.fixture(scope="session")
def source(drive_folder, tmp_path_factory):
    drive = open_folder(drive_folder)
    file = build_map(drive, tmp_path_factory.mktemp("map") / "map.npz", moving="keep", progress=False)
    return DriveScenes(drive, file, every=2, rays=RayRules(voxel_size_m=0.4))


@pytest.fixture(scope="session")
def perfect(source, tmp_path_factory):
    """A folder of perfect predictions."""
    folder = tmp_path_factory.mktemp("predictions") / "perfect"
    for name, index in zip(source.names, source.indices, strict=True):
        pose = source.drive.T_map_sensor[index]
        write_points(folder / f"{name}.ply", transform(np.linalg.inv(pose), a_street()))
    return folder
