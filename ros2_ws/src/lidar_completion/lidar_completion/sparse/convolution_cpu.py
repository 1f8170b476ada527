"""Sparse convolution for CPUs: tiles of output rows that stay in registers, or matrix products on gathered rows.

Tiles: for one kernel offset, a few output rows x up to 64 channels are held in registers while the rows that reach them
are read where they lie; the kernel is laid out in panels of as many channels. Nothing is gathered or scattered, and the
products run as fast as dense ones. In bfloat16 the same with the processor's products of pairs (AVX512-BF16).
Blocks: gather, matrix product, scatter, for other types and channels, and for bfloat16 where the processor multiplies
matrices itself (AMX); all blocks share one workspace a thread, because page faults of temporaries cost more than the work.
Gradients are written out with the same loops. bfloat16 is summed in float32.
"""

import threading
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, in_parallel
from lidar_completion.sparse.gradient import differentiable
from lidar_completion.sparse.kernel_map import KernelMap
from lidar_completion.sparse.search_cpu import first_at_least

_processor = binding.get_host_cpu_features()
WIDE_VECTORS = bool(_processor.get("avx512vl"))  # 32 registers of 16 floats, else (at least) 16 of 8
PAIR_PRODUCTS = bool(_processor.get("avx512bf16")) and not _processor.get("amx-bf16")
CACHE_BYTES = 1 << 18  # of output rows that are worked on at once: they stay in the second-level cache
NARROW = 64 * 64  # weights an offset; beyond it a matrix product gives the kernel's gradient faster
LANES = 8  # float32 in a vector: 256 bits
BLOCK_ROWS = 1024  # rows x 256 channels x 4 bytes = 1 MB: gathered rows and products stay in the second-level cache
_workspace = threading.local()


def convolve(features: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    """Same as convolution_torch.convolve, on the CPU."""
    return differentiable(features, kernel, kernel_map, convolve_fused, kernel_gradient)


def convolve_fused(
    features: Tensor,
    kernel: Tensor,
    kernel_map: KernelMap,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """relu(convolution + bias (C_out,) + residual (V_out, C_out)) without gradients; each part is optional."""
    if is_tiled(features, kernel):
        return _tiled(features, kernel, kernel_map, bias, residual, relu)
    out = _blocked(features, kernel, kernel_map, bias, residual)
    return out.relu_() if relu else out


def pointwise_fused(
    features: Tensor, kernel: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, relu: bool = False
) -> Tensor:
    """convolve_fused with a 1x1x1 kernel (C_in, C_out): every voxel reaches itself."""
    rows = torch.arange(len(features))
    itself = KernelMap(rows, rows, [len(rows)], len(rows), len(rows), identity=0)
    return convolve_fused(features, kernel[None], itself, bias, residual, relu)


def is_tiled(features: Tensor, kernel: Tensor) -> bool:
    c_in, c_out = kernel.shape[1:]
    if features.dtype != torch.float32 or c_out % LANES:
        return False
    return kernel.dtype == torch.float32 or (kernel.dtype == torch.bfloat16 and PAIR_PRODUCTS and c_in % 2 == 0)


def kernel_gradient(features: Tensor, grad: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    """(K, C_in, C_out): at each offset, the sum over its pairs of features^T grad."""
    gradient = _narrow_kernel_gradient if _is_narrow(features, kernel) else _wide_kernel_gradient
    return gradient(features.contiguous(), grad.contiguous(), kernel, kernel_map)


# ---------------------------------------------------------------------------------------------------------------------
# Tiles


def tile_shape(c_out: int) -> tuple[int, int, int]:
    """(lanes, vectors, rows) of a tile: `rows` output rows of lanes * vectors channels, whose sums all stay in registers."""
    lanes = 16 if WIDE_VECTORS and c_out % 16 == 0 else LANES
    preferred, registers = ((4, 3, 5, 2, 1), 24) if WIDE_VECTORS else ((3, 2, 1), 12)
    vectors = next(v for v in preferred if c_out // lanes % v == 0)
    return lanes, vectors, min(12, registers // vectors)


def _tiled(
    features: Tensor, kernel: Tensor, kernel_map: KernelMap, bias: Tensor | None, residual: Tensor | None, relu: bool
) -> Tensor:
    c_out, paired = kernel.shape[2], kernel.dtype == torch.bfloat16
    lanes, vectors, rows = tile_shape(c_out)
    out = torch.empty(kernel_map.num_out, c_out)
    block = _rows_at_once(kernel_map, c_out)
    arguments = (
        _array(features.contiguous().bfloat16().view(torch.float32) if paired else features),
        _array(_panels(kernel, lanes * vectors)),
        kernel_map.in_rows.numpy(),
        kernel_map.out_rows.numpy(),
        np.cumsum([0, *kernel_map.counts]),
        np.zeros(c_out, np.float32) if bias is None else _array(bias),
        np.empty((0, c_out), np.float32) if residual is None else _array(residual),
        relu,
        out.numpy(),
        block,
    )
    loop = _tile_loop(lanes, vectors, rows, paired)
    share = block * max(1, len(out) // (block * 8 * torch.get_num_threads()))
    pieces = [(first, min(first + share, len(out))) for first in range(0, len(out), share)]
    in_parallel(lambda first, last: loop(*arguments, first, last), pieces)
    return out


def _panels(kernel: Tensor, width: int) -> Tensor:
    """The kernel (K, C_in, C_out) as (C_out / width, K, C_in, width), so that a panel is read from front to back; in
    bfloat16 two input channels lie side by side and are seen as one float32."""
    size, c_in = kernel.shape[:2]
    if kernel.dtype == torch.float32:
        return kernel.detach().reshape(size, c_in, -1, width).permute(2, 0, 1, 3)
    pairs = kernel.detach().reshape(size, c_in // 2, 2, -1, width).permute(3, 0, 1, 4, 2)
    return pairs.contiguous().view(torch.float32)


def _rows_at_once(kernel_map: KernelMap, c_out: int) -> int:
    """Output rows of a block: what the cache holds, but enough for whole tiles where an offset reaches few rows, and
    not so many that threads wait for each other."""
    wanted = 64 * kernel_map.num_out * len(kernel_map.counts) // max(1, len(kernel_map.in_rows))
    fair = kernel_map.num_out // (4 * torch.get_num_threads())
    return max(64, CACHE_BYTES // (4 * c_out), min(wanted, fair))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


_loops: dict[Any, Any] = {}


def _tile_loop(lanes: int, vectors: int, rows: int, paired: bool):  # type: ignore[no-untyped-def]
    """The loop over blocks of output rows for one shape of tile, which has to be known when it is compiled."""
    if ("tile", lanes, vectors, rows, paired) not in _loops:
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

        _loops["tile", lanes, vectors, rows, paired] = loop
    return _loops["tile", lanes, vectors, rows, paired]


@intrinsic(prefer_literal=True)
def _add_tile(  # type: ignore[no-untyped-def]
    typing, features, panels, in_rows, out_rows, out, spare, first, last, panel, c_in, c_out, column,
    lanes, vectors, rows, paired,
):  # fmt: skip
    """out[out_rows[p], column:] += features[in_rows[p]] @ panels[panel:] for the pairs p of first..last, `rows` at most.

    Where fewer are left, the last one is computed again in their place and its sums go to `spare`.
    """
    width, columns, height = lanes.literal_value, vectors.literal_value, rows.literal_value
    vector, multiply_add = ir.VectorType(FLOAT, width), _multiply_add_pairs if paired.literal_value else _multiply_add

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        features, panels, in_rows, out_rows, out, spare, first, last, panel, c_in, c_out, column, *_ = _pointers(
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
            loaded = [_load_vector(builder, weights, I64(j * width), vector) for j in range(columns)]
            for r in range(height):
                value = _broadcast(builder, builder.load(builder.gep(inputs[r], [channel.index])), vector)
                for j in range(columns):
                    multiply_add(builder, sums[r, j], value, loaded[j])
        for (r, j), total in sums.items():
            # an offset's products are summed by themselves first: one long sum would round twice as much
            before = _load_vector(builder, targets[r], I64(j * width), vector)
            _store_vector(builder, builder.fadd(before, builder.load(total)), targets[r], I64(j * width), vector)
        return context.get_dummy_value()

    signature = types.void(
        features, panels, in_rows, out_rows, out, spare, first, last, panel, c_in, c_out, column,
        lanes, vectors, rows, paired,
    )  # fmt: skip
    return signature, generate


# ---------------------------------------------------------------------------------------------------------------------
# The kernel's gradient in narrow layers


def _is_narrow(features: Tensor, kernel: Tensor) -> bool:
    c_in, c_out = kernel.shape[1:]
    return features.dtype == kernel.dtype == torch.float32 and c_out % LANES == 0 and c_in * c_out <= NARROW


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


# ---------------------------------------------------------------------------------------------------------------------
# Machine instructions


class _BFloat(ir.types.Type):  # type: ignore[misc, name-defined]  # bfloat16, which llvmlite does not name
    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


INT32, INT64, FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
VECTOR = ir.VectorType(FLOAT, LANES)
FUSE = ("contract",)  # a product and a sum may become one fused instruction


def I64(value: int) -> ir.Constant:
    return ir.Constant(INT64, value)


def _pointers(context, builder, signature, args):  # type: ignore[no-untyped-def]
    """The arguments, arrays replaced by pointers to their first element (all are contiguous)."""
    return [
        context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, args, strict=True)
    ]


def _vector_at(builder, pointer, place, vector):  # type: ignore[no-untyped-def]
    return builder.bitcast(builder.gep(pointer, [place]), vector.as_pointer())


def _load_vector(builder, pointer, place, vector=VECTOR):  # type: ignore[no-untyped-def]
    return builder.load(_vector_at(builder, pointer, place, vector), align=4)


def _store_vector(builder, value, pointer, place, vector=VECTOR):  # type: ignore[no-untyped-def]
    builder.store(value, _vector_at(builder, pointer, place, vector), align=4)


def _broadcast(builder, value, vector=VECTOR):  # type: ignore[no-untyped-def]
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(INT32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INT32, vector.count), [0] * vector.count))


def _multiply_add(builder, total, a, b):  # type: ignore[no-untyped-def]
    builder.store(builder.fadd(builder.load(total), builder.fmul(a, b, flags=FUSE), flags=FUSE), total)


def _multiply_add_pairs(builder, total, a, b):  # type: ignore[no-untyped-def]
    """total[i] += the two products of bfloat16 pairs that a[i] and b[i] hold."""
    pairs = ir.VectorType(_BFloat(), 2 * a.type.count)
    name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * a.type.count}"
    product = cgutils.get_or_insert_function(builder.module, ir.FunctionType(a.type, [a.type, pairs, pairs]), name)
    operands = [builder.load(total), builder.bitcast(a, pairs), builder.bitcast(b, pairs)]
    builder.store(builder.call(product, operands), total)


# ---------------------------------------------------------------------------------------------------------------------
# Blocks of gathered rows


def _blocked(
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
