import itertools

import pytest
import torch

from lidar_completion.sparse import search_cpu
from lidar_completion.sparse.coordinates import (
    BITS,
    Voxels,
    coarsen,
    coarsen_together,
    key_offset,
    pack,
    unique_voxels,
)
from lidar_completion.sparse.kernel_map import (
    KernelMap,
    VoxelPyramid,
    child_map,
    child_map_plain,
    kernel_map,
    kernel_offsets,
    octants,
    submanifold_map,
    submanifold_map_plain,
    transpose_table,
)


def random_voxels(n: int, extent: int, items: int = 1, stride: int = 1, seed: int = 0) -> Voxels:
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.randint(-extent, extent, (n, 3), generator=generator) * stride
    item = torch.randint(0, items, (n,), generator=generator)
    return unique_voxels(pack(xyz, item), stride)[0]


def brute_force(inputs: Voxels, outputs: Voxels, size: int, step: int) -> set[tuple[int, int, int]]:
    rows = {tuple(c): i for i, c in enumerate(inputs.coordinates.tolist())}
    return {
        (k, rows[b, x + dx, y + dy, z + dz], o)
        for o, (b, x, y, z) in enumerate(outputs.coordinates.tolist())
        for k, (dx, dy, dz) in enumerate(kernel_offsets(size, step))
        if (b, x + dx, y + dy, z + dz) in rows
    }


def triples(table: KernelMap) -> set[tuple[int, int, int]]:
    found = [(k, int(i), int(o)) for k, (ins, outs) in enumerate(table.pairs()) for i, o in zip(ins, outs, strict=True)]
    assert len(found) == len(set(found)) == sum(table.counts)
    return set(found)


def test_offsets_run_fastest_along_x():
    assert kernel_offsets(3, 2)[:4] == [(-2, -2, -2), (0, -2, -2), (2, -2, -2), (-2, 0, -2)]
    assert kernel_offsets(2, 1)[:3] == [(0, 0, 0), (1, 0, 0), (0, 1, 0)]


@pytest.mark.parametrize("items", [1, 3])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (4, 1), (2, 3)])
def test_neighbours_against_brute_force(items: int, stride: int, dilation: int):
    voxels = random_voxels(200, 5, items, stride)
    table = submanifold_map(voxels, dilation)
    assert triples(table) == brute_force(voxels, voxels, 3, stride * dilation)
    assert triples(kernel_map(voxels, voxels, 3, dilation)) == triples(table)
    plain = submanifold_map_plain(voxels, dilation)
    assert triples(plain) == triples(table)
    assert plain.counts == table.counts
    assert table.identity == plain.identity == 13


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_strided_maps_against_brute_force(size: int, stride: int):
    fine = random_voxels(200, 5, 2, stride)
    coarse, parent = coarsen(fine)
    expected = brute_force(fine, coarse, size, stride)
    assert triples(kernel_map(fine, coarse, size)) == expected
    if size == 2:
        assert triples(child_map(fine, coarse, parent)) == expected
        plain = child_map_plain(fine, coarse, parent)
        assert triples(plain) == expected
        assert triples(plain.transposed) == {(k, o, i) for k, i, o in expected}


@pytest.mark.parametrize("stride", [1, 2, 8])
def test_compiled_and_plain_octants_agree(stride: int):
    voxels = random_voxels(300, 9, 2, stride)
    order, counts = search_cpu.order_by_octant(voxels.keys, stride, BITS)
    octant = octants(voxels)
    assert torch.equal(order, octant.argsort(stable=True))
    assert counts == torch.bincount(octant, minlength=8).tolist()


def test_rows_rise_within_an_offset():
    """The compiled convolution finds a block of output rows by bisection."""
    fine = random_voxels(300, 6, 2)
    coarse, parent = coarsen(fine)
    for table in (submanifold_map(fine), child_map(fine, coarse, parent), kernel_map(fine, coarse, 3)):
        for ins, outs in (*table.pairs(), *table.transposed.pairs()):
            assert (ins.diff() > 0).all()
            assert (outs.diff() > 0).all()


@pytest.mark.parametrize("n", [0, 1, 2, 40, 700])
@pytest.mark.parametrize("items", [1, 3])
def test_table_and_pairs_are_equivalent(n: int, items: int):
    fine = random_voxels(n, 6, items)
    coarse, parent = coarsen(fine)
    pairwise_and_table = [
        (submanifold_map(fine), submanifold_map_plain(fine)),
        (child_map(fine, coarse, parent), child_map_plain(fine, coarse, parent)),
        (child_map(fine, coarse, parent).transposed, child_map_plain(fine, coarse, parent).transposed),
    ]
    for pairs, table in pairwise_and_table:
        assert triples(table) == triples(pairs)
        assert table.counts == pairs.counts
        assert torch.equal(pairs.table, table.table)
        assert torch.equal(pairs.transposed.table, table.transposed.table)
        assert (table.num_in, table.num_out, table.volume) == (pairs.num_in, pairs.num_out, pairs.volume)
        assert table.table.dtype == torch.int32
        assert torch.equal(transpose_table(table.transposed.table, table.num_out), table.table)


@pytest.mark.parametrize("n", [0, 1, 2, 60, 900])
@pytest.mark.parametrize("items", [1, 3])
def test_coarsen_together_equals_repeated_coarsen(n: int, items: int):
    finest = random_voxels(n, 40, items)
    levels, parents = coarsen_together(finest, 4)
    expected = VoxelPyramid.build(finest)
    assert [level.stride for level in levels] == [1, 2, 4, 8, 16]
    for ours, wanted in zip((*levels, *parents), (*expected.levels, *expected.parents), strict=True):
        tensors = [each.keys if isinstance(each, Voxels) else each for each in (ours, wanted)]
        assert torch.equal(*tensors)


def test_transposed_swaps_the_pairs():
    fine = random_voxels(100, 4)
    coarse, parent = coarsen(fine)
    down = child_map(fine, coarse, parent)
    assert triples(down.transposed) == {(k, o, i) for k, i, o in triples(down)}
    assert (down.transposed.num_in, down.transposed.num_out) == (len(coarse), len(fine))


@pytest.mark.parametrize("n", [0, 1, 2])
def test_maps_of_very_few_voxels(n: int):
    voxels = Voxels(pack(torch.tensor([[0, 0, 0], [1, 1, 1]])[:n]))
    pyramid = VoxelPyramid.build(voxels)
    for level, coarse in itertools.pairwise(range(5)):
        assert triples(pyramid.neighbours(level)) == brute_force(
            pyramid.levels[level], pyramid.levels[level], 3, 2**level
        )
        assert sum(pyramid.down(level).counts) == len(pyramid.levels[level])
        assert pyramid.up(level).num_in == len(pyramid.levels[coarse])


def test_pyramid_builds_each_map_once():
    pyramid = VoxelPyramid.build(random_voxels(50, 4))
    assert pyramid.neighbours(1) is pyramid.neighbours(1)
    assert pyramid.up(0) is pyramid.up(0)


def test_no_neighbours_across_batch_items():
    """The last voxel of one item and the first of the next must not meet, whatever the key arithmetic gives."""
    limit = 131_071
    xyz = torch.tensor([[limit, limit, limit], [-limit, -limit, -limit]])
    voxels = unique_voxels(pack(xyz, torch.tensor([0, 1])))[0]
    assert sum(submanifold_map(voxels).counts) == 2
    assert key_offset(0, 0, 1) == 1
