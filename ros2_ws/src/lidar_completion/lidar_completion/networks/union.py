"""A faster denoiser, not in the paper: one U-Net over the voxels of start points and scan, without a condition encoder.

The published network encodes the scan separately and gates each stage of the U-Net with the features of the nearest condition
voxel. Here the local features describe the scan's points in each voxel, so the U-Net sees the scan directly. It needs no condition
encoder, no gates by its features and no nearest-voxel tables, which halves the time of a forward pass. Timestep gates remain.

The network predicts several clean estimates per start point, so that fewer start points cover the scene.
"""

import math

import torch
from torch import Tensor, nn

from lidar_completion.networks.architecture import Architecture
from lidar_completion.networks.blocks import (
    BatchNorm,
    ConvBlock,
    ResidualBlock,
    SparseConvolution,
    normalised,
    two_layers,
)
from lidar_completion.networks.unet import timestep_embedding
from lidar_completion.networks.voxelised_cloud import VoxelisedCloud
from lidar_completion.sparse.heads import point_estimates
from lidar_completion.sparse.kernel_map import KernelMap

TIME_CHANNELS = 32
INITIAL_SPREAD = 0.35  # voxels: horizontal distance of an untrained network's estimates from their start point


class Convolutions(nn.Sequential):
    """conv3-BN-ReLU, `layers` times on one level."""

    def __init__(self, c_in: int, c_out: int, layers: int) -> None:
        widths = [c_in] + [c_out] * (layers - 1)
        super().__init__(*(part for width in widths for part in (SparseConvolution(width, c_out, 3), BatchNorm(c_out))))

    def forward(self, features: Tensor, neighbours: KernelMap) -> Tensor:  # type: ignore[override]
        for i in range(0, len(self), 2):
            features = normalised(self[i], self[i + 1], features, neighbours)
        return features


class Blocks(nn.Sequential):
    """Residual blocks on one level; the first changes the number of channels."""

    def __init__(self, c_in: int, c_out: int, blocks: int) -> None:
        super().__init__(*(ResidualBlock(c_in if i == 0 else c_out, c_out) for i in range(blocks)))

    def forward(self, features: Tensor, neighbours: KernelMap) -> Tensor:  # type: ignore[override]
        for block in self:
            features = block(features, neighbours)
        return features


class UnionDenoiser(nn.Module):
    """Predicts clean points from noised start points, the scan (VoxelisedCloud.from_points_and_scan) and the timestep.

    L levels have 2 L - 1 channel counts: the stem, L - 1 encoder stages, L - 1 decoder stages.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        c, depth = architecture.channels, len(architecture.channels) // 2
        blocks = architecture.blocks or (2,) * (2 * depth)
        self.depth, self.add_skips = depth, architecture.skips == "added"
        self.stem = Convolutions(architecture.inputs, c[0], architecture.stem_layers)
        self.down = nn.ModuleList(ConvBlock(c[i], c[i], 2) for i in range(depth))
        self.encode = nn.ModuleList(Blocks(c[i], c[i + 1], blocks[i]) for i in range(depth))
        self.up = nn.ModuleList(ConvBlock(c[depth + i], c[depth + i + 1], 2) for i in range(depth))
        skip = [0 if self.add_skips else c[depth - 1 - i] for i in range(depth)]
        self.decode = nn.ModuleList(
            Blocks(c[depth + i + 1] + skip[i], c[depth + i + 1], blocks[depth + i]) for i in range(depth)
        )
        self.gates = nn.ModuleList(two_layers(TIME_CHANNELS, TIME_CHANNELS, c[1 + i]) for i in range(2 * depth - 1))
        self.first = nn.Linear(c[-1] + 3, architecture.head_width)
        self.last = nn.Linear(architecture.head_width, architecture.offsets_per_point * architecture.outputs)
        self._initialise()

    def _initialise(self) -> None:
        """Initialise the timestep gates near 1, and the estimates of a point on a circle around it."""
        for name, bias in self.gates.named_parameters():
            if name.endswith("2.bias"):
                nn.init.ones_(bias)
        count = self.architecture.offsets_per_point
        angle = torch.arange(count) * (2 * math.pi / count)
        circle = INITIAL_SPREAD * torch.stack([angle.cos(), angle.sin(), torch.zeros(count)], dim=1)
        nn.init.zeros_(self.last.bias)
        if count > 1:
            with torch.no_grad():
                self.last.bias[: 3 * count] = circle.flatten()

    def forward(self, cloud: VoxelisedCloud, t: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (N, M, 3) in metres from each point to its M clean estimates, and their logits (N, M).

        t (1,) int64. Without Architecture.point_confidence the logits are (N, 0).
        """
        return self.point_outputs(self.trunk(cloud, t), cloud)

    def trunk(self, cloud: VoxelisedCloud, t: Tensor) -> Tensor:
        """Voxel features (V, c[-1]). The timestep gates all levels but the finest, whose many voxels would make it expensive."""
        pyramid, skips = cloud.pyramid, []
        embedding = timestep_embedding(t, TIME_CHANNELS)
        gates = [gate(embedding) for gate in self.gates]
        features = self.stem(cloud.features, pyramid.neighbours(0))
        for level in range(self.depth):
            skips.append(features)
            features = self.down[level](features, pyramid.down(level))
            features = self.encode[level](features, pyramid.neighbours(level + 1)) * gates[level]
        for i, skip in enumerate(reversed(skips)):
            level = self.depth - 1 - i
            upsampled = self.up[i](features, pyramid.up(level))
            joined = upsampled + skip if self.add_skips else torch.cat([upsampled, skip], dim=1)
            features = self.decode[i](joined, pyramid.neighbours(level))
            if level:
                features = features * gates[self.depth + i]
        return features

    def point_outputs(self, features: Tensor, cloud: VoxelisedCloud) -> tuple[Tensor, Tensor]:
        """The head's offsets in metres and logits of each point, from its voxel's features (V, c) and its offset in the voxel."""
        estimates = self.architecture.offsets_per_point
        voxel_weight, offset_weight = self.first.weight.split([features.shape[1], 3], dim=1)
        hidden = nn.functional.linear(features, voxel_weight, self.first.bias)
        scale = self.output_scale()
        last, bias = self.last.weight * scale[:, None], self.last.bias * scale
        return point_estimates(hidden, cloud.point_row, cloud.point_offset, offset_weight, last, bias, estimates)

    def output_scale(self) -> Tensor:
        """Factor (outputs,) on the head's outputs: the voxel size for offsets, 1 for logits."""
        scale = torch.ones_like(self.last.bias)
        scale[: 3 * self.architecture.offsets_per_point] = self.architecture.voxel_size_m
        return scale


class UnionRefiner(UnionDenoiser):
    """Replaces each point of a completion by M points. Same layers as UnionDenoiser; training starts from its weights."""

    TIMESTEP = 300  # fixed, so the timestep gates are constants; chosen without a comparison

    def forward(self, cloud: VoxelisedCloud) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Offsets (N, M, 3) in metres for each point of `cloud`, and their logits (N, M); (N, 0) without Architecture.point_confidence."""
        return super().forward(cloud, torch.tensor([self.TIMESTEP], device=cloud.features.device))
