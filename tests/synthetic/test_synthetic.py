"""The synthetic street world, its LiDAR and its ground truth."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import synthetic_worker
from scipy.spatial import cKDTree
from synthetic_worker import COARSE, SMALL, fingerprint

from lidar_completion_synthetic import (
    SENSORS,
    TEST_SEED,
    SpinningLidar,
    objects,
    raycast,
    scan,
    street,
    test_pair,
    training_pair,
    training_pairs,
)
from lidar_completion_synthetic.ground_truth import one_per_voxel, visible_surface
from lidar_completion_synthetic.objects import Material
from lidar_completion_synthetic.world import KINDS, empty_solids


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Numba's threads wait for each other by spinning: on a busy machine one is faster."""
    raycast.set_threads(1)


@pytest.fixture(scope="module")
def world():
    return street(3, kind="terraces", **SMALL)


@pytest.fixture(scope="module")
def truth(world):
    return visible_surface(world, COARSE, least_angle_sr=0.0)


@pytest.fixture(scope="module")
def pair():
    return training_pair(5, COARSE, **SMALL)


def flat_ground(height: float = -1e3) -> raycast.Ground:
    return raycast.make_ground(np.full((3, 3), height), np.zeros((3, 3)), (-1e4, -1e4), 1e4)


def random_solids(shape: int, count: int, rng: np.random.Generator) -> raycast.Solids:
    turns = objects._random_turns(rng, count)
    half = rng.uniform(0.2, 2.0, (count, 3))
    if shape in (raycast.CYLINDER, raycast.CONE):
        half[:, 1] = half[:, 0]
    parts = objects.solids(shape, rng.uniform(-15, 15, (count, 3)), half, Material.FACADE, 50, turns)
    return raycast.make_solids(parts.shape, parts.to_world, np.zeros(count))


def unit_shape_roots(shape: int, p: np.ndarray, v: np.ndarray) -> float:
    """Plain intersection of one ray with one unit shape: the smallest positive root on any of its surfaces."""
    roots = []
    if shape == raycast.BOX:
        for axis in range(3):
            for side in (-1, 1):
                t = (side - p[axis]) / v[axis]
                hit = p + t * v
                if all(abs(hit[o]) <= 1 + 1e-12 for o in range(3) if o != axis):
                    roots.append(t)
    elif shape == raycast.ELLIPSOID:
        roots += list(np.roots([v @ v, 2 * p @ v, p @ p - 1]))
    else:
        if shape == raycast.CYLINDER:
            side_roots = np.roots([v[:2] @ v[:2], 2 * p[:2] @ v[:2], p[:2] @ p[:2] - 1])
            discs = ((-1, 1.0), (1, 1.0))
        else:
            h, hv = (1 - p[2]) / 2, -v[2] / 2
            side_roots = np.roots([v[:2] @ v[:2] - hv * hv, 2 * (p[:2] @ v[:2] - h * hv), p[:2] @ p[:2] - h * h])
            discs = ((-1, 1.0),)
        roots += [t for t in side_roots if np.isreal(t) and abs(p[2] + np.real(t) * v[2]) <= 1]
        for z, radius in discs:
            t = (z - p[2]) / v[2]
            if np.hypot(*(p + t * v)[:2]) <= radius:
                roots.append(t)
    real = [float(np.real(t)) for t in roots if abs(np.imag(t)) < 1e-9 and np.real(t) > 0]
    return min(real, default=np.inf)


@pytest.mark.parametrize("shape", [raycast.BOX, raycast.CYLINDER, raycast.ELLIPSOID, raycast.CONE])
def test_first_hit_agrees_with_plain_intersection_of_every_solid(shape):
    rng = np.random.default_rng(shape)
    solids = random_solids(shape, 60, rng)
    origins = rng.normal(size=(300, 3))
    origins *= 40 / np.linalg.norm(origins, axis=1, keepdims=True)
    directions = rng.uniform(-12, 12, (300, 3)) - origins
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    distance, hit, _ = raycast.cast(solids, empty_solids(), flat_ground(), origins, directions, 100.0, 0)
    linear, shift = solids.to_local[:, :, :3].astype(float), solids.to_local[:, :, 3].astype(float)
    for ray in range(300):
        p, v = linear @ origins[ray] + shift, linear @ directions[ray]
        expected = np.array([unit_shape_roots(shape, p[k], v[k]) for k in range(len(solids))])
        if np.isfinite(expected.min()):
            assert hit[ray] == expected.argmin()
            assert distance[ray] == pytest.approx(expected.min(), abs=1e-4)
        else:
            assert hit[ray] == raycast.MISS
    assert (hit >= 0).sum() > 30


def test_ground_hit_lies_on_the_height_field_and_nothing_above_it_is_crossed():
    rng = np.random.default_rng(1)
    ground = raycast.make_ground(rng.normal(0, 0.3, (200, 150)), np.zeros((200, 150)), (-20.0, -15.0), 0.2)
    origins = np.column_stack([rng.uniform(-18, 18, 500), rng.uniform(-13, 13, 500), np.full(500, 2.5)])
    directions = rng.normal(size=(500, 3)) * (1, 1, 0.2)
    directions[:, 2] = -np.abs(directions[:, 2]) - 0.02
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    distance, hit, _ = raycast.cast(empty_solids(), empty_solids(), ground, origins, directions, 60.0, 0)
    on = origins + directions * distance[:, None]
    ground_hit = hit == raycast.GROUND
    assert ground_hit.sum() > 200
    np.testing.assert_allclose(on[ground_hit, 2], ground.height_at(on[ground_hit, 0], on[ground_hit, 1]), atol=1e-4)
    for fraction in np.linspace(0.02, 0.98, 60):  # sampled densely, the ray stays above until then
        before = origins[ground_hit] + directions[ground_hit] * (distance[ground_hit, None] * fraction)
        assert (before[:, 2] - ground.height_at(before[:, 0], before[:, 1])).min() > -0.02


def test_rays_pass_glass_as_often_as_it_says():
    pane = objects.solids(objects.BOX, (5, 0, 0), (0.01, 50, 50), Material.CAR_GLASS, 10)
    solids = raycast.make_solids(pane.shape, pane.to_world, np.array([0.3]))
    directions = np.tile((1.0, 0.0, 0.0), (20_000, 1))
    _, hit, _ = raycast.cast(solids, empty_solids(), flat_ground(), np.zeros_like(directions), directions, 50.0, 9)
    assert (hit == raycast.MISS).mean() == pytest.approx(0.3, abs=0.02)


def test_noise_free_sweep_lies_on_the_world(world):
    sweep = scan(world, world.pose_at(0.0), COARSE, np.random.default_rng(0), noise=False, moving=False)
    points = sweep.points @ sweep.pose[:3, :3].T + sweep.pose[:3, 3]
    ground = sweep.solid == raycast.GROUND
    assert 0.2 < ground.mean() < 0.95
    assert np.abs(points[ground, 2] - world.ground.height_at(points[ground, 0], points[ground, 1])).max() < 2e-3
    assert distance_to_solid(world, points[~ground], sweep.solid[~ground]).max() < 2e-3


def distance_to_solid(world, points, solid) -> np.ndarray:
    """About how far (N,) in metres the points lie from the surface of the given solids."""
    to_local, to_world = world.solids.to_local[solid].astype(float), world.solids.to_world[solid].astype(float)
    local = np.einsum("nij,nj->ni", to_local[:, :, :3], points) + to_local[:, :, 3]
    shape = world.solids.shape[solid]
    around, up = np.hypot(local[:, 0], local[:, 1]), np.abs(local[:, 2])
    level = np.select(
        [shape == raycast.BOX, shape == raycast.ELLIPSOID, shape == raycast.CYLINDER],
        [np.abs(local).max(axis=1), np.linalg.norm(local, axis=1), np.maximum(around, up)],
        np.maximum(around + (1 + local[:, 2]) / 2, -local[:, 2]),
    )
    return np.abs(level - 1) * np.linalg.norm(to_world[:, :, :3], axis=1).max(axis=1)


def test_truth_lies_on_static_surfaces_one_point_a_voxel(world, truth):
    assert len(truth) > 50_000
    assert len(one_per_voxel(truth, 0.1)) == len(truth)
    some = truth[np.random.default_rng(0).permutation(len(truth))[:4000]].astype(float)
    off_ground = np.abs(some[:, 2] - world.ground.height_at(some[:, 0], some[:, 1]))
    for point in some[off_ground > 1e-3][:200]:
        assert (
            distance_to_solid(world, np.tile(point, (len(world.solids), 1)), np.arange(len(world.solids))).min() < 2e-3
        )
    assert (off_ground < 1e-3).any()
    assert (off_ground > 0.5).any()


def test_what_the_drive_sees_is_in_the_truth(world, truth):
    tree = cKDTree(truth)
    missing = []
    for along in (-12.0, 0.0, 10.0):
        sweep = scan(
            world, world.pose_at(along), COARSE, np.random.default_rng(0), noise=False, moving=False, max_range_m=40.0
        )
        points = sweep.points @ sweep.pose[:3, :3].T + sweep.pose[:3, 3]
        missing.append(tree.query(points)[0] > 0.2)
    assert np.concatenate(missing).mean() < 0.03


def test_hidden_surface_is_not_in_the_truth(world, truth):
    """No truth point lies deep inside a house."""
    walls = np.flatnonzero(
        (world.label == objects.BUILDING) & (np.linalg.norm(world.solids.to_world[:, :, :3], axis=1).min(axis=1) > 2.0)
    )
    assert len(walls)
    for p in walls[:20]:
        m = world.solids.to_local[p].astype(float)
        local = truth @ m[:, :3].T + m[:, 3]
        assert (np.abs(local) < 0.9).all(axis=1).mean() < 1e-4


def test_moving_things_are_in_the_sweep_on_demand_and_never_in_the_truth():
    busy = street(11, kind="avenue", traffic=4.0, **SMALL)
    quiet = street(11, kind="avenue", traffic=0.0, **SMALL)
    pose = busy.pose_at(0.0)
    with_them = scan(busy, pose, COARSE, np.random.default_rng(0))
    without = scan(busy, pose, COARSE, np.random.default_rng(0), moving=False)
    assert (with_them.label >= 252).sum() > 20
    assert (without.label >= 252).sum() == 0
    assert len(busy.mover_parts)
    assert not len(quiet.mover_parts)
    assert not np.isin(busy.label, (252, 253, 254, 258, 259)).any()


def test_moving_things_move():
    busy = street(11, kind="avenue", traffic=4.0, **SMALL)
    speed = np.linalg.norm(busy.mover_velocity, axis=1)
    step = busy.movers_at(2.0).to_world[:, :2, 3] - busy.movers_at(0.0).to_world[:, :2, 3]
    np.testing.assert_allclose(np.linalg.norm(step, axis=1), 2.0 * speed, atol=1e-3)


def test_same_seed_same_pair_whatever_the_threads(pair):
    again = training_pair(5, COARSE, threads=2, **SMALL)
    raycast.set_threads(1)
    for name in ("sweep", "intensity", "truth", "ring", "time", "label", "pose"):
        np.testing.assert_array_equal(getattr(pair, name), getattr(again, name))


def test_worlds_are_the_same_for_every_number_of_workers():
    alone = [p for _, p in zip(range(4), training_pairs(20, 2, COARSE, **SMALL), strict=False)]
    second = next(training_pairs(21, 2, COARSE, seed_step=2, **SMALL))
    np.testing.assert_array_equal(alone[2].sweep, second.sweep)
    np.testing.assert_array_equal(alone[2].truth, second.truth)
    assert not np.array_equal(alone[0].sweep[:100], alone[1].sweep[:100])


@pytest.mark.parametrize("start", ["spawn", "fork", "forkserver"])
def test_worker_processes_make_the_same_scenes(start):
    program = [sys.executable, synthetic_worker.__file__, start, "5", "6", "5"]
    made = json.loads(subprocess.run(program, check=True, capture_output=True, text=True).stdout)
    assert made[0] == made[2] == fingerprint(5)
    assert made[0] != made[1]


def test_a_cache_gives_the_same_pairs_and_is_used(tmp_path):
    def pairs(**options):
        return list(islice(training_pairs(30, 2, COARSE, threads=1, **options, **SMALL), 3))

    plain, first = pairs(), pairs(cache=tmp_path)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(files) == 2
    again = pairs(cache=tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == files
    for a, b, c in zip(plain, first, again, strict=True):
        for name in vars(a):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            np.testing.assert_array_equal(getattr(a, name), getattr(c, name))
    assert next(training_pairs(30, 1, "VLP-16", cache=tmp_path, threads=1, **SMALL)).sensor == "VLP-16"
    damaged = min(files)
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"damaged file .*delete it"):
        pairs(cache=tmp_path)


def test_truth_around_the_sweeps_is_that_of_the_whole_world(world, truth):
    here = world.pose_at(0.0)[:2, 3]
    near = visible_surface(world, COARSE, least_angle_sr=0.0, seen_within_m=50.0, around=here[None])
    wanted = truth[np.hypot(*(truth[:, :2] - here).T) < 50.0]
    found = near[np.hypot(*(near[:, :2] - here).T) < 50.0]
    np.testing.assert_array_equal(found, wanted)
    assert len(near) < len(truth)


def test_no_world_equals_another():
    worlds = [street(seed, **SMALL) for seed in range(4)]
    for i, a in enumerate(worlds):
        for b in worlds[i + 1 :]:
            assert len(a.solids) != len(b.solids) or not np.array_equal(a.solids.to_world, b.solids.to_world)
            assert not np.array_equal(a.ground.height, b.ground.height)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_of_street_can_be_driven(kind):
    world = street(1, kind=kind, **SMALL)
    sweep = scan(world, world.pose_at(5.0), COARSE, np.random.default_rng(0))
    assert np.isfinite(sweep.points).all()
    assert -2.6 < np.median(sweep.points[sweep.label == objects.ROAD, 2]) < -1.0
    assert {objects.ROAD, objects.TERRAIN, objects.SIDEWALK, objects.BUILDING, objects.VEGETATION} & set(
        sweep.label.tolist()
    )


def test_pair_is_in_range_and_in_the_sensor_frame(pair):
    assert pair.sweep.dtype == pair.truth.dtype == np.float32
    assert np.linalg.norm(pair.truth, axis=1).max() < 50.0
    assert pair.truth[:, 2].min() > -4.0
    assert np.linalg.norm(pair.sweep, axis=1).max() < 50.5
    assert len(pair.sweep) == len(pair.intensity) == len(pair.ring) == len(pair.time) == len(pair.label)
    assert -2.3 < np.median(pair.truth[np.linalg.norm(pair.truth[:, :2], axis=1) < 8, 2]) < -1.2


@pytest.mark.parametrize(("name", "rings", "low", "high"), [("HDL-64E", 64, -25.0, 1.94), ("HDL-32E", 32, -30.67, 10.67), ("VLP-16", 16, -15, 15), ("OS1-128", 128, -22.5, 22.5)])  # fmt: skip
def test_beam_tables(world, name, rings, low, high):
    sensor = SENSORS[name]
    assert sensor.rings == rings
    assert sensor.field_of_view_deg == pytest.approx((low, high))
    assert (np.diff(sensor.elevations_deg) > 0).all()
    sweep = scan(world, world.pose_at(0.0), sensor, np.random.default_rng(0), noise=False, deskewed=False)
    local = sweep.points - np.column_stack([np.zeros((len(sweep.ring), 2)), sensor.eyes_m[sweep.ring]])
    elevation = np.degrees(np.arcsin(local[:, 2] / np.linalg.norm(local, axis=1)))
    np.testing.assert_allclose(elevation, np.asarray(sensor.elevations_deg)[sweep.ring], atol=0.01)
    assert len(np.unique(sweep.ring)) > 0.5 * rings


def test_hdl64_has_two_blocks():
    steps = np.diff(SENSORS["HDL-64E"].elevations_deg)
    assert steps[:31].mean() == pytest.approx(0.5, abs=0.03)
    assert steps[32:].mean() == pytest.approx(1 / 3, abs=0.03)


def test_sweep_motion_shears_raw_sweeps_and_deskewing_undoes_it(world):
    pose = world.pose_at(0.0)
    options = dict(noise=False, moving=False, speed_m_s=15.0, yaw_rate=0.3)
    raw = scan(world, pose, COARSE, np.random.default_rng(0), deskewed=False, **options)
    straight = scan(world, pose, COARSE, np.random.default_rng(0), **options)
    points = straight.points @ pose[:3, :3].T + pose[:3, 3]
    ground = straight.solid == raycast.GROUND
    assert np.abs(points[ground, 2] - world.ground.height_at(points[ground, 0], points[ground, 1])).max() < 2e-3
    middle = np.abs(raw.time - 0.05) < 0.001
    assert np.abs(raw.points - straight.points)[middle].max() < 0.05
    assert np.linalg.norm(raw.points - straight.points, axis=1)[raw.time < 0.002].min() > 0.4


def test_own_car_shows_only_on_demand(world):
    near = []
    for self_returns in (False, True):
        sweep = scan(
            world, world.pose_at(0.0), "HDL-64E", np.random.default_rng(0), moving=False, self_returns=self_returns
        )
        near.append((np.linalg.norm(sweep.points, axis=1) < 1.6).sum())
    assert near[0] == 0
    assert near[1] > 100


def test_noise_has_the_stated_width(world):
    sensor = SENSORS["VLP-16"]
    rng = np.random.default_rng(0)
    exact = scan(world, world.pose_at(0.0), sensor, rng, noise=False, moving=False)
    noisy = scan(world, world.pose_at(0.0), sensor, rng, moving=False)
    assert len(noisy.points) < len(exact.points)
    ground = noisy.solid == raycast.GROUND
    points = noisy.points @ noisy.pose[:3, :3].T + noisy.pose[:3, 3]
    steep = ground & (np.linalg.norm(noisy.points, axis=1) < 10)
    error = points[steep, 2] - world.ground.height_at(points[steep, 0], points[steep, 1])
    assert 0.001 < error.std() < 0.02
    assert noisy.intensity.min() >= 0
    assert noisy.intensity.max() <= 1


def test_held_back_seeds_are_refused_for_training():
    with pytest.raises(ValueError, match="held back"):
        next(training_pairs(TEST_SEED))
    with pytest.raises(ValueError, match="index"):
        test_pair(-1)
    assert test_pair(0, COARSE, **SMALL).seed == TEST_SEED


def test_wrong_names_are_explained(world):
    with pytest.raises(ValueError, match="HDL-64E"):
        scan(world, np.eye(4), "HDL-65", np.random.default_rng(0))
    with pytest.raises(ValueError, match="inner city"):
        street(0, kind="motorway")
    with pytest.raises(ValueError, match="eye_heights_m"):
        SpinningLidar("odd", (0.0, 1.0), 10, (0.1,))


def test_sample_record_reads_back(tmp_path):
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    from rosbags.typesys import Stores, get_typestore

    from lidar_completion_synthetic import sample

    world = street(3, kind="terraces", **SMALL)
    sweeps = [scan(world, world.pose_at(a), COARSE, np.random.default_rng(0)) for a in (0.0, 1.0)]
    sample.write_record(tmp_path / "street", sweeps, [100.0, 100.1])
    store = get_typestore(Stores.ROS2_JAZZY)
    with rosbag2.Reader(tmp_path / "street") as reader:
        messages = [(stamp, store.deserialize_cdr(raw, c.msgtype)) for c, stamp, raw in reader.messages()]
    assert [stamp for stamp, _ in messages] == [100_000_000_000, 100_100_000_000]
    cloud = np.frombuffer(messages[0][1].data.tobytes(), sample.POINT)
    assert messages[0][1].point_step == 22
    assert [f.offset for f in messages[0][1].fields] == [0, 4, 8, 12, 16, 18]
    np.testing.assert_allclose(np.column_stack([cloud[a] for a in "xyz"]), sweeps[0].points, atol=sample.STEP_M)
    np.testing.assert_array_equal(cloud["ring"], sweeps[0].ring)
