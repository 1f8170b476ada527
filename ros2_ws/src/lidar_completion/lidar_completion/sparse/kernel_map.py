"""Kernel maps: for every kernel offset, which input voxel reaches which output voxel.

Kernel order is x fastest, k = ix + ks*iy + ks*ks*iz; odd kernels are centred (offsets -1..1), even ones start at 0.
`out[u] += in[u + offset_k] @ kernel[k]`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse import search_cpu
from lidar_completion.sparse.coordinates import BITS, Voxels, coarsen, key_offset


@dataclass(frozen=True)
class KernelMap:
    """Pairs (input row, output row) sorted by kernel offset; `counts[k]` of them belong to offset k."""

    in_rows: Tensor  # (P,) int64
    out_rows: Tensor  # (P,) int64
    counts: list[int]
    num_in: int
    num_out: int
    identity: int | None = None  # the offset, if any, that maps every row to itself

    @cached_property
    def transposed(self) -> "KernelMap":
        """The same pairs the other way round: the map of the transposed convolution, and of the gradient."""
        return KernelMap(self.out_rows, self.in_rows, self.counts, self.num_out, self.num_in, self.identity)

    @cached_property
    def by_output(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """On CPUs: the pairs grouped by output row: starts (V_out + 1,), input rows (P,) int32, offsets (P,) uint8."""
        return search_cpu.group_by_output(self.in_rows, self.out_rows, self.counts, self.num_out)

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """(input rows, output rows) of each offset; output rows are unique within one offset."""
        return list(zip(self.in_rows.split(self.counts), self.out_rows.split(self.counts), strict=True))


def kernel_offsets(kernel_size: int, step: int) -> list[tuple[int, int, int]]:
    """Offsets (dx, dy, dz) in fine voxels, in kernel order; `step` is stride x dilation."""
    first = -(kernel_size // 2) if kernel_size % 2 else 0
    axis = [(first + i) * step for i in range(kernel_size)]
    return [(x, y, z) for z in axis for y in axis for x in axis]


def kernel_map(inputs: Voxels, outputs: Voxels, kernel_size: int, dilation: int = 1) -> KernelMap:
    """The map of any kernel between any two sets of voxels, one search an offset."""
    found = [
        _search(inputs.keys, outputs.keys + key_offset(*offset))
        for offset in kernel_offsets(kernel_size, inputs.stride * dilation)
    ]
    return _join(found, len(inputs), len(outputs), identity=None)


def submanifold_map(voxels: Voxels, dilation: int = 1) -> KernelMap:
    """The map of a 3x3x3 kernel from a level onto itself: half the offsets are searched, the rest mirrored."""
    if voxels.keys.device.type != "cpu":
        return submanifold_map_plain(voxels, dilation)
    shifts = [key_offset(*offset) for offset in kernel_offsets(3, voxels.stride * dilation)]
    ins, outs, counts = search_cpu.neighbour_pairs(voxels.keys, shifts)
    return KernelMap(ins, outs, counts, len(voxels), len(voxels), identity=13)


def submanifold_map_plain(voxels: Voxels, dilation: int = 1) -> KernelMap:
    """The twin of the merge on CPUs, for any device."""
    offsets = kernel_offsets(3, voxels.stride * dilation)
    half = [_search(voxels.keys, voxels.keys + key_offset(*offset)) for offset in offsets[:13]]
    rows = torch.arange(len(voxels), device=voxels.keys.device)
    mirrored = [(outs, ins) for ins, outs in reversed(half)]
    return _join([*half, (rows, rows), *mirrored], len(voxels), len(voxels), identity=13)


def child_map(children: Voxels, parents: Voxels, parent_row: Tensor) -> KernelMap:
    """The map of a 2x2x2 kernel with stride 2: every child reaches its one parent, at the offset of its octant."""
    if children.keys.device.type == "cpu":
        order, counts = search_cpu.order_by_octant(children.keys, children.stride, BITS)
    else:
        order, counts = order_by_octant_plain(children)
    return KernelMap(order, parent_row[order], counts, len(children), len(parents))


def order_by_octant_plain(voxels: Voxels) -> tuple[Tensor, list[int]]:
    """The twin of the counting sort on CPUs, for any device."""
    bits = voxels.keys // voxels.stride  # strides are powers of two: the lowest bit of each axis moves down
    x, y, z = ((bits >> shift) & 1 for shift in (2 * BITS, BITS, 0))
    octant = x + 2 * y + 4 * z
    return octant.argsort(stable=True), torch.bincount(octant, minlength=8).tolist()


def _search(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of `keys` (sorted) that equal an entry of `wanted`, and the rows of those entries."""
    if not len(keys):
        return wanted.new_empty(0), wanted.new_empty(0)
    position = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    rows = (keys[position] == wanted).nonzero().squeeze(1)
    return position[rows], rows


def _join(found: list[tuple[Tensor, Tensor]], num_in: int, num_out: int, identity: int | None) -> KernelMap:
    ins, outs = zip(*found, strict=True)
    return KernelMap(torch.cat(ins), torch.cat(outs), [len(i) for i in ins], num_in, num_out, identity)


@dataclass
class VoxelPyramid:
    """The levels of a U-Net (strides 1, 2, 4, 8, 16) with their kernel maps, built once and shared by every layer,
    every branch and every network that sees the same voxels."""

    levels: list[Voxels]
    parents: list[Tensor]  # parents[i] (V_i,): row in level i+1
    _maps: dict[tuple[str, int], Any] = field(default_factory=dict)

    @classmethod
    def build(cls, finest: Voxels, depth: int = 4) -> "VoxelPyramid":
        levels, parents = [finest], []
        for _ in range(depth):
            coarse, parent = coarsen(levels[-1])
            levels.append(coarse)
            parents.append(parent)
        return cls(levels, parents)

    def neighbours(self, level: int) -> KernelMap:
        """3x3x3 map of one level."""
        return self.cached("neighbours", level, lambda: submanifold_map(self.levels[level]))

    def down(self, level: int) -> KernelMap:
        """2x2x2 stride-2 map from `level` to the next coarser one."""
        fine, coarse, parent = self.levels[level], self.levels[level + 1], self.parents[level]
        return self.cached("down", level, lambda: child_map(fine, coarse, parent))

    def up(self, level: int) -> KernelMap:
        """Transposed 2x2x2 map onto `level` from the next coarser one."""
        return self.down(level).transposed

    def cached(self, kind: str, level: int, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for this pyramid: kernel maps, and other forms of them that a backend needs."""
        if (kind, level) not in self._maps:
            self._maps[kind, level] = make()
        return self._maps[kind, level]
