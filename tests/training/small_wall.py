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


def wall(seed: int = 0) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    size, corner = torch.tensor([12.0, 12.0, 0.1]), torch.tensor([4.0, -6.0, -1.7])
    truth = torch.rand(1500, 3, generator=generator) * size + corner
    return Sample(truth[::8].contiguous(), truth)
