"""Kernel maps: for every kernel offset, which input voxel reaches which output voxel.

Kernel order is x fastest, k = ix + ks*iy + ks*ks*iz; odd kernels are centred (offsets -1..1), even ones start at 0.
`out[u] += in[u + offset_k] @ kernel[k]`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lidar_completion.sparse import search_cpu
from lidar_completion.sparse.coordinates import BITS, Voxels, coarsen, coarsen_together, key_offset

Pairs = tuple[Tensor, Tensor, list[int]]  # input rows (P,), output rows (P,), number of pairs of each offset


@dataclass(frozen=True)
class Geometry:
    """The voxels that a map was made from; a transposed map leads from `outputs` to `inputs`."""

    inputs: Voxels
    outputs: Voxels
    kernel_size: int
    dilation: int = 1
    transposed: bool = False


class KernelMap:
    """Which input row reaches which output row at every kernel offset. It has two forms, each made from the other on demand:

    pairs    in_rows, out_rows (P,) int64, sorted by offset; counts[k] of them belong to offset k. CPU backends use these.
    table    (K, V_out) int32: the input row that reaches the output row, or -1. GPU backends use it: its shape does not
             depend on the search result, so the host never waits for the device.

    identity is the offset that maps every row to itself, if there is one; geometry the voxels that the map was made from.
    """

    _pairs: Pairs | None
    _table: Tensor | None

    def __init__(
        self,
        in_rows: Tensor,
        out_rows: Tensor,
        counts: list[int],
        num_in: int,
        num_out: int,
        identity: int | None = None,
        geometry: Geometry | None = None,
    ) -> None:
        self._set(len(counts), num_in, num_out, identity, geometry)
        self._pairs = (in_rows, out_rows, counts)

    @classmethod
    def from_table(
        cls, table: Tensor, num_in: int, identity: int | None = None, geometry: Geometry | None = None
    ) -> "KernelMap":
        """The map of a table (K, V_out) int32."""
        made = cls.__new__(cls)
        made._set(len(table), num_in, table.shape[1], identity, geometry)
        made._table = table
        return made

    def _set(self, volume: int, num_in: int, num_out: int, identity: int | None, geometry: Geometry | None) -> None:
        self.volume, self.num_in, self.num_out = volume, num_in, num_out
        self.identity, self.geometry = identity, geometry
        self._pairs, self._table = None, None
        self._forms: dict[str, Any] = {}

    @property
    def table(self) -> Tensor:
        """The table form (K, V_out) int32."""
        if self._table is None:
            self._table = table_of(self._row_pairs, self.num_out)
        return self._table

    @property
    def _row_pairs(self) -> Pairs:
        if self._pairs is None:
            assert self._table is not None
            self._pairs = pairs_of(self._table)
        return self._pairs

    @property
    def in_rows(self) -> Tensor:
        """Input rows (P,) int64, sorted by offset."""
        return self._row_pairs[0]

    @property
    def out_rows(self) -> Tensor:
        """Output rows (P,) int64, sorted by offset."""
        return self._row_pairs[1]

    @property
    def counts(self) -> list[int]:
        """Number of pairs of each offset."""
        return self._row_pairs[2]

    @cached_property
    def transposed(self) -> "KernelMap":
        """The same pairs with input and output exchanged: the map of the transposed convolution, and of the gradient."""
        geometry = None if self.geometry is None else replace(self.geometry, transposed=not self.geometry.transposed)
        if self._pairs is not None:
            return KernelMap(
                self.out_rows, self.in_rows, self.counts, self.num_out, self.num_in, self.identity, geometry
            )
        return KernelMap.from_table(transpose_table(self.table, self.num_in), self.num_out, self.identity, geometry)

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """(input rows, output rows) of each offset, both rising."""
        return list(zip(self.in_rows.split(self.counts), self.out_rows.split(self.counts), strict=True))

    def cached(self, form: str, make: Callable[[], Any]) -> Any:
        """The result of `make`, computed once for this map: another form of it that a backend needs."""
        if form not in self._forms:
            self._forms[form] = make()
        return self._forms[form]


def table_of(pairs: Pairs, num_out: int) -> Tensor:
    """The table form (K, num_out) int32 of pairs."""
    in_rows, out_rows, sizes = pairs
    counts = torch.tensor(sizes, device=in_rows.device)
    offset = torch.arange(len(sizes), device=counts.device).repeat_interleave(counts)
    table = torch.full((len(sizes), num_out), -1, dtype=torch.int32, device=counts.device)
    table[offset, out_rows] = in_rows.int()
    return table


def pairs_of(table: Tensor) -> Pairs:
    """The pairs of a table (K, V_out) int32."""
    offset, out_rows = (table >= 0).nonzero(as_tuple=True)
    counts = torch.bincount(offset, minlength=len(table)).tolist()
    return table[offset, out_rows].long(), out_rows, counts


def transpose_table(table: Tensor, num_in: int) -> Tensor:
    """The table (K, num_in) of the transposed map."""
    rows = torch.arange(table.shape[1], dtype=torch.int32, device=table.device).expand_as(table)
    turned = torch.full((len(table), num_in + 1), -1, dtype=torch.int32, device=table.device)
    # entries without an input go to an extra column that is cut off; all others are unique within an offset
    turned.scatter_(1, torch.where(table >= 0, table, num_in).long(), rows)
    return turned[:, :num_in].contiguous()


def kernel_offsets(kernel_size: int, step: int) -> list[tuple[int, int, int]]:
    """Offsets (dx, dy, dz) in fine voxels, in kernel order; `step` is stride x dilation."""
    first = -(kernel_size // 2) if kernel_size % 2 else 0
    axis = [(first + i) * step for i in range(kernel_size)]
    return [(x, y, z) for z in axis for y in axis for x in axis]


def kernel_map(inputs: Voxels, outputs: Voxels, kernel_size: int, dilation: int = 1) -> KernelMap:
    """The map of a kernel of any size between two sets of voxels."""
    offsets = kernel_offsets(kernel_size, inputs.stride * dilation)
    geometry = Geometry(inputs, outputs, kernel_size, dilation)
    return KernelMap.from_table(search_table(inputs.keys, outputs.keys, offsets), len(inputs), geometry=geometry)


def submanifold_map(voxels: Voxels, dilation: int = 1) -> KernelMap:
    """The map of a 3x3x3 kernel from a level onto itself."""
    if voxels.keys.device.type != "cpu":
        return submanifold_map_plain(voxels, dilation)
    shifts = [key_offset(*offset) for offset in kernel_offsets(3, voxels.stride * dilation)]
    ins, outs, counts = search_cpu.neighbour_pairs(voxels.keys, shifts)
    return KernelMap(ins, outs, counts, len(voxels), len(voxels), 13, Geometry(voxels, voxels, 3, dilation))


def submanifold_map_plain(voxels: Voxels, dilation: int = 1) -> KernelMap:
    """The plain implementation of search_cpu.neighbour_pairs, for any device."""
    table = search_table(voxels.keys, voxels.keys, kernel_offsets(3, voxels.stride * dilation))
    return KernelMap.from_table(table, len(voxels), 13, Geometry(voxels, voxels, 3, dilation))


def child_map(children: Voxels, parents: Voxels, parent_row: Tensor) -> KernelMap:
    """The map of a 2x2x2 kernel with stride 2: each child reaches its parent, at the offset of its octant."""
    if children.keys.device.type != "cpu":
        return child_map_plain(children, parents, parent_row)
    order, counts = search_cpu.order_by_octant(children.keys, children.stride, BITS)
    geometry = Geometry(children, parents, 2)
    return KernelMap(order, parent_row[order], counts, len(children), len(parents), geometry=geometry)


def child_map_plain(children: Voxels, parents: Voxels, parent_row: Tensor) -> KernelMap:
    """The plain implementation of search_cpu.order_by_octant, for any device."""
    table = torch.full((8 * len(parents),), -1, dtype=torch.int32, device=parent_row.device)
    rows = torch.arange(len(children), dtype=torch.int32, device=parent_row.device)
    table.scatter_(0, octants(children) * len(parents) + parent_row, rows)
    geometry = Geometry(children, parents, 2)
    return KernelMap.from_table(table.view(8, len(parents)), len(children), geometry=geometry)


def octants(voxels: Voxels) -> Tensor:
    """The octant of each voxel in its parent, (V,) int64: x + 2y + 4z, the order of a 2x2x2 kernel."""
    bits = voxels.keys // voxels.stride  # strides are powers of two: the lowest bit of each axis moves down
    x, y, z = ((bits >> shift) & 1 for shift in (2 * BITS, BITS, 0))
    return x + 2 * y + 4 * z


def search_table(keys: Tensor, outputs: Tensor, offsets: list[tuple[int, int, int]]) -> Tensor:
    """(K, V_out) int32: the row of `keys` (sorted) that lies at each offset from each of `outputs`, or -1."""
    missing = torch.full((len(offsets), len(outputs)), -1, dtype=torch.int32, device=keys.device)
    if not len(keys):
        return missing
    wanted = torch.stack([outputs + key_offset(*offset) for offset in offsets])
    position = torch.searchsorted(keys, wanted, out_int32=True).clamp_(max=len(keys) - 1)
    found = keys.index_select(0, position.view(-1)).view_as(wanted) == wanted
    return torch.where(found, position, missing)


@dataclass
class VoxelPyramid:
    """The levels of a U-Net (strides 1, 2, 4, 8, 16) and their kernel maps.

    Kernel maps are built once and shared by all layers, branches and networks on the same voxels.
    """

    levels: list[Voxels]
    parents: list[Tensor]  # parents[i] (V_i,) int64: row in level i+1
    _maps: dict[tuple[str, int], Any] = field(default_factory=dict)

    @classmethod
    def build(cls, finest: Voxels, depth: int = 4) -> "VoxelPyramid":
        """The pyramid over the finest voxels, with `depth` coarser levels."""
        if finest.keys.device.type != "cpu":
            return cls(*coarsen_together(finest, depth))
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
        """The result of `make`, computed once for this pyramid: kernel maps, and other forms of them that a backend needs."""
        if (kind, level) not in self._maps:
            self._maps[kind, level] = make()
        return self._maps[kind, level]
