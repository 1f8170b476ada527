"""Autograd for backends that compute their own gradients."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lidar_completion.sparse.kernel_map import KernelMap

Fused = Callable[[Tensor, Tensor, KernelMap], Tensor]  # (features, kernel, map) -> (V_out, C_out), without gradients
KernelGradient = Callable[[Tensor, Tensor, Tensor, KernelMap], Tensor]  # (features, grad, kernel, map) -> as the kernel


def differentiable(
    features: Tensor, kernel: Tensor, kernel_map: KernelMap, fused: Fused, kernel_gradient: KernelGradient
) -> Tensor:
    """fused(features, kernel, kernel_map), with gradients if required.

    The gradient of the features is `fused` on the transposed map; that of the kernel is the backend's kernel_gradient.
    """
    if torch.is_grad_enabled() and (features.requires_grad or kernel.requires_grad):
        return _Convolution.apply(features, kernel, kernel_map, fused, kernel_gradient)
    return fused(features, kernel, kernel_map)


class _Convolution(Function):
    @staticmethod
    def forward(ctx, features, kernel, kernel_map, fused, kernel_gradient):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(features, kernel)
        ctx.kernel_map, ctx.fused, ctx.kernel_gradient = kernel_map, fused, kernel_gradient
        return fused(features, kernel, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        features, kernel = ctx.saved_tensors
        by_features = by_kernel = None
        if ctx.needs_input_grad[0]:
            by_features = ctx.fused(grad, kernel.transpose(1, 2), ctx.kernel_map.transposed)
        if ctx.needs_input_grad[1]:
            by_kernel = ctx.kernel_gradient(features, grad, kernel, ctx.kernel_map)
        return by_features, by_kernel, None, None, None
