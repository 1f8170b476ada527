"""Sparse convolution on CPUs in tiles that stay in registers, compiled.

For one kernel offset, a few output rows x up to 64 channels are kept in registers while the input rows that reach them are
read in place; the kernel is stored in panels of as many channels. Nothing is gathered or scattered. bfloat16 works the same
way, with the instructions that multiply pairs (AVX512-BF16).
"""

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, in_parallel, loop_threads
from lidar_completion.sparse.kernel_map import KernelMap
from lidar_completion.sparse.search_cpu import first_at_least
from lidar_completion.sparse.vector_instructions import (
    FLOAT,
    I64,
    INT64,
    LANES,
    WIDE_VECTORS,
    as_array,
    broadcast,
    load_vector,
    multiply_add,
    multiply_add_pairs,
    pointers,
    store_vector,
)

CACHE_BYTES = 1 << 18  # of output rows that are worked on at once: they stay in the second-level cache


def tile_shape(c_out: int) -> tuple[int, int, int]:
    """(lanes, vectors, rows) of a tile: `rows` output rows of lanes * vectors channels whose sums stay in registers."""
    lanes = 16 if WIDE_VECTORS and c_out % 16 == 0 else LANES
    preferred, registers = ((4, 3, 5, 2, 1), 24) if WIDE_VECTORS else ((3, 2, 1), 12)
    vectors = next(v for v in preferred if c_out // lanes % v == 0)
    return lanes, vectors, min(12, registers // vectors)


def convolve_tiled(
    features: Tensor, kernel: Tensor, kernel_map: KernelMap, bias: Tensor | None, residual: Tensor | None, relu: bool
) -> Tensor:
    c_out, paired = kernel.shape[2], kernel.dtype == torch.bfloat16
    lanes, vectors, rows = tile_shape(c_out)
    out = torch.empty(kernel_map.num_out, c_out)
    block = _rows_at_once(kernel_map, c_out)
    arguments = (
        as_array(features.contiguous().bfloat16().view(torch.float32) if paired else features),
        as_array(_panels(kernel, lanes * vectors)),
        kernel_map.in_rows.numpy(),
        kernel_map.out_rows.numpy(),
        np.cumsum([0, *kernel_map.counts]),
        np.zeros(c_out, np.float32) if bias is None else as_array(bias),
        np.empty((0, c_out), np.float32) if residual is None else as_array(residual),
        relu,
        out.numpy(),
        block,
    )
    loop = _tile_loop(lanes, vectors, rows, paired)
    share = block * max(1, len(out) // (block * 8 * loop_threads()))
    pieces = [(first, min(first + share, len(out))) for first in range(0, len(out), share)]
    in_parallel(lambda first, last: loop(*arguments, first, last), pieces)
    return out


def _panels(kernel: Tensor, width: int) -> Tensor:
    """The kernel (K, C_in, C_out) as (C_out / width, K, C_in, width), so that a panel is contiguous.

    In bfloat16, two input channels are stored as a pair in one float32.
    """
    size, c_in = kernel.shape[:2]
    if kernel.dtype == torch.float32:
        return kernel.detach().reshape(size, c_in, -1, width).permute(2, 0, 1, 3)
    pairs = kernel.detach().reshape(size, c_in // 2, 2, -1, width).permute(3, 0, 1, 4, 2)
    return pairs.contiguous().view(torch.float32)


def _rows_at_once(kernel_map: KernelMap, c_out: int) -> int:
    """Output rows per block: what the cache holds, more if offsets reach few rows (for full tiles), but not so many that
    threads wait for each other."""
    wanted = 64 * kernel_map.num_out * len(kernel_map.counts) // max(1, len(kernel_map.in_rows))
    fair = kernel_map.num_out // (4 * loop_threads())
    return max(64, CACHE_BYTES // (4 * c_out), min(wanted, fair))


_loops: dict[Any, Any] = {}


def _tile_loop(lanes: int, vectors: int, rows: int, paired: bool):  # type: ignore[no-untyped-def]
    """The loop over blocks of output rows for one tile shape, which must be known when it is compiled."""
    if (lanes, vectors, rows, paired) not in _loops:
        width = lanes * vectors

        @compiled
        def loop(  # type: ignore[no-untyped-def]
            features, panels, in_rows, out_rows, starts, bias, residual, relu, out, block, begin, end
        ):
            size, c_in, c_out = len(starts) - 1, features.shape[1], out.shape[1]
            lows, highs, spare = np.empty(size, np.int64), np.empty(size, np.int64), np.zeros(width, np.float32)
            for first in range(begin, end, block):
                last = min(first + block, end)
                for k in range(size):  # the pairs of an offset are sorted by output row
                    lows[k] = first_at_least(out_rows, starts[k], starts[k + 1], first)
                    highs[k] = first_at_least(out_rows, lows[k], starts[k + 1], last)
                for u in range(first, last):
                    for c in range(c_out):
                        out[u, c] = bias[c]
                    if len(residual):
                        for c in range(c_out):
                            out[u, c] += residual[u, c]
                for column in range(0, c_out, width):
                    for k in range(size):
                        panel = (column * size + k * width) * c_in
                        for p in range(lows[k], highs[k], rows):
                            _add_tile(  # type: ignore[call-arg]
                                features, panels, in_rows, out_rows, out, spare, p, highs[k], panel, c_in, c_out, column,
                                lanes, vectors, rows, paired,
                            )  # fmt: skip
                if relu:
                    for u in range(first, last):
                        for c in range(c_out):
                            out[u, c] = max(out[u, c], np.float32(0))

        _loops[lanes, vectors, rows, paired] = loop
    return _loops[lanes, vectors, rows, paired]


@intrinsic(prefer_literal=True)
def _add_tile(  # type: ignore[no-untyped-def]
    typing, features, panels, in_rows, out_rows, out, spare, first, last, panel, c_in, c_out, column,
    lanes, vectors, rows, paired,
):  # fmt: skip
    """out[out_rows[p], column:] += features[in_rows[p]] @ panels[panel:] for the pairs p in first..last, at most `rows`.

    If fewer pairs are left, the last pair is computed repeatedly and the extra sums go to `spare`.
    """
    width, columns, height = lanes.literal_value, vectors.literal_value, rows.literal_value
    vector, add_product = ir.VectorType(FLOAT, width), multiply_add_pairs if paired.literal_value else multiply_add

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        features, panels, in_rows, out_rows, out, spare, first, last, panel, c_in, c_out, column, *_ = pointers(
            context, builder, signature, args
        )
        inputs, targets, sums = [], [], {}
        for r in range(height):
            p = builder.add(first, I64(r))
            exists = builder.icmp_signed("<", p, last)
            p = builder.select(exists, p, builder.sub(last, I64(1)))
            inputs.append(builder.gep(features, [builder.mul(builder.load(builder.gep(in_rows, [p])), c_in)]))
            row = builder.mul(builder.load(builder.gep(out_rows, [p])), c_out)
            targets.append(builder.select(exists, builder.gep(out, [builder.add(row, column)]), spare))
            for j in range(columns):
                sums[r, j] = cgutils.alloca_once(builder, vector)
                builder.store(ir.Constant(vector, [0.0] * width), sums[r, j])
        panel = builder.gep(panels, [panel])
        with cgutils.for_range(builder, c_in, intp=INT64) as channel:
            weights = builder.gep(panel, [builder.mul(channel.index, I64(columns * width))])
            loaded = [load_vector(builder, weights, I64(j * width), vector) for j in range(columns)]
            for r in range(height):
                value = broadcast(builder, builder.load(builder.gep(inputs[r], [channel.index])), vector)
                for j in range(columns):
                    add_product(builder, sums[r, j], value, loaded[j])
        for (r, j), total in sums.items():
            # an offset's products are summed separately first: one long sum would double the rounding error
            before = load_vector(builder, targets[r], I64(j * width), vector)
            store_vector(builder, builder.fadd(before, builder.load(total)), targets[r], I64(j * width), vector)
        return context.get_dummy_value()

    signature = types.void(
        features, panels, in_rows, out_rows, out, spare, first, last, panel, c_in, c_out, column,
        lanes, vectors, rows, paired,
    )  # fmt: skip
    return signature, generate
