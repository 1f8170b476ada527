"""The context of one training step, from which all loss terms are computed."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lidar_completion.networks import Condition, VoxelisedCloud
from lidar_completion.sparse.coordinates import LIMIT
from lidar_completion_training.configuration import Recipe
from lidar_completion_training.errors import DivergedError
from lidar_completion_training.objectives.precision import run
from lidar_completion_training.objectives.sweep import PreparedSweep


@dataclass(frozen=True)
class Step:
    """One sweep of one training step.

    All random numbers come from `generator`, so the same sample and seed give the same losses.
    """

    recipe: Recipe
    sweep: PreparedSweep
    scan: Tensor  # (S, 3) what the networks are conditioned on: the sweep's scan, or no_scan
    condition: Condition | None  # the encoded scan; None for networks without encoder
    generator: torch.Generator
    unconditional: Condition | None = None  # the encoded no_scan, if a teacher is guided

    def cloud(self, points: Tensor) -> VoxelisedCloud:
        """Points (N, 3) as the networks see them, without gradient; DivergedError if they left the voxel grid."""
        rays = None if self.sweep.clear_space is None else self.sweep.clear_space.ray_features
        return self.recipe.architecture.cloud(self.on_grid(points), self.scan, rays)

    def on_grid(self, points: Tensor) -> Tensor:
        """Points (N, 3) without gradient; DivergedError if they left the voxel grid."""
        points = points.detach()
        if not bool((points.abs() < (LIMIT - 1) * self.recipe.architecture.voxel_size_m).all()):
            raise DivergedError("a network predicts points that are not finite or lie outside the voxel grid")
        return points

    def seed(self) -> int:
        """Draw a seed, for noise that two samples share."""
        return int(torch.randint(2**62, (), generator=self.generator, device=self.generator.device))

    def seeded(self, seed: int) -> "Step":
        """The same step with a generator seeded by `seed`."""
        generator = torch.Generator(self.generator.device).manual_seed(seed)
        return dataclasses.replace(self, generator=generator)


def encode(encoder: nn.Module, scan: Tensor, recipe: Recipe) -> Condition:
    """The condition of a scan (S, 3)."""
    condition: Condition = run(encoder, recipe, recipe.architecture.cloud(scan, scan))
    return condition


def no_scan(scan: Tensor) -> Tensor:
    """The scan (1, 3) that stands for "no condition": one point at the origin."""
    return torch.zeros_like(scan[:1])
