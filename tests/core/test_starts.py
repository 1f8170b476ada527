"""Start points and the noise that is added to them."""

import pytest
import torch

from lidar_completion.model.card import ModelCard, Pipeline
from lidar_completion.starts import NO_SOURCE, StartPoints, add_start_noise, noise_scale, replicate, start_points

SCAN = torch.rand(10, 3, generator=torch.Generator().manual_seed(0)) + 5


def test_replication_repeats_the_whole_scan():
    copies = replicate(SCAN, 3)
    assert all(torch.equal(copies[i : i + 10], SCAN) for i in (0, 10, 20))


@pytest.mark.parametrize("prior", [None, torch.zeros(0, 3)])
def test_without_a_prior_all_start_points_are_copies_of_the_scan(prior):
    starts = start_points(SCAN, Pipeline(replication=8), prior)
    assert starts.source.tolist() == [*range(10)] * 8
    assert torch.equal(starts.points, SCAN.repeat(8, 1))
    assert not starts.has_prior


def test_with_a_prior_half_of_the_start_points_come_from_it():
    starts = start_points(SCAN, Pipeline(replication=8), torch.rand(500, 3) + 10)
    assert starts.source.tolist() == [*range(10)] * 4 + [NO_SOURCE] * 40
    assert torch.equal(starts.points[:40], SCAN.repeat(4, 1))
    assert (starts.points[40:] > 9).all()
    assert starts.has_prior


def test_hole_starts_come_first_and_have_no_source():
    ring = 10 * torch.stack([torch.linspace(0, 6.2, 100).cos(), torch.linspace(0, 6.2, 100).sin(), torch.zeros(100)], 1)
    starts = start_points(ring, Pipeline(replication=2, hole_starts=1))
    holes = len(starts.points) - 200
    assert holes > 100
    assert starts.source.tolist() == [NO_SOURCE] * holes + [*range(100)] * 2
    assert not starts.has_prior
    twice = start_points(ring, Pipeline(replication=2, hole_starts=2))
    assert len(twice.points) == 200 + 2 * holes


@pytest.mark.parametrize(("start_noise", "published"), [(1.0, False), (1.1, False), (1.0, True)])
def test_start_noise_has_the_level_of_eq_19(start_noise: float, published: bool):
    card = ModelCard(name="x", pipeline=Pipeline(start_noise=start_noise, published_start=published))
    points = torch.zeros(100_000, 3)
    starts = StartPoints(points, torch.zeros(len(points), dtype=torch.int64))
    noised, scale = add_start_noise(starts, points[:1], card, 999, torch.Generator().manual_seed(1))
    level = start_noise * (1.0 if published else float(card.schedule.sigma[999]))
    assert float(noised.std()) == pytest.approx(level, rel=0.01)
    assert torch.equal(scale, torch.ones_like(points))


def test_noise_scale_of_copies_and_other_start_points():
    pipeline = Pipeline(replication=8, noise_per_metre=0.02, noise_min=0.05)
    for prior in (None, torch.rand(500, 3) + 10):
        starts = start_points(SCAN, pipeline, prior)
        torch.testing.assert_close(noise_scale(starts, SCAN, pipeline), pipeline.noise_scale(starts.points))
