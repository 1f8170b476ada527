"""Loops over points and voxels for CPUs: points to keys, keys to sorted voxels, sums of a voxel's points, gates, heads.

Half a million points go through here a step, so every loop passes over them once. The twins are the plain operators of
coordinates.py and the networks' layers.
"""

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, compiled_sums, even_cuts, in_parallel

AHEAD = 12  # points: their voxels' rows are asked for before they are needed, as they lie anywhere in memory
DIGIT_BITS = 11  # of a radix sort: 2048 counters stay in the first-level cache


def usable(*tensors: Tensor) -> bool:
    """Whether the loops can take these tensors: float32 on the CPU, and no gradient is wanted."""
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return not learns and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


def packed_keys(points: Tensor, voxel_size_m: float, bits: int) -> tuple[Tensor, int]:
    """Keys (N,) int64 of the voxels of points (N, 3) float32, `bits` an axis, and the largest |coordinate|."""
    array, keys = points.detach().contiguous().numpy(), np.empty(len(points), np.int64)
    size = np.float32(voxel_size_m)
    largest = in_parallel(
        lambda first, last: _pack(array[first:last], size, bits, keys[first:last]), _shares(len(keys))
    )
    return torch.from_numpy(keys), max(largest, default=0)


@compiled
def _pack(points, size, bits, keys):  # type: ignore[no-untyped-def]
    limit, largest = 1 << (bits - 1), np.int64(0)
    for i in range(len(points)):
        key = np.int64(0)
        for axis in range(3):
            place = np.int64(np.rint(points[i, axis] / size))
            largest = max(largest, abs(place))
            key = key << bits | place + limit
        keys[i] = key
    return largest


def sorted_unique(keys: Tensor, bits: int) -> tuple[Tensor, Tensor] | None:
    """Sorted unique keys (V,) of keys (N,) int64, and each key's row (N,) int64 in them; None where they span too much space.

    A radix sort over the bits that differ: a key's coordinates, relative to the smallest, in front of its place in the input.
    """
    if not len(keys):
        return keys, keys
    found = _sorted_unique(keys.numpy(), bits, DIGIT_BITS)
    return None if found is None else (torch.from_numpy(found[0]), torch.from_numpy(found[1]))


@compiled
def _sorted_unique(keys, bits, digit_bits):  # type: ignore[no-untyped-def]
    mask, n = (1 << bits) - 1, len(keys)
    low, high = np.full(4, np.int64(1) << 62), np.zeros(4, np.int64)
    for key in keys:
        for field in range(4):  # z, y, x, batch
            value = key >> field * bits & mask
            low[field], high[field] = min(low[field], value), max(high[field], value)
    start = np.zeros(5, np.int64)
    while 1 << start[0] < n:
        start[0] += 1
    for field in range(4):
        start[field + 1] = start[field]
        while 1 << (start[field + 1] - start[field]) <= high[field] - low[field]:
            start[field + 1] += 1
    if start[4] > 63:
        return None
    words, sorted_words = np.empty(n, np.int64), np.empty(n, np.int64)
    for i in range(n):
        word = np.int64(i)
        for field in range(4):
            word |= ((keys[i] >> field * bits & mask) - low[field]) << start[field]
        words[i] = word
    for shift in range(start[0], start[4], digit_bits):
        places = np.zeros((1 << digit_bits) + 1, np.int64)
        digit = (1 << digit_bits) - 1
        for word in words:
            places[(word >> shift & digit) + 1] += 1
        places = np.cumsum(places)
        for word in words:
            d = word >> shift & digit
            sorted_words[places[d]] = word
            places[d] += 1
        words, sorted_words = sorted_words, words
    unique, row = np.empty(n, np.int64), np.empty(n, np.int64)
    count, before = -1, np.int64(-1)
    for word in words:
        place = word & ((1 << start[0]) - 1)
        if word >> start[0] != before:
            before, count = word >> start[0], count + 1
            unique[count] = keys[place]
        row[place] = count
    return unique[: count + 1].copy(), row


def sums(values: Tensor, row: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sum (count, C) of the values (N, C) of each row, in the order of the values, and their number (count,) float32."""
    total, number = torch.zeros(count, values.shape[1]), torch.zeros(count)
    _sum(values.detach().contiguous().numpy(), row.numpy(), total.numpy(), number.numpy())
    return total, number


@compiled
def _sum(values, row, total, number):  # type: ignore[no-untyped-def]
    for i in range(len(values)):
        for c in range(values.shape[1]):
            total[row[i], c] += values[i, c]
        number[row[i]] += 1


def times_rows(features: Tensor, table: Tensor, row: Tensor) -> Tensor:
    """features * table[row]: features (V, C), table (T, C), row (V,) int64."""
    out = torch.empty_like(features, memory_format=torch.contiguous_format)
    arrays = [each.detach().contiguous().numpy() for each in (features, table, row, out)]
    in_parallel(_times_rows, [(*arrays, first, last) for first, last in _shares(len(row))])
    return out


@compiled
def _times_rows(features, table, row, out, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        for c in range(out.shape[1]):
            out[i, c] = features[i, c] * table[row[i], c]


def head(hidden: Tensor, row: Tensor, offset: Tensor, by_offset: Tensor, last: Tensor, bias: Tensor) -> Tensor:
    """leaky_relu(hidden[row] + offset @ by_offset.T, 0.1) @ last.T + bias of every point: (N, outputs), 4 at most.

    hidden (V, H): the first layer of each voxel's features, with its bias; row (N,) int64, offset (N, 3), by_offset (H, 3),
    last (outputs, H), bias (outputs,).
    """
    out = torch.empty(len(row), len(last))
    weights = torch.zeros(7, hidden.shape[1])
    weights[:3], weights[3 : 3 + len(last)] = by_offset.T, last
    arrays = [each.detach().contiguous().numpy() for each in (hidden, row, offset, weights, bias)]
    in_parallel(_head, [(*arrays, out.numpy(), first, end) for first, end in _shares(len(row))])
    return out


@compiled_sums
def _head(hidden, row, offset, weights, bias, out, first, end):  # type: ignore[no-untyped-def]
    leak, outputs = np.float32(0.1), out.shape[1]
    answer = np.empty(4, np.float32)
    for i in range(first, end):
        _prefetch_row(hidden, row[min(i + AHEAD, end - 1)])  # type: ignore[call-arg]
        voxel = hidden[row[i]]
        x, y, z = offset[i, 0], offset[i, 1], offset[i, 2]
        a = b = c = d = np.float32(0)
        for h in range(len(voxel)):
            value = voxel[h] + x * weights[0, h] + y * weights[1, h] + z * weights[2, h]
            value = max(value, leak * value)
            a += value * weights[3, h]
            b += value * weights[4, h]
            c += value * weights[5, h]
            d += value * weights[6, h]
        answer[0], answer[1], answer[2], answer[3] = a, b, c, d
        for o in range(outputs):
            out[i, o] = answer[o] + bias[o]


@intrinsic
def _prefetch_row(typing, array, row):  # type: ignore[no-untyped-def]
    """Ask for a row of a contiguous array (V, H) float32, in lines of 64 bytes, without waiting."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        made, int32, int64 = (
            context.make_array(signature.args[0])(context, builder, args[0]),
            ir.IntType(32),
            ir.IntType(64),
        )
        width = cgutils.unpack_tuple(builder, made.shape)[1]
        start, byte = builder.gep(made.data, [builder.mul(args[1], width)]), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, int32, int32, int32])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        with cgutils.for_range_slice(builder, int64(0), width, int64(16), int64) as (place, _):
            address = builder.bitcast(builder.gep(start, [place]), byte)
            builder.call(prefetch, [address, int32(0), int32(3), int32(1)])  # to read, into the nearest cache, data
        return context.get_dummy_value()

    return types.void(array, row), generate


def _shares(count: int) -> list[tuple[int, int]]:
    return even_cuts(np.arange(count + 1))
