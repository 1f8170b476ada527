"""Visible surface of a drive."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree
from synthetic_geometry import distance_to_solid
from synthetic_worker import COARSE, SMALL

from lidar_completion_synthetic import mounting_of, objects, raycast, simulate_sweep, street
from lidar_completion_synthetic.ground_truth import one_per_voxel, visible_surface
from lidar_completion_synthetic.ground_truth.lattice_compiled import SPACING_M, face_size, world_point
from lidar_completion_synthetic.ground_truth.plain import visible_plain
from lidar_completion_synthetic.ground_truth.solids_compiled import see_solids
from lidar_completion_synthetic.ground_truth.surface import _viewpoints
from lidar_completion_synthetic.ground_truth.voxels import one_per_voxel_plain
from lidar_completion_synthetic.lidar import tilted


def test_truth_lies_on_static_surfaces_with_one_point_per_voxel(world, truth):
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


def test_truth_contains_what_sweeps_see(world, truth):
    tree = cKDTree(truth)
    missing = []
    for along in (-12.0, 0.0, 10.0):
        sweep = simulate_sweep(
            world, world.pose_at(along), COARSE, np.random.default_rng(0), noise=False, moving=False, max_range_m=40.0
        )
        points = sweep.points @ sweep.pose[:3, :3].T + sweep.pose[:3, 3]
        missing.append(tree.query(points)[0] > 0.2)
    assert np.concatenate(missing).mean() < 0.03


def test_truth_of_tilted_sensor_contains_what_its_sweeps_see(world):
    mounting = tilted(mounting_of(COARSE), 12.0, 60.0)
    tree = cKDTree(visible_surface(world, mounting, least_angle_sr=0.0))
    pose = mounting.pose_of(world.pose_at(2.0))
    sweep = simulate_sweep(world, pose, mounting, np.random.default_rng(0), noise=False, moving=False, max_range_m=40.0)
    assert (tree.query(sweep.points @ pose[:3, :3].T + pose[:3, 3])[0] > 0.2).mean() < 0.04


def test_truth_has_no_points_inside_houses(world, truth):
    """No truth point lies deep inside a house."""
    walls = np.flatnonzero(
        (world.label == objects.BUILDING) & (np.linalg.norm(world.solids.to_world[:, :, :3], axis=1).min(axis=1) > 2.0)
    )
    assert len(walls)
    for p in walls[:20]:
        m = world.solids.to_local[p].astype(float)
        local = truth @ m[:, :3].T + m[:, 3]
        assert (np.abs(local) < 0.9).all(axis=1).mean() < 1e-4


def test_truth_around_places_equals_truth_of_whole_world(world, truth):
    here = world.pose_at(0.0)[:2, 3]
    near = visible_surface(world, COARSE, least_angle_sr=0.0, seen_within_m=50.0, around=here[None])
    wanted = truth[np.hypot(*(truth[:, :2] - here).T) < 50.0]
    found = near[np.hypot(*(near[:, :2] - here).T) < 50.0]
    np.testing.assert_array_equal(found, wanted)
    assert len(near) < len(truth)


def random_lattice_points(world, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (M, 3) of the lattice on solids, their normals (M, 3) and their solids (M,)."""
    points, normals, solid = [], [], []
    for p in rng.integers(0, len(world.solids), count):
        shape, to_local, to_world = world.solids.shape[p], world.solids.to_local[p], world.solids.to_world[p]
        face = int(rng.integers(0, 3 if shape in (raycast.CYLINDER, raycast.CONE) else 6))
        size = np.array(face_size(shape, face, *np.linalg.norm(to_world[:, :3], axis=0)))
        lattice = np.maximum(1, np.ceil(size * (0.8 if shape == raycast.ELLIPSOID else 1.0) / SPACING_M))
        u, v = (2 * np.floor(rng.random(2) * lattice) + 1) / lattice - 1
        x, y, z, *normal = world_point(shape, to_local, to_world, face, u, v)
        if np.linalg.norm(normal) > 0.5:
            points.append((x, y, z))
            normals.append(normal)
            solid.append(p)
    return np.array(points), np.array(normals), np.array(solid)


def test_compiled_visibility_matches_plain_implementation():
    """The compiled search probes patches and every fourth viewpoint, so it finds almost nothing more and some points less."""
    world = street(4, kind="gardens", **SMALL)
    views = _viewpoints(world, mounting_of(COARSE), 4.0, "own")
    low, high = np.sin(np.radians(COARSE.field_of_view_deg))
    view = (float(low), float(high), 30.0, 0.0)
    points, normals, solid = random_lattice_points(world, 4000, np.random.default_rng(0))
    expected = visible_plain(world, views, view, points, normals)
    arrays, to_world = world.solids.arrays, world.solids.to_world
    seen, count = see_solids(arrays, to_world, world.ground.arrays, views, view, np.unique(solid))
    found = cKDTree(seen[:count]).query(points)[0] < 1e-4
    assert 0.1 < expected.mean() < 0.9
    assert (found & ~expected).mean() < 0.02
    assert (expected & ~found).mean() < 0.1


def test_compiled_voxel_filter_matches_plain_implementation():
    points = np.random.default_rng(0).uniform(-5, 5, (5000, 3)).astype(np.float32)
    np.testing.assert_array_equal(one_per_voxel(points, 0.7), one_per_voxel_plain(points, 0.7))
    assert len(one_per_voxel(points[:0], 0.7)) == 0
