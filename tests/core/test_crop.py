"""Which points of a cloud are kept."""

import math

import pytest
import torch

from lidar_completion.crop import (
    SceneLimits,
    crop_range,
    finite_rows,
    finite_rows_plain,
    range_rows,
    range_rows_plain,
    remove_invalid,
    scene_rows,
    scene_rows_plain,
)


def test_removes_invalid_points_and_keeps_the_order():
    points = torch.tensor([[1.0, 2, 3], [torch.nan, 0, 0], [4, 5, 6], [0, torch.inf, 0], [0, 0, -torch.inf]])
    assert finite_rows(points).tolist() == [0, 2]
    assert remove_invalid(points).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_range_limits_are_exclusive():
    points = torch.tensor([[3.0, 0, 4], [0, 6, 0], [0, 0, 5.1], [0.1, 0, 0]])
    assert crop_range(points, 5.0, 6.0).tolist() == [pytest.approx([0, 0, 5.1])]


def test_compiled_and_plain_rows_agree():
    points = 8 * torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(finite_rows(points), torch.arange(20_000))
    points[:4] = torch.tensor([[torch.nan, 0, 0], [0, 0, torch.nan], [torch.inf, 0, 0], [0, -torch.inf, 0]])
    rows = finite_rows(points)
    assert len(rows) == 19_996
    assert torch.equal(rows, finite_rows_plain(points))
    for limits in ((5.0, 20.0), (3.5, math.inf)):
        rows = range_rows(points, *limits)
        assert torch.equal(rows, range_rows_plain(points, *limits))
        assert 0 < len(rows) < len(points)


def test_scene_limits_follow_the_heights_of_the_sweep():
    sweep = torch.tensor([[10.0, 0, -1.0], [10, 0, 0], [10, 0, 1]])
    lowest = -2 * float(torch.tensor([-1.0, 0, 1]).std(correction=0))
    completed = torch.tensor([[0, 0, lowest - 0.01], [0, 0, lowest + 0.01], [0, 0, 0.99], [0, 0, 1.0], [20, 0, 0.0]])
    assert scene_rows(completed, SceneLimits.of(sweep, 20.0)).tolist() == [1, 2]


def test_measured_floor_keeps_the_ground_around_a_tilted_sensor():
    """Ground 1.7 m below a sensor that is tilted by 10 degrees: its far end lies 10 m lower than the sensor."""
    along = torch.linspace(-50.0, 50.0, 400)
    near_the_sensor = along.abs() ** 3 / 50.0**2 * along.sign()  # a LiDAR measures most points nearby
    x = torch.cat([along, near_the_sensor, near_the_sensor])
    sweep = torch.stack([x, torch.zeros_like(x), -1.7 + x * math.tan(math.radians(10.0))], dim=1) * 0.98
    completed = sweep[:400] + torch.tensor([0.0, 0.0, 0.01])
    published, measured = (
        scene_rows(completed, SceneLimits.of(sweep, 60.0, floor)) for floor in ("published", "measured")
    )
    assert completed[published, 0].min() > -45.0
    assert completed[measured, 0].min() < -48.9


def test_compiled_and_plain_scene_crop_agree():
    generator = torch.Generator().manual_seed(0)
    sweep, completed = (8 * torch.randn(count, 3, generator=generator) for count in (500, 20_000))
    completed[:3] = torch.tensor([[torch.nan, 0, 0], [0, 0, torch.nan], [torch.inf, 0, 0]])
    limits = SceneLimits.of(sweep, 15.0)
    rows = scene_rows(completed, limits)
    assert torch.equal(rows, scene_rows_plain(completed, limits))
    assert 0 < len(rows) < len(completed)
    low, high = limits.box()
    assert bool(((low <= completed[rows]) & (completed[rows] <= high)).all())
    assert scene_rows(completed[:0], limits).tolist() == []
