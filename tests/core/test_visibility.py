"""Free-space filter, ground filter, output filter and confidence."""

import numpy as np
import pytest
import torch

from lidar_completion.crop import SceneLimits
from lidar_completion.sparse.points_cpu import bounds
from lidar_completion.visibility import FreeSpaceRules, TrustRules
from lidar_completion.visibility.confidence import calibrated_confidence
from lidar_completion.visibility.free_space import (
    ClearSpace,
    before_clear_plain,
    before_returns,
    clear_distance,
    clear_distance_plain,
    clear_image,
)
from lidar_completion.visibility.ground import below_ground, floor_compiled, floor_plain
from lidar_completion.visibility.output_filter import inside_box, trusted_rows, trusted_rows_plain

RULES = FreeSpaceRules()


def directions(azimuth_deg: np.ndarray, elevation_deg: np.ndarray) -> torch.Tensor:
    """Unit vectors (A * E, 3) of all pairs."""
    azimuth, elevation = (np.radians(each).ravel() for each in np.meshgrid(azimuth_deg, elevation_deg, indexing="ij"))
    flat = np.cos(elevation)
    return torch.from_numpy(
        np.column_stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
    ).float()


def wall(distance_m: float = 20.0, gap_deg: float = 0.4) -> torch.Tensor:
    """Rays of a sensor onto a sphere around it, -20 to 20 degrees in azimuth, -8 to 4 in elevation, rings gap_deg apart."""
    return distance_m * directions(np.arange(-20, 20, 0.17), np.arange(-8, 4, gap_deg))


def ray(azimuth_deg: float, elevation_deg: float, distance_m: float) -> torch.Tensor:
    return distance_m * directions(np.array([azimuth_deg]), np.array([elevation_deg]))


@pytest.mark.parametrize(
    ("distance_m", "free"), [(19.0, True), (5.0, True), (19.6, True), (19.8, False), (20.0, False), (25.0, False)]
)
def test_free_space_ends_at_the_measured_surface(distance_m: float, free: bool):
    assert before_returns(ray(3.05, -2.1, distance_m), wall()).tolist() == [free]


def test_free_space_does_not_depend_on_the_order_of_the_sweep():
    points = ray(0.0, 0.0, 1.0) * torch.linspace(1, 30, 200)[:, None]
    sweep = wall()
    shuffled = sweep[torch.randperm(len(sweep), generator=torch.Generator().manual_seed(0))]
    assert torch.equal(before_returns(points, sweep), before_returns(points, shuffled))


@pytest.mark.parametrize(("azimuth", "elevation"), [(50.0, 0.0), (179.9, -2.0), (0.0, 20.0), (0.0, -60.0)])
def test_a_direction_without_a_return_is_not_free_space(azimuth: float, elevation: float):
    assert not before_returns(ray(azimuth, elevation, 5.0), wall()).any()


def test_range_image_wraps_around_behind_the_sensor():
    turned = wall() * torch.tensor([-1.0, -1.0, 1.0])
    assert before_returns(ray(179.95, 0.0, 10.0), turned).all()
    assert before_returns(ray(-179.95, 0.0, 10.0), turned).all()


def test_keeps_points_next_to_the_edge_of_a_near_object():
    pole = 10.0 * directions(np.array([0.0]), np.arange(-8, 4, 0.4))
    sweep = torch.cat([wall(), pole])
    assert not before_returns(ray(0.1, -2.0, 10.1), sweep).any()  # beside the pole, within a beam of it
    assert before_returns(ray(1.5, -2.0, 10.1), sweep).all()


def test_between_two_rings_the_nearer_return_limits_free_space():
    """A flat road: what is completed between two rings lies before the farther of them, and stays."""
    height, elevation = 1.73, np.array([-3.0, -2.6])
    ring = torch.cat(
        [height / np.sin(np.radians(-e)) * directions(np.arange(-5, 5, 0.17), np.array([e])) for e in elevation]
    )
    road = ray(0.0, -2.8, height / np.sin(np.radians(2.8)))
    assert not before_returns(road, ring).any()
    assert before_returns(ray(0.0, -2.8, 25.0), ring).all()


def test_space_between_distant_rings_is_not_free():
    sweep = wall(gap_deg=2.0)
    assert before_returns(ray(0.0, -2.0, 10.0), sweep).all()
    assert not before_returns(ray(0.0, -3.0, 10.0), sweep).any()  # a child may stand between two rings


def test_free_space_of_empty_clouds():
    nothing = torch.zeros(0, 3)
    assert before_returns(nothing, wall()).tolist() == []
    assert before_returns(ray(0, 0, 5.0), nothing).tolist() == [False]


@pytest.mark.parametrize("filled", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("max_gap", [0, 1, 6, 100])
def test_compiled_and_plain_clear_distance_agree(filled: float, max_gap: int):
    generator = torch.Generator().manual_seed(1)
    image = 50 * torch.rand(40, 90, generator=generator)
    image[torch.rand(40, 90, generator=generator) > filled] = torch.inf
    nearer = torch.minimum(image, torch.minimum(image.roll(1, 1), image.roll(-1, 1)))
    torch.testing.assert_close(clear_distance(image, max_gap), clear_distance_plain(nearer, max_gap), rtol=0, atol=0)


def test_ray_features_before_and_behind_a_surface_and_in_unseen_directions():
    points = torch.cat([ray(0, 0, 10.0), ray(0, 0, 19.5), ray(0, 0, 24.0), ray(180, 0, 10.0), ray(0, 30, 10.0)])
    expected = torch.tensor([[1, 1, 1], [1, 0.5, 0.0625], [1, -1, -0.5], [0, 0, 0], [0, 0, 0]])
    features = ClearSpace.from_returns(wall()).ray_features(points)
    torch.testing.assert_close(features, expected, atol=0.01, rtol=0)


def test_known_clear_space_is_used_only_with_the_same_rules():
    points, sweep = ray(3.05, -2.1, 19.6), wall()
    known = ClearSpace.from_returns(sweep)
    assert before_returns(points, sweep, clear_space=known).all()
    assert not before_returns(points, sweep, FreeSpaceRules(margin_m=0.6), known).any()


def test_compiled_and_plain_image_lookup_agree():
    generator = torch.Generator().manual_seed(3)
    points = 12 * torch.randn(20_000, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.1])
    clear, lowest = clear_image(wall(), RULES)
    ours = before_returns(points, wall(), RULES)
    assert torch.equal(ours, before_clear_plain(points, clear, lowest, RULES))
    assert 0 < ours.sum() < len(ours)


def test_compiled_and_plain_range_image_agree(monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(5)
    returns = 12 * torch.randn(20_000, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.1])
    clear, lowest = clear_image(returns, RULES)
    monkeypatch.setattr("lidar_completion.sparse.points_cpu.usable", lambda *tensors: False)
    plain, plain_lowest = clear_image(returns, RULES)
    assert torch.equal(clear, plain)
    assert lowest == plain_lowest


def test_compiled_and_plain_ground_filter_agree(monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(4)
    ground = 10 * torch.randn(700, 3, generator=generator)
    points = 15 * torch.randn(20_000, 3, generator=generator)
    ours, (floor, corner), plain = (
        below_ground(points, ground, 0.2),
        floor_compiled(bounds(points), ground),
        floor_plain(bounds(points), ground),
    )
    assert torch.equal(floor, plain[0])
    assert torch.equal(corner, plain[1])
    monkeypatch.setattr("lidar_completion.sparse.points_cpu.usable", lambda *tensors: False)
    assert torch.equal(ours, below_ground(points, ground, 0.2))
    assert 0 < ours.sum() < len(ours)


def test_points_below_ground_are_found_only_where_ground_was_measured():
    ground = torch.cat(
        [torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) * 20, torch.full((500, 1), -1.7)], 1
    )
    points = torch.tensor([[10.0, 10, -1.8], [10, 10, -2.0], [10, 10, 5], [60, 10, -9], [-30, -30, -9]])
    assert below_ground(points, ground, 0.2).tolist() == [False, True, False, False, False]
    assert below_ground(points, ground[:0], 0.2).tolist() == [False] * 5


def test_points_inside_the_ego_box():
    points = torch.tensor([[0.0, 0, 0], [2, 0, 0], [2.1, 0, 0]])
    assert inside_box(points, (-2, -1, -2, 2, 1, 1)).tolist() == [True, True, False]


@pytest.mark.parametrize("box", [(0, 0, 0), (1.0, 0, 0, 0.0, 1, 1)])
def test_rejects_an_invalid_ego_box(box: tuple):
    with pytest.raises(ValueError, match="ego_box_m"):
        TrustRules(ego_box_m=box)


def test_removed_points_count_once_and_rules_can_be_disabled():
    sweep = wall()
    points = torch.cat([ray(0, -2, 10.0), ray(0, -2, 10.0), ray(0, -2, 1.0), ray(0, -2, 20.0), ray(0, -2, 21.0)])
    points[1] += torch.tensor([0.0, 1.0, 0.0])
    scan = torch.cat([points[1:2] + 0.1, sweep])  # the second lies on a thin object that the range image blurs
    confidence = torch.tensor([0.1, 0.9, 0.9, 0.9, 0.3])
    box = (-2.0, -2.0, -2.0, 2.0, 2.0, 2.0)
    rows, removed = trusted_rows(points, scan, confidence, sweep, TrustRules(ego_box_m=box, min_confidence=0.5))
    assert rows.tolist() == [1, 3]
    assert removed == {"outside": 0, "free_space": 2, "below_ground": 0, "ego_box": 0, "low_confidence": 1}
    off = TrustRules(free_space=None, below_ground_m=None)
    assert trusted_rows(points, scan, confidence, sweep, off)[0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("azimuth_deg", [0.2, 0.01])
def test_compiled_and_plain_output_filter_agree(azimuth_deg: float):
    """Also for points exactly behind the sensor, on the edges of bins, at the limit of free space, and of NaN."""
    generator = torch.Generator().manual_seed(6)
    sweep = torch.cat([wall(), wall() * torch.tensor([-0.8, -0.9, 1.0])])
    points = 12 * torch.randn(60_000, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.1])
    points[:400, 1] = 0.0
    points[200:400, 1] = -0.0
    edges = directions(np.arange(-20, 20, 0.2), np.arange(-8, 4, 0.1))
    points = torch.cat([points, 15 * edges, 19.7 * edges, torch.full((1, 3), torch.nan), torch.zeros(1, 3)])
    confidence = torch.rand(len(points), generator=generator)
    space = FreeSpaceRules(azimuth_deg=azimuth_deg)
    rules = TrustRules(space, 0.2, (-2.0, -1.0, -2.0, 2.0, 1.0, 0.5), 0.1)
    for limits in (SceneLimits(25.0, torch.tensor(-4.0), torch.tensor(2.5)), None):
        rows, removed = trusted_rows(points, sweep[::7], confidence, sweep, rules, limits=limits)
        expected, counts = trusted_rows_plain(points, sweep[::7], confidence, sweep, rules, limits=limits)
        assert torch.equal(rows, expected)
        assert removed == counts
        assert min(count for reason, count in counts.items() if limits or reason != "outside") > 0


def test_compiled_and_plain_output_filter_agree_on_empty_clouds():
    nothing, points, rules = torch.zeros(0, 3), ray(0, 0, 5.0), TrustRules()
    for case in ((nothing, wall(), nothing[:, 0], wall()), (points, nothing, points[:, 0], nothing)):
        rows, removed = trusted_rows(*case, rules)
        assert rows.tolist() == trusted_rows_plain(*case, rules)[0].tolist()
        assert removed == trusted_rows_plain(*case, rules)[1]


def test_confidence_is_interpolated_and_constant_beyond_the_table():
    table = {"range_m": [10.0, 30.0], "distance_m": [0.0, 0.4], "probability": [[0.9, 0.5], [0.7, 0.1]]}
    points = torch.tensor([[5.0, 0, 0], [20, 0, 0], [0, 0, 80], [0, 30, 0]])
    confidence = calibrated_confidence(points, torch.tensor([0.2, 0.2, 5.0, 0.1]), table)
    torch.testing.assert_close(confidence, torch.tensor([0.7, 0.55, 0.1, 0.55]))
