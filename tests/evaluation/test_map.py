import os
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from scipy.linalg import expm, logm
from scipy.spatial import cKDTree
from street_drive import a_street, poses_along_x, write_drive

from lidar_completion_evaluation.drives.drive import DriveError, DriveSweep, transform
from lidar_completion_evaluation.drives.folder import open_folder
from lidar_completion_evaluation.truth.deskewed_drive import motion_of_sweep, time_from_azimuth, to_mid_sweep
from lidar_completion_evaluation.truth.ground_truth_map import GroundTruthMap, build_map, write_surface
from lidar_completion_evaluation.truth.moving import VisibilityCheck
from lidar_completion_evaluation.truth.rules import (
    MapRules,
    aggregated_truth,
    first_per_voxel,
    in_range,
    truth_for_sweep,
    truth_for_sweep_plain,
)


class RecordedDrive:
    """A drive in memory."""

    def __init__(self, poses, sweeps, static=None):
        self.name, self.T_map_sensor, self._sweeps, self._static = "recorded", poses, sweeps, static
        self.names = tuple(map(str, range(len(poses))))

    def __len__(self):
        return len(self.names)

    def read(self, index):
        return DriveSweep(self._sweeps[index], static=None if self._static is None else self._static[index])


def assert_same_points(a: np.ndarray, b: np.ndarray) -> None:
    assert len(a) == len(b)
    assert cKDTree(a).query(b)[0].max() < 1e-4
    assert cKDTree(b).query(a)[0].max() < 1e-4


@pytest.fixture
def drive(tmp_path):
    return open_folder(write_drive(tmp_path / "drive", poses_along_x(7)))


def test_map_has_one_point_per_voxel(drive):
    points = aggregated_truth(drive)
    assert len(points) == len(first_per_voxel(points, 0.1))
    distance, _ = cKDTree(a_street()).query(points)
    assert distance.max() < 1e-3
    assert 0.9 * len(first_per_voxel(a_street(), 0.1)) < len(points) < len(a_street())


def test_map_on_disk_equals_map_in_memory(drive, tmp_path):
    file = build_map(drive, tmp_path / "map.npz", moving="keep", batch_sweeps=2, progress=False)
    stored = GroundTruthMap(file)
    assert_same_points(stored.all(), aggregated_truth(drive))
    around = stored.around(np.array([3.0, 0, 0]), 10.0)
    near = truth_for_sweep(around, drive.T_map_sensor[3], MapRules(max_range_m=10.0))
    expected = truth_for_sweep(aggregated_truth(drive), drive.T_map_sensor[3], MapRules(max_range_m=10.0))
    assert_same_points(near, expected)


def test_a_map_keeps_no_tile_in_memory(tmp_path):
    """Otherwise every data worker would come to hold all maps."""
    drive = open_folder(write_drive(tmp_path / "long", poses_along_x(2)))
    random = np.random.default_rng(0)
    surface = random.uniform((0, 0, 0), (600, 50, 1), (200_000, 3))
    stored = GroundTruthMap(write_surface(surface, tmp_path / "map.npz", drive))
    tracemalloc.start()
    try:
        found = sum(len(stored.around(np.array([x, 25.0, 0.0]), 25.0)) for x in range(26, 600, 52))
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found > len(surface) / 2
    assert kept < 0.01 * surface.nbytes
    assert peak < 0.5 * surface.nbytes


def test_rejects_a_map_with_compressed_tiles(drive, tmp_path):
    stored = build_map(drive, tmp_path / "map.npz", moving="keep", progress=False)
    packed = tmp_path / "packed.npz"
    with zipfile.ZipFile(stored) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(DriveError, match=r"packed\.npz: expected uncompressed tiles"):
        GroundTruthMap(packed)


def test_reuses_map_with_same_settings_only(drive, tmp_path):
    file = tmp_path / "map.npz"
    build_map(drive, file, moving="keep", progress=False)
    made = file.stat().st_mtime_ns
    build_map(drive, file, moving="keep", progress=False)
    assert file.stat().st_mtime_ns == made
    build_map(drive, file, MapRules(voxel_size_m=0.5), moving="keep", progress=False)
    assert file.stat().st_mtime_ns != made
    assert len(GroundTruthMap(file).all()) < len(aggregated_truth(drive)) / 2
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


KILLED = """
import sys, time
from pathlib import Path
from lidar_completion_evaluation.drives.folder import FolderDrive, open_folder
from lidar_completion_evaluation.truth.ground_truth_map import build_map

drive, file = open_folder(sys.argv[1]), Path(sys.argv[2])
class Stuck(FolderDrive):
    def read(self, index):
        if len(list(file.parent.glob(file.name + ".partial/batch-???????.npz"))) >= 2:
            time.sleep(600)  # killed here
        return super().read(index)
stuck = Stuck(drive.name, drive.names, drive.T_map_sensor, drive.files)
build_map(stuck, file, moving="visibility", batch_sweeps=2, progress=False)
"""


def test_interrupted_map_resumes_to_identical_bytes(drive, tmp_path):
    whole = build_map(drive, tmp_path / "whole.npz", moving="visibility", batch_sweeps=2, progress=False)
    file = tmp_path / "killed.npz"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "drive"), str(file)])
    batches = "killed.npz.partial/batch-???????.npz"
    wait_for(lambda: len(list(tmp_path.glob(batches))) >= 2, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not file.exists()
    assert len(list(tmp_path.glob(batches))) == 2
    build_map(drive, file, moving="visibility", batch_sweeps=2, progress=False)
    assert file.read_bytes() == whole.read_bytes()


def wait_for(condition, process, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended before it could be killed"
        assert time.monotonic() < end, "no batch was written"
        time.sleep(0.02)


# --- the truth of one sweep -------------------------------------------------------------------------------------


def test_truth_is_limited_by_range_height_and_view_cells():
    random = np.random.default_rng(0)
    world = random.uniform((-80, -80, -6), (80, 80, 8), (200_000, 3))
    pose = poses_along_x(4)[3]
    truth = truth_for_sweep(world, pose)
    local = transform(np.linalg.inv(pose), world)
    inside = (np.linalg.norm(local, axis=1) < 50) & (local[:, 2] > -4) & (local[:, 2] < 4.4)
    assert len(truth) == inside.sum()
    sweep = np.array([[5.0, 5.0, 0.0], [20.0, 5.0, 0.0]], np.float32)
    cells = truth_for_sweep(world, pose, MapRules(view_cell_m=10.0), sweep)
    # the grid starts half a cell below the smallest coordinates: (0, 0, -5), so the sweep touches x 0-10 and 20-30
    assert len(cells) > 0
    assert (((cells[:, 0] >= 0) & (cells[:, 0] < 10)) | ((cells[:, 0] >= 20) & (cells[:, 0] < 30))).all()
    assert ((cells[:, 1] >= 0) & (cells[:, 1] < 10)).all()
    with pytest.raises(ValueError, match="view cells"):
        truth_for_sweep(world, pose, MapRules(view_cell_m=10.0))


@pytest.mark.parametrize("view_cell_m", [None, 0.5, 10.0])
def test_compiled_truth_equals_plain_implementation(view_cell_m):
    random = np.random.default_rng(1)
    world = random.uniform((-80, -80, -6), (80, 80, 8), (50_000, 3)) + np.array([4000.0, -900.0, 12.0])
    pose = expm(np.cross(np.eye(3), [0.03, -0.02, 2.0]))
    pose = np.vstack([np.column_stack([pose, [4001.0, -899.0, 13.0]]), [0, 0, 0, 1]])
    sweep = random.uniform((-60, -60, -2), (60, 60, 3), (300, 3)).astype(np.float32)
    rules = MapRules(view_cell_m=view_cell_m, max_z_m=np.inf)
    plain = truth_for_sweep_plain(world, pose, rules, sweep)
    assert len(plain) > 0
    np.testing.assert_allclose(truth_for_sweep(world, pose, rules, sweep), plain, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_in_range_are_finite_and_between_the_limits(dtype):
    points = np.random.default_rng(0).uniform(-40, 40, (1000, 3)).astype(dtype)
    points[:3] = [[np.nan, 0, 10], [np.inf, 0, 0], [3.5, 0, 0]]
    distance = np.linalg.norm(points, axis=1)
    np.testing.assert_array_equal(in_range(points, MapRules()), points[(distance > 3.5) & (distance < 50)])


def test_map_excludes_vehicle_and_invalid_points():
    points = np.array([[1.0, 0, 0], [np.nan, 0, 0], [10.0, 0, 0]], np.float32)
    drive = RecordedDrive(np.eye(4)[None], [points])
    np.testing.assert_allclose(aggregated_truth(drive), [[10, 0, 0]])


# --- moving objects ----------------------------------------------------------------------------------------------


def passing_car(frames: int = 31):
    """Sweeps of a dense sensor in front of a wall past which a car drives, and the masks of the car."""
    plain = ring_of_wall(20.0)
    sweeps, is_car = [], []
    for frame in range(frames):
        car = box(np.array([10.03, -8.0 + 0.5 * frame, -0.5]))
        angle = np.degrees(np.arctan2(plain[:, 1], plain[:, 0]))
        car_angle = np.degrees(np.arctan2(car[:, 1], car[:, 0]))
        hidden = (angle > car_angle.min()) & (angle < car_angle.max()) & (plain[:, 2] < 1.0)
        seen = plain[~hidden]
        sweeps.append(np.concatenate([seen, car]).astype(np.float32))
        is_car.append(np.arange(len(sweeps[-1])) >= len(seen))
    return sweeps, is_car


def ring_of_wall(range_m: float) -> np.ndarray:
    azimuth, elevation = np.meshgrid(np.radians(np.arange(0, 360, 0.45)), np.radians(np.arange(-10, 10, 0.45)))
    return np.column_stack(
        [range_m * np.cos(azimuth).ravel(), range_m * np.sin(azimuth).ravel(), range_m * np.tan(elevation).ravel()]
    )


def box(centre: np.ndarray) -> np.ndarray:
    y, z = np.meshgrid(np.linspace(-1.0, 1.0, 30), np.linspace(-0.6, 0.6, 12))
    return np.column_stack([np.zeros(y.size), y.ravel(), z.ravel()]) + centre


def test_visibility_removes_car_and_keeps_wall():
    sweeps, is_car = passing_car()
    drive = RecordedDrive(np.tile(np.eye(4), (len(sweeps), 1, 1)), sweeps)
    static = VisibilityCheck(drive).static(15, sweeps[15])
    assert static[is_car[15]].mean() < 0.05
    assert static[~is_car[15]].mean() > 0.999


def test_labels_and_visibility_remove_car_from_map(tmp_path):
    sweeps, is_car = passing_car()
    poses = np.tile(np.eye(4), (len(sweeps), 1, 1))
    labelled = RecordedDrive(poses, sweeps, [~mask for mask in is_car])
    kept = car_points(build_map(RecordedDrive(poses, sweeps), tmp_path / "a.npz", moving="keep", progress=False))
    by_label = car_points(build_map(labelled, tmp_path / "b.npz", progress=False))
    by_view = car_points(build_map(RecordedDrive(poses, sweeps), tmp_path / "c.npz", progress=False))
    assert kept > 1000
    assert by_label == 0
    assert by_view < 0.05 * kept
    with pytest.raises(DriveError, match="moving='visibility'"):
        build_map(RecordedDrive(poses, sweeps), tmp_path / "d.npz", moving="labels", progress=False)


def car_points(file) -> int:
    return int((np.abs(GroundTruthMap(file).all()[:, 0] - 10.03) < 1e-4).sum())


# --- deskewing -------------------------------------------------------------------------------------------------


def test_deskewing_undoes_sensor_motion():
    random = np.random.default_rng(1)
    world = random.uniform(-30, 30, (500, 3))
    share = random.random(500)
    poses = poses_along_x(3, step_m=1.5, turn_deg=3.0)
    motion = motion_of_sweep(poses, 1)
    measured = np.empty_like(world)
    for row, (point, time_share) in enumerate(zip(world, share, strict=True)):
        moved = part_of(motion, time_share - 0.5)
        measured[row] = transform(np.linalg.inv(moved), point[None])[0]
    np.testing.assert_allclose(to_mid_sweep(measured, share, motion), world, atol=1e-4)


def part_of(motion: np.ndarray, share: float) -> np.ndarray:
    return expm(share * logm(motion)).real


def test_time_from_azimuth_is_clockwise_from_behind():
    directions = np.array([[-1, 1e-6, 0], [0, 1, 0], [1, 0, 0], [0, -1, 0]], np.float32)
    np.testing.assert_allclose(time_from_azimuth(directions), [0, 0.25, 0.5, 0.75], atol=1e-5)


def test_stationary_sensor_has_no_motion():
    np.testing.assert_allclose(motion_of_sweep(np.eye(4)[None], 0), np.eye(4))
