"""Sparse convolution for CPUs: a fused loop in registers for narrow layers, matrix products on gathered rows for wide ones.

Narrow (up to NARROW weights an offset, output channels in whole vectors): every output row is summed in registers over
its pairs, so nothing is gathered, scattered or stored twice. Wide: gather, matrix product and scatter in blocks that
stay in the cache; all blocks share one workspace a thread, because page faults of temporaries cost more than the work.
Gradients are written out with the same loops. In bfloat16 the wide path multiplies in bfloat16 and sums in float32.
"""

import threading
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lidar_completion.sparse.compiled import compiled, even_cuts, in_parallel
from lidar_completion.sparse.kernel_map import KernelMap

NARROW = 64 * 64  # weights an offset; beyond it the kernel leaves the cache and a matrix product is faster
LANES = 8  # float32 in a vector: 256 bits
BLOCK_ROWS = 1024  # rows x 256 channels x 4 bytes = 1 MB: gathered rows and products stay in the second-level cache
_workspace = threading.local()


def convolve(features: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    """Same as convolution_torch.convolve, on the CPU."""
    if torch.is_grad_enabled() and (features.requires_grad or kernel.requires_grad):
        return _Convolution.apply(features, kernel, kernel_map)
    return convolve_fused(features, kernel, kernel_map)


def convolve_fused(
    features: Tensor,
    kernel: Tensor,
    kernel_map: KernelMap,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """relu(convolution + bias (C_out,) + residual (V_out, C_out)) without gradients; each part is optional."""
    if is_narrow(features, kernel):
        return _narrow(features, kernel, kernel_map, bias, residual, relu)
    out = _wide(features, kernel, kernel_map, bias, residual)
    return out.relu_() if relu else out


def is_narrow(features: Tensor, kernel: Tensor) -> bool:
    c_in, c_out = kernel.shape[1:]
    return features.dtype == kernel.dtype == torch.float32 and c_out % LANES == 0 and c_in * c_out <= NARROW


class _Convolution(Function):
    @staticmethod
    def forward(ctx, features, kernel, kernel_map):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(features, kernel)
        ctx.kernel_map = kernel_map
        return convolve_fused(features, kernel, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        features, kernel = ctx.saved_tensors
        by_features = by_kernel = None
        if ctx.needs_input_grad[0]:
            by_features = convolve_fused(grad, kernel.transpose(1, 2), ctx.kernel_map.transposed)
        if ctx.needs_input_grad[1]:
            gradient = _narrow_kernel_gradient if is_narrow(features, kernel) else _wide_kernel_gradient
            by_kernel = gradient(features.contiguous(), grad.contiguous(), kernel, ctx.kernel_map)
        return by_features, by_kernel, None


# ---------------------------------------------------------------------------------------------------------------------
# Narrow layers


def _narrow(
    features: Tensor, kernel: Tensor, kernel_map: KernelMap, bias: Tensor | None, residual: Tensor | None, relu: bool
) -> Tensor:
    c_out = kernel.shape[2]
    out = torch.empty(kernel_map.num_out, c_out)
    starts, rows, offsets = kernel_map.by_output
    nothing = np.empty((0, c_out), np.float32)
    arguments = (
        _array(features),
        _array(kernel),
        starts,
        rows,
        offsets,
        np.zeros(c_out, np.float32) if bias is None else _array(bias),
        nothing if residual is None else _array(residual),
        relu,
        out.numpy(),
    )
    loop = _narrow_loop(c_out)
    in_parallel(lambda first, last: loop(*arguments, first, last), even_cuts(starts))
    return out


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


_loops: dict[Any, Any] = {}


def _narrow_loop(c_out: int):  # type: ignore[no-untyped-def]
    """The loop over output rows for one number of channels, which has to be known when it is compiled."""
    if c_out not in _loops:

        @compiled
        def loop(features, kernel, starts, rows, offsets, bias, residual, relu, out, first, last):  # type: ignore[no-untyped-def]
            c_in = features.shape[1]
            for u in range(first, last):
                total = out[u]
                for c in range(c_out):
                    total[c] = bias[c]
                if len(residual):
                    for c in range(c_out):
                        total[c] += residual[u, c]
                _add_products(features, kernel, rows, offsets, starts[u], starts[u + 1], c_in, total, c_out)  # type: ignore[call-arg]
                if relu:
                    for c in range(c_out):
                        total[c] = max(total[c], np.float32(0))

        _loops[c_out] = loop
    return _loops[c_out]


@intrinsic(prefer_literal=True)
def _add_products(typing, features, kernel, rows, offsets, first, last, c_in, total, c_out):  # type: ignore[no-untyped-def]
    """total[:] += features[rows[p]] @ kernel[offsets[p]] for p in first..last, with `total` held in registers."""
    vectors = c_out.literal_value // LANES

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        features, kernel, rows, offsets, first, last, c_in, total, _ = _pointers(context, builder, signature, args)
        sums = [cgutils.alloca_once(builder, VECTOR) for _ in range(vectors)]
        for j, s in enumerate(sums):
            builder.store(_load_vector(builder, total, I64(j * LANES)), s)
        row_length = I64(vectors * LANES)
        with cgutils.for_range_slice(builder, first, last, I64(1), INT64) as (p, _):
            row = builder.sext(builder.load(builder.gep(rows, [p])), INT64)
            offset = builder.zext(builder.load(builder.gep(offsets, [p])), INT64)
            feature = builder.gep(features, [builder.mul(row, c_in)])
            weights = builder.gep(kernel, [builder.mul(offset, builder.mul(c_in, row_length))])
            with cgutils.for_range(builder, c_in, intp=INT64) as channel:
                value = _broadcast(builder, builder.load(builder.gep(feature, [channel.index])))
                weight_row = builder.gep(weights, [builder.mul(channel.index, row_length)])
                for j, s in enumerate(sums):
                    _multiply_add(builder, s, value, _load_vector(builder, weight_row, I64(j * LANES)))
        for j, s in enumerate(sums):
            _store_vector(builder, builder.load(s), total, I64(j * LANES))
        return context.get_dummy_value()

    return types.void(features, kernel, rows, offsets, first, last, c_in, total, c_out), generate


def _narrow_kernel_gradient(features: Tensor, grad: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    c_out = kernel.shape[2]
    in_rows, out_rows = kernel_map.in_rows.numpy(), kernel_map.out_rows.numpy()
    ends = np.cumsum([0, *kernel_map.counts])
    loop = _gradient_loop(c_out)

    def share(first: int, last: int) -> np.ndarray:  # the pairs first..last's part of the gradient
        part = np.zeros(tuple(kernel.shape), np.float32)
        for k in range(len(part)):
            low, high = max(first, ends[k]), min(last, ends[k + 1])
            if low < high:
                loop(_array(features), _array(grad), in_rows, out_rows, low, high, part[k])
        return part

    workers = torch.get_num_threads()
    cuts = [len(in_rows) * i // workers for i in range(workers + 1)]
    return torch.from_numpy(sum(in_parallel(share, list(pairwise(cuts)))))


def _gradient_loop(c_out: int):  # type: ignore[no-untyped-def]
    """part (C_in, C_out) += features[in_rows[p]]^T grad[out_rows[p]], in tiles whose sums stay in registers."""
    if ("gradient", c_out) not in _loops:
        tile = max(1, 16 // (c_out // LANES))

        @compiled
        def loop(features, grad, in_rows, out_rows, first, last, part):  # type: ignore[no-untyped-def]
            c_in = features.shape[1]
            whole = c_in // tile * tile
            for block in range(first, last, 512):  # rows of a block are read c_in / tile times: from the cache
                end = min(block + 512, last)
                for c in range(0, whole, tile):
                    _add_outer(features, grad, in_rows, out_rows, block, end, c_in, c, part, c_out, tile)  # type: ignore[call-arg]
                for c in range(whole, c_in):
                    _add_outer(features, grad, in_rows, out_rows, block, end, c_in, c, part, c_out, 1)  # type: ignore[call-arg]

        _loops["gradient", c_out] = loop
    return _loops["gradient", c_out]


@intrinsic(prefer_literal=True)
def _add_outer(typing, features, grad, in_rows, out_rows, first, last, c_in, channel, part, c_out, tile):  # type: ignore[no-untyped-def]
    """part[channel : channel + tile] += outer products of features and grad rows of the pairs first..last."""
    vectors, channels = c_out.literal_value // LANES, tile.literal_value

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        features, grad, in_rows, out_rows, first, last, c_in, channel, part, *_ = _pointers(
            context, builder, signature, args
        )
        row_length = I64(vectors * LANES)
        target = builder.gep(part, [builder.mul(channel, row_length)])
        places = [(i, j, I64((i * vectors + j) * LANES)) for i in range(channels) for j in range(vectors)]
        sums = {(i, j): cgutils.alloca_once(builder, VECTOR) for i, j, _ in places}
        for i, j, place in places:
            builder.store(_load_vector(builder, target, place), sums[i, j])
        with cgutils.for_range_slice(builder, first, last, I64(1), INT64) as (p, _):
            row = builder.load(builder.gep(in_rows, [p]))
            feature = builder.gep(features, [builder.add(builder.mul(row, c_in), channel)])
            gradient = builder.gep(grad, [builder.mul(builder.load(builder.gep(out_rows, [p])), row_length)])
            loaded = [_load_vector(builder, gradient, I64(j * LANES)) for j in range(vectors)]
            for i in range(channels):
                value = _broadcast(builder, builder.load(builder.gep(feature, [I64(i)])))
                for j in range(vectors):
                    _multiply_add(builder, sums[i, j], value, loaded[j])
        for i, j, place in places:
            _store_vector(builder, builder.load(sums[i, j]), target, place)
        return context.get_dummy_value()

    signature = types.void(features, grad, in_rows, out_rows, first, last, c_in, channel, part, c_out, tile)
    return signature, generate


INT32, INT64 = ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(ir.FloatType(), LANES)
FUSE = ("contract",)  # a product and a sum may become one fused instruction


def I64(value: int) -> ir.Constant:
    return ir.Constant(INT64, value)


def _pointers(context, builder, signature, args):  # type: ignore[no-untyped-def]
    """The arguments, arrays replaced by pointers to their first element (all are contiguous)."""
    return [
        context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, args, strict=True)
    ]


def _vector_at(builder, pointer, place):  # type: ignore[no-untyped-def]
    return builder.bitcast(builder.gep(pointer, [place]), VECTOR.as_pointer())


def _load_vector(builder, pointer, place):  # type: ignore[no-untyped-def]
    return builder.load(_vector_at(builder, pointer, place), align=4)


def _store_vector(builder, vector, pointer, place):  # type: ignore[no-untyped-def]
    builder.store(vector, _vector_at(builder, pointer, place), align=4)


def _broadcast(builder, value):  # type: ignore[no-untyped-def]
    undefined = ir.Constant(VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(INT32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES))


def _multiply_add(builder, total, a, b):  # type: ignore[no-untyped-def]
    builder.store(builder.fadd(builder.load(total), builder.fmul(a, b, flags=FUSE), flags=FUSE), total)


# ---------------------------------------------------------------------------------------------------------------------
# Wide layers


def _wide(
    features: Tensor, kernel: Tensor, kernel_map: KernelMap, bias: Tensor | None = None, residual: Tensor | None = None
) -> Tensor:
    total = torch.float32 if kernel.dtype == torch.bfloat16 else features.dtype
    features, identity = features.to(kernel.dtype), kernel_map.identity
    if identity is None:
        out = torch.zeros(kernel_map.num_out, kernel.shape[2], dtype=total)
    else:
        out = (features @ kernel[identity]).to(total)
    for start in (residual, bias):
        if start is not None:
            out += start
    for k, (in_rows, out_rows) in enumerate(kernel_map.pairs()):
        if k == identity:
            continue
        for rows, targets in zip(in_rows.split(BLOCK_ROWS), out_rows.split(BLOCK_ROWS), strict=True):
            gathered = _block("gathered", len(rows), features.shape[1], features.dtype)
            product = _block("product", len(rows), kernel.shape[2], kernel.dtype)
            torch.index_select(features, 0, rows, out=gathered)
            torch.mm(gathered, kernel[k], out=product)
            if product.dtype != total:
                product = _block("sum", len(rows), kernel.shape[2], total).copy_(product)
            out.index_add_(0, targets, product)
    return out


def _wide_kernel_gradient(features: Tensor, grad: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    by_kernel = torch.zeros(kernel.shape, dtype=kernel.dtype)
    for k, (in_rows, out_rows) in enumerate(kernel_map.pairs()):
        if k == kernel_map.identity:
            torch.mm(features.T, grad, out=by_kernel[k])
            continue
        for rows, targets in zip(in_rows.split(BLOCK_ROWS), out_rows.split(BLOCK_ROWS), strict=True):
            gathered = _block("gathered", len(rows), features.shape[1], features.dtype)
            gradient = _block("product", len(rows), grad.shape[1], grad.dtype)
            torch.index_select(features, 0, rows, out=gathered)
            torch.index_select(grad, 0, targets, out=gradient)
            by_kernel[k].addmm_(gathered.T, gradient)
    return by_kernel


def _block(name: str, rows: int, channels: int, dtype: torch.dtype) -> Tensor:
    """A (rows, channels) view of this thread's buffer `name`, grown to the largest block asked for."""
    buffers: dict[Any, Tensor] = _workspace.__dict__
    needed = BLOCK_ROWS * channels
    buffer = buffers.get((name, dtype))
    if buffer is None or buffer.numel() < needed:
        with torch.inference_mode(False):  # an inference tensor could not be written to by a later training step
            buffer = buffers[name, dtype] = torch.empty(needed, dtype=dtype)
    return buffer[: rows * channels].view(rows, channels)
