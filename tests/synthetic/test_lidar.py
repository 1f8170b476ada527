"""Sensors and simulated sweeps."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_geometry import distance_to_solid
from synthetic_worker import COARSE

from lidar_completion_synthetic import SENSORS, SpinningLidar, raycast, simulate_sweep, street
from lidar_completion_synthetic.lidar.own_vehicle import OWN_CAR, nearest_box_plain
from lidar_completion_synthetic.lidar.own_vehicle_compiled import nearest_box


def test_noise_free_sweep_lies_on_surfaces(world):
    sweep = simulate_sweep(world, world.pose_at(0.0), COARSE, np.random.default_rng(0), noise=False, moving=False)
    points = sweep.points @ sweep.pose[:3, :3].T + sweep.pose[:3, 3]
    ground = sweep.solid == raycast.GROUND
    assert 0.2 < ground.mean() < 0.95
    assert np.abs(points[ground, 2] - world.ground.height_at(points[ground, 0], points[ground, 1])).max() < 2e-3
    assert distance_to_solid(world, points[~ground], sweep.solid[~ground]).max() < 2e-3


@pytest.mark.parametrize(("name", "rings", "low", "high"), [("HDL-64E", 64, -25.0, 1.94), ("HDL-32E", 32, -30.67, 10.67), ("VLP-16", 16, -15, 15), ("OS1-128", 128, -22.5, 22.5)])  # fmt: skip
def test_beam_tables(world, name, rings, low, high):
    sensor = SENSORS[name]
    assert sensor.rings == rings
    assert sensor.field_of_view_deg == pytest.approx((low, high))
    assert (np.diff(sensor.elevations_deg) > 0).all()
    sweep = simulate_sweep(world, world.pose_at(0.0), sensor, np.random.default_rng(0), noise=False, deskewed=False)
    local = sweep.points - np.column_stack([np.zeros((len(sweep.ring), 2)), sensor.eyes_m[sweep.ring]])
    elevation = np.degrees(np.arcsin(local[:, 2] / np.linalg.norm(local, axis=1)))
    np.testing.assert_allclose(elevation, np.asarray(sensor.elevations_deg)[sweep.ring], atol=0.01)
    assert len(np.unique(sweep.ring)) > 0.5 * rings


def test_hdl64_has_two_laser_blocks():
    steps = np.diff(SENSORS["HDL-64E"].elevations_deg)
    assert steps[:31].mean() == pytest.approx(0.5, abs=0.03)
    assert steps[32:].mean() == pytest.approx(1 / 3, abs=0.03)


def test_raw_sweep_is_distorted_by_motion_and_deskewed_sweep_is_not(world):
    pose = world.pose_at(0.0)
    options = dict(noise=False, moving=False, speed_m_s=15.0, yaw_rate=0.3)
    raw = simulate_sweep(world, pose, COARSE, np.random.default_rng(0), deskewed=False, **options)
    straight = simulate_sweep(world, pose, COARSE, np.random.default_rng(0), **options)
    points = straight.points @ pose[:3, :3].T + pose[:3, 3]
    ground = straight.solid == raycast.GROUND
    assert np.abs(points[ground, 2] - world.ground.height_at(points[ground, 0], points[ground, 1])).max() < 2e-3
    middle = np.abs(raw.time - 0.05) < 0.001
    assert np.abs(raw.points - straight.points)[middle].max() < 0.05
    assert np.linalg.norm(raw.points - straight.points, axis=1)[raw.time < 0.002].min() > 0.4


def test_own_vehicle_returns_are_optional(world):
    near = []
    for self_returns in (False, True):
        sweep = simulate_sweep(
            world, world.pose_at(0.0), "HDL-64E", np.random.default_rng(0), moving=False, self_returns=self_returns
        )
        near.append((np.linalg.norm(sweep.points, axis=1) < 1.6).sum())
    assert near[0] == 0
    assert near[1] > 100


def test_range_noise_has_expected_size(world):
    sensor = SENSORS["VLP-16"]
    rng = np.random.default_rng(0)
    exact = simulate_sweep(world, world.pose_at(0.0), sensor, rng, noise=False, moving=False)
    noisy = simulate_sweep(world, world.pose_at(0.0), sensor, rng, moving=False)
    assert len(noisy.points) < len(exact.points)
    ground = noisy.solid == raycast.GROUND
    points = noisy.points @ noisy.pose[:3, :3].T + noisy.pose[:3, 3]
    steep = ground & (np.linalg.norm(noisy.points, axis=1) < 10)
    error = points[steep, 2] - world.ground.height_at(points[steep, 0], points[steep, 1])
    assert 0.001 < error.std() < 0.02
    assert noisy.intensity.min() >= 0
    assert noisy.intensity.max() <= 1


def test_rejects_unknown_names(world):
    with pytest.raises(ValueError, match="HDL-64E"):
        simulate_sweep(world, np.eye(4), "HDL-65", np.random.default_rng(0))
    with pytest.raises(ValueError, match="inner city"):
        street(0, kind="motorway")
    with pytest.raises(ValueError, match="eye_heights_m"):
        SpinningLidar("odd", (0.0, 1.0), 10, (0.1,))


def test_own_vehicle_matches_plain_implementation():
    rng = np.random.default_rng(0)
    beams = rng.normal(size=(4000, 3)) * (1, 1, 0.5)
    beams /= np.linalg.norm(beams, axis=1, keepdims=True)
    eye = rng.uniform(0.1, 0.2, 4000)
    expected = nearest_box_plain(OWN_CAR, beams, eye)
    np.testing.assert_allclose(nearest_box(OWN_CAR, beams, eye), expected)
    assert np.isfinite(expected).sum() > 50
