"""Sensors and simulated sweeps."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_geometry import distance_to_solid
from synthetic_worker import COARSE

from lidar_completion_synthetic import SENSORS, SpinningLidar, raycast, simulate_sweep, street
from lidar_completion_synthetic.lidar import (
    Faults,
    Mounting,
    SensorMix,
    load_sensor,
    mix_of,
    mounting_of,
    tilted,
)
from lidar_completion_synthetic.lidar.own_vehicle import (
    OWN_CAR,
    OWN_VEHICLES,
    highest_slope,
    nearest_box_plain,
)
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
    starts = rng.uniform((-0.05, -0.05, 0.1), (0.05, 0.05, 0.2), (4000, 3))
    expected = nearest_box_plain(OWN_CAR, beams, starts, 1.0)
    np.testing.assert_allclose(nearest_box(OWN_CAR, beams, starts, 1.0), expected)
    assert np.isfinite(expected).sum() > 50


@pytest.mark.parametrize("name", list(SENSORS))
def test_every_sensor_file_is_valid(name):
    sensor = SENSORS[name]
    assert sensor.name == name
    assert 16 <= sensor.rings <= 128
    assert -50 < sensor.elevations_deg[0] < sensor.elevations_deg[-1] < 50
    assert 500 < sensor.columns < 2500
    assert 0 < sensor.min_range_m < sensor.max_range_m


def test_loads_sensor_from_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\ncolumns = 900\nelevations_deg = [-10, 0, 10]\n')
    sensor = load_sensor(file)
    assert sensor.elevations_deg == (-10.0, 0.0, 10.0)
    assert mounting_of(str(file)).sensor == sensor
    file.write_text('name = "mine"\nelevations_deg = [10, 0]\ncolumns = 900\n')
    with pytest.raises(ValueError, match="lowest to the highest"):
        load_sensor(file)
    file.write_text('name = "mine"\nbeams = 3\n')
    with pytest.raises(ValueError, match=r"mine\.toml: expected a sensor file"):
        load_sensor(file)


@pytest.mark.parametrize(("tilt", "direction"), [(10.0, 0.0), (15.0, 90.0), (7.0, 200.0)])
def test_tilted_sweep_lies_on_surfaces(world, tilt, direction):
    mounting = tilted(mounting_of(COARSE), tilt, direction)
    assert mounting.tilt_deg == pytest.approx(tilt)
    up = mounting.R_vehicle_sensor[:, 2]
    lean = np.degrees(np.arctan2(up[1], up[0]))
    assert np.cos(np.radians(lean - direction)) == pytest.approx(1.0, abs=1e-6)
    pose = mounting.pose_of(world.pose_at(0.0))
    sweep = simulate_sweep(
        world, pose, mounting, np.random.default_rng(0), noise=False, moving=False, speed_m_s=9.0, yaw_rate=0.2
    )
    points = sweep.points @ pose[:3, :3].T + pose[:3, 3]
    ground = sweep.solid == raycast.GROUND
    assert ground.sum() > 500
    assert np.abs(points[ground, 2] - world.ground.height_at(points[ground, 0], points[ground, 1])).max() < 2e-3


def test_own_vehicles_block_rays(world):
    pose = world.pose_at(0.0)

    def returns(vehicle: str) -> int:
        mounting = Mounting(COARSE, 1.73, vehicle=vehicle)
        return len(simulate_sweep(world, pose, mounting, np.random.default_rng(0), noise=False).points)

    free = returns("none")
    assert all(0.3 * free < returns(vehicle) < free for vehicle in OWN_VEHICLES if vehicle != "none")


@pytest.mark.parametrize("vehicle", [name for name in OWN_VEHICLES if name != "none"])
def test_skipped_rays_cannot_hit_own_vehicle(vehicle):
    rng = np.random.default_rng(0)
    beams = rng.normal(size=(20_000, 3)) * (1, 1, 0.4)
    beams /= np.linalg.norm(beams, axis=1, keepdims=True)
    starts = np.zeros_like(beams)
    boxes = OWN_VEHICLES[vehicle]
    np.testing.assert_array_equal(
        nearest_box(boxes, beams, starts, highest_slope(boxes)), nearest_box(boxes, beams, starts, 1.0)
    )


def test_faults_remove_rings_sectors_and_returns(world):
    pose = world.pose_at(0.0)

    def sweep(faults: Faults):
        return simulate_sweep(world, pose, COARSE, np.random.default_rng(0), moving=False, faults=faults)

    plain = sweep(Faults())
    thinned = sweep(Faults(every_ring=4, first_ring=1))
    assert set(thinned.ring.tolist()) <= set(range(1, COARSE.rings, 4))
    assert 0.15 < len(thinned.points) / len(plain.points) < 0.35
    gap = sweep(Faults(sectors_deg=((350.0, 40.0),)))
    azimuth = np.mod(np.degrees(np.arctan2(gap.points[:, 1], gap.points[:, 0])) - 350.0, 360.0)
    assert azimuth.min() > 39.0
    lossy = sweep(Faults(loss=0.3))
    assert len(lossy.points) / len(plain.points) == pytest.approx(0.7, abs=0.03)
    fog = sweep(Faults(visibility_m=15.0))
    assert np.linalg.norm(fog.points, axis=1).mean() < 0.8 * np.linalg.norm(plain.points, axis=1).mean()


def test_mix_covers_its_ranges():
    mix, rng = SensorMix(), np.random.default_rng(0)
    drawn = [mix.draw(rng) for _ in range(1500)]
    heights, tilts = np.array([m.height_m for m in drawn]), np.array([m.tilt_deg for m in drawn])
    assert {m.sensor.name for m in drawn} == set(SENSORS)
    assert heights.min() < 0.45
    assert heights.max() > 2.45
    assert (tilts < 2).mean() == pytest.approx(0.6, abs=0.05)
    assert 13 < tilts.max() <= 15.0
    faults = [mix.draw_faults(rng) for _ in range(1500)]
    assert {f.every_ring for f in faults} == {1, 2, 4}
    assert np.mean([bool(f.sectors_deg) for f in faults]) == pytest.approx(0.05, abs=0.02)


def test_loads_mix_from_file(tmp_path):
    file = tmp_path / "robots.toml"
    file.write_text('heights_m = [[0.4, 0.6, 1.0]]\ntilts_deg = [[0, 3, 1]]\n\n[sensors]\n"VLP-16" = 2\n"OS0-32" = 1\n')
    mix = mix_of(str(file))
    drawn = [mix.draw(np.random.default_rng(seed)) for seed in range(50)]
    assert {m.sensor.name for m in drawn} == {"VLP-16", "OS0-32"}
    assert max(m.height_m for m in drawn) <= 0.6
    assert "VLP-16" in mix.describe()
    file.write_text('[sensors]\n"VLP-17" = 1\n')
    with pytest.raises(ValueError, match="VLP-17"):
        mix_of(file)
