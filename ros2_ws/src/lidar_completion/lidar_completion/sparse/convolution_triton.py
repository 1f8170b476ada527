"""Sparse convolution in Triton. The plain implementation is convolution_torch.

Output-stationary: a program computes a block of output rows and a tile of output channels. It gathers the input rows that
reach its block offset by offset, then adds bias and residual, applies the ReLU and writes once. Nothing is scattered, so the
sums have a fixed order and the same input gives the same output. Rows are sorted by the set of their offsets, so that a block
skips offsets that none of its rows has. Products are made in the kernel's dtype, sums in float32;
the result has the features' dtype.

Block shapes depend on the layer's shape and are never tuned at run time: the best one would vary between runs, and with it the
order of the sums. `python benchmarks/engine_gpu.py tune` compares other shapes.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lidar_completion.sparse.gradient import differentiable
from lidar_completion.sparse.kernel_map import KernelMap

DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
FLOAT32_PRECISION = (
    "ieee"  # of float32 products: "ieee" reproduces the golden values; "tf32x3" and "tf32" use tensor cores
)
SPLIT_FROM = 128 * 128  # weights per offset from which three passes, one per plane of offsets, pay for a 3x3x3 kernel
MANY_ROWS = 1 << 15  # from here on blocks of 128 rows fill the GPU; below, blocks of 64 are better


def convolve(features: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    """Same as convolution_torch.convolve, on CUDA: float32, float16 or bfloat16."""
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
    for name, tensor in (("features", features), ("kernel", kernel)):
        if tensor.dtype not in DTYPES:
            raise ValueError(f"the triton backend takes {', '.join(map(str, DTYPES))}; the {name} are {tensor.dtype}")
    passes = plans(kernel_map, passes_of(kernel))
    out = features.new_empty(kernel_map.num_out, kernel.shape[2])
    partial = out if out.dtype == torch.float32 or len(passes) == 1 else torch.empty_like(out, dtype=torch.float32)
    features, first = features.contiguous(), 0
    residual = None if residual is None else residual.contiguous()
    with torch.cuda.device_of(features):  # Triton launches on the current device
        for i, plan in enumerate(passes):  # each pass adds to the result of the previous one
            last = i == len(passes) - 1
            weights, added = kernel[first : first + len(plan.table)], residual if i == 0 else partial
            _launch(features, weights, plan, bias if last else None, added, relu and last, out if last else partial)
            first += len(plan.table)
    return out


# ---------------------------------------------------------------------------------------------------------------------
# The order of the rows


@dataclass(frozen=True)
class Plan:
    """One pass over some offsets: output rows in blocks that share offsets; slots after the last row are -1."""

    table: Tensor  # (K, slots) int32: input row of each slot, or -1
    rows: Tensor  # (slots,) int32: output row of each slot
    offsets: Tensor  # (blocks, K) int32: the block's offsets first
    counts: Tensor  # (blocks,) int32: number of the block's offsets
    block_rows: int


def passes_of(kernel: Tensor) -> int:
    """Number of passes over the offsets. Three sorted passes compute 1.1 products per pair, one pass 1.4 to 1.8; but each pass
    reads and writes the sums once more."""
    volume, c_in, c_out = kernel.shape
    return 3 if volume == 27 and c_in * c_out >= SPLIT_FROM else 1


def plans(kernel_map: KernelMap, passes: int) -> list[Plan]:
    """The plans of a map, made when a layer first needs them and cached with the map."""
    block_rows = 128 if kernel_map.num_out >= MANY_ROWS else 64
    return kernel_map.cached(
        f"triton plans {passes}", lambda: [make_plan(part, block_rows) for part in kernel_map.table.chunk(passes)]
    )


def make_plan(table: Tensor, block_rows: int) -> Plan:
    """Sort output rows by the set of their offsets in the table (K, V_out) and cut them into blocks, the largest first."""
    volume, num_out = table.shape
    blocks = triton.cdiv(num_out, block_rows)
    bit = 1 << torch.arange(volume, device=table.device)
    order = ((table >= 0) * bit[:, None]).sum(0).argsort(stable=True)
    slots = (volume, blocks * block_rows)
    sorted_table, rows = table.new_full(slots, -1), table.new_full(slots[1:], -1)
    sorted_table[:, :num_out] = table[:, order]
    rows[:num_out] = order
    occurs = (sorted_table.view(volume, blocks, block_rows) >= 0).any(2).T
    counts = occurs.sum(1, dtype=torch.int32)
    busiest = counts.argsort(descending=True, stable=True)
    return Plan(
        sorted_table.view(volume, blocks, block_rows)[:, busiest].reshape(slots),
        rows.view(blocks, block_rows)[busiest].reshape(-1),
        (~occurs[busiest]).int().argsort(dim=1, stable=True).int().contiguous(),
        counts[busiest],
        block_rows,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Values


@dataclass(frozen=True)
class Shape:
    """Tile of output channels, chunk of input channels, warps, pipeline stages."""

    block_n: int
    block_c: int
    warps: int
    stages: int


def shape_of(kernel: Tensor) -> Shape:
    """The block shape of a layer: as wide as the registers allow. Tiles of 256 channels spill (compiled for sm_90)."""
    half = kernel.dtype != torch.float32
    block_n = min(_tile(kernel.shape[2]), 128)
    block_c = min(_tile(kernel.shape[1]), 64 if half else 32)
    return Shape(block_n, block_c, 8 if block_n >= 128 else 4, 3 if half else 2)


def _tile(channels: int) -> int:
    return max(16, triton.next_power_of_2(channels))


def _launch(
    features: Tensor,
    kernel: Tensor,
    plan: Plan,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    out: Tensor,
) -> None:
    shape = shape_of(kernel)
    volume, c_in, c_out = kernel.shape
    grid = (len(plan.counts), triton.cdiv(c_out, shape.block_n))
    if not all(grid):
        return
    _convolve_block[grid](
        features,
        kernel,
        plan.table,
        plan.rows,
        plan.offsets,
        plan.counts,
        features if bias is None else bias,
        features if residual is None else residual,
        out,
        len(plan.rows),
        volume,
        c_in,
        c_out,
        *kernel.stride(),
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        RELU=relu,
        PRECISION=FLOAT32_PRECISION,
        BLOCK_V=plan.block_rows,
        BLOCK_N=shape.block_n,
        BLOCK_C=shape.block_c,
        num_warps=shape.warps,
        num_stages=shape.stages,
    )


@triton.jit
def _convolve_block(  # type: ignore[no-untyped-def]
    features,  # (V_in, c_in)
    kernel,  # (volume, c_in, c_out), any strides
    table,  # (volume, slots)
    rows,  # (slots,)
    offsets,  # (blocks, volume)
    counts,  # (blocks,)
    bias,  # (c_out,)
    residual,  # (V_out, c_out)
    out,  # (V_out, c_out)
    slots,
    volume,
    c_in,
    c_out,
    stride_k,
    stride_i,
    stride_o,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    block = tl.program_id(0)
    slot = block * BLOCK_V + tl.arange(0, BLOCK_V)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    chunks = tl.cdiv(c_in, BLOCK_C)
    total = tl.zeros((BLOCK_V, BLOCK_N), tl.float32)
    for step in range(
        tl.load(counts + block) * chunks
    ):  # a single loop over offsets and channels, so that loads overlap
        k = tl.load(offsets + block * volume + step // chunks)
        c = step % chunks * BLOCK_C + tl.arange(0, BLOCK_C)
        row = tl.load(table + k * slots + slot)
        gathered = tl.load(
            features + row.to(tl.int64)[:, None] * c_in + c[None, :],
            mask=(row >= 0)[:, None] & (c < c_in)[None, :],
            other=0.0,
        )
        weights = tl.load(
            kernel + k.to(tl.int64) * stride_k + c[:, None] * stride_i + n[None, :] * stride_o,
            mask=(c < c_in)[:, None] & (n < c_out)[None, :],
            other=0.0,
        )
        total = tl.dot(gathered.to(weights.dtype), weights, total, input_precision=PRECISION)
    u = tl.load(rows + slot)
    inside = (u >= 0)[:, None] & (n < c_out)[None, :]
    place = u.to(tl.int64)[:, None] * c_out + n[None, :]
    if HAS_BIAS:
        total += tl.load(bias + n, mask=n < c_out, other=0.0).to(tl.float32)[None, :]
    if HAS_RESIDUAL:
        total += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # unlike a maximum, this keeps NaN
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


# ---------------------------------------------------------------------------------------------------------------------
# Gradient of the kernel


def kernel_gradient(features: Tensor, grad: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    """(K, C_in, C_out): at each offset, the sum over its pairs of features^T grad. Long sums are cut into shares that fill
    the GPU; the shares are added in a fixed order."""
    in_rows, out_rows, counts = kernel_map.cached("triton pairs", lambda: pair_lists(kernel_map.table))
    volume, c_in, c_out = kernel.shape
    block_m, block_n = min(_tile(c_in), 64), min(_tile(c_out), 64)
    tiles = triton.cdiv(c_in, block_m), triton.cdiv(c_out, block_n)
    shares = max(1, min(32, 1024 // (volume * tiles[0] * tiles[1]), kernel_map.num_out // 1024))
    parts = torch.empty(shares, *kernel.shape, dtype=torch.float32, device=kernel.device)
    with torch.cuda.device_of(features):
        _kernel_gradient_tile[(volume, tiles[0] * tiles[1], shares)](
            features.contiguous(),
            grad.contiguous(),
            in_rows,
            out_rows,
            counts,
            parts,
            in_rows.shape[1],
            c_in,
            c_out,
            PRECISION=FLOAT32_PRECISION,
            DTYPE=DTYPES[kernel.dtype],
            BLOCK_M=block_m,
            BLOCK_N=block_n,
            BLOCK_P=32,
            num_warps=4,
            num_stages=2,
        )
    return parts.sum(0).to(kernel.dtype)


def pair_lists(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of a table, at the front of each offset's line: input and output rows (K, V_out + 1) int32, counts (K,) int32."""
    present = table >= 0
    last = table.shape[1]
    place = torch.where(
        present, present.cumsum(1) - 1, last
    )  # missing entries go to the last column, which is never read
    rows = torch.arange(last, dtype=torch.int32, device=table.device).expand_as(table)
    lines = [table.new_zeros(len(table), last + 1).scatter_(1, place, each) for each in (table, rows)]
    return lines[0], lines[1], present.sum(1, dtype=torch.int32)


@triton.jit
def _kernel_gradient_tile(  # type: ignore[no-untyped-def]
    features,  # (V_in, c_in)
    grad,  # (V_out, c_out)
    in_rows,  # (volume, line)
    out_rows,  # (volume, line)
    counts,  # (volume,)
    parts,  # (shares, volume, c_in, c_out) float32
    line,
    c_in,
    c_out,
    PRECISION: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    k, tile, share = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tiles_n = tl.cdiv(c_out, BLOCK_N)
    m = tile // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    length = tl.cdiv(tl.load(counts + k), tl.num_programs(2))
    last = tl.minimum((share + 1) * length, tl.load(counts + k))
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(share * length, last, BLOCK_P):
        pair = first + tl.arange(0, BLOCK_P)
        i = tl.load(in_rows + k * line + pair, mask=pair < last, other=0).to(tl.int64)
        o = tl.load(out_rows + k * line + pair, mask=pair < last, other=0).to(tl.int64)
        left = tl.load(
            features + i[None, :] * c_in + m[:, None], mask=(pair < last)[None, :] & (m < c_in)[:, None], other=0.0
        )
        right = tl.load(
            grad + o[:, None] * c_out + n[None, :], mask=(pair < last)[:, None] & (n < c_out)[None, :], other=0.0
        )
        total = tl.dot(left.to(DTYPE), right.to(DTYPE), total, input_precision=PRECISION)
    place = ((share * tl.num_programs(0) + k).to(tl.int64) * c_in + m[:, None]) * c_out + n[None, :]
    tl.store(parts + place, total, mask=(m < c_in)[:, None] & (n < c_out)[None, :])
