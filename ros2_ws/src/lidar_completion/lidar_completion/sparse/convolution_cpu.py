"""Sparse convolution for CPUs: gather, matrix product and scatter in cache-sized blocks, without fresh memory.

On a CPU most of the time of the plain path goes into page faults of temporaries, so all blocks share one workspace
a thread. The gradient is written out with the same three steps.
"""

import threading

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lidar_completion.sparse.kernel_map import KernelMap

BLOCK_ROWS = 8192  # 8192 rows x 256 channels x 4 bytes = 8 MB: gathered rows and products stay in the last-level cache
_workspace = threading.local()


def convolve(features: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    """Same as convolution_torch.convolve, on the CPU."""
    return _Convolution.apply(features, kernel, kernel_map)


class _Convolution(Function):
    @staticmethod
    def forward(ctx, features, kernel, kernel_map):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(features, kernel)
        ctx.kernel_map = kernel_map
        return _accumulate(features, kernel, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        features, kernel = ctx.saved_tensors
        grad = grad.contiguous()
        by_features = by_kernel = None
        if ctx.needs_input_grad[0]:
            by_features = _accumulate(grad, kernel.transpose(1, 2), ctx.kernel_map.transposed)
        if ctx.needs_input_grad[1]:
            by_kernel = _kernel_gradient(features, grad, kernel, ctx.kernel_map)
        return by_features, by_kernel, None


def _accumulate(features: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    if kernel_map.identity is None:
        out = features.new_zeros(kernel_map.num_out, kernel.shape[2])
    else:
        out = features @ kernel[kernel_map.identity]
    for k, (in_rows, out_rows) in enumerate(kernel_map.pairs()):
        if k == kernel_map.identity:
            continue
        for rows, targets in zip(in_rows.split(BLOCK_ROWS), out_rows.split(BLOCK_ROWS), strict=True):
            gathered = _block("gathered", len(rows), features.shape[1], features.dtype)
            product = _block("product", len(rows), kernel.shape[2], features.dtype)
            torch.index_select(features, 0, rows, out=gathered)
            torch.mm(gathered, kernel[k], out=product)
            out.index_add_(0, targets, product)
    return out


def _kernel_gradient(features: Tensor, grad: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    by_kernel = torch.zeros_like(kernel)
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
    buffers = _workspace.__dict__
    needed = BLOCK_ROWS * channels
    buffer = buffers.get((name, dtype))
    if buffer is None or buffer.numel() < needed:
        buffer = buffers[name, dtype] = torch.empty(needed, dtype=dtype)
    return buffer[: rows * channels].view(rows, channels)
