"""Loops over points and voxels on CPUs, compiled: points to keys, keys to sorted voxels, sums per voxel, gates.

A step has half a million points, so each loop passes over them once. The plain implementations are in coordinates.py and
networks/.
"""

import math

import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, equal_cuts, in_parallel

MAP_BITS = 256  # cells per key up to which a box is marked in a bit map, which fits the caches
WORTH_SHARING = 1 << 13  # points: with fewer, waking another thread costs more than it saves
LANES = 32  # points whose coordinates are compared together
DIGIT_BITS = 11  # per pass of the radix sort: 2048 counters fit the first-level cache


def usable(*tensors: Tensor) -> bool:
    """Whether the loops can process these tensors: float32, on the CPU, no gradient required."""
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return not learns and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


def packed_keys(points: Tensor, voxel_size_m: float, bits: int) -> tuple[Tensor, int]:
    """Keys (N,) int64 of the voxels of points (N, 3) float32, `bits` per axis, and the largest |coordinate|."""
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


def by_axis(points: Tensor) -> Tensor:
    """points (N, 3) as (3, N), each axis contiguous."""
    if not usable(points):
        return points.t().contiguous()
    turned = torch.empty(3, len(points))
    array, out = points.detach().contiguous().numpy(), turned.numpy()
    in_parallel(_by_axis, [(array, out, *share) for share in _shares(len(array))])
    return turned


@compiled
def _by_axis(points, out, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        out[0, i], out[1, i], out[2, i] = points[i, 0], points[i, 1], points[i, 2]


def bounds(points: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest coordinates (3,) of points (N, 3) float32, N > 0: points.amin(0), points.amax(0)."""
    array = points.detach().contiguous().numpy()
    found = in_parallel(_bounds, [(array, *share) for share in _shares(len(array))])
    low, high = (np.concatenate(each) for each in zip(*found, strict=True))
    return torch.from_numpy(low.min(0)), torch.from_numpy(high.max(0))


@compiled
def _bounds(points, first, last):  # type: ignore[no-untyped-def]
    flat, width = points[first:last].reshape(-1), 3 * LANES
    low, high = np.full(width, np.float32(np.inf)), np.full(width, np.float32(-np.inf))
    for start in range(0, len(flat), width):
        values = flat[start : start + width]
        for i in range(len(values)):  # NaN are ignored
            low[i] = values[i] if values[i] < low[i] else low[i]
            high[i] = values[i] if values[i] > high[i] else high[i]
    return low.reshape(LANES, 3), high.reshape(LANES, 3)


def sorted_unique(keys: Tensor, bits: int) -> tuple[Tensor, Tensor] | None:
    """Sorted unique keys (V,) of keys (N,) int64, and each key's row (N,) int64 in them; None if they span too much space.

    If the keys' bounding box is small, a bit map with one bit per voxel: a voxel's row is the number of bits set before it.
    Otherwise a radix sort over the bits that differ.
    """
    if not len(keys):
        return keys, keys
    array = keys.numpy()
    box = _box(array, bits)
    cells = math.prod(box[1].tolist())  # Python integers do not overflow
    if cells <= MAP_BITS * len(array):
        return _by_map(array, bits, box, cells)
    order = _sorted_order(array, bits, *box, DIGIT_BITS)
    if order is None:
        return None
    unique, row = _rows_in_order(array, order)
    return torch.from_numpy(unique), torch.from_numpy(row)


def sorted_order(keys: Tensor, bits: int) -> Tensor | None:
    """The order (N,) int64 that sorts keys (N,) int64, stable; None if they span too much space."""
    if not len(keys):
        return torch.zeros(0, dtype=torch.int64)
    order = _sorted_order(keys.numpy(), bits, *_box(keys.numpy(), bits), DIGIT_BITS)
    return None if order is None else torch.from_numpy(order)


Box = tuple[
    np.ndarray, np.ndarray, np.ndarray
]  # for the fields z, y, x, batch: smallest value, number of steps, log2 of a step


def _box(keys: np.ndarray, bits: int) -> Box:
    found = np.array(in_parallel(_extent, [(keys, bits, *share) for share in _shares(len(keys))]))
    low, high, differing = found[:, 0].min(0), found[:, 1].max(0), np.bitwise_or.reduce(found[:, 2])
    shift = np.array([max(0, int(each & -each).bit_length() - 1) for each in differing])
    return low, ((high - low) >> shift) + 1, shift


@compiled
def _extent(keys, bits, first, last):  # type: ignore[no-untyped-def]
    """Smallest and largest value of each field, and the bits in which any key differs from the first."""
    mask = (np.int64(1) << bits) - 1
    found = np.zeros((3, 4), np.int64)
    for field in range(4):
        own = keys[0] >> field * bits & mask
        low, high, differing = own, own, np.int64(0)
        for i in range(first, last):
            value = keys[i] >> field * bits & mask
            low, high, differing = min(low, value), max(high, value), differing | (value ^ own)
        found[0, field], found[1, field], found[2, field] = low, high, differing
    return found


def _by_map(keys: np.ndarray, bits: int, box: Box, cells: int) -> tuple[Tensor, Tensor]:
    row, words = np.empty(len(keys), np.int64), np.zeros((cells >> 6) + 1, np.uint64)
    shares = _shares(len(keys))
    in_parallel(_cells, [(keys, bits, *box, row, *share) for share in shares])
    before = _mark(row, words)
    unique = np.empty(before[-1], np.int64)
    in_parallel(_ranks, [(keys, words, before, row, unique, *share) for share in shares])
    return torch.from_numpy(unique), torch.from_numpy(row)


@compiled
def _cells(keys, bits, low, size, shift, cell, first, last):  # type: ignore[no-untyped-def]
    mask = (np.int64(1) << bits) - 1
    for i in range(first, last):
        key, place = keys[i], np.int64(0)
        for field in (3, 2, 1, 0):
            place = place * size[field] + (((key >> field * bits & mask) - low[field]) >> shift[field])
        cell[i] = place


@compiled
def _mark(cell, words):  # type: ignore[no-untyped-def]
    """Set a bit for each cell; returns the number of bits before each word, and in total."""
    for place in cell:
        words[place >> 6] |= np.uint64(1) << np.uint64(place & 63)
    before = np.empty(len(words) + 1, np.int64)
    total = np.int64(0)
    for i in range(len(words)):
        before[i] = total
        total += _bits(words[i])  # type: ignore[call-arg]
    before[len(words)] = total
    return before


@compiled
def _ranks(keys, words, before, row, unique, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        place = row[i]
        below = (np.uint64(1) << np.uint64(place & 63)) - np.uint64(1)
        rank = before[place >> 6] + _bits(words[place >> 6] & below)  # type: ignore[call-arg]
        row[i], unique[rank] = rank, keys[i]  # threads that collide here write the same key


@intrinsic
def _bits(typing, word):  # type: ignore[no-untyped-def]
    """Number of set bits of a uint64."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate


@compiled
def _sorted_order(keys, bits, low, size, step, digit_bits):  # type: ignore[no-untyped-def]
    """Sort words of (coordinates relative to the smallest, index in the input); returns the indices, or None if 63 bits do not suffice."""
    mask, n = (np.int64(1) << bits) - 1, len(keys)
    start = np.zeros(5, np.int64)
    while np.int64(1) << start[0] < n:
        start[0] += 1
    for field in range(4):
        start[field + 1] = start[field]
        while np.int64(1) << (start[field + 1] - start[field]) < size[field]:
            start[field + 1] += 1
    if start[4] > 63:
        return None
    words, sorted_words = np.empty(n, np.int64), np.empty(n, np.int64)
    for i in range(n):
        word = np.int64(i)
        for field in range(4):
            word |= ((keys[i] >> field * bits & mask) - low[field]) >> step[field] << start[field]
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
    for i in range(n):
        words[i] &= (np.int64(1) << start[0]) - 1
    return words


@compiled
def _rows_in_order(keys, order):  # type: ignore[no-untyped-def]
    unique, row = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    count = -1
    for n in range(len(order)):
        key = keys[order[n]]
        if n == 0 or key != unique[count]:
            count += 1
            unique[count] = key
        row[order[n]] = count
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


def offset_sums(points: Tensor, row: Tensor, centre: Tensor, size: float) -> tuple[Tensor, Tensor, Tensor]:
    """(points - centre[row]) / size of points (N, 3) in voxels with centres (V, 3); their sum (V, 3) and number (V,) float32.

    Sums are taken in the order of the points.
    """
    offset, total, number = torch.empty(len(points), 3), torch.zeros(len(centre), 3), torch.zeros(len(centre))
    arrays = [each.contiguous().numpy() for each in (points, row, centre)]
    in_parallel(_offset, [(*arrays, np.float32(size), offset.numpy(), *share) for share in _shares(len(points))])
    # each thread sums a range of voxels, not of points, so that the order of each voxel's sum does not change
    shares = _shares(len(centre)) if len(points) >= WORTH_SHARING else [(0, len(centre))]
    in_parallel(_sum_of_rows, [(offset.numpy(), arrays[1], total.numpy(), number.numpy(), *share) for share in shares])
    return offset, total, number


@compiled
def _offset(points, row, centre, size, offset, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        for axis in range(3):
            offset[i, axis] = (points[i, axis] - centre[row[i], axis]) / size


@compiled
def _sum_of_rows(values, row, total, number, first, last):  # type: ignore[no-untyped-def]
    for i in range(len(values)):
        if first <= row[i] < last:
            for axis in range(3):
                total[row[i], axis] += values[i, axis]
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


def _shares(count: int) -> list[tuple[int, int]]:
    return equal_cuts(count) if count >= WORTH_SHARING else [(0, count)]
