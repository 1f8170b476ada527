"""The occupancy grid: what is occupied, free and unknown, the ground under each cell, and the compiled loops."""

import numpy as np
import pytest

from lidar_completion.compile_loops import synthetic_sweep
from lidar_completion.occupancy import (
    FREE,
    OCCUPIED,
    UNKNOWN,
    OccupancyRules,
    loops_compiled,
    loops_plain,
    occupancy_grid,
)
from lidar_completion.occupancy.ground_heights import ground_heights, within_slope

SENSOR_HEIGHT_M = 1.7
SENSOR = np.zeros(3)
NOTHING = np.empty((0, 3), np.float32)
RULES = OccupancyRules(resolution_m=0.5, size_m=40.0)


def ground(slope=0.0, reach=20.0, spacing=0.25):
    """Points (N, 3) on ground that rises by `slope` along x, below a sensor at the origin."""
    x, y = np.meshgrid(np.arange(-reach, reach, spacing), np.arange(-reach, reach, spacing))
    return np.stack([x, y, slope * x - SENSOR_HEIGHT_M], axis=-1).reshape(-1, 3).astype(np.float32)


def box(x, y, low, high):
    """Points of a column of 0.4 m with its foot at (x, y); heights above flat ground."""
    offsets = np.linspace(-0.2, 0.2, 5)
    grid = np.meshgrid(x + offsets, y + offsets, np.linspace(low, high, 9) - SENSOR_HEIGHT_M)
    return np.stack(grid, axis=-1).reshape(-1, 3).astype(np.float32)


def value_at(grid, x, y):
    column, row = ((np.array([x, y]) - grid.corner) / grid.resolution_m).astype(int)
    return grid.values[row, column]


def wall(x, reach=3.0):
    """A wall across the x axis, from the ground to 2 m above it."""
    y, z = np.meshgrid(np.arange(-reach, reach, 0.1), np.arange(0.0, 2.0, 0.1) - SENSOR_HEIGHT_M)
    return np.stack([np.full_like(y, x), y, z], axis=-1).reshape(-1, 3).astype(np.float32)


def visible_ground(reach=20.0):
    """Ground that is not behind the wall at x = 10."""
    points = ground(reach=reach)
    return points[(points[:, 0] < 10.0) | (np.abs(points[:, 1]) > 3.0 / 10.0 * points[:, 0])]


def test_cells_before_a_wall_are_free_and_cells_behind_it_unknown():
    grid = occupancy_grid(np.concatenate([visible_ground(), wall(10.0)]), NOTHING, SENSOR, RULES)
    assert value_at(grid, 5.2, 0.2) == FREE
    assert value_at(grid, 10.2, 0.2) == OCCUPIED
    assert value_at(grid, 15.2, 0.2) == UNKNOWN
    assert value_at(grid, 15.2, 10.2) == FREE
    assert grid.values.dtype == np.int8


def test_completed_points_occupy_cells_and_free_none():
    measured = np.concatenate([visible_ground(), wall(10.0)])
    completed = np.concatenate([box(15.0, 0.0, 0.5, 1.5), box(5.0, 5.0, 0.5, 1.5), ground() + np.float32([0, 0, 0.05])])
    without = occupancy_grid(measured, NOTHING, SENSOR, RULES).values
    grid = occupancy_grid(measured, completed, SENSOR, RULES)
    assert value_at(grid, 15.1, 0.1) == value_at(grid, 5.1, 5.1) == OCCUPIED
    changed = grid.values != without
    assert 0 < changed.sum() < 20
    assert (grid.values[changed] == OCCUPIED).all()


@pytest.mark.parametrize(("low", "high", "expected"), [(0.0, 0.2, FREE), (0.4, 1.0, OCCUPIED), (2.5, 3.5, FREE)])
def test_only_points_within_the_heights_are_obstacles(low, high, expected):
    """A kerb and a sign above the vehicle are none; the ground around them is seen."""
    grid = occupancy_grid(np.concatenate([ground(), box(6.1, 0.1, low, high)]), NOTHING, SENSOR, RULES)
    assert value_at(grid, 6.1, 0.1) == expected


def test_rays_above_the_vehicle_free_nothing():
    high_wall = wall(10.0) + np.float32([0, 0, 8.0])  # the rays pass 2 m above the ground at 0.6 m from the sensor
    grid = occupancy_grid(np.concatenate([ground(reach=2.0), high_wall]), NOTHING, SENSOR, RULES)
    assert value_at(grid, 5.2, 0.2) == UNKNOWN
    assert value_at(grid, 1.2, 0.2) == FREE


def test_a_slope_is_no_obstacle_and_a_box_on_it_is_one():
    slope = ground(slope=0.15)
    grid = occupancy_grid(slope, NOTHING, SENSOR, RULES)
    assert (grid.values != OCCUPIED).all()
    raised = box(12.1, 0.1, 0.5, 1.0) + np.float32([0, 0, 0.15 * 12.1])
    assert value_at(occupancy_grid(np.concatenate([slope, raised]), NOTHING, SENSOR, RULES), 12.1, 0.1) == OCCUPIED


def test_a_roof_alone_is_not_taken_for_the_ground():
    near = ground(reach=6.0)
    y, x = np.meshgrid(np.arange(-4.0, 4.0, 0.1), np.arange(8.0, 14.0, 0.1))
    roof = np.stack([x, y, np.full_like(x, 1.9 - SENSOR_HEIGHT_M)], axis=-1).reshape(-1, 3).astype(np.float32)
    assert value_at(occupancy_grid(np.concatenate([near, roof]), NOTHING, SENSOR, RULES), 8.2, 0.2) == OCCUPIED


def test_single_reflections_from_below_do_not_lower_the_ground():
    deep = np.float32([[5.0, 5.0, -6.0], [-7.0, 3.0, -9.0]])
    with_reflections = occupancy_grid(np.concatenate([ground(), deep]), NOTHING, SENSOR, RULES)
    assert (with_reflections.values != OCCUPIED).all()


def test_heights_can_be_above_the_sensor():
    rules = OccupancyRules(resolution_m=0.5, size_m=40.0, min_height_m=-1.0, max_height_m=0.5, above_ground=False)
    measured = np.concatenate([ground(), box(6.1, 0.1, 0.8, 1.5), box(-6.1, 0.1, 2.3, 3.0)])
    grid = occupancy_grid(measured, NOTHING, SENSOR, rules)
    assert (value_at(grid, 6.1, 0.1), value_at(grid, -6.1, 0.1)) == (OCCUPIED, FREE)


def test_cells_keep_their_place_when_the_sensor_moves():
    post = box(6.1, 0.1, 0.0, 1.5)
    for moved in ([0.0, 0.0, 0.0], [0.83, -1.31, 0.2], [103.7, 55.1, 3.0]):
        grid = occupancy_grid(np.concatenate([ground(), post]) + np.float32(moved), NOTHING, np.array(moved), RULES)
        np.testing.assert_allclose(grid.corner / RULES.resolution_m, np.rint(grid.corner / RULES.resolution_m))
        assert value_at(grid, 6.1 + moved[0], 0.1 + moved[1]) == OCCUPIED


def test_without_points_everything_is_unknown():
    for rules in (RULES, OccupancyRules(above_ground=False)):
        assert (occupancy_grid(NOTHING, NOTHING, SENSOR, rules).values == UNKNOWN).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"min_height_m": 2.0, "max_height_m": 2.0}, "max_height_m"), ({"resolution_m": 0.01, "size_m": 200.0}, "size_m")],
)
def test_impossible_rules_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        OccupancyRules(**changes)


@pytest.mark.parametrize("above_ground", [True, False])
@pytest.mark.parametrize("sensor", [(0.0, 0.0, 0.0), (3.3, -7.1, 0.9)])
def test_compiled_loops_agree_with_the_plain_ones(above_ground, sensor):
    random = np.random.default_rng(0)
    sweep = synthetic_sweep() + random.normal(0, 0.05, (len(synthetic_sweep()), 3)).astype(np.float32)
    stray = random.uniform(-90, 90, (500, 3)).astype(np.float32)
    measured = np.concatenate([sweep, stray]) + np.float32(sensor)
    completed = random.uniform([-30, -30, -3], [30, 30, 2], (2000, 3)).astype(np.float32)
    heights = (-1.4, 0.3) if not above_ground else (0.3, 2.0)
    rules = OccupancyRules(0.3, 50.0, *heights, above_ground=above_ground)
    compiled, plain = (
        occupancy_grid(measured, completed, np.array(sensor), rules, loops) for loops in (loops_compiled, loops_plain)
    )
    np.testing.assert_array_equal(compiled.values, plain.values)
    assert set(np.unique(plain.values)) == {UNKNOWN, FREE, OCCUPIED}


def test_compiled_ground_agrees_with_the_plain_one():
    random = np.random.default_rng(1)
    points = random.normal(0, 10, (3000, 3)).astype(np.float32)
    corner = np.array([-20.0, -20.0])
    compiled, plain = (ground_heights(points, corner, 0.5, 80, loops) for loops in (loops_compiled, loops_plain))
    np.testing.assert_array_equal(compiled, plain)
    assert np.isfinite(plain).all()


def test_heights_are_lowered_to_what_the_slope_allows():
    heights = np.full((5, 5), 10.0)
    heights[0, 0], heights[2, 2] = 0.0, np.inf
    lowered = within_slope(heights, 1.0)
    assert (lowered[0, 1], lowered[0, 4]) == (1.0, 4.0)
    assert lowered[1, 1] == pytest.approx(np.sqrt(2))
    assert lowered[4, 4] == pytest.approx(4 * np.sqrt(2))
    assert np.isinf(lowered[2, 2])
