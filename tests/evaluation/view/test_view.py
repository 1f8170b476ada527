"""`lidar-completion view`: what it draws, and that its controls work in a browser."""

import dataclasses

import numpy as np
import pytest
import typer
from scipy.spatial import cKDTree
from street_bag import TYPES, cloud_message, write_bag
from street_drive import a_street, poses_along_x, write_drive
from typer.testing import CliRunner

from lidar_completion.completer import SceneCompleter
from lidar_completion.point_cloud_files import read_points, write_points
from lidar_completion.point_clouds import scalar_fields
from lidar_completion_evaluation.drives.bags import sweeps_of_bag
from lidar_completion_evaluation.drives.open import open_drive
from lidar_completion_evaluation.truth.ground_truth_map import build_map
from lidar_completion_evaluation.truth.rules import distance_to_truth
from lidar_completion_evaluation.view.command import view_command
from lidar_completion_evaluation.view.sweeps import (
    DriveSweeps,
    FileSweeps,
    ViewedSweep,
    truth_of_map,
    viewed_sweep,
)

POSES = poses_along_x(3)


@pytest.mark.parametrize("suffix", [".npz", ".ply", ".pcd"])
def test_completed_clouds_keep_provenance_and_confidence(tmp_path, suffix):
    points = np.arange(12, dtype=np.float32).reshape(4, 3)
    provenance, confidence = np.array([0, 1, 1, 0], np.uint8), np.array([1, 0.25, 0.5, 1], np.float32)
    path = tmp_path / f"completed{suffix}"
    write_points(path, points, provenance=provenance, confidence=confidence)
    cloud = read_points(path)
    np.testing.assert_array_equal(cloud.provenance, provenance)
    np.testing.assert_array_equal(cloud.confidence, confidence)
    sweep = FileSweeps([path]).load(0)
    np.testing.assert_array_equal(sweep.measured, points[[0, 3]])
    np.testing.assert_array_equal(sweep.completed, points[[1, 2]])
    np.testing.assert_array_equal(sweep.confidence, [0.25, 0.5])


def test_sweeps_are_measured_points_without_a_model(tmp_path):
    points = np.array([[1, 2, 3], [np.nan] * 3], np.float32)
    sweep = viewed_sweep("a sweep", points)
    np.testing.assert_array_equal(sweep.measured, points[:1])
    assert len(sweep.completed) == 0


def test_sweeps_of_folders_and_bags_are_completed_by_the_model(tmp_path, tiny_model):
    completer = SceneCompleter.load(tiny_model, device="cpu")
    folder = DriveSweeps(open_drive(write_drive(tmp_path / "drive", POSES)), completer).load(1)
    bag = DriveSweeps(sweeps_of_bag(write_bag(tmp_path / "bag", POSES)), completer).load(1)
    assert len(folder.completed) > 1000
    assert folder.confidence.shape == (len(folder.completed),)
    np.testing.assert_allclose(bag.measured, folder.measured, atol=1e-4)


def test_fields_of_a_message_with_padding_between_rows():
    message = cloud_message(a_street(10), 1)
    padded = np.zeros((2, 15 * 22 + 6), np.uint8)
    padded[:, : 15 * 22] = message.data.reshape(2, 15 * 22)
    organised = dataclasses.replace(message, height=2, width=15, row_step=15 * 22 + 6, data=padded.reshape(-1))
    for name, values in scalar_fields(message).items():
        np.testing.assert_array_equal(scalar_fields(organised)[name], values)
    assert TYPES.types["sensor_msgs/msg/PointCloud2"] is type(message)


def test_distances_to_the_map_of_the_drive(tmp_path):
    drive = open_drive(write_drive(tmp_path / "drive", POSES))
    truth = truth_of_map(drive, build_map(drive, tmp_path / "map.npz", moving="keep", progress=False))
    source = DriveSweeps(drive, truth=truth)
    assert source.load(2).truth is not None
    points = np.array([[5, 1, -1.2], [0, 0, 100.0]])
    distance = distance_to_truth(points, truth(2))
    assert distance[0] == pytest.approx(cKDTree(truth(2)).query(points[0])[0])
    assert np.isnan(distance[1])


def test_command_names_a_missing_path(tmp_path):
    app = typer.Typer()
    app.command()(view_command)
    result = CliRunner().invoke(app, [str(tmp_path / "nothing.ply"), "--port", "18765"])
    assert result.exit_code != 0
    assert "nothing.ply" in str(result.exception)


# --- in the browser ---------------------------------------------------------------------------------------------


class TwoSweeps:
    """Two sweeps with truth, of 100 and 200 completed points."""

    def __len__(self) -> int:
        return 2

    def load(self, index: int) -> ViewedSweep:
        count = 100 * (index + 1)
        points = np.random.default_rng(index).uniform(-10, 10, (count, 3)).astype(np.float32)
        confidence = np.linspace(0, 1, count, dtype=np.float32)
        return ViewedSweep(f"sweep {index + 1}", points[:50], points, confidence, points, np.full(count, 0.25))


@pytest.fixture
def view():
    pytest.importorskip("viser", reason="needs viser: pip install 'lidar_completion_evaluation[view]'")
    from lidar_completion_evaluation.view.server import BrowserView

    with BrowserView(port=18080) as view:
        yield view


TEXT = "document.body?.innerText.includes(%r)"


def focus_slider(page, row: int) -> None:
    page.evaluate(f"document.querySelectorAll('[role=slider]')[{row}].focus()")


def test_sliders_in_a_browser(view, browse):
    view.browse(TwoSweeps())
    with browse(view.url) as page:
        page.wait_for(TEXT % "sweep 1")
        page.wait_for(TEXT % "100 of 100 completed points")
        page.wait_for(TEXT % "distance to truth: mean 0.25 m")
        focus_slider(page, 1)
        page.press("End")
        page.wait_for(TEXT % "1 of 100 completed points")
        page.press("Home")
        focus_slider(page, 0)
        page.press("End")
        page.wait_for(TEXT % "200 of 200 completed points")
        page.evaluate("[...document.querySelectorAll('button')].find(each => each.innerText == 'above').click()")
        assert not page.errors


def test_new_sweeps_replace_the_one_shown(view):
    sweeps = TwoSweeps()
    view.show(sweeps.load(0))
    view.show(dataclasses.replace(sweeps.load(1), truth=None, distance_m=None))
    assert "200 of 200 completed points" in view._title.content
    assert view._colour.disabled
