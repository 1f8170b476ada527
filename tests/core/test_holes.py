"""Start points in holes, on synthetic ground with known holes."""

import pytest
import torch

from lidar_completion.errors import ModelError
from lidar_completion.holes import LEVEL_M, distance_plain, hole_columns, hole_points
from lidar_completion.holes_compiled import distance_to
from lidar_completion.model.card import Pipeline
from lidar_completion.visibility import ClearSpace


def ground(from_m: float = 6.0, height_m: float = -1.7) -> torch.Tensor:
    """(N, 3): flat ground between from_m and 30 m from the sensor, a return every 0.2 m."""
    line = torch.arange(-30, 30, 0.2)
    x, y = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x, y, torch.full_like(x, height_m)], dim=-1).reshape(-1, 3)
    distance = points[:, :2].norm(dim=1)
    return points[(distance > from_m) & (distance < 30)]


def test_fills_the_blind_disc_at_ground_height():
    holes = hole_points(ground(), 50.0)
    distance = holes[:, :2].norm(dim=1)
    assert len(holes) == pytest.approx(3.14 * 5.5**2 / 0.8**2, rel=0.25)
    assert distance.max() < 6.0
    torch.testing.assert_close(holes[:, 2], torch.full_like(holes[:, 2], -1.7), atol=0.01, rtol=0)


def test_no_holes_in_complete_ground():
    assert len(hole_points(ground(from_m=0.0), 50.0)) == 0


def test_holes_lie_near_returns_and_not_beyond_the_last_one():
    distance = hole_points(ground(from_m=29.0), 50.0, max_distance_m=4.0)[:, :2].norm(dim=1)
    assert distance.max() < 29.0
    assert distance.min() > 24.0


def test_holes_in_the_shadow_of_a_wall_lie_on_the_ground():
    points = ground(from_m=4.0)
    shadow = (points[:, 0] > 10) & (points[:, 0] < 16) & (points[:, 1].abs() < 3)
    wall = torch.tensor([[10.0, y / 10, z / 10] for y in range(-30, 31) for z in range(-17, 5)])
    holes = hole_points(torch.cat([points[~shadow], wall]), 50.0)
    behind = holes[(holes[:, 0] > 11) & (holes[:, 0] < 15) & (holes[:, 1].abs() < 2)]
    assert len(behind) > 10
    assert behind[:, 2].max() < -1.5


def test_holes_behind_the_last_return_are_found_on_request():
    distance = hole_points(ground(from_m=4.0), 50.0, beyond_m=3.0)[:, :2].norm(dim=1)
    behind = distance[distance > 30]
    assert len(behind) > 500
    assert behind.max() < 33.5
    assert len(hole_points(ground(from_m=4.0), 31.0, beyond_m=3.0)) < len(distance)  # not beyond the largest range


def test_levels_lie_above_the_holes():
    holes = hole_points(ground(), 50.0)
    columns = hole_columns(ground(), 50.0, 0.8, levels=3, beyond_m=0.0, clear_space=None)
    for level, points in enumerate(columns.split(len(holes))):
        assert torch.equal(points[:, :2], holes[:, :2])
        torch.testing.assert_close(points[:, 2], holes[:, 2] + level * LEVEL_M)


def test_levels_are_limited_to_what_a_return_hides():
    line = torch.linspace(-1, 1, 400)
    across, up = torch.meshgrid(3 * line, 2 * line, indexing="ij")
    wall = torch.stack([torch.full_like(across, 10.0), across, up], dim=-1).reshape(-1, 3)
    clear_space = ClearSpace.from_returns(wall)
    before, behind, beside = torch.tensor([[6.0, 0.0, 0.5], [14.0, 0.0, 0.5], [6.0, 5.0, 0.5]])
    assert clear_space.hides(torch.stack([before, behind, beside, wall[0]])).tolist() == [False, True, False, True]
    points = ground()
    in_shadow = (points[:, 0] > 10) & (points[:, 0] < 18) & (points[:, 1].abs() < 0.3 * points[:, 0])
    scan = torch.cat([points[~in_shadow], wall])
    holes = hole_points(scan, 50.0)
    columns = hole_columns(scan, 50.0, 0.8, levels=2, beyond_m=0.0, clear_space=clear_space)
    assert torch.equal(columns[: len(holes)], holes)
    raised = holes + torch.tensor([0.0, 0.0, LEVEL_M])
    hidden = raised[clear_space.hides(raised)]
    assert 10 < len(hidden) < len(holes)
    assert torch.equal(columns[len(holes) :], hidden)


def test_holes_follow_a_slope():
    points = ground()
    points[:, 2] += 0.05 * points[:, 0]
    holes = hole_points(points, 50.0)
    assert (holes[:, 2] - (-1.7 + 0.05 * holes[:, 0])).abs().max() < 0.3


def test_holes_do_not_depend_on_order():
    points = ground()
    shuffled = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(hole_points(shuffled, 50.0), hole_points(points, 50.0))


def test_accepts_stray_returns_and_a_single_point():
    stray = torch.cat([ground(), torch.tensor([[1e5, 0.0, 0.0]])])
    assert len(hole_points(stray, 50.0)) > 0
    assert hole_points(torch.tensor([[10.0, 0.0, -1.7]]), 50.0).shape[1] == 3


def test_rejects_an_invalid_cell_width():
    with pytest.raises(ModelError, match="hole_cell_m"):
        Pipeline(hole_cell_m=0.0)


@pytest.mark.parametrize("share", [0.5, 0.02, 0.0005])
def test_compiled_and_plain_distances_agree(share: float):
    occupied = torch.rand(60, 47, generator=torch.Generator().manual_seed(0)) < share
    occupied[11, 30] = True
    distance = distance_to(occupied)
    torch.testing.assert_close(distance, distance_plain(occupied), atol=0, rtol=1e-6)
    assert distance[occupied].max() == 0
