"""Thinned and tilted sweeps of a drive against its full, upright truth; existing maps; chosen rows."""

from dataclasses import replace

import numpy as np
import pytest
from street_drive import poses_along_x, write_drive
from typer import Typer
from typer.testing import CliRunner

from lidar_completion_evaluation.drives.drive import DriveError
from lidar_completion_evaluation.drives.folder import open_folder
from lidar_completion_evaluation.drives.rings import every_nth_ring, rings_of
from lidar_completion_evaluation.evaluate import evaluate
from lidar_completion_evaluation.evaluate_command import evaluate_command
from lidar_completion_evaluation.evaluate_scene import SceneSettings
from lidar_completion_evaluation.methods import BaselineMethod, PredictionFolder, baseline_methods
from lidar_completion_evaluation.results import stored_results
from lidar_completion_evaluation.scenes import DriveScenes, tilt_of
from lidar_completion_evaluation.truth.ground_truth_map import build_map
from lidar_completion_evaluation.truth.observed_space import RayRules

RINGS, COLUMNS = 16, 180


def ringed_sweep(rings=RINGS):
    """The ground seen by a spinning LiDAR, stored ring by ring, with the number of each point's ring."""
    azimuth = np.tile(np.linspace(0.01, 2 * np.pi - 0.01, COLUMNS), rings)
    ring = np.repeat(np.arange(rings), COLUMNS)
    radius = 4.0 + 2.0 * ring
    points = np.column_stack([radius * np.cos(azimuth), radius * np.sin(azimuth), np.full(len(ring), -1.73)])
    return points.astype(np.float32), ring


@pytest.fixture(scope="module")
def ringed_drive(tmp_path_factory):
    """Two sweeps of ringed_sweep from one place, and their map."""
    folder = write_drive(
        tmp_path_factory.mktemp("ringed") / "drive", poses_along_x(2, 0.0, 0.0), street=lambda index: ringed_sweep()[0]
    )
    drive = open_folder(folder)
    return drive, build_map(drive, folder / "map.npz", moving="keep", progress=False)


def scenes(ringed_drive, **options):
    drive, file = ringed_drive
    return DriveScenes(drive, file, every=1, rays=RayRules(voxel_size_m=0.4), **options)


def test_rings_are_found_where_the_azimuth_jumps_back():
    points, ring = ringed_sweep()
    assert np.array_equal(rings_of(points), ring)
    assert np.array_equal(rings_of(points * (1, -1, 1)), ring), "sensors that turn the other way"
    assert np.array_equal(every_nth_ring(points, 4), ring % 4 == 0)
    assert every_nth_ring(points, 1).all()


def test_clouds_stored_column_by_column_are_refused():
    points, ring = ringed_sweep()
    by_column = points[np.lexsort((ring, np.tile(np.arange(COLUMNS), RINGS)))]
    with pytest.raises(DriveError, match=r"drive 7: expected points stored ring by ring .* found 1;"):
        rings_of(by_column, "drive 7")


def test_thinned_sweeps_are_compared_with_the_full_truth(ringed_drive):
    full, thinned = scenes(ringed_drive).load(0), scenes(ringed_drive, every_ring=4).load(0)
    assert len(thinned.sweep) == len(thinned.returns) == len(full.returns) // 4
    assert np.array_equal(thinned.truth, full.truth)
    above = full.truth + np.float32([0.0, 0.0, 0.6])
    assert full.observed.free(above).any()
    assert np.array_equal(thinned.observed.free(above), full.observed.free(above))
    assert thinned.sweep_distances.mean_to_prediction > 4 * full.sweep_distances.mean_to_prediction


def test_methods_get_tilted_sweeps_and_figures_stay_upright(ringed_drive, tmp_path):
    upright, tilted = scenes(ringed_drive), scenes(ringed_drive, tilt_deg=10.0)
    scene = tilted.load(1)
    seen = scene.as_tilted()
    far = np.linalg.norm(scene.sweep[:, :2], axis=1).argmax()
    assert abs(seen.sweep[:, 2] - scene.sweep[:, 2]).max() > 3.0
    assert np.linalg.norm(seen.sweep[far]) == pytest.approx(np.linalg.norm(scene.sweep[far]), abs=1e-4)
    assert np.allclose(scene.from_tilted(seen.sweep), scene.sweep, atol=1e-5)
    raw = BaselineMethod("raw")
    figures = []
    for source, output in ((upright, tmp_path / "upright"), (tilted, tmp_path / "tilted")):
        evaluate(source, [raw], output, pictures=False, progress=False)
        results = stored_results(source, raw, output, settings=SceneSettings())
        figures.append([results[name]["completed"]["cd"] for name in source.names])
    assert np.allclose(*figures, atol=1e-4), "the raw sweep does not change with the tilt of the sensor"


def test_tilts_have_the_angle_and_different_directions():
    up = np.array([tilt_of(number, 10.0)[:, 2] for number in range(8)])
    assert np.degrees(np.arccos(up[:, 2])) == pytest.approx(10.0)
    assert len(np.unique(np.round(up, 6), axis=0)) == 8


def test_thinned_and_tilted_results_are_stored_apart(ringed_drive):
    plain = scenes(ringed_drive)
    others = (scenes(ringed_drive, every_ring=2), scenes(ringed_drive, tilt_deg=5.0))
    assert "every_ring" not in plain.settings()
    assert all(other.settings() != plain.settings() for other in others)


def test_predictions_are_refused_for_tilted_sweeps(source, perfect, tmp_path):
    with pytest.raises(ValueError, match="--tilt: expected upright sweeps"):
        evaluate(replace(source, tilt_deg=5.0), [PredictionFolder(perfect)], tmp_path, progress=False)


def test_chosen_baselines():
    assert [row.name for row in baseline_methods(chosen="raw, xy_jittered")] == ["raw", "xy_jittered"]
    assert baseline_methods(chosen="none") == []
    with pytest.raises(ValueError, match=r"--baselines: expected all, none, or some of raw, .* found 'xy'"):
        baseline_methods(chosen="raw,xy")


def test_command_takes_a_map_and_leaves_out_baselines(drive_folder, perfect, source, tmp_path):
    app = Typer()
    app.command()(evaluate_command)
    data = ("--data", drive_folder, "--scenes", "1", "--every", "2", "--no-pictures", "--output", tmp_path / "results")
    given = ("--map", source.map_file, "--baselines", "raw", "--predictions", perfect)
    done = CliRunner().invoke(app, list(map(str, (*data, *given))))
    assert done.exit_code == 0, done.output
    assert "1 scenes x 2 rows (1 of them baselines): 2 of 2 results to compute" in done.output
    assert "xy_jittered" not in done.output
    assert not (tmp_path / "results" / "map.npz").exists()
    nothing = CliRunner().invoke(app, list(map(str, (*data, "--baselines", "none"))))
    assert nothing.exit_code == 2
    assert "nothing to evaluate" in nothing.output


def test_command_refuses_a_map_of_another_drive(drive_folder, ringed_drive, tmp_path):
    app = Typer()
    app.command()(evaluate_command)
    done = CliRunner().invoke(
        app, ["--data", str(drive_folder), "--map", str(ringed_drive[1]), "--output", str(tmp_path)]
    )
    assert done.exit_code == 2
    assert "expected a map of street with these poses" in done.output
