import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lidar_completion.sparse.coordinates import (
    LIMIT,
    Voxels,
    coarsen,
    key_offset,
    pack,
    quantise,
    unique_voxels,
    unpack,
    voxel_mean,
    voxelise,
)

coordinates = hnp.arrays(
    np.int64, st.tuples(st.integers(1, 50), st.just(3)), elements=st.integers(-LIMIT + 1, LIMIT - 1)
)


def test_rounding_is_half_to_even_of_the_float32_quotient():
    points = torch.tensor([[0.025, 0.075, -0.025], [0.125, -0.075, 0.02499]])
    quotient = points.numpy() / np.float32(0.05)
    np.testing.assert_array_equal(quantise(points, 0.05).numpy(), np.rint(quotient))


def test_division_not_multiplication():
    points = torch.linspace(-50, 50, 400_001).repeat(3, 1).T
    divided = np.rint(points.numpy() / np.float32(0.05))
    assert (np.rint(points.numpy() * np.float32(20)) != divided).any()
    np.testing.assert_array_equal(quantise(points, 0.05).numpy(), divided)


@settings(max_examples=50, deadline=None)
@given(coordinates, st.integers(0, 400))
def test_packing_is_reversible_and_ordered(xyz: np.ndarray, item: int):
    batch = torch.full((len(xyz),), item)
    keys = pack(torch.from_numpy(xyz), batch)
    np.testing.assert_array_equal(unpack(keys).numpy(), np.column_stack([batch.numpy(), xyz]))
    np.testing.assert_array_equal(xyz[keys.argsort(stable=True).numpy()], xyz[np.lexsort(xyz.T[::-1])])


def test_moving_by_an_offset():
    xyz = torch.tensor([[5, -7, 0], [-1, 0, -1]])
    assert torch.equal(pack(xyz) + key_offset(-3, 4, -1), pack(xyz + torch.tensor([-3, 4, -1])))


def test_rejects_coordinates_beyond_the_grid():
    with pytest.raises(ValueError, match=f"the limit is {LIMIT - 1}"):
        pack(torch.tensor([[0, 0, LIMIT]]))


@settings(max_examples=50, deadline=None)
@given(coordinates)
def test_coarsening_floors_negative_coordinates(xyz: np.ndarray):
    voxels, _ = unique_voxels(pack(torch.from_numpy(xyz)))
    for stride in (2, 4, 8, 16):
        fine = voxels
        voxels, parent = coarsen(fine)
        expected = fine.coordinates[:, 1:].numpy() // stride * stride
        assert voxels.stride == stride
        np.testing.assert_array_equal(voxels.coordinates[parent][:, 1:].numpy(), expected)
        assert (voxels.keys.diff() > 0).all()


def test_rows_and_means_of_voxels():
    points = torch.rand(300, 3, generator=torch.Generator().manual_seed(1))
    batch = torch.arange(300) % 2
    voxels, row = voxelise(points, 0.25, batch)
    assert torch.equal(voxels.coordinates[row][:, 1:], quantise(points, 0.25))
    assert torch.equal(voxels.coordinates[row][:, 0].long(), batch)
    mean = voxel_mean(points, row, len(voxels))
    for i in range(len(voxels)):
        torch.testing.assert_close(mean[i], points[row == i].mean(0))


def test_no_voxels():
    voxels, row = voxelise(torch.zeros(0, 3), 0.1)
    assert len(voxels) == len(row) == 0
    assert len(coarsen(Voxels(voxels.keys))[0]) == 0
