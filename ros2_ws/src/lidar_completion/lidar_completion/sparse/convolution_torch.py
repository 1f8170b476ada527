"""Sparse convolution in plain PyTorch operators: any device, differentiated by autograd. The plain implementation."""

import torch
from torch import Tensor

from lidar_completion.sparse.kernel_map import KernelMap


def convolve(features: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    """out[u] = sum over k of in[u + offset_k] @ kernel[k]: features (V_in, C_in), kernel (K, C_in, C_out) -> (V_out, C_out).

    Products are made in the kernel's dtype, sums in float32 at least; the result has the features' dtype.
    """
    total = torch.promote_types(features.dtype, torch.float32)
    out = features.new_zeros(kernel_map.num_out, kernel.shape[2], dtype=total)
    for k, (in_rows, out_rows) in enumerate(kernel_map.pairs()):
        if len(in_rows):
            product = features.index_select(0, in_rows).to(kernel.dtype) @ kernel[k]
            out = out.index_add(0, out_rows, product.to(total))
    return out.to(features.dtype)
