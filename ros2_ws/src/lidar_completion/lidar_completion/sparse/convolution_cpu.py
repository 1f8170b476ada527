"""Sparse convolution for CPUs. The plain implementation is convolution_torch.

Three files share the work. tiles_cpu: float32 (and bfloat16 with AVX512-BF16) with a multiple of 8 output channels, as fast as
dense matrix products. kernel_gradient_cpu: the kernel's gradient in narrow layers. This file: the choice between them, and
gather, matrix product, scatter in blocks of rows for all other types and channel counts, and for bfloat16 on processors with
matrix instructions (AMX). bfloat16 is summed in float32.
"""

import threading
from typing import Any

import torch
from torch import Tensor

from lidar_completion.sparse.gradient import differentiable
from lidar_completion.sparse.kernel_gradient_cpu import kernel_gradient_tiled
from lidar_completion.sparse.kernel_map import KernelMap
from lidar_completion.sparse.tiles_cpu import convolve_tiled
from lidar_completion.sparse.vector_instructions import LANES, PAIR_PRODUCTS

NARROW = 64 * 64  # weights per offset; above it a matrix product computes the kernel's gradient faster
BLOCK_ROWS = 1024  # rows x 256 channels x 4 bytes = 1 MB: gathered rows and products stay in the second-level cache
_workspace = threading.local()  # buffers per thread: allocating temporaries would cost more time than the work


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
        return convolve_tiled(features, kernel, kernel_map, bias, residual, relu)
    out = _blocked(features, kernel, kernel_map, bias, residual)
    return out.relu_() if relu else out


def pointwise_fused(
    features: Tensor, kernel: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, relu: bool = False
) -> Tensor:
    """convolve_fused with a 1x1x1 kernel (C_in, C_out): each voxel reaches itself."""
    rows = torch.arange(len(features))
    itself = KernelMap(rows, rows, [len(rows)], len(rows), len(rows), identity=0)
    return convolve_fused(features, kernel[None], itself, bias, residual, relu)


def is_tiled(features: Tensor, kernel: Tensor) -> bool:
    """Whether the compiled tiles handle these types and channel counts."""
    c_in, c_out = kernel.shape[1:]
    if features.dtype != torch.float32 or c_out % LANES:
        return False
    return kernel.dtype == torch.float32 or (kernel.dtype == torch.bfloat16 and PAIR_PRODUCTS and c_in % 2 == 0)


def kernel_gradient(features: Tensor, grad: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    """(K, C_in, C_out): at each offset, the sum over its pairs of features^T grad."""
    gradient = kernel_gradient_tiled if _is_narrow(features, kernel) else _wide_kernel_gradient
    return gradient(features.contiguous(), grad.contiguous(), kernel, kernel_map)


def _is_narrow(features: Tensor, kernel: Tensor) -> bool:
    c_in, c_out = kernel.shape[1:]
    return features.dtype == kernel.dtype == torch.float32 and c_out % LANES == 0 and c_in * c_out <= NARROW


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
    """A (rows, channels) view of this thread's buffer `name`, which grows to the largest block requested."""
    buffers: dict[Any, Tensor] = _workspace.__dict__
    needed = BLOCK_ROWS * channels
    buffer = buffers.get((name, dtype))
    if buffer is None or buffer.numel() < needed:
        with torch.inference_mode(False):  # a later training step could not write to an inference tensor
            buffer = buffers[name, dtype] = torch.empty(needed, dtype=dtype)
    return buffer[: rows * channels].view(rows, channels)
