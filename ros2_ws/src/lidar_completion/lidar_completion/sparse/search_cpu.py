"""Searches on CPUs, compiled: kernel maps by merging sorted keys and by counting sort, nearest tables of a whole pyramid.

The plain implementations are in kernel_map.py and nearest.py.
"""

from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, equal_cuts, in_parallel, loop_threads


def neighbour_pairs(keys: Tensor, shifts: list[int]) -> tuple[Tensor, Tensor, list[int]]:
    """Input rows, output rows and counts of a centred cubic kernel on sorted keys (V,); shifts[k] moves a key by offset k.

    Offsets k and K-1-k mirror each other; only the one with a negative shift is searched. Sorted, the shifts form runs along z
    whose matches are adjacent, so one merge serves a run. Each thread has a share of the keys.
    """
    array, last = keys.numpy(), len(shifts) - 1
    searched = np.array(
        sorted((min(k, last - k, key=shifts.__getitem__) for k in range(last // 2)), key=shifts.__getitem__)
    )
    wanted, side = np.array(shifts)[searched], round(len(shifts) ** (1 / 3))
    shares = equal_cuts(len(array))
    found = np.empty((len(searched), 2, len(array)), np.int32)
    matched = in_parallel(_match, [(array, wanted, side, found, *share) for share in shares])
    before = np.cumsum([np.zeros_like(searched), *matched], axis=0)  # pairs of each offset found by earlier shares
    counts = np.full(len(shifts), len(array))
    counts[searched] = counts[last - searched] = before[-1]
    starts = np.cumsum([0, *counts])
    ins, outs = np.empty(starts[-1], np.int64), np.empty(starts[-1], np.int64)
    centre = slice(starts[last // 2], starts[last // 2 + 1])
    ins[centre] = outs[centre] = np.arange(len(keys))
    pieces = [
        (found, first, count, starts[searched] + done, starts[last - searched] + done, ins, outs)
        for (first, _), count, done in zip(shares, matched, before, strict=False)
    ]
    in_parallel(_write_pairs, pieces)
    return torch.from_numpy(ins), torch.from_numpy(outs), counts.tolist()


@compiled
def _match(keys, shifts, side, found, first, last):  # type: ignore[no-untyped-def]
    """found[k, :, first:] = rows (i, j) with keys[i] = keys[j] + shifts[k], first <= j < last; the number of them, (K,)."""
    counts = np.zeros(len(shifts), np.int64)
    for run in range(0, len(shifts), side):
        end = min(run + side, len(shifts))
        start = first_at_least(keys, 0, len(keys), keys[first] + shifts[run])
        for j in range(first, last):
            while keys[start] < keys[j] + shifts[run]:  # ends at j at the latest, as the shift is negative
                start += 1
            i = start
            for k in range(run, end):
                wanted = keys[j] + shifts[k]
                while keys[i] < wanted:
                    i += 1
                place = first + counts[k]  # written unconditionally: a branch would be mispredicted a third of the time
                found[k, 0, place], found[k, 1, place] = i, j
                counts[k] += keys[i] == wanted
    return counts


@compiled
def first_at_least(ascending, low, high, wanted):  # type: ignore[no-untyped-def]
    """The first index in low..high whose value is not below `wanted`; high if there is none."""
    while low < high:
        middle = (low + high) >> 1
        if ascending[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _write_pairs(found, first, counts, places, mirrored, ins, outs):  # type: ignore[no-untyped-def]
    for k in range(len(counts)):
        for n in range(counts[k]):
            i, j = found[k, 0, first + n], found[k, 1, first + n]
            ins[places[k] + n] = outs[mirrored[k] + n] = i
            outs[places[k] + n] = ins[mirrored[k] + n] = j


def order_by_octant(keys: Tensor, stride: int, bits: int) -> tuple[Tensor, list[int]]:
    """The order (V,) that groups voxels by octant x + 2y + 4z in the parent voxel, and the size of each group."""
    shift = stride.bit_length() - 1
    order, counts = _order_by_octant(keys.numpy(), shift, bits + shift, 2 * bits + shift)
    return torch.from_numpy(order), counts.tolist()


@compiled
def _order_by_octant(keys, z_shift, y_shift, x_shift):  # type: ignore[no-untyped-def]
    octant, counts = np.empty(len(keys), np.uint8), np.zeros(8, np.int64)
    for i in range(len(keys)):
        key = keys[i]
        octant[i] = (key >> x_shift & 1) | (key >> y_shift & 1) << 1 | (key >> z_shift & 1) << 2
        counts[octant[i]] += 1
    place = np.cumsum(counts) - counts
    order = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        order[place[octant[i]]] = i
        place[octant[i]] += 1
    return order, counts


def nearest_tables(
    levels: list[Tensor], parents: list[Tensor], condition: Tensor, side: int, bits: int
) -> list[Tensor]:
    """For keys (V_level,) of one scan's levels, each voxel's nearest condition row (V_level,) int64; condition: keys (C,).

    Ties as in nearest.py. A cell is a voxel of the coarsest level, `side` wide, and contains the finer ones. The voxel nearest
    to any of them is only slightly farther from the cell's centre than the voxel nearest to the centre, so one short list of
    candidates serves all voxels of the cell, on all levels.
    """
    from scipy.spatial import cKDTree  # here, because networks without gates do not need it

    cells, places = _unpack(levels[-1].numpy(), bits), _unpack(condition.numpy(), bits)
    centres = cells + (side - 1) / 2
    half = (side - 1) / 2 * 3**0.5  # the largest distance of a voxel in a cell from its centre
    distance, _ = cKDTree(places).query(centres, workers=loop_threads())
    reach = distance + 2 * half + 1e-3
    counts = np.zeros(len(cells) + 1, np.int64)
    shares = equal_cuts(len(cells))
    in_parallel(_count_near, [(centres, reach, places, counts, first, last) for first, last in shares])
    starts = np.cumsum(counts)
    near = np.empty(starts[-1], np.int64)
    in_parallel(_fill_near, [(centres, reach, places, starts, near, first, last) for first, last in shares])
    cell_of = [*accumulate(reversed(parents), lambda above, parent: above[parent])][::-1]
    tables = []
    for keys, cell in zip(levels, [*cell_of, torch.arange(len(cells))], strict=True):
        table = np.empty(len(keys), np.int64)
        arrays = (keys.numpy(), bits, cell.numpy(), starts, near, places, table)
        in_parallel(_nearest_of_cell, [(*arrays, first, last) for first, last in equal_cuts(len(keys))])
        tables.append(torch.from_numpy(table))
    return tables


@compiled
def _unpack(keys, bits):  # type: ignore[no-untyped-def]
    places, mask = np.empty((len(keys), 3), np.int64), (1 << bits) - 1
    for i in range(len(keys)):
        places[i, 0], places[i, 1], places[i, 2] = keys[i] >> 2 * bits & mask, keys[i] >> bits & mask, keys[i] & mask
    return places


@compiled
def _near(centres, cell, reach, places, row):  # type: ignore[no-untyped-def]
    x, y, z = places[row, 0] - centres[cell, 0], places[row, 1] - centres[cell, 1], places[row, 2] - centres[cell, 2]
    return x * x + y * y + z * z <= reach * reach


@compiled
def _first_not_left_of(places, x):  # type: ignore[no-untyped-def]
    low, high = 0, len(places)
    while low < high:
        middle = (low + high) >> 1
        if places[middle, 0] < x:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _count_near(centres, reach, places, counts, first, last):  # type: ignore[no-untyped-def]
    for cell in range(first, last):
        row = _first_not_left_of(places, centres[cell, 0] - reach[cell])
        while row < len(places) and places[row, 0] <= centres[cell, 0] + reach[cell]:
            counts[cell + 1] += _near(centres, cell, reach[cell], places, row)
            row += 1


@compiled
def _fill_near(centres, reach, places, starts, near, first, last):  # type: ignore[no-untyped-def]
    for cell in range(first, last):
        row, n = _first_not_left_of(places, centres[cell, 0] - reach[cell]), starts[cell]
        while row < len(places) and places[row, 0] <= centres[cell, 0] + reach[cell]:
            if _near(centres, cell, reach[cell], places, row):
                near[n] = row
                n += 1
            row += 1


@compiled
def _nearest_of_cell(keys, bits, cell, starts, near, places, table, first, last):  # type: ignore[no-untyped-def]
    mask = (1 << bits) - 1
    for i in range(first, last):
        x, y, z = keys[i] >> 2 * bits & mask, keys[i] >> bits & mask, keys[i] & mask
        smallest = np.int64(1) << 62
        for n in range(starts[cell[i]], starts[cell[i] + 1]):  # rows rise, so the first of equally near ones is kept
            row = near[n]
            dx, dy, dz = places[row, 0] - x, places[row, 1] - y, places[row, 2] - z
            squared = dx * dx + dy * dy + dz * dz
            if squared < smallest:
                smallest = squared
                table[i] = row
