"""The mounting of a sensor, estimated from its sweeps: ground plane, findings, levelling."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lidar_completion.compile_loops import synthetic_sweep
from lidar_completion.completer import SceneCompleter
from lidar_completion.model.card import Seen
from lidar_completion.mounting import Confirmation, Levelling, MountingCheck, SensorView, findings, level_rotation
from lidar_completion.mounting.ground_plane import candidates, votes_plain
from lidar_completion.mounting.ground_plane_compiled import votes

HEIGHT_M = 1.8  # of the sensor of synthetic_sweep


def causes(points, sweeps=1, seen=Seen()):  # noqa: B008 (immutable)
    check = MountingCheck()
    for _ in range(sweeps):
        mounting = check.add(SensorView.of(points.astype(np.float32)))
    return [each.cause for each in findings(mounting, seen)]


def rotated(points, axes, angles_deg):
    return Rotation.from_euler(axes, angles_deg, degrees=True).apply(points)


CASES = {
    "unchanged": (lambda p: p, []),
    "roll 10": (lambda p: rotated(p, "x", 10), ["tilt"]),
    "pitch 10": (lambda p: rotated(p, "y", 10), ["tilt"]),
    "pitch -20": (lambda p: rotated(p, "y", -20), ["tilt"]),
    "roll 7 and pitch 7": (lambda p: rotated(p, "xy", [7, 7]), ["tilt"]),
    "upside down": (lambda p: rotated(p, "x", 180), ["upside down"]),
    "optical frame": (lambda p: rotated(p, "x", 90), ["rotated"]),
    "base_link": (lambda p: p + np.array([0, 0, 1.75]), ["base_link"]),
    "0.6 m high": (lambda p: p + np.array([0, 0, 1.15]), ["height"]),
    "3 m high": (lambda p: p - np.array([0, 0, 1.25]), ["height"]),
    "low and tilted": (lambda p: rotated(p + np.array([0, 0, 1.15]), "y", 10), ["tilt", "height"]),
    "map frame, 50 m up": (lambda p: p + np.array([0, 0, 50]), ["map frame"]),
    "map frame, 50 m down": (lambda p: p - np.array([0, 0, 50]), ["map frame"]),
    "map frame, 100 m ahead": (lambda p: p + np.array([100, 50, 0]), ["map frame"]),
    "map frame, far away": (lambda p: p + np.array([5000, 3000, 80]), ["map frame"]),
}


@pytest.fixture(scope="module")
def real_sweep(shared):
    path = sorted((shared / "data/sequences/91/velodyne").glob("*.bin"))[4]
    return np.fromfile(path, np.float32).reshape(-1, 4)[:, :3]


@pytest.mark.parametrize(("change", "expected"), CASES.values(), ids=CASES.keys())
def test_wrong_mountings_and_frames_are_found_in_a_real_sweep(change, expected, real_sweep):
    assert causes(change(real_sweep)) == expected


@pytest.mark.parametrize(("change", "expected"), CASES.values(), ids=CASES.keys())
def test_wrong_mountings_and_frames_are_found_in_a_synthetic_sweep(change, expected):
    assert causes(change(synthetic_sweep())) == expected


def test_ground_plane_has_the_height_and_normal_of_the_sensor():
    R = Rotation.from_euler("xyz", [4, -7, 30], degrees=True)
    ground = SensorView.of(R.apply(synthetic_sweep())).ground
    np.testing.assert_allclose(ground.up, R.apply([0, 0, 1]), atol=0.005)
    assert ground.height_m == pytest.approx(HEIGHT_M, abs=0.02)


def test_angles_are_those_of_the_sensor_pose():
    R_level_sensor = Rotation.from_euler("xyz", [6, -12, 0], degrees=True)  # roll, pitch, yaw of the sensor
    mounting = MountingCheck().add(SensorView.of(R_level_sensor.inv().apply(synthetic_sweep())))
    assert (mounting.roll_deg, mounting.pitch_deg) == (pytest.approx(6, abs=0.3), pytest.approx(-12, abs=0.3))


def test_ceiling_larger_than_the_floor_is_not_the_ground():
    x, y = np.meshgrid(np.arange(-9, 9, 0.2), np.arange(-9, 9, 0.2))
    ceiling = np.stack([x, y, np.full_like(x, 1.2)], -1).reshape(-1, 3)
    floor = np.stack([x, y, np.full_like(x, -1.7)], -1).reshape(-1, 3)[::2]
    assert causes(np.concatenate([ceiling, floor[np.abs(floor[:, 0]) > 3]])) == []


def test_sweep_without_ground_has_no_findings():
    wall = np.stack(np.meshgrid([12.0], np.arange(-9, 9, 0.3), np.arange(2, 9, 0.3)), -1).reshape(-1, 3)
    assert SensorView.of(np.zeros((0, 3))).ground is None
    assert SensorView.of(wall[:50]).ground is None
    assert causes(np.random.default_rng(0).uniform(-15, 15, (5000, 3))) == []


def test_one_deviating_sweep_of_several_is_ignored():
    check = MountingCheck()
    for sweep in [synthetic_sweep()] * 3:
        check.add(SensorView.of(sweep))
    assert not findings(check.add(SensorView.of(rotated(synthetic_sweep(), "y", 15))), Seen())


@pytest.mark.parametrize("deviating", range(5))
def test_one_deviating_sweep_after_a_start_is_not_confirmed(deviating):
    level, tilted = (SensorView.of(rotated(synthetic_sweep(), "y", angle)) for angle in (0, 15))
    check, confirmation = MountingCheck(), Confirmation()
    views = [tilted if number == deviating else level for number in range(5)]
    assert not any(confirmation.add(findings(check.add(view), Seen())) for view in views)


def test_lasting_finding_is_confirmed_from_the_second_sweep_on():
    check, confirmation, tilted = MountingCheck(), Confirmation(), SensorView.of(rotated(synthetic_sweep(), "y", 15))
    confirmed = [[each.cause for each in confirmation.add(findings(check.add(tilted), Seen()))] for _ in range(3)]
    assert confirmed == [[], ["tilt"], ["tilt"]]


def test_ranges_of_the_card_decide():
    low = synthetic_sweep() + np.float32([0, 0, 1.2])
    tilted = rotated(synthetic_sweep(), "y", 10)
    wide = Seen(min_height_m=0.4, max_height_m=2.5, max_tilt_deg=15.0)
    assert causes(low) == ["height"]
    assert causes(low, seen=wide) == causes(tilted, seen=wide) == []


def test_texts_have_figures_and_the_likely_cause():
    def text(points):
        return findings(MountingCheck().add(SensorView.of(points)), Seen())[0].text

    tilted = text(rotated(synthetic_sweep(), "y", 10))
    assert "tilted by 10° about y" in tilted
    assert "pitch -10.0°" in tilted
    assert "only 0.6 m above the ground" in text(synthetic_sweep() + np.array([0, 0, 1.2]))
    assert "seems to be in base_link" in text(synthetic_sweep() + np.array([0, 0, 1.8]))
    assert "48.2 m below the ground" in text(synthetic_sweep() + np.array([0, 0, 50]))


def test_compiled_votes_agree_with_the_plain_implementation():
    voxels = synthetic_sweep()[::40].astype(np.float64)
    planes = candidates(voxels)
    np.testing.assert_array_equal(votes(voxels, planes, 0.15), votes_plain(voxels, planes, 0.15))


# ---- levelling ----


@pytest.mark.parametrize("up", [[0, 0, 1], [0.3, -0.2, 0.9], [0, 0, -1], [1e-6, 0, -1], [0, 1, 0]])
def test_level_rotation_turns_up_into_z(up):
    up = np.array(up, float) / np.linalg.norm(up)
    R = level_rotation(up)
    np.testing.assert_allclose(R @ up, [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(R) == pytest.approx(1)


def test_levelled_completion_is_that_of_the_upright_sweep(tiny_model):
    """Completing a tilted sweep levelled gives the completion of the upright sweep, tilted; measured points stay bit-exact."""
    completer = SceneCompleter.load(tiny_model, device="cpu")
    upright = synthetic_sweep()[::4]
    R_level_sensor = Rotation.from_euler("y", 20, degrees=True).as_matrix()
    tilted = (upright.astype(np.float64) @ R_level_sensor).astype(np.float32)
    levelling = Levelling(R_level_sensor)
    completion = levelling.restore(completer.complete(levelling.level(tilted), seed=1), tilted)
    expected = completer.complete(upright, seed=1)
    n = len(completion.measured_rows)
    assert completion.points[:n].tobytes() == tilted.tobytes()
    assert abs(len(completion.points) - len(expected.points)) < 0.02 * len(expected.points)
    levelled = completion.points[n:] @ R_level_sensor.T
    np.testing.assert_allclose(
        np.percentile(levelled[:, 2], [5, 50, 95]), np.percentile(expected.points[n:, 2], [5, 50, 95]), atol=0.05
    )


def test_ego_box_is_applied_in_the_frame_of_the_sensor(tiny_model):
    completer = SceneCompleter.load(tiny_model, device="cpu")
    sweep = synthetic_sweep()[::4]
    levelling = Levelling(Rotation.from_euler("y", 20, degrees=True).as_matrix())
    completion = completer.complete(levelling.level(sweep), intensity=np.zeros(len(sweep)))
    box = (-10.0, -10.0, -3.0, 10.0, 10.0, 1.0)
    cut = levelling.restore(completion, sweep, box)
    whole = levelling.restore(completion, sweep)
    n = len(cut.measured_rows)
    assert not ((cut.points[n:] >= box[:3]) & (cut.points[n:] <= box[3:])).all(axis=1).any()
    assert cut.removed["ego_box"] == len(whole.points) - len(cut.points) > 0
    assert {len(each) for each in (cut.points, cut.provenance, cut.confidence, cut.intensity)} == {len(cut.points)}
    assert whole.points[:n].tobytes() == sweep.tobytes()
