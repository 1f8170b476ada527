"""Folding of batch norms into convolutions, for inference."""

import copy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn

from lidar_completion.networks.blocks import BatchNorm, SparseConvolution

Network = TypeVar("Network", bound=nn.Module)

WIDE_CHANNELS = 64  # rounding to bfloat16 pays for layers with at least this many channels


def fold_batch_norm(network: Network, wide_dtype: torch.dtype = torch.float32) -> Network:
    """A copy of a network for inference, in eval mode, with each batch norm folded into its convolution's kernel and bias.

    wide_dtype=torch.bfloat16 also rounds the kernels of wide layers, which then multiply in bfloat16 and sum in float32.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for layers in folded.modules():
        if isinstance(layers, nn.Sequential):
            for layer, norm in pairwise(layers):
                if isinstance(layer, SparseConvolution) and isinstance(norm, BatchNorm):
                    _fold(layer, norm.bn, wide_dtype)
    return folded


def _fold(convolution: SparseConvolution, norm: nn.BatchNorm1d, wide_dtype: torch.dtype) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    kernel = convolution.kernel * scale
    convolution.bias = norm.bias - norm.running_mean * scale
    wide = min(kernel.shape[-2:]) >= WIDE_CHANNELS
    convolution.kernel = nn.Parameter(kernel.to(wide_dtype if wide else kernel.dtype), requires_grad=False)
