"""Voxel coordinates: points -> sorted voxels, strides, and the packed keys that every search works on.

A voxel is a row (batch, x, y, z) of int32, in units of the finest voxel at every stride. Rows are sorted
lexicographically, so that a packed int64 key orders voxels as their coordinates do.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lidar_completion.sparse import points_cpu

BITS = 18  # per axis: +-131,072 voxels, 6.5 km at 0.05 m
LIMIT = 1 << (BITS - 1)


def quantise(points: Tensor, voxel_size_m: float) -> Tensor:
    """Voxel (N, 3) int32 of each point: round half to even of float32(p / size).

    Division, not multiplication by the inverse: 3 of 180,000 points move otherwise. The divisor is a tensor because
    CUDA turns division by a Python number into a multiplication. It is filled on the device, because a copy would wait.
    """
    size = torch.full((), voxel_size_m, dtype=torch.float32, device=points.device)
    return torch.round(points.float() / size).to(torch.int32)


def pack(xyz: Tensor, batch: Tensor | None = None) -> Tensor:
    """Sortable int64 keys (N,) of coordinates (N, 3); raises ValueError outside +-131,072 voxels."""
    _check_limit(int(xyz.abs().max()) if len(xyz) else 0)
    x, y, z = (xyz.to(torch.int64) + LIMIT).unbind(1)
    key = (x << (2 * BITS)) | (y << BITS) | z
    return key if batch is None else key | (batch.to(torch.int64) << (3 * BITS))


def _check_limit(largest: int) -> None:
    if largest >= LIMIT:
        raise ValueError(
            f"a coordinate lies {largest} voxels from the origin; the limit is {LIMIT - 1}; crop the points or use larger voxels"
        )


def unpack(keys: Tensor) -> Tensor:
    """The coordinates (N, 4) int32 (batch, x, y, z) of packed keys."""
    mask = (1 << BITS) - 1
    x, y, z = ((keys >> (2 * BITS)) & mask, (keys >> BITS) & mask, keys & mask)
    return torch.stack([keys >> (3 * BITS), x - LIMIT, y - LIMIT, z - LIMIT], dim=1).to(torch.int32)


def key_offset(dx: int, dy: int, dz: int) -> int:
    """The difference between the keys of two voxels that are (dx, dy, dz) apart."""
    return (dx << (2 * BITS)) + (dy << BITS) + dz


@dataclass(frozen=True)
class Voxels:
    """Occupied voxels of one level: sorted unique keys (V,) int64, at `stride` fine voxels spacing."""

    keys: Tensor
    stride: int = 1

    @property
    def coordinates(self) -> Tensor:  # (V, 4) int32: batch, x, y, z
        return unpack(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def voxelise(points: Tensor, voxel_size_m: float, batch: Tensor | None = None) -> tuple[Voxels, Tensor]:
    """The voxels that points (N, 3) occupy, and each point's voxel row (N,) int64."""
    return unique_voxels(voxel_keys(points, voxel_size_m, batch))


def voxel_keys(points: Tensor, voxel_size_m: float, batch: Tensor | None = None) -> Tensor:
    """pack(quantise(points)): the key (N,) int64 of each point's voxel."""
    if not points_cpu.usable(points):
        return pack(quantise(points, voxel_size_m), batch)
    keys, largest = points_cpu.packed_keys(points, voxel_size_m, BITS)
    _check_limit(largest)
    return keys if batch is None else keys | (batch.to(torch.int64) << (3 * BITS))


def unique_voxels(keys: Tensor, stride: int = 1) -> tuple[Voxels, Tensor]:
    """Sorted voxels of keys (N,), and the row (N,) of each key in them."""
    if keys.device.type == "cpu" and (found := points_cpu.sorted_unique(keys, BITS)) is not None:
        return Voxels(found[0], stride), found[1]
    return unique_voxels_plain(keys, stride)


def unique_voxels_plain(keys: Tensor, stride: int = 1) -> tuple[Voxels, Tensor]:
    """The plain implementation of points_cpu.sorted_unique, for any device."""
    ordered, order = keys.sort()
    changes = torch.ones_like(ordered, dtype=torch.int64)
    changes[1:] = ordered[1:] != ordered[:-1]
    row = torch.empty_like(order)
    row[order] = changes.cumsum(0) - 1
    return Voxels(ordered[changes.bool()], stride), row


def coarsen(voxels: Voxels) -> tuple[Voxels, Tensor]:
    """The voxels of twice the stride, floor(c / 2s) * 2s, and each fine voxel's parent row (V,) int64."""
    stride = voxels.stride * 2
    return unique_voxels(voxels.keys & stride_mask(stride), stride)


def coarsen_together(finest: Voxels, depth: int) -> tuple[list[Voxels], list[Tensor]]:
    """`coarsen` applied `depth` times: the levels, finest first, and the parent rows between them.

    For GPUs: the host waits once for the numbers of voxels instead of once per level. Each level is sorted from the finest
    voxels, which is more work than from the level above but needs no intermediate number of voxels.
    """
    if not len(finest):
        nothing = finest.keys.new_empty(0)
        strides = [finest.stride << i for i in range(depth + 1)]
        return [Voxels(nothing, stride) for stride in strides], [nothing] * depth
    strides = [finest.stride << (i + 1) for i in range(depth)]
    ordered, order = torch.stack([finest.keys & stride_mask(stride) for stride in strides]).sort(dim=1)
    changes = torch.zeros_like(ordered)
    changes[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    rank = changes.cumsum(1)
    rows = torch.empty_like(rank).scatter_(1, order, rank)  # (depth, V): each finest voxel's row at every level
    keys = torch.empty_like(ordered).scatter_(1, rank, ordered)  # equal ranks write equal keys
    counts = (rank[:, -1] + 1).tolist()
    levels = [Voxels(keys[i, :count], stride) for i, (count, stride) in enumerate(zip(counts, strides, strict=True))]
    parents = [rows[0]]
    for i in range(1, depth):  # all finest voxels of a voxel agree on its parent
        parents.append(rows.new_empty(counts[i - 1]).scatter_(0, rows[i - 1], rows[i]))
    return [finest, *levels], parents


def stride_mask(stride: int) -> int:
    """The mask that floors the coordinates of a key to multiples of `stride`."""
    # the bias 2^17 is a multiple of all strides in use, so clearing low bits is the floor for negative coordinates too
    clear = stride - 1
    return ~((clear << (2 * BITS)) | (clear << BITS) | clear)


def voxel_mean(values: Tensor, row: Tensor, count: int) -> Tensor:
    """Mean (count, C) of the values (N, C) in each voxel row."""
    if points_cpu.usable(values):
        total, size = points_cpu.sums(values, row, count)
        return total / size.unsqueeze(1)
    return voxel_mean_plain(values, row, count)


def voxel_mean_plain(values: Tensor, row: Tensor, count: int) -> Tensor:
    """The plain implementation of points_cpu.sums, for any device and with gradients."""
    total, size = values.new_zeros(count, values.shape[1]), values.new_zeros(count)
    if values.device.type == "cpu":
        total = total.index_add_(0, row, values)
    else:  # on CUDA, index_add_ sums in a different order each time; index_put_ sorts the rows first
        total = total.index_put_((row,), values, accumulate=True)
    # not bincount, which waits for the device; sums of ones are exact in any order
    return total / size.index_add_(0, row, torch.ones_like(values[:, 0])).unsqueeze(1)
