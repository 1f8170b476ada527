import numpy as np
import pytest
import torch

from lidar_completion.nearest_points import any_nearer, nearest_points, nearest_points_plain
from lidar_completion.visibility import (
    FreeSpaceRules,
    TrustRules,
    _clear_image,
    _floor,
    before_clear_plain,
    below_ground,
    calibrated_confidence,
    clear_distance,
    clear_distance_plain,
    evenly,
    floor_plain,
    inside_box,
    refuted,
    untrusted,
)

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
    ("distance_m", "refutes"), [(19.0, True), (5.0, True), (19.6, True), (19.8, False), (20.0, False), (25.0, False)]
)
def test_points_before_a_wall_go_and_points_on_and_behind_it_stay(distance_m: float, refutes: bool):
    assert refuted(ray(3.05, -2.1, distance_m), wall()).tolist() == [refutes]


def test_the_order_of_the_sweep_does_not_matter():
    points = ray(0.0, 0.0, 1.0) * torch.linspace(1, 30, 200)[:, None]
    sweep = wall()
    shuffled = sweep[torch.randperm(len(sweep), generator=torch.Generator().manual_seed(0))]
    assert torch.equal(refuted(points, sweep), refuted(points, shuffled))


@pytest.mark.parametrize(("azimuth", "elevation"), [(50.0, 0.0), (179.9, -2.0), (0.0, 20.0), (0.0, -60.0)])
def test_a_direction_without_a_return_refutes_nothing(azimuth: float, elevation: float):
    assert not refuted(ray(azimuth, elevation, 5.0), wall()).any()


def test_the_seam_behind_the_sensor_is_none():
    turned = wall() * torch.tensor([-1.0, -1.0, 1.0])
    assert refuted(ray(179.95, 0.0, 10.0), turned).all()
    assert refuted(ray(-179.95, 0.0, 10.0), turned).all()


def test_a_thing_before_the_wall_keeps_what_is_completed_around_its_edge():
    pole = 10.0 * directions(np.array([0.0]), np.arange(-8, 4, 0.4))
    sweep = torch.cat([wall(), pole])
    assert not refuted(ray(0.1, -2.0, 10.1), sweep).any()  # beside the pole, within a beam of it
    assert refuted(ray(1.5, -2.0, 10.1), sweep).all()


def test_the_nearer_of_two_rings_counts_between_them():
    """A flat road: what is completed between two rings lies before the farther of them, and stays."""
    height, elevation = 1.73, np.array([-3.0, -2.6])
    ring = torch.cat(
        [height / np.sin(np.radians(-e)) * directions(np.arange(-5, 5, 0.17), np.array([e])) for e in elevation]
    )
    road = ray(0.0, -2.8, height / np.sin(np.radians(2.8)))
    assert not refuted(road, ring).any()
    assert refuted(ray(0.0, -2.8, 25.0), ring).all()


def test_rings_far_apart_refute_only_what_their_beams_meet():
    sweep = wall(gap_deg=2.0)
    assert refuted(ray(0.0, -2.0, 10.0), sweep).all()
    assert not refuted(ray(0.0, -3.0, 10.0), sweep).any()  # a child may stand between two rings


def test_nothing_in_nothing_out():
    nothing = torch.zeros(0, 3)
    assert refuted(nothing, wall()).tolist() == []
    assert refuted(ray(0, 0, 5.0), nothing).tolist() == [False]


@pytest.mark.parametrize("filled", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("max_gap", [0, 1, 6, 100])
def test_the_loop_and_its_twin_agree(filled: float, max_gap: int):
    generator = torch.Generator().manual_seed(1)
    image = 50 * torch.rand(40, 90, generator=generator)
    image[torch.rand(40, 90, generator=generator) > filled] = torch.inf
    nearer = torch.minimum(image, torch.minimum(image.roll(1, 1), image.roll(-1, 1)))
    torch.testing.assert_close(clear_distance(image, max_gap), clear_distance_plain(nearer, max_gap), rtol=0, atol=0)


def test_the_loop_that_looks_into_the_image_and_its_twin_agree():
    generator = torch.Generator().manual_seed(3)
    points = 12 * torch.randn(20_000, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.1])
    clear, lowest = _clear_image(wall(), RULES)
    ours = refuted(points, wall(), RULES)
    assert torch.equal(ours, before_clear_plain(points, clear, lowest, RULES))
    assert 0 < ours.sum() < len(ours)


def test_the_loop_over_the_returns_and_its_twin_agree(monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(5)
    returns = 12 * torch.randn(20_000, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.1])
    clear, lowest = _clear_image(returns, RULES)
    monkeypatch.setattr("lidar_completion.visibility.points_cpu.usable", lambda *tensors: False)
    plain, plain_lowest = _clear_image(returns, RULES)
    assert torch.equal(clear, plain)
    assert lowest == plain_lowest


def test_the_loop_over_the_ground_and_its_twin_agree(monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(4)
    ground = 10 * torch.randn(700, 3, generator=generator)
    points = 15 * torch.randn(20_000, 3, generator=generator)
    ours, (floor, corner), plain = (
        below_ground(points, ground, 0.2),
        _floor(points, ground),
        floor_plain(points, ground),
    )
    assert torch.equal(floor, plain[0])
    assert torch.equal(corner, plain[1])
    monkeypatch.setattr("lidar_completion.visibility.points_cpu.usable", lambda *tensors: False)
    assert torch.equal(ours, below_ground(points, ground, 0.2))
    assert 0 < ours.sum() < len(ours)


def test_below_the_ground_goes_where_there_is_ground():
    ground = torch.cat(
        [torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) * 20, torch.full((500, 1), -1.7)], 1
    )
    points = torch.tensor([[10.0, 10, -1.8], [10, 10, -2.0], [10, 10, 5], [60, 10, -9], [-30, -30, -9]])
    assert below_ground(points, ground, 0.2).tolist() == [False, True, False, False, False]
    assert below_ground(points, ground[:0], 0.2).tolist() == [False] * 5


def test_inside_the_vehicle():
    points = torch.tensor([[0.0, 0, 0], [2, 0, 0], [2.1, 0, 0]])
    assert inside_box(points, (-2, -1, -2, 2, 1, 1)).tolist() == [True, True, False]


@pytest.mark.parametrize("box", [(0, 0, 0), (1.0, 0, 0, 0.0, 1, 1)])
def test_a_box_that_is_none(box: tuple):
    with pytest.raises(ValueError, match="ego_box_m"):
        TrustRules(ego_box_m=box)


def test_every_removed_point_is_counted_once_and_rules_can_be_switched_off():
    sweep = wall()
    points = torch.cat([ray(0, -2, 10.0), ray(0, -2, 10.0), ray(0, -2, 1.0), ray(0, -2, 20.0), ray(0, -2, 21.0)])
    points[1] += torch.tensor([0.0, 1.0, 0.0])
    scan = torch.cat([points[1:2] + 0.1, sweep])  # the second lies on something thin that the image blurs
    confidence = torch.tensor([0.1, 0.9, 0.9, 0.9, 0.3])
    box = (-2.0, -2.0, -2.0, 2.0, 2.0, 2.0)
    rows, removed = untrusted(points, scan, confidence, sweep, TrustRules(ego_box_m=box, min_confidence=0.5))
    assert rows.tolist() == [1, 3]
    assert removed == {"free_space": 2, "below_ground": 0, "ego_box": 0, "low_confidence": 1}
    off = TrustRules(free_space=None, below_ground_m=None)
    assert untrusted(points, scan, confidence, sweep, off)[0].tolist() == [0, 1, 2, 3, 4]


def test_confidence_is_bilinear_and_held_beyond_the_knots():
    table = {"range_m": [10.0, 30.0], "distance_m": [0.0, 0.4], "probability": [[0.9, 0.5], [0.7, 0.1]]}
    points = torch.tensor([[5.0, 0, 0], [20, 0, 0], [0, 0, 80], [0, 30, 0]])
    confidence = calibrated_confidence(points, torch.tensor([0.2, 0.2, 5.0, 0.1]), table)
    torch.testing.assert_close(confidence, torch.tensor([0.7, 0.55, 0.1, 0.55]))


def test_even_choice():
    assert evenly(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert evenly(10, 4).tolist() == [0, 2, 5, 7]
    assert evenly(10, 0).tolist() == []


@pytest.mark.parametrize("spread_m", [0.5, 5.0, 200.0])
def test_the_search_in_columns_and_its_twin_agree(spread_m: float):
    generator = torch.Generator().manual_seed(2)
    reference = torch.randn(700, 3, generator=generator) * spread_m
    points = torch.cat([reference[:300] + 0.2 * torch.randn(300, 3, generator=generator), 2 * reference[300:]])
    distance, row = nearest_points(points, reference, 0.9)
    plain, plain_row = nearest_points_plain(points, reference, 0.9)
    torch.testing.assert_close(distance, plain, rtol=1e-5, atol=1e-6)
    assert torch.equal(row, plain_row)
    assert (row[distance < 0.9] >= 0).all()
    for than_m in (0.1, 0.25, 0.9):
        near = nearest_points(points, reference, than_m)[1] >= 0
        assert torch.equal(any_nearer(points, reference, than_m), near)


@pytest.mark.parametrize(
    "reference", [torch.zeros(0, 3), torch.tensor([[1.0, 2, 3]]), torch.tensor([[0.0, 0, 0], [1e5, 0, 0]])]
)
def test_hardly_any_reference(reference: torch.Tensor):
    points = torch.tensor([[1.0, 2, 3.5], [0, 0, 0]])
    if len(reference):
        expected = nearest_points_plain(points, reference, 0.9)
        assert [each.tolist() for each in nearest_points(points, reference, 0.9)] == [
            each.tolist() for each in expected
        ]
    else:
        assert nearest_points(points, reference, 0.9)[1].tolist() == [-1, -1]
    assert nearest_points(points[:0], reference, 0.9)[0].tolist() == []
