"""Compiled loops over points against the plain implementations."""

import pytest
import torch

from lidar_completion.networks.voxelised_cloud import offset_sums_plain
from lidar_completion.sparse import points_cpu
from lidar_completion.sparse.coordinates import (
    BITS,
    pack,
    quantise,
    unique_voxels,
    unique_voxels_plain,
    voxel_mean,
    voxel_mean_plain,
    voxelise,
)


def points(n: int, extent_m: float) -> torch.Tensor:
    return (torch.rand(n, 3, generator=torch.Generator().manual_seed(n)) - 0.5) * 2 * extent_m


@pytest.mark.parametrize("voxel_size_m", [0.05, 0.3])
def test_keys_of_points(voxel_size_m: float):
    many = torch.cat([points(5000, 60), torch.tensor([[-0.0, 0.025, -0.075]]), torch.arange(300).view(-1, 3) * 0.15])
    keys, largest = points_cpu.packed_keys(many, voxel_size_m, BITS)
    assert torch.equal(keys, pack(quantise(many, voxel_size_m)))
    assert largest == int(quantise(many, voxel_size_m).abs().max())


@pytest.mark.parametrize(("n", "extent"), [(0, 1), (1, 5), (2, 1), (4000, 6), (3000, 800), (500, 131_000)])
@pytest.mark.parametrize("items", [1, 5])
def test_sorted_unique_keys(n: int, extent: int, items: int):
    generator = torch.Generator().manual_seed(n)
    xyz = torch.randint(-extent, extent + 1, (n, 3), generator=generator)
    keys = pack(xyz, torch.randint(0, items, (n,), generator=generator))
    (ours, row), (plain, plain_row) = unique_voxels(keys), unique_voxels_plain(keys)
    assert torch.equal(ours.keys, plain.keys)
    assert torch.equal(row, plain_row)


def test_keys_that_span_too_much_for_one_word():
    keys = pack(torch.tensor([[-131_071] * 3, [131_071] * 3]).repeat(600, 1), torch.arange(1200) % 400)
    assert points_cpu.sorted_unique(keys, BITS) is None
    assert torch.equal(unique_voxels(keys)[0].keys, keys.unique())


@pytest.mark.parametrize("n", [0, 1, 3000])
def test_means_of_voxels(n: int):
    cloud = points(n, 5)
    voxels, row = voxelise(cloud, 0.5)
    torch.testing.assert_close(voxel_mean(cloud, row, len(voxels)), voxel_mean_plain(cloud, row, len(voxels)))


def test_gradients_use_the_plain_implementation():
    cloud = points(30, 2).requires_grad_()
    voxels, row = voxelise(cloud.detach(), 0.5)
    assert torch.autograd.grad(voxel_mean(cloud, row, len(voxels)).sum(), cloud)[0].abs().min() > 0


def test_rejects_points_beyond_the_grid():
    with pytest.raises(ValueError, match="140000 voxels from the origin"):
        voxelise(torch.tensor([[0.0, 0.0, -7000.0]]), 0.05)


@pytest.mark.parametrize(("n", "channels"), [(0, 8), (1, 3), (900, 24)])
def test_features_times_gathered_rows(n: int, channels: int):
    features, table, row = torch.randn(n, channels), torch.randn(7, channels), torch.randint(0, 7, (n,))
    assert torch.equal(points_cpu.times_rows(features, table, row), features * table[row])


@pytest.mark.parametrize("n", [0, 1, 5000, 20_000])
def test_offsets_in_voxels_and_their_sums(n: int):
    cloud, size = points(n, 5), 0.4
    voxels, row = voxelise(cloud, size)
    centre = voxels.coordinates[:, 1:] * size
    ours, plain = points_cpu.offset_sums(cloud, row, centre, size), offset_sums_plain(cloud, row, centre, size)
    assert all(torch.equal(*each) for each in zip(ours, plain, strict=True))


@pytest.mark.parametrize(("n", "extent"), [(0, 1), (1, 5), (20_000, 40), (3000, 800)])
def test_order_of_keys(n: int, extent: int):
    keys = pack(torch.randint(-extent, extent + 1, (n, 3), generator=torch.Generator().manual_seed(n)) * 2)
    assert torch.equal(points_cpu.sorted_order(keys, BITS), keys.argsort(stable=True))


@pytest.mark.parametrize("extent", [20, 300])
def test_bit_map_and_radix_sort_agree(extent: int):
    generator = torch.Generator().manual_seed(extent)
    keys = pack(torch.randint(-extent, extent + 1, (30_000, 3), generator=generator) * 4 + 1)
    (ours, row), (plain, plain_row) = unique_voxels(keys, 4), unique_voxels_plain(keys, 4)
    assert torch.equal(ours.keys, plain.keys)
    assert torch.equal(row, plain_row)
