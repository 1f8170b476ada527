"""Rays against solids and the height field."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from thread_count import THREADS

from lidar_completion_synthetic import objects, raycast
from lidar_completion_synthetic.objects import Material
from lidar_completion_synthetic.raycast.plain import cast_solids_plain
from lidar_completion_synthetic.world import empty_solids


def flat_ground(height: float = -1e3) -> raycast.Ground:
    return raycast.make_ground(np.full((3, 3), height), np.zeros((3, 3)), (-1e4, -1e4), 1e4)


def random_solids(shape: int, count: int, rng: np.random.Generator) -> raycast.Solids:
    turns = objects.random_rotations(rng, count)
    half = rng.uniform(0.2, 2.0, (count, 3))
    if shape in (raycast.CYLINDER, raycast.CONE):
        half[:, 1] = half[:, 0]
    parts = objects.solids(shape, rng.uniform(-15, 15, (count, 3)), half, Material.FACADE, 50, turns)
    return raycast.make_solids(parts.shape, parts.to_world, np.zeros(count))


@pytest.mark.parametrize("shape", [raycast.BOX, raycast.CYLINDER, raycast.ELLIPSOID, raycast.CONE])
def test_first_hit_matches_plain_implementation(shape):
    rng = np.random.default_rng(shape)
    solids = random_solids(shape, 40, rng)
    origins = rng.normal(size=(150, 3))
    origins *= 40 / np.linalg.norm(origins, axis=1, keepdims=True)
    directions = rng.uniform(-12, 12, (150, 3)) - origins
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    distance, hit, _ = raycast.cast(solids, empty_solids(), flat_ground(), origins, directions, 100.0, 0)
    expected_distance, expected_hit = cast_solids_plain(solids, origins, directions, 100.0)
    np.testing.assert_array_equal(hit, expected_hit)
    np.testing.assert_allclose(distance, expected_distance, atol=1e-4)
    assert (hit >= 0).sum() > 15


def test_ground_hit_is_first_crossing_of_height_field():
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


def test_rays_pass_see_through_solid_with_its_probability():
    pane = objects.solids(raycast.BOX, (5, 0, 0), (0.01, 50, 50), Material.CAR_GLASS, 10)
    solids = raycast.make_solids(pane.shape, pane.to_world, np.array([0.3]))
    directions = np.tile((1.0, 0.0, 0.0), (20_000, 1))
    _, hit, _ = raycast.cast(solids, empty_solids(), flat_ground(), np.zeros_like(directions), directions, 50.0, 9)
    assert (hit == raycast.MISS).mean() == pytest.approx(0.3, abs=0.02)


def test_generator_keeps_the_number_of_torch_threads(pair):
    """Numba's threads, which the generator starts, would set it to the number of cores."""
    raycast.set_threads(2)
    raycast.set_threads(None)
    raycast.set_threads(1)
    assert torch.get_num_threads() == THREADS
