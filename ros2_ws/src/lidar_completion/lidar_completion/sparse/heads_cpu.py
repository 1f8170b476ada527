"""The per-point head on CPUs, compiled: one pass over the points without gathered intermediates. The plain implementations are in heads.py.

A few points are worked on at once: their hidden values are a small matrix in the first-level cache, and its product with the
last layer stays in vector registers.
"""

from functools import cache

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor
from torch.nn import functional as F

from lidar_completion.sparse.compiled import compiled_sums, equal_cuts, in_parallel
from lidar_completion.sparse.vector_instructions import (
    FLOAT,
    I64,
    INT64,
    LANES,
    WIDE_VECTORS,
    broadcast,
    load_vector,
    multiply_add,
    pointers,
    store_vector,
)

MAX_OUTPUTS = 64
AHEAD = 12  # points: their voxels' rows are prefetched this far ahead, because they are scattered in memory


def point_estimates(
    hidden: Tensor, row: Tensor, offset: Tensor, by_offset: Tensor, last: Tensor, bias: Tensor, estimates: int
) -> tuple[Tensor, Tensor]:
    """As heads.point_estimates_plain; float32 on the CPU, without gradients, at most MAX_OUTPUTS outputs."""
    outputs, split = len(last), 3 * estimates
    lanes, vectors, rows = tile_shape(outputs)
    padding = lanes * vectors - outputs
    first, rest = torch.empty(len(row), estimates, 3), torch.empty(len(row), outputs - split)
    weights = F.pad(last.detach().T, (0, padding))
    arrays = [each.detach().contiguous().numpy() for each in (hidden, row, offset, by_offset.T, weights, bias)]
    loop = _loop(hidden.shape[1], split, outputs, lanes, vectors, rows)
    out = (first.view(len(row), split).numpy(), rest.numpy())
    in_parallel(loop, [(*arrays, *out, *share) for share in equal_cuts(len(row))])
    return first, rest


def point_outputs(hidden: Tensor, row: Tensor, offset: Tensor, by_offset: Tensor, last: Tensor, bias: Tensor) -> Tensor:
    """As heads.point_outputs_plain; float32 on the CPU, without gradients, at most MAX_OUTPUTS outputs."""
    return point_estimates(hidden, row, offset, by_offset, last, bias, 0)[1]


def tile_shape(outputs: int) -> tuple[int, int, int]:
    """(lanes, vectors, rows): `rows` points whose outputs, padded to lanes * vectors, stay in registers."""
    lanes = 16 if WIDE_VECTORS and outputs > LANES else LANES
    vectors = -(-outputs // lanes)
    return lanes, vectors, max(1, min(8, (24 if WIDE_VECTORS else 10) // vectors))


@cache
def _loop(width: int, split: int, outputs: int, lanes: int, vectors: int, rows: int):  # type: ignore[no-untyped-def]
    """The loop for one shape of head: sizes that are known when it is compiled keep its arrays in registers."""
    padded, others = lanes * vectors, outputs - split

    @compiled_sums
    def loop(hidden, row, offset, by_offset, last, bias, first, rest, begin, end):  # type: ignore[no-untyped-def]
        leak = np.float32(0.1)
        activated, output = np.empty((rows, width), np.float32), np.empty((rows, padded), np.float32)
        for start in range(begin, end, rows):
            for r in range(rows):
                i = min(start + r, end - 1)
                _prefetch_row(hidden, row[min(i + AHEAD, end - 1)])  # type: ignore[call-arg]
                voxel, target = hidden[row[i]], activated[r]
                x, y, z = offset[i, 0], offset[i, 1], offset[i, 2]
                for h in range(width):
                    value = voxel[h] + x * by_offset[0, h] + y * by_offset[1, h] + z * by_offset[2, h]
                    target[h] = max(value, leak * value)
            _product(activated, last, output, width, lanes, vectors, rows)  # type: ignore[call-arg]
            for r in range(min(rows, end - start)):
                own, others_of, source = first[start + r], rest[start + r], output[r]
                for o in range(split):
                    own[o] = source[o] + bias[o]
                for o in range(others):
                    others_of[o] = source[split + o] + bias[split + o]

    return loop


@intrinsic(prefer_literal=True)
def _product(typing, left, right, out, width, lanes, vectors, rows):  # type: ignore[no-untyped-def]
    """out (rows, lanes * vectors) = left (rows, width) @ right (width, lanes * vectors), contiguous float32."""
    across, columns, height = lanes.literal_value, vectors.literal_value, rows.literal_value
    vector = ir.VectorType(FLOAT, across)

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        left, right, out, width, *_ = pointers(context, builder, signature, args)
        sums = {(r, j): cgutils.alloca_once(builder, vector) for r in range(height) for j in range(columns)}
        for total in sums.values():
            builder.store(ir.Constant(vector, [0.0] * across), total)
        with cgutils.for_range(builder, width, intp=INT64) as channel:
            weights = builder.gep(right, [builder.mul(channel.index, I64(columns * across))])
            loaded = [load_vector(builder, weights, I64(j * across), vector) for j in range(columns)]
            for r in range(height):
                place = builder.add(channel.index, builder.mul(I64(r), width))
                value = broadcast(builder, builder.load(builder.gep(left, [place])), vector)
                for j in range(columns):
                    multiply_add(builder, sums[r, j], value, loaded[j])
        for (r, j), total in sums.items():
            store_vector(builder, builder.load(total), out, I64((r * columns + j) * across), vector)
        return context.get_dummy_value()

    return types.void(left, right, out, types.int64, lanes, vectors, rows), generate


@intrinsic
def _prefetch_row(typing, array, row):  # type: ignore[no-untyped-def]
    """Prefetch a row of a contiguous array (V, H) float32, in lines of 64 bytes."""

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
