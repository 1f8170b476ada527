"""Denoiser and refiner: U-Nets on sparse voxels."""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lidar_completion.networks import refined_compiled
from lidar_completion.networks.architecture import STAGE_LEVEL, STAGES, Architecture
from lidar_completion.networks.blocks import DecoderStage, EncoderStage, Stem, two_layers
from lidar_completion.networks.encoder import Condition
from lidar_completion.networks.voxelised_cloud import VoxelisedCloud
from lidar_completion.sparse import points_cpu
from lidar_completion.sparse.heads import point_outputs

Gate = Callable[[str, Tensor], Tensor]  # (stage, features (V, c)) -> gated features (V, c)


class UNet(nn.Module):
    """The U-Net of denoiser and refiner: stem, four encoder stages, four decoder stages, a head per point."""

    def __init__(self, architecture: Architecture, outputs: int) -> None:
        super().__init__()
        c = architecture.channels
        self.stem = Stem(architecture.inputs, c[0])
        for i in range(4):
            setattr(self, f"stage{i + 1}", EncoderStage(c[i], c[i + 1]))
        for i in range(4):
            setattr(self, f"up{i + 1}", DecoderStage(c[4 + i], c[3 - i], c[5 + i]))
        self.point_offsets = architecture.point_offsets
        self.last = two_layers(c[8] + (3 if self.point_offsets else 0), architecture.head_width, outputs)

    def stem_features(self, cloud: VoxelisedCloud) -> Tensor:
        """The stem's output (V, c0). It depends on neither condition nor timestep, so both branches of guidance can share it."""
        return self.stem(cloud.features, cloud.pyramid.neighbours(0))

    def trunk(self, cloud: VoxelisedCloud, stem: Tensor, gate: Gate) -> Tensor:
        """Voxel features (V, c8) from the stem's output; the gate is applied before each stage."""
        pyramid, features, skips = cloud.pyramid, stem, []
        for level in range(4):
            skips.append(features)
            name = f"stage{level + 1}"
            features = getattr(self, name)(gate(name, features), pyramid, level)
        for i, skip in enumerate(reversed(skips)):
            name = f"up{i + 1}"
            features = getattr(self, name)(gate(name, features), skip, pyramid, 3 - i)
        return features

    def point_outputs(self, features: Tensor, cloud: VoxelisedCloud) -> Tensor:
        """The head's output (N, outputs) for each point, from its voxel's features (V, c8) and its offset in the voxel."""
        row, offset = cloud.point_row, cloud.point_offset
        if not self.point_offsets:  # all points of a voxel have the same output
            return self.last(features).index_select(0, row)
        first, last = cast(nn.Linear, self.last[0]), cast(nn.Linear, self.last[2])
        if not points_cpu.usable(features, offset, *self.last.parameters()):
            return self.last(torch.cat([features.index_select(0, row), offset], dim=1))
        # exact: the first layer is linear, so voxel and offset contribute separate summands
        of_voxel, of_place = first.weight.split([features.shape[1], 3], dim=1)
        hidden = F.linear(features, of_voxel, first.bias)
        return point_outputs(hidden, row, offset, of_place, last.weight, last.bias)


class Denoiser(UNet):
    """Predicts the noise of every point from the noised cloud, the condition and the timestep."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, outputs=architecture.outputs)
        c = architecture.channels
        self.embedding_channels = c[8]
        gate_channels = (c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7])
        hidden_channels = (c[4], c[4], c[4], c[4], c[4], c[4], c[6], c[7])
        for stage, gated, hidden in zip(STAGES, gate_channels, hidden_channels, strict=True):
            setattr(self, f"latent_{stage}", two_layers(c[4], c[4], c[4]))
            setattr(self, f"{stage}_temp", two_layers(c[8], c[8], c[4]))
            setattr(self, f"latemp_{stage}", two_layers(2 * c[4], hidden, gated))

    def forward(
        self,
        cloud: VoxelisedCloud,
        condition: Condition,
        t: Tensor,
        tables: list[Tensor] | None = None,
        stem: Tensor | None = None,
    ) -> Tensor:
        """Noise (N, 3) of each point of `cloud`; with Architecture.point_confidence (N, 4), the last column being the logit.

        t (B,) int64: timestep of each scan. tables: condition.nearest_tables(cloud.pyramid); stem: stem_features(cloud);
        both are computed here unless given.
        """
        tables = condition.nearest_tables(cloud.pyramid) if tables is None else tables
        embedding = timestep_embedding(t, self.embedding_channels).to(condition.features.dtype)
        item = condition.voxels.keys >> 54 if len(t) > 1 else torch.zeros_like(condition.voxels.keys)

        def gate(stage: str, features: Tensor) -> Tensor:
            table = self.gate_table(stage, condition, embedding, item)
            if len(table) == 1:  # without a condition all voxels have the same gate
                return features * table
            nearest = tables[STAGE_LEVEL[stage]]
            if points_cpu.usable(features, table):
                return points_cpu.times_rows(features, table, nearest)
            return features * table.index_select(0, nearest)

        stem = self.stem_features(cloud) if stem is None else stem
        return self.point_outputs(self.trunk(cloud, stem, gate), cloud)

    def gate_table(self, stage: str, condition: Condition, embedding: Tensor, item: Tensor) -> Tensor:
        """The gate (C, c) of every condition voxel.

        A voxel's gate depends only on its nearest condition voxel and on t, so it is computed here and gathered instead of
        being computed on every voxel. Two rearrangements save work: latemp's first layer is linear, so condition and
        timestep are separate summands, the latter one row per scan; and no activation separates it from latent's last
        layer, so the two are multiplied into one.
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
    """Predicts six offsets per point, limited to 1 m by tanh. The refined cloud is each point plus its offsets."""

    OFFSETS = 6

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, outputs=self.OFFSETS * architecture.outputs)

    def forward(self, cloud: VoxelisedCloud) -> tuple[Tensor, Tensor]:
        """Offsets (N, 6, 3) in metres for each point of `cloud`, and their logits (N, 6); (N, 0) without Architecture.point_confidence."""
        features = self.trunk(cloud, self.stem_features(cloud), lambda stage, features: features)
        outputs = self.point_outputs(features, cloud).unflatten(1, (self.OFFSETS, -1))
        # all columns, as tanh of three columns of four takes ten times as long
        if points_cpu.usable(outputs):
            logit = outputs[..., 3:].clone()
            return outputs.tanh_()[..., :3], logit.flatten(1)
        return torch.tanh(outputs[..., :3]), outputs[..., 3:].flatten(1)


def refined_points(points: Tensor, offsets: Tensor, logit: Tensor) -> tuple[Tensor, Tensor | None]:
    """The refined cloud (M N, 3) of points (N, 3), and its logits (M N,) if there are any, from a refiner's outputs.

    offsets (N, M, 3); logit (N, M) or (N, 0).
    """
    return moved_points(points, offsets).flatten(0, 1), logit.flatten() if logit.shape[1] else None


def moved_points(points: Tensor, offsets: Tensor) -> Tensor:
    """(N, M, 3) points (N, 3) plus offsets (N, M, 3)."""
    if points_cpu.usable(points, offsets):
        return refined_compiled.add_offsets(points, offsets)
    return points[:, None] + offsets


def timestep_embedding(t: Tensor, channels: int) -> Tensor:
    """(B, channels): channels/2 sines, then as many cosines, of t * exp(-i ln(10000) / (channels/2 - 1)), raw integer t."""
    half = channels // 2
    # in float64: at t = 999, rounding the exponent to float32 would change the sines by 6e-5
    frequency = torch.exp(torch.arange(half, dtype=torch.float64, device=t.device) * (-math.log(10000.0) / (half - 1)))
    angle = t.to(torch.float32)[:, None] * frequency.to(torch.float32)[None]
    embedding = torch.cat([angle.sin(), angle.cos()], dim=1)
    return F.pad(embedding, (0, channels - 2 * half))
