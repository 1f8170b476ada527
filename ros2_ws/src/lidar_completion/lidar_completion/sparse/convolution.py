"""The one place that chooses a backend: `convolve` is what the networks call."""

from torch import Tensor

from lidar_completion.sparse import convolution_cpu, convolution_torch
from lidar_completion.sparse.kernel_map import KernelMap

BACKENDS = {"torch": convolution_torch.convolve, "cpu": convolution_cpu.convolve}


def convolve(features: Tensor, kernel: Tensor, kernel_map: KernelMap, backend: str = "auto") -> Tensor:
    """Sparse convolution; features (V_in, C_in), kernel (K, C_in, C_out), or (C_in, C_out) for 1x1x1.

    backend: "torch" (plain, any device), "cpu" (blocked), or "auto": the fastest that works for this tensor.
    """
    if kernel.dim() == 2:
        return features @ kernel
    if backend == "auto":
        backend = "cpu" if features.device.type == "cpu" else "torch"
    return BACKENDS[backend](features, kernel, kernel_map)
