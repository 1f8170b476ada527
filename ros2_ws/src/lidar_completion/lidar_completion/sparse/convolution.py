"""The one place that chooses a backend: `convolve` is what the networks call."""

import torch
from torch import Tensor

from lidar_completion.sparse import convolution_cpu, convolution_torch
from lidar_completion.sparse.kernel_map import KernelMap

BACKENDS = {"torch": convolution_torch.convolve, "cpu": convolution_cpu.convolve}


def convolve(
    features: Tensor,
    kernel: Tensor,
    kernel_map: KernelMap | None,
    backend: str = "auto",
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """relu(sparse convolution + bias + residual), each part optional; the sums cost nothing extra where a backend fuses them.

    features (V_in, C_in), kernel (K, C_in, C_out), or (C_in, C_out) for 1x1x1, bias (C_out,), residual (V_out, C_out).
    backend: "torch" (plain, any device), "cpu" (compiled), or "auto": the fastest that works for this tensor.
    A bfloat16 kernel multiplies in bfloat16 and sums in float32; the result then is float32.
    """
    if backend == "auto":
        backend = "cpu" if features.device.type == "cpu" else "torch"
    if backend == "cpu" and not (torch.is_grad_enabled() and _learns(features, kernel)):
        if kernel.dim() == 2:
            return convolution_cpu.pointwise_fused(features, kernel, bias, residual, relu)
        return convolution_cpu.convolve_fused(features, kernel, kernel_map, bias, residual, relu)  # type: ignore[arg-type]
    if kernel.dim() == 2:
        out = (features.to(kernel.dtype) @ kernel).to(features.dtype)
    else:
        out = BACKENDS[backend](features, kernel, kernel_map)  # type: ignore[arg-type]
    if bias is not None:
        out = out + bias
    if residual is not None:
        out = out + residual
    return out.relu() if relu else out


def _learns(*tensors: Tensor) -> bool:
    return any(tensor.requires_grad for tensor in tensors)
