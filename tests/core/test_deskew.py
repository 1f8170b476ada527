import numpy as np
import pytest
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from lidar_completion.deskew import deskew, velocity

LINEAR, ANGULAR = np.array([13.0, -0.5, 0.2]), np.array([0.05, -0.1, 0.9])


def motion(linear: np.ndarray, angular: np.ndarray, seconds: float) -> np.ndarray:
    twist = np.zeros((4, 4))
    x, y, z = angular
    twist[:3, :3], twist[:3, 3] = [[0, -z, y], [z, 0, -x], [-y, x, 0]], linear
    return expm(twist * seconds)


@pytest.mark.parametrize("angular", [ANGULAR, np.zeros(3), 1e-12 * ANGULAR, 1e-4 * ANGULAR])
def test_deskews_points_measured_while_moving(angular: np.ndarray):
    random = np.random.default_rng(0)
    world, seconds = random.uniform(-40, 40, (200, 3)), random.uniform(-0.05, 0.05, 200)
    measured = np.empty_like(world)
    for i in range(len(world)):
        measured[i] = (np.linalg.inv(motion(LINEAR, angular, seconds[i])) @ np.append(world[i], 1))[:3]
    found = deskew(measured, seconds, LINEAR, angular)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, world, atol=1e-5)


@pytest.mark.parametrize("angular", [ANGULAR, np.zeros(3), 20 * ANGULAR])
def test_velocity_of_a_motion(angular: np.ndarray):
    linear, turning = velocity(motion(LINEAR, angular, 0.1), 0.1)
    np.testing.assert_allclose(linear, LINEAR, atol=1e-9)
    np.testing.assert_allclose(turning, angular, atol=1e-9)


def test_points_at_time_zero_are_unchanged():
    points = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    np.testing.assert_array_equal(deskew(points, np.zeros(9), LINEAR, ANGULAR), points)
    np.testing.assert_array_equal(deskew(points[:0], np.zeros(0), LINEAR, ANGULAR), points[:0])


def test_rejects_shapes_that_do_not_match():
    with pytest.raises(ValueError, match=r"expected \(N, 3\) and \(N,\)"):
        deskew(np.zeros((4, 3)), np.zeros(3), LINEAR, ANGULAR)
    with pytest.raises(ValueError, match=r"expected \(3,\) each"):
        deskew(np.zeros((4, 3)), np.zeros(4), Rotation.identity().as_matrix(), ANGULAR)
