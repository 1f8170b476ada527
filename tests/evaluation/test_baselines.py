import numpy as np
import pytest

from lidar_completion_evaluation.baselines import BASELINES, interpolated, jittered, raw, xy_jittered


def a_wall(range_m: float = 10.0) -> np.ndarray:
    """Two rings of a flat wall, 2° apart in elevation, one point per 0.2°."""
    azimuth = np.radians(np.arange(-20, 20, 0.2) + 0.1)
    rings = []
    for elevation in np.radians((-1.0, 1.0)):
        x = np.full_like(azimuth, range_m)
        rings.append(np.column_stack([x, x * np.tan(azimuth), x / np.cos(azimuth) * np.tan(elevation)]))
    return np.concatenate(rings).astype(np.float32)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_float32_and_deterministic(name):
    wall = a_wall()
    wall[5] = np.nan
    first, again = BASELINES[name](wall, 3), BASELINES[name](wall, 3)
    assert first.dtype == np.float32
    assert first.shape[1] == 3
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    if "jitter" in name:
        assert not np.array_equal(first, BASELINES[name](wall, 4))


def test_raw_returns_the_sweep():
    np.testing.assert_array_equal(raw(a_wall()), a_wall())


def test_jitter_has_documented_sigmas():
    point = np.tile(np.array([[30.0, 0.0, 1.0]], np.float32), (1, 1))
    many = np.concatenate([jittered(point, seed) for seed in range(400)]) - point
    assert many.shape == (4000, 3)
    np.testing.assert_allclose(many.std(axis=0), 0.2, rtol=0.1)
    many = np.concatenate([xy_jittered(point, seed) for seed in range(400)]) - point
    np.testing.assert_allclose(many.std(axis=0), (0.6, 0.6, 0.05), rtol=0.1)


@pytest.mark.parametrize(("range_m", "sigma"), [(1.0, 0.1), (80.0, 1.0)])
def test_horizontal_jitter_is_limited(range_m, sigma):
    point = np.array([[range_m, 0.0, 0.0]], np.float32)
    many = np.concatenate([xy_jittered(point, seed) for seed in range(400)]) - point
    np.testing.assert_allclose(many[:, :2].std(axis=0), sigma, rtol=0.1)


def test_interpolation_fills_a_wall_between_two_rings():
    wall = a_wall()
    filled = interpolated(wall)
    np.testing.assert_array_equal(filled[: len(wall)], wall)
    added = filled[len(wall) :]
    assert len(added) > len(wall)
    np.testing.assert_allclose(added[:, 0], 10.0, atol=1e-5)
    assert np.abs(added[:, 2]).max() < np.abs(wall[:, 2]).max()


def test_ground_fills_the_shadow_of_a_wall():
    """Flat ground in front of and behind a wall at x = 10 to 14 m; nothing was measured in between."""
    x, y = np.meshgrid(np.arange(4.0, 30.0, 0.3), np.arange(-4.0, 4.0, 0.3))
    ground = np.column_stack([x.ravel(), y.ravel(), np.full(x.size, -1.7)]).astype(np.float32)
    ground = ground[(ground[:, 0] < 10) | (ground[:, 0] > 14)]
    added = BASELINES["xy_jittered_ground"](ground)[len(xy_jittered(ground)) :]
    shadow = (added[:, 0] > 10.5) & (added[:, 0] < 13.5) & (np.abs(added[:, 1]) < 3)
    assert shadow.sum() > 4 * 3 * 6 / 0.4**2 * 0.8
    np.testing.assert_allclose(added[shadow, 2], -1.7, atol=0.01)


def test_interpolation_skips_object_edges():
    wall = a_wall()
    wall[: len(wall) // 2] *= 1.5  # the lower ring hits something farther away
    assert len(interpolated(wall)) == len(wall)
