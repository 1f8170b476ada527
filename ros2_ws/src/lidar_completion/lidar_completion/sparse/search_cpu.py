"""Kernel-map searches for CPUs: merges of sorted keys and counting sorts. The twins of the plain searches of kernel_map.py."""

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, in_parallel


def neighbour_pairs(keys: Tensor, shifts: list[int]) -> tuple[Tensor, Tensor, list[int]]:
    """Input rows, output rows and counts of a centred kernel on sorted keys (V,); shifts[k] moves a key by offset k.

    Offsets k and K-1-k are mirror images; the one whose shift is negative is searched.
    """
    array, last = keys.numpy(), len(shifts) - 1
    searched = [min(k, last - k, key=shifts.__getitem__) for k in range(last // 2)]
    found = in_parallel(_count_matches, [(array, shifts[k]) for k in searched])
    counts = [*found, len(keys), *reversed(found)]
    starts = np.cumsum([0, *counts])
    ins, outs = np.empty(starts[-1], np.int64), np.empty(starts[-1], np.int64)
    centre = slice(starts[last // 2], starts[last // 2 + 1])
    ins[centre] = outs[centre] = np.arange(len(keys))
    in_parallel(_fill_matches, [(array, shifts[k], ins, outs, starts[k], starts[last - k]) for k in searched])
    return torch.from_numpy(ins), torch.from_numpy(outs), counts


@compiled
def _count_matches(keys, shift):  # type: ignore[no-untyped-def]
    i = found = 0
    for j in range(len(keys)):
        wanted = keys[j] + shift
        while keys[i] < wanted:  # ends at j at the latest, as the shift is negative
            i += 1
        found += keys[i] == wanted
    return found


@compiled
def _fill_matches(keys, shift, ins, outs, first, mirrored):  # type: ignore[no-untyped-def]
    i = n = 0
    for j in range(len(keys)):
        wanted = keys[j] + shift
        while keys[i] < wanted:
            i += 1
        if keys[i] == wanted:
            ins[first + n] = outs[mirrored + n] = i
            outs[first + n] = ins[mirrored + n] = j
            n += 1


def order_by_octant(keys: Tensor, stride: int, bits: int) -> tuple[Tensor, list[int]]:
    """The order (V,) that groups voxels by their octant x + 2y + 4z in the parent voxel, and the size of each group."""
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
