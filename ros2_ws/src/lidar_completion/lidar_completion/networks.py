"""The networks that the public checkpoints hold, tensor for tensor: ConditionEncoder, Denoiser, Refiner.

Names and shapes are those of the LiDiff / ScoreLiDAR / Distillation-DPO checkpoints, so a module's place in the tree is
its name in the file. A network sees voxels (a VoxelPyramid) and features; it knows nothing of diffusion.
"""

import copy
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lidar_completion.errors import ModelError, refuse_below
from lidar_completion.sparse import points_cpu, search_cpu
from lidar_completion.sparse.convolution import convolve
from lidar_completion.sparse.coordinates import BITS, Voxels, voxel_mean, voxelise
from lidar_completion.sparse.kernel_map import KernelMap, VoxelPyramid
from lidar_completion.sparse.nearest import nearest_rows

Network = TypeVar("Network", bound=nn.Module)

WIDE_CHANNELS = 64  # layers of at least as many channels are worth rounding to bfloat16
FEWEST_CHANNELS = 4  # fewer leave no frequencies to the timestep embedding
LOCAL_FEATURES = 10  # columns of VoxelisedCloud.beside
CHANNELS = (32, 32, 64, 128, 256, 256, 128, 96, 96)
STAGES = ("stage1", "stage2", "stage3", "stage4", "up1", "up2", "up3", "up4")
# The level whose voxels a stage starts from; up1..up4 start where stage4..stage1 end, one level coarser than they do.
STAGE_LEVEL = {"stage1": 0, "stage2": 1, "stage3": 2, "stage4": 3, "up1": 4, "up2": 3, "up3": 2, "up4": 1}


@dataclass(frozen=True)
class Architecture:
    """What fixes every tensor's shape. The defaults are the published network."""

    width: float = 1.0  # factor on CHANNELS, truncated
    voxel_size_m: float = 0.05
    head_width: int = 20  # hidden width of the per-point head
    point_offsets: bool = (
        False  # ours: the head also sees where in its voxel a point lies, so points of one voxel can part
    )
    own_channels: tuple[int, ...] = ()  # ours: nine channel counts instead of width * CHANNELS
    local_features: bool = False  # ours: a voxel is described relative to itself, and by the scan points that lie in it
    point_confidence: bool = False  # ours: a fourth output a point, the logit of ending within 0.2 m of a surface

    def __post_init__(self) -> None:
        if self.own_channels and len(self.own_channels) != len(CHANNELS):
            raise ModelError(f"own_channels has {len(self.own_channels)} entries, expected {len(CHANNELS)} or none")
        refuse_below(self, "architecture", {"width": 0.0, "voxel_size_m": 1e-3, "head_width": 1})
        if min(self.channels) < FEWEST_CHANNELS:
            raise ModelError(
                f"architecture.width {self.width} and own_channels {self.own_channels} make layers of "
                f"{min(self.channels)} channels; expected at least {FEWEST_CHANNELS}"
            )

    @property
    def channels(self) -> tuple[int, ...]:
        return self.own_channels or tuple(int(c * self.width) for c in CHANNELS)

    @property
    def inputs(self) -> int:
        """Features of a voxel."""
        return LOCAL_FEATURES if self.local_features else 3

    @property
    def outputs(self) -> int:
        """Columns of the denoiser's output: the noise, and the logit where there is one."""
        return 4 if self.point_confidence else 3

    def cloud(self, points: Tensor, scan: Tensor) -> "VoxelisedCloud":
        """points (N, 3) on this architecture's grid, described as it wants them; scan (S, 3): what they complete."""
        if self.local_features:
            return VoxelisedCloud.beside(points, scan, self.voxel_size_m)
        return VoxelisedCloud.of(points, self.voxel_size_m)


# ---------------------------------------------------------------------------------------------------------------------
# Points as the networks see them


@dataclass(frozen=True)
class VoxelisedCloud:
    """A cloud on the networks' grid: its voxels at five strides, mean features, and each point's voxel."""

    pyramid: VoxelPyramid
    features: Tensor  # (V, 3) float32: mean xyz of each voxel's points, metres; (V, LOCAL_FEATURES) for `beside`
    point_row: Tensor  # (N,) int64
    point_offset: Tensor  # (N, 3) float32: point minus its voxel's mean (`beside`: its voxel's centre), in voxels

    @classmethod
    def of(cls, points: Tensor, voxel_size_m: float, batch: Tensor | None = None) -> "VoxelisedCloud":
        """Voxelise points (N, 3) float32 metres; batch (N,) int64 names each point's scan."""
        voxels, row = voxelise(points, voxel_size_m, batch)
        features = voxel_mean(points, row, len(voxels))
        return cls(VoxelPyramid.build(voxels), features, row, (points - features[row]) / voxel_size_m)

    @classmethod
    def beside(cls, points: Tensor, scan: Tensor, voxel_size_m: float) -> "VoxelisedCloud":
        """The voxels of points (N, 3) and of the scan (S, 3) that they complete, both float32 metres.

        Ours, not the published description: a surface's place within its voxel is centimetres, which absolute means of
        up to 50 m hide from a network, and the measured surface is worth more than the mean of noised points. Columns:
        mean offset of the points (3), mean offset of the scan (3, zero without), both in half voxels from the centre;
        log of the points' number; 1 where the scan is; height in 3 m; horizontal range in 25 m.
        """
        voxels, row = voxelise(torch.cat([points, scan]), voxel_size_m)
        row, scan_row = row.split([len(points), len(scan)])
        centre = voxels.coordinates[:, 1:].to(points.dtype) * voxel_size_m
        offset, mean, count = _described(points, row, centre, voxel_size_m)
        _, scan_mean, scan_count = _described(scan, scan_row, centre, voxel_size_m)
        height, horizontal = centre[:, 2:] / 3.0, centre[:, :2].norm(dim=1, keepdim=True) / 25.0
        described = [2 * mean, 2 * scan_mean, count.log1p() / 2, scan_count.clamp(max=1), height, horizontal]
        return cls(VoxelPyramid.build(voxels), torch.cat(described, dim=1), row, offset)


def _described(points: Tensor, row: Tensor, centre: Tensor, size_m: float) -> tuple[Tensor, Tensor, Tensor]:
    """Offset (N, 3) of points (N, 3) from their voxels' centres (V, 3), in voxels; its mean (V, 3), zero where a voxel has no
    point; and the number of points (V, 1)."""
    if points_cpu.usable(points, centre):
        offset, total, number = points_cpu.offset_sums(points, row, centre, size_m)
    else:
        offset, total, number = offset_sums_plain(points, row, centre, size_m)
    return offset, total / number.clamp(min=1).unsqueeze(1), number.unsqueeze(1)


def offset_sums_plain(points: Tensor, row: Tensor, centre: Tensor, size_m: float) -> tuple[Tensor, Tensor, Tensor]:
    """The twin of the loop on CPUs, for any device, and for gradients."""
    offset = (points - centre.index_select(0, row)) / size_m
    number = torch.bincount(row, minlength=len(centre)).to(points.dtype)
    return offset, torch.zeros_like(centre).index_add_(0, row, offset), number


@dataclass(frozen=True)
class Condition:
    """What the encoder saw: features at stride 16, computed once a scan. `features` (C, c4)."""

    voxels: Voxels
    features: Tensor

    def nearest_tables(self, pyramid: VoxelPyramid) -> list[Tensor]:
        """For each of the five levels, the condition row (V_level,) nearest to each voxel: five tables serve eight gates."""
        keys = [level.keys for level in pyramid.levels]
        one_scan = (
            keys[0].device.type == "cpu" and len(keys[0]) > 0 and max(keys[0][-1], self.voxels.keys[-1]) < 1 << 54
        )
        if one_scan and len(self.voxels) > 1:
            return search_cpu.nearest_tables(keys, pyramid.parents, self.voxels.keys, pyramid.levels[-1].stride, BITS)
        return [nearest_rows(level, self.voxels) for level in pyramid.levels]


# ---------------------------------------------------------------------------------------------------------------------
# Building blocks


class SparseConvolution(nn.Module):
    """A kernel (K, C_in, C_out), or (C_in, C_out) for 1x1x1; `bias` (C_out,) only where a batch norm was folded in."""

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
    """Batch norm over voxels; the leaf is called `bn` as in the checkpoints."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(channels, eps=1e-5, momentum=0.1)

    def forward(self, features: Tensor) -> Tensor:
        if self.training and len(features) == 1:  # the variance of one voxel is no statistic
            return F.batch_norm(
                features, self.bn.running_mean, self.bn.running_var, self.bn.weight, self.bn.bias, eps=self.bn.eps
            )
        return self.bn(features)


def normalised(
    convolution: Any,  # SparseConvolution; containers give their parts as plain modules
    norm: Any,
    features: Tensor,
    kernel_map: KernelMap | None = None,
    residual: Tensor | None = None,
    relu: bool = True,
) -> Tensor:
    """ReLU(BN(convolution) + residual); one fused call where the batch norm was folded into the convolution."""
    if convolution.bias is not None:
        return convolution(features, kernel_map, residual, relu)
    out = norm(convolution(features, kernel_map))
    if residual is not None:
        out = out + residual
    return F.relu(out) if relu else out


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU; `net` holds them under the checkpoints' numbers."""

    def __init__(self, c_in: int, c_out: int, kernel_size: int) -> None:
        super().__init__()
        self.net = nn.Sequential(SparseConvolution(c_in, c_out, kernel_size), BatchNorm(c_out), nn.ReLU())

    def forward(self, features: Tensor, kernel_map: KernelMap) -> Tensor:
        return normalised(self.net[0], self.net[1], features, kernel_map)


class ResidualBlock(nn.Module):
    """conv3-BN-ReLU-conv3-BN plus identity, or conv1-BN where the width changes; then ReLU."""

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
    """From `level` to the next coarser one: conv2 stride 2, two residual blocks."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(ConvBlock(c_in, c_in, 2), ResidualBlock(c_in, c_out), ResidualBlock(c_out, c_out))

    def forward(self, features: Tensor, pyramid: VoxelPyramid, level: int) -> Tensor:  # type: ignore[override]
        neighbours = pyramid.neighbours(level + 1)
        return self[2](self[1](self[0](features, pyramid.down(level)), neighbours), neighbours)


class DecoderStage(nn.ModuleList):
    """From the level below onto `level`, whose skip comes behind the upsampled features."""

    def __init__(self, c_in: int, c_skip: int, c_out: int) -> None:
        super().__init__([ConvBlock(c_in, c_out, 2), ResidualBlocks(c_out + c_skip, c_out)])

    def forward(self, features: Tensor, skip: Tensor, pyramid: VoxelPyramid, level: int) -> Tensor:
        upsampled = self[0](features, pyramid.up(level))
        return self[1](torch.cat([upsampled, skip], dim=1), pyramid.neighbours(level))


def point_head(c_in: int, hidden: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(c_in, hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, c_out))


def two_linears(c_in: int, hidden: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(c_in, hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, c_out))


def timestep_embedding(t: Tensor, channels: int) -> Tensor:
    """(B, channels): channels/2 sines, then as many cosines, of t * exp(-i ln(10000) / (channels/2 - 1)), raw integer t."""
    half = channels // 2
    # in float64 first: at t = 999 the rounding of a float32 exponent moves the sines by 6e-5
    frequency = torch.exp(torch.arange(half, dtype=torch.float64, device=t.device) * (-math.log(10000.0) / (half - 1)))
    angle = t.to(torch.float32)[:, None] * frequency.to(torch.float32)[None]
    embedding = torch.cat([angle.sin(), angle.cos()], dim=1)
    return F.pad(embedding, (0, channels - 2 * half))


# ---------------------------------------------------------------------------------------------------------------------
# The networks


class ConditionEncoder(nn.Module):
    """Encodes a scan into features at stride 16."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        c = architecture.channels
        self.stem = Stem(architecture.inputs, c[0])
        for i in range(4):
            setattr(self, f"stage{i + 1}", EncoderStage(c[i], c[i + 1]))

    def forward(self, scan: VoxelisedCloud) -> Condition:
        pyramid = scan.pyramid
        features = self.stem(scan.features, pyramid.neighbours(0))
        for level in range(4):
            features = getattr(self, f"stage{level + 1}")(features, pyramid, level)
        return Condition(pyramid.levels[4], features)


class UNet(nn.Module):
    """The U-Net that denoiser and refiner share: stem, four stages down, four up, a head a point."""

    def __init__(self, architecture: Architecture, outputs: int) -> None:
        super().__init__()
        c = architecture.channels
        self.stem = Stem(architecture.inputs, c[0])
        for i in range(4):
            setattr(self, f"stage{i + 1}", EncoderStage(c[i], c[i + 1]))
        for i in range(4):
            setattr(self, f"up{i + 1}", DecoderStage(c[4 + i], c[3 - i], c[5 + i]))
        self.point_offsets = architecture.point_offsets
        self.last = point_head(c[8] + (3 if self.point_offsets else 0), architecture.head_width, outputs)

    def trunk(self, cloud: VoxelisedCloud, gate) -> Tensor:  # type: ignore[no-untyped-def]
        """Voxel features (V, c8); `gate(stage, features)` is applied before every stage."""
        pyramid = cloud.pyramid
        features, skips = self.stem_features(cloud), []
        for level in range(4):
            skips.append(features)
            name = f"stage{level + 1}"
            features = getattr(self, name)(gate(name, features), pyramid, level)
        for i, skip in enumerate(reversed(skips)):
            name = f"up{i + 1}"
            features = getattr(self, name)(gate(name, features), skip, pyramid, 3 - i)
        return features

    def stem_features(self, cloud: VoxelisedCloud) -> Tensor:
        """The stem's output, once a cloud where the weights are fixed: both branches of guidance start from it."""
        if self.stem[0].bias is None:  # not folded for inference
            return self.stem(cloud.features, cloud.pyramid.neighbours(0))
        # the stem stays with its output: a later network may get the id of one that is gone
        _, features = cloud.pyramid.cached(
            f"stem {id(self.stem)}", 0, lambda: (self.stem, self.stem(cloud.features, cloud.pyramid.neighbours(0)))
        )
        return features

    def answers(self, features: Tensor, cloud: VoxelisedCloud) -> Tensor:
        """The head's output (N, outputs) of every point, from the features (V, c8) of its voxel and its place there."""
        row, offset = cloud.point_row, cloud.point_offset
        if not self.point_offsets:  # points of one voxel have one answer
            return self.last(features).index_select(0, row)
        first, last = cast(nn.Linear, self.last[0]), cast(nn.Linear, self.last[2])
        few = last.out_features <= points_cpu.HEAD_OUTPUTS
        if not (few and points_cpu.usable(features, offset, *self.last.parameters())):
            return self.last(torch.cat([features.index_select(0, row), offset], dim=1))
        # exact: what a layer makes of a voxel's features and of a point's place are summands
        of_voxel, of_place = first.weight.split([features.shape[1], 3], dim=1)
        return points_cpu.head(F.linear(features, of_voxel, first.bias), row, offset, of_place, last.weight, last.bias)


class Denoiser(UNet):
    """Predicts the noise of every point from the noised cloud, the condition and the timestep."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, outputs=architecture.outputs)
        c = architecture.channels
        self.embedding_channels = c[8]
        gate_channels = (c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7])
        hidden_channels = (c[4], c[4], c[4], c[4], c[4], c[4], c[6], c[7])
        for stage, gated, hidden in zip(STAGES, gate_channels, hidden_channels, strict=True):
            setattr(self, f"latent_{stage}", two_linears(c[4], c[4], c[4]))
            setattr(self, f"{stage}_temp", two_linears(c[8], c[8], c[4]))
            setattr(self, f"latemp_{stage}", two_linears(2 * c[4], hidden, gated))

    def forward(
        self, cloud: VoxelisedCloud, condition: Condition, t: Tensor, tables: list[Tensor] | None = None
    ) -> Tensor:
        """Noise (N, 3) of each point of `cloud`, with the logit of Architecture.point_confidence (N, 4).

        t (B,) int64 a scan; tables: condition.nearest_tables, where at hand.
        """
        tables = condition.nearest_tables(cloud.pyramid) if tables is None else tables
        embedding = timestep_embedding(t, self.embedding_channels).to(condition.features.dtype)
        item = condition.voxels.keys >> 54 if len(t) > 1 else torch.zeros_like(condition.voxels.keys)

        def gate(stage: str, features: Tensor) -> Tensor:
            table = self.gate_table(stage, condition, embedding, item)
            if len(table) == 1:  # as without a condition: every voxel has the same gate
                return features * table
            nearest = tables[STAGE_LEVEL[stage]]
            if points_cpu.usable(features, table):
                return points_cpu.times_rows(features, table, nearest)
            return features * table.index_select(0, nearest)

        return self.answers(self.trunk(cloud, gate), cloud)

    def gate_table(self, stage: str, condition: Condition, embedding: Tensor, item: Tensor) -> Tensor:
        """The gate (C, c) of every condition voxel: a voxel's gate depends only on its nearest condition voxel and t,
        so it is computed here and gathered, instead of on every voxel.

        Exact: latemp's first layer adds what it makes of the condition and of the time, which is one row a scan; and no
        activation stands between latent's last layer and it, so the two are one.
        """
        latent, temp, latemp = (getattr(self, n) for n in (f"latent_{stage}", f"{stage}_temp", f"latemp_{stage}"))
        first, last = latemp[0], latent[2]
        halves = first.weight.chunk(2, dim=1)
        of_part, of_time = reversed(halves) if stage == "up1" else halves
        part = F.linear(
            latent[1](latent[0](condition.features)), of_part @ last.weight, of_part @ last.bias + first.bias
        )
        time = F.linear(temp(embedding), of_time)
        return latemp[2](latemp[1](part + time[item]))


class Refiner(UNet):
    """Six offsets a point, tanh-limited to 1 m: the output cloud is each point plus its offsets."""

    OFFSETS = 6

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, outputs=self.OFFSETS * architecture.outputs)

    def forward(self, cloud: VoxelisedCloud) -> Tensor:
        """Offsets (N, 6, 3) in metres of each point of `cloud`, with the logits of Architecture.point_confidence (N, 6, 4)."""
        features = self.trunk(cloud, lambda stage, features: features)
        answers = self.answers(features, cloud).unflatten(1, (self.OFFSETS, -1))
        return torch.cat([torch.tanh(answers[..., :3]), answers[..., 3:]], dim=2)


# ---------------------------------------------------------------------------------------------------------------------
# Inference


def fold_batch_norm(network: Network, wide_dtype: torch.dtype = torch.float32) -> Network:
    """A copy of a network in eval mode, for inference alone, with every batch norm inside its convolution's kernel and bias.

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
