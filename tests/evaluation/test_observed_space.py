import numpy as np
import pytest

from lidar_completion_evaluation.truth.free_rays import free_rays
from lidar_completion_evaluation.truth.free_rays_plain import free_rays_plain
from lidar_completion_evaluation.truth.observed_space import FREE, OCCUPIED, UNKNOWN, RayRules, observe

RULES = RayRules(half_extent_m=20.0, min_z_m=-3.0, max_z_m=5.0)


def state_at(space, *points):
    index = np.floor((np.array(points) - [-20, -20, -3]) / 0.2).astype(int)
    return [int(space.state[tuple(row)]) for row in index]


def test_ray_frees_voxels_up_to_its_end():
    end = np.array([[10.0, 0.05, 0.05]])
    space = observe([(np.zeros(3), end)], [end], RULES)
    assert state_at(space, (5, 0.03, 0.03), (10, 0.05, 0.05), (12, 0.05, 0.05), (5, 2, 0)) == [
        FREE,
        OCCUPIED,
        UNKNOWN,
        UNKNOWN,
    ]
    points = np.array([[5, 0.03, 0.03], [10, 0.05, 0.05], [10.25, 0.05, 0.05], [12, 0.05, 0.05], [90, 0, 0]])
    np.testing.assert_array_equal(space.free(points), [True, False, False, False, False])
    np.testing.assert_array_equal(space.observed(points), [True, True, True, False, False])


def test_end_of_ray_is_not_freed():
    space = observe([(np.zeros(3), np.array([[10.0, 0.0, 0.0]]))], [], RULES)
    assert state_at(space, (8.7, 0, 0), (9.1, 0, 0), (9.9, 0, 0)) == [FREE, UNKNOWN, UNKNOWN]
    near = observe([(np.zeros(3), np.array([[1.0, 0.0, 0.0]]))], [], RULES)
    assert state_at(near, (0.5, 0, 0), (0.9, 0, 0)) == [FREE, UNKNOWN]


def test_surface_takes_precedence_over_rays():
    surface = np.array([[5.05, 0.05, 0.05]])
    space = observe([(np.zeros(3), np.array([[10.0, 0.1, 0.1]]))], [surface], RULES)
    assert state_at(space, surface[0]) == [OCCUPIED]


@pytest.mark.parametrize("seed", range(3))
def test_rays_agree_with_dense_sampling(seed):
    random = np.random.default_rng(seed)
    ends = random.uniform((-18, -18, -2.5), (18, 18, 4.5), (20, 3))
    origin = random.uniform(-2, 2, 3)
    space = observe([(origin, ends)], [], RULES)
    length = np.linalg.norm(ends - origin, axis=1)
    kept = np.minimum(length - 0.3, 0.88 * length) / length
    share = np.linspace(0, 1, 8_000)[None, :, None]
    samples = origin + (ends - origin)[:, None] * kept[:, None, None] * share
    index = np.unique(np.floor((samples.reshape(-1, 3) - [-20, -20, -3]) / 0.2).astype(int), axis=0)
    sampled = np.zeros(space.state.shape, bool)
    sampled[tuple(index.T)] = True
    freed = space.state == FREE
    assert not (sampled & ~freed).any()  # every sampled voxel is free
    assert (freed & ~sampled).sum() <= 0.01 * freed.sum()  # corners between samples


def test_accepts_origins_outside_the_grid():
    space = observe([(np.array([-50.0, 0.1, 0.1]), np.array([[10.0, 0.1, 0.1]]))], [], RULES)
    assert state_at(space, (-19, 0.1, 0.1), (0, 0.1, 0.1)) == [FREE, FREE]


def test_far_stray_return_frees_its_direction():
    origin, way = np.array([0.03, 0.05, 0.07]), np.array([1.0, 0.0213, 0.0117])
    near, far = (observe([(origin, (origin + reach * way)[None])], [], RULES) for reach in (100.0, 1e10))
    assert (near.state == FREE).sum() > 100
    np.testing.assert_array_equal(near.state, far.state)


@pytest.mark.parametrize("seed", range(3))
def test_compiled_rays_agree_with_plain_implementation(seed):
    random = np.random.default_rng(seed)
    origin, ends = random.uniform(5, 25, 3), random.uniform(-10, 40, (200, 3))
    compiled, plain = np.zeros((2, 30, 30, 30), np.uint8)
    free_rays(compiled, origin, ends)
    free_rays_plain(plain, origin, ends)
    np.testing.assert_array_equal(compiled, plain)
