"""Building blocks of the networks: convolutions with batch norm, residual blocks, stages, small point-wise networks."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lidar_completion.sparse.convolution import convolve
from lidar_completion.sparse.kernel_map import KernelMap, VoxelPyramid


class SparseConvolution(nn.Module):
    """Kernel (K, C_in, C_out), or (C_in, C_out) for 1x1x1; bias (C_out,) only if a batch norm was folded in."""

    bias: Tensor | None

    def __init__(self, c_in: int, c_out: int, kernel_size: int) -> None:
        super().__init__()
        shape = (c_in, c_out) if kernel_size == 1 else (kernel_size**3, c_in, c_out)
        self.kernel = nn.Parameter(torch.randn(shape) * math.sqrt(2.0 / (c_in * kernel_size**3)))
        self.register_buffer("bias", None)

    def forward(
        self,
        features: Tensor,
        kernel_map: KernelMap | None = None,
        residual: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        return convolve(features, self.kernel, kernel_map, bias=self.bias, residual=residual, relu=relu)


class BatchNorm(nn.Module):
    """Batch norm over voxels. The submodule is called `bn`, as in the checkpoints."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(channels, eps=1e-5, momentum=0.1)

    def forward(self, features: Tensor) -> Tensor:
        if self.training and len(features) == 1:  # one voxel has no variance
            return F.batch_norm(
                features, self.bn.running_mean, self.bn.running_var, self.bn.weight, self.bn.bias, eps=self.bn.eps
            )
        return self.bn(features)


def normalised(
    convolution: Any,  # SparseConvolution; Any because containers return their parts as plain modules
    norm: Any,
    features: Tensor,
    kernel_map: KernelMap | None = None,
    residual: Tensor | None = None,
    relu: bool = True,
) -> Tensor:
    """ReLU(BN(convolution) + residual); one fused call if the batch norm was folded into the convolution."""
    if convolution.bias is not None:
        return convolution(features, kernel_map, residual, relu)
    out = norm(convolution(features, kernel_map))
    if residual is not None:
        out = out + residual
    return F.relu(out) if relu else out


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel_size: int) -> None:
        super().__init__()
        self.net = nn.Sequential(SparseConvolution(c_in, c_out, kernel_size), BatchNorm(c_out), nn.ReLU())

    def forward(self, features: Tensor, kernel_map: KernelMap) -> Tensor:
        return normalised(self.net[0], self.net[1], features, kernel_map)


class ResidualBlock(nn.Module):
    """conv3-BN-ReLU-conv3-BN, plus the identity or, where the width changes, conv1-BN; then ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            SparseConvolution(c_in, c_out, 3),
            BatchNorm(c_out),
            nn.ReLU(),
            SparseConvolution(c_out, c_out, 3),
            BatchNorm(c_out),
        )
        self.downsample = (
            nn.Sequential() if c_in == c_out else nn.Sequential(SparseConvolution(c_in, c_out, 1), BatchNorm(c_out))
        )

    def forward(self, features: Tensor, neighbours: KernelMap) -> Tensor:
        hidden = normalised(self.net[0], self.net[1], features, neighbours)
        if len(self.downsample):
            features = normalised(self.downsample[0], self.downsample[1], features, relu=False)
        return normalised(self.net[3], self.net[4], hidden, neighbours, residual=features)


class Stem(nn.Sequential):
    """Two conv3-BN-ReLU on the finest level."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(
            SparseConvolution(c_in, c_out, 3),
            BatchNorm(c_out),
            nn.ReLU(),
            SparseConvolution(c_out, c_out, 3),
            BatchNorm(c_out),
            nn.ReLU(),
        )

    def forward(self, features: Tensor, neighbours: KernelMap) -> Tensor:  # type: ignore[override]
        hidden = normalised(self[0], self[1], features, neighbours)
        return normalised(self[3], self[4], hidden, neighbours)


class ResidualBlocks(nn.Sequential):
    """Two residual blocks on one level."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(ResidualBlock(c_in, c_out), ResidualBlock(c_out, c_out))

    def forward(self, features: Tensor, neighbours: KernelMap) -> Tensor:  # type: ignore[override]
        return self[1](self[0](features, neighbours), neighbours)


class EncoderStage(nn.Sequential):
    """From a level to the next coarser one: conv2 with stride 2, then two residual blocks."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(ConvBlock(c_in, c_in, 2), ResidualBlock(c_in, c_out), ResidualBlock(c_out, c_out))

    def forward(self, features: Tensor, pyramid: VoxelPyramid, level: int) -> Tensor:  # type: ignore[override]
        neighbours = pyramid.neighbours(level + 1)
        return self[2](self[1](self[0](features, pyramid.down(level)), neighbours), neighbours)


class DecoderStage(nn.ModuleList):
    """From the next coarser level to `level`: upsample, concatenate (upsampled, skip), two residual blocks."""

    def __init__(self, c_in: int, c_skip: int, c_out: int) -> None:
        super().__init__([ConvBlock(c_in, c_out, 2), ResidualBlocks(c_out + c_skip, c_out)])

    def forward(self, features: Tensor, skip: Tensor, pyramid: VoxelPyramid, level: int) -> Tensor:
        upsampled = self[0](features, pyramid.up(level))
        return self[1](torch.cat([upsampled, skip], dim=1), pyramid.neighbours(level))


def two_layers(c_in: int, hidden: int, c_out: int) -> nn.Sequential:
    """Linear, LeakyReLU(0.1), Linear: the gates' layers and the per-point head."""
    return nn.Sequential(nn.Linear(c_in, hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, c_out))
