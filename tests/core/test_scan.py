import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lidar_completion import scan
from lidar_completion.sparse.coordinates import pack, quantise


def cloud(n: int = 500, seed: int = 0, extent_m: float = 5.0) -> torch.Tensor:
    return (torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)) - 0.5) * 2 * extent_m


def test_invalid_points_are_removed_and_order_kept():
    points = torch.tensor([[1.0, 2, 3], [torch.nan, 0, 0], [4, 5, 6], [0, torch.inf, 0], [0, 0, -torch.inf]])
    assert scan.finite_rows(points).tolist() == [0, 2]
    assert scan.remove_invalid(points).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_range_limits_are_exclusive():
    points = torch.tensor([[3.0, 0, 4], [0, 6, 0], [0, 0, 5.1], [0.1, 0, 0]])
    assert scan.crop_range(points, 5.0, 6.0).tolist() == [pytest.approx([0, 0, 5.1])]


@pytest.mark.parametrize("reduce", ["mean", "nearest"])
def test_one_point_a_voxel_whatever_the_order(reduce: str):
    points = cloud(2000)
    thinned = scan.voxel_downsample(points, 1.0, reduce)
    shuffled = scan.voxel_downsample(points[torch.randperm(2000)], 1.0, reduce)
    voxels = np.unique(quantise(points, 1.0).numpy(), axis=0)
    np.testing.assert_array_equal(quantise(thinned, 1.0).numpy(), voxels)
    torch.testing.assert_close(thinned, shuffled, rtol=0, atol=1e-6 if reduce == "mean" else 0)


def test_mean_is_the_voxels_centroid_and_nearest_is_measured():
    points = cloud(2000)
    mean, nearest = (scan.voxel_downsample(points, 1.0, reduce) for reduce in ("mean", "nearest"))
    voxel = quantise(points, 1.0)
    for centroid, chosen, where in zip(mean, nearest, quantise(nearest, 1.0), strict=True):
        mine = points[(voxel == where).all(dim=1)]
        torch.testing.assert_close(centroid, mine.mean(0), rtol=0, atol=1e-5)
        distance = (mine - mine.mean(0)).norm(dim=1)
        assert (mine == chosen).all(dim=1).any()
        assert (chosen - mine.mean(0)).norm() <= distance.min() + 1e-5


def test_equally_near_points_take_the_smallest():
    corners = torch.tensor([[x, y, z] for x in (0.25, -0.25) for y in (-0.25, 0.25) for z in (0.25, -0.25)])
    assert scan.voxel_downsample(corners, 2.0).tolist() == [[-0.25, -0.25, -0.25]]


@pytest.mark.parametrize("nearest", [True, False])
@pytest.mark.parametrize(("n", "extent_m"), [(1, 1.0), (3000, 5.0), (3000, 0.4)])
def test_the_compiled_loop_and_its_twin(nearest: bool, n: int, extent_m: float):
    points = (cloud(n, 3, extent_m) * 16).round() / 16  # on a grid, so that there are ties
    plain = scan.one_per_voxel_plain(points, pack(quantise(points, 0.5)), nearest)
    fast = scan.voxel_downsample(points, 0.5, "nearest" if nearest else "mean")
    torch.testing.assert_close(fast, plain, rtol=0, atol=0 if nearest else 1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(0, 1000), st.sampled_from(["mean", "nearest"]))
def test_downsampling_any_number_of_points(n: int, seed: int, reduce: str):
    thinned = scan.voxel_downsample(cloud(n, seed, 1.0), 0.5, reduce)
    assert len(thinned) == len(np.unique(quantise(cloud(n, seed, 1.0), 0.5).numpy(), axis=0))


def test_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="'mean' or 'nearest', not 'max'"):
        scan.voxel_downsample(cloud(3), 1.0, "max")


def test_points_beyond_the_grid_are_refused():
    with pytest.raises(ValueError, match="voxels from the origin"):
        scan.voxel_downsample(torch.tensor([[1e6, 0.0, 0.0]]), 0.05)


def test_farthest_points_against_the_definition():
    points = cloud(60)
    chosen = scan.farthest_point_rows(points, 10)
    taken = [0]
    for _ in range(9):
        distance = torch.cdist(points, points[taken]).min(dim=1).values
        taken.append(int(distance.argmax()))
    assert chosen.tolist() == taken
    assert scan.farthest_point_rows(points, 100).tolist() == list(range(60))


def test_copies_follow_the_whole_cloud():
    points = cloud(4)
    copies = scan.replicate(points, 3)
    assert all(torch.equal(copies[i : i + 4], points) for i in (0, 4, 8))


def test_post_crop_limits():
    sweep = torch.tensor([[10.0, 0, -1.0], [10, 0, 0], [10, 0, 1]])
    lowest = -2 * float(torch.tensor([-1.0, 0, 1]).std(correction=0))
    completed = torch.tensor([[0, 0, lowest - 0.01], [0, 0, lowest + 0.01], [0, 0, 0.99], [0, 0, 1.0], [20, 0, 0.0]])
    kept = completed[scan.post_crop(completed, sweep, 20.0)]
    torch.testing.assert_close(kept, completed[1:3])


def test_rows_of_thinned_points():
    points = cloud(2000)
    assert torch.equal(points[scan.voxel_rows(points, 1.0)], scan.voxel_downsample(points, 1.0))
    assert torch.equal(scan.voxel_rows_plain(points, pack(quantise(points, 1.0))), scan.voxel_rows(points, 1.0))
    assert scan.voxel_rows(points[:0], 1.0).tolist() == []
