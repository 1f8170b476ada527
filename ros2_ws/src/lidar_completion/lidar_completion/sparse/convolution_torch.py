"""Sparse convolution in plain PyTorch operators: any device, differentiated by autograd. The twin of the fast paths."""

from torch import Tensor

from lidar_completion.sparse.kernel_map import KernelMap


def convolve(features: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    """out[u] = sum over k of in[u + offset_k] @ kernel[k]: features (V_in, C_in), kernel (K, C_in, C_out) -> (V_out, C_out)."""
    out = features.new_zeros(kernel_map.num_out, kernel.shape[2])
    for k, (in_rows, out_rows) in enumerate(kernel_map.pairs()):
        if len(in_rows):
            out = out.index_add(0, out_rows, features.index_select(0, in_rows) @ kernel[k])
    return out
