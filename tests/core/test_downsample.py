"""Voxel downsampling and farthest point sampling."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lidar_completion.downsample import (
    downsample,
    every_nth_rows,
    farthest_point_rows,
    farthest_point_rows_plain,
    voxel_downsample,
    voxel_rows,
    voxel_rows_plain,
)
from lidar_completion.model.card import Pipeline
from lidar_completion.sparse.coordinates import pack, quantise


def cloud(n: int = 500, seed: int = 0, extent_m: float = 5.0) -> torch.Tensor:
    return (torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)) - 0.5) * 2 * extent_m


def test_keeps_one_point_per_voxel_in_any_input_order():
    points = cloud(2000)
    kept = voxel_downsample(points, 1.0)
    voxels = np.unique(quantise(points, 1.0).numpy(), axis=0)
    np.testing.assert_array_equal(quantise(kept, 1.0).numpy(), voxels)
    assert torch.equal(kept, voxel_downsample(points[torch.randperm(2000)], 1.0))
    assert torch.equal(kept, points[voxel_rows(points, 1.0)])


def test_keeps_the_measured_point_nearest_to_the_centroid():
    points = cloud(2000)
    voxel, kept = quantise(points, 1.0), voxel_downsample(points, 1.0)
    for chosen, where in zip(kept, quantise(kept, 1.0), strict=True):
        same_voxel = points[(voxel == where).all(dim=1)]
        distance = (same_voxel - same_voxel.mean(0)).norm(dim=1)
        assert (same_voxel == chosen).all(dim=1).any()
        assert (chosen - same_voxel.mean(0)).norm() <= distance.min() + 1e-5


def test_ties_go_to_the_lexicographically_smallest_point():
    corners = torch.tensor([[x, y, z] for x in (0.25, -0.25) for y in (-0.25, 0.25) for z in (0.25, -0.25)])
    assert voxel_downsample(corners, 2.0).tolist() == [[-0.25, -0.25, -0.25]]


@pytest.mark.parametrize(("n", "extent_m"), [(1, 1.0), (3000, 5.0), (3000, 0.4)])
def test_compiled_and_plain_implementation_agree(n: int, extent_m: float):
    points = (cloud(n, 3, extent_m) * 16).round() / 16  # on a grid, so that there are ties
    plain = voxel_rows_plain(points, pack(quantise(points, 0.5)))
    assert torch.equal(points[plain], voxel_downsample(points, 0.5))


def test_result_does_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch):
    points, expected = cloud(5000, 1, 5.0), voxel_downsample(cloud(5000, 1, 5.0), 0.8)
    for workers in (1, 3, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda workers=workers: workers)
        assert torch.equal(voxel_downsample(points, 0.8), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(0, 1000))
def test_downsamples_any_number_of_points(n: int, seed: int):
    kept = voxel_downsample(cloud(n, seed, 1.0), 0.5)
    assert len(kept) == len(np.unique(quantise(cloud(n, seed, 1.0), 0.5).numpy(), axis=0))


def test_rejects_points_beyond_the_grid():
    with pytest.raises(ValueError, match="voxels from the origin"):
        voxel_downsample(torch.tensor([[1e6, 0.0, 0.0]]), 0.05)


def test_farthest_point_sampling_matches_its_definition():
    points = cloud(60)
    taken = [0]
    for _ in range(9):
        distance = torch.cdist(points, points[taken]).min(dim=1).values
        taken.append(int(distance.argmax()))
    assert farthest_point_rows(points, 10).tolist() == taken
    assert farthest_point_rows(points, 100).tolist() == list(range(60))


@pytest.mark.parametrize("grid_m", [0.0, 1.0])  # on a grid, many points are equally far
@pytest.mark.parametrize(("n", "count"), [(20, 7), (900, 850), (2000, 300)])
def test_compiled_farthest_point_sampling_is_exactly_the_plain_one(grid_m: float, n: int, count: int):
    points = cloud(n, seed=n) * torch.tensor([8.0, 3.0, 0.3])
    points = (points / grid_m).round() * grid_m if grid_m else points
    assert torch.equal(farthest_point_rows(points, count, 5), farthest_point_rows_plain(points, count, 5))


def test_the_pipeline_selects_the_method():
    points = cloud(200)
    assert torch.equal(downsample(points, Pipeline(downsample_voxel_m=2.0)), voxel_downsample(points, 2.0))
    farthest = Pipeline(downsampling="farthest", farthest_points=7)
    assert torch.equal(downsample(points, farthest), points[farthest_point_rows(points, 7)])


def test_every_nth_rows_are_equally_spaced():
    assert every_nth_rows(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert every_nth_rows(10, 4).tolist() == [0, 2, 5, 7]
    assert every_nth_rows(10, 0).tolist() == []
