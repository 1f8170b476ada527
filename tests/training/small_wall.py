"""A sweep of a small wall or floor with its truth, and the entries of a recipe that make networks as small."""

import torch

from lidar_completion_training.data.stream import Sample

TINY = [
    "architecture.width=0.125",
    "architecture.voxel_size_m=1.0",
    "pipeline.downsample_voxel_m=1.0",
    "pipeline.replication=2",
    "direct.queries=200",
]


Vector = tuple[float, float, float]


def wall(
    seed: int = 0, points: int = 1500, size: Vector = (12.0, 12.0, 0.1), corner: Vector = (4.0, -6.0, -1.7)
) -> Sample:
    """Random points of a box of this size, metres, from its lowest corner on; the sweep is every eighth of them."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(points, 3, generator=generator) * torch.tensor(size) + torch.tensor(corner)
    return Sample(truth[::8].contiguous(), truth)
