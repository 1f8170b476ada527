"""Gradient of narrow kernels on CPUs, compiled: outer products whose sums stay in registers."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, in_parallel, loop_threads
from lidar_completion.sparse.kernel_map import KernelMap
from lidar_completion.sparse.vector_instructions import (
    I64,
    INT64,
    LANES,
    VECTOR,
    as_array,
    broadcast,
    load_vector,
    multiply_add,
    pointers,
    store_vector,
)

_loops: dict[int, Any] = {}


def kernel_gradient_tiled(features: Tensor, grad: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    c_out = kernel.shape[2]
    in_rows, out_rows = kernel_map.in_rows.numpy(), kernel_map.out_rows.numpy()
    ends = np.cumsum([0, *kernel_map.counts])
    loop = _gradient_loop(c_out)

    def share(first: int, last: int) -> np.ndarray:  # contribution of the pairs first..last
        part = np.zeros(tuple(kernel.shape), np.float32)
        for k in range(len(part)):
            low, high = max(first, ends[k]), min(last, ends[k + 1])
            if low < high:
                loop(as_array(features), as_array(grad), in_rows, out_rows, low, high, part[k])
        return part

    workers = loop_threads()
    cuts = [len(in_rows) * i // workers for i in range(workers + 1)]
    return torch.from_numpy(sum(in_parallel(share, list(pairwise(cuts)))))


def _gradient_loop(c_out: int):  # type: ignore[no-untyped-def]
    """part (C_in, C_out) += features[in_rows[p]]^T grad[out_rows[p]], in tiles whose sums stay in registers."""
    if c_out not in _loops:
        tile = max(1, 16 // (c_out // LANES))

        @compiled
        def loop(features, grad, in_rows, out_rows, first, last, part):  # type: ignore[no-untyped-def]
            c_in = features.shape[1]
            whole = c_in // tile * tile
            for block in range(first, last, 512):  # the rows of a block are read c_in / tile times, from the cache
                end = min(block + 512, last)
                for c in range(0, whole, tile):
                    _add_outer(features, grad, in_rows, out_rows, block, end, c_in, c, part, c_out, tile)  # type: ignore[call-arg]
                for c in range(whole, c_in):
                    _add_outer(features, grad, in_rows, out_rows, block, end, c_in, c, part, c_out, 1)  # type: ignore[call-arg]

        _loops[c_out] = loop
    return _loops[c_out]


@intrinsic(prefer_literal=True)
def _add_outer(typing, features, grad, in_rows, out_rows, first, last, c_in, channel, part, c_out, tile):  # type: ignore[no-untyped-def]
    """part[channel : channel + tile] += outer products of features and grad rows of the pairs first..last."""
    vectors, channels = c_out.literal_value // LANES, tile.literal_value

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        features, grad, in_rows, out_rows, first, last, c_in, channel, part, *_ = pointers(
            context, builder, signature, args
        )
        row_length = I64(vectors * LANES)
        target = builder.gep(part, [builder.mul(channel, row_length)])
        places = [(i, j, I64((i * vectors + j) * LANES)) for i in range(channels) for j in range(vectors)]
        sums = {(i, j): cgutils.alloca_once(builder, VECTOR) for i, j, _ in places}
        for i, j, place in places:
            builder.store(load_vector(builder, target, place), sums[i, j])
        with cgutils.for_range_slice(builder, first, last, I64(1), INT64) as (p, _):
            row = builder.load(builder.gep(in_rows, [p]))
            feature = builder.gep(features, [builder.add(builder.mul(row, c_in), channel)])
            gradient = builder.gep(grad, [builder.mul(builder.load(builder.gep(out_rows, [p])), row_length)])
            loaded = [load_vector(builder, gradient, I64(j * LANES)) for j in range(vectors)]
            for i in range(channels):
                value = broadcast(builder, builder.load(builder.gep(feature, [I64(i)])))
                for j in range(vectors):
                    multiply_add(builder, sums[i, j], value, loaded[j])
        for i, j, place in places:
            store_vector(builder, builder.load(sums[i, j]), target, place)
        return context.get_dummy_value()

    signature = types.void(features, grad, in_rows, out_rows, first, last, c_in, channel, part, c_out, tile)
    return signature, generate
