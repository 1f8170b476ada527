"""A training sample as the networks receive it: augmented, cropped, downsampled and replicated as at inference."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lidar_completion.crop import crop_range
from lidar_completion.downsample import downsample
from lidar_completion.starts import start_points
from lidar_completion.visibility import ClearSpace
from lidar_completion_training.configuration import AugmentationRecipe, Recipe
from lidar_completion_training.stream import Sample

TILT_LIMIT = 3.0  # standard deviations at which a tilt is clipped, as published


@dataclass(frozen=True)
class PreparedSweep:
    """A sweep and its ground truth; float32, metres, in the augmented sensor frame."""

    near: Tensor  # (N, 3) points within the model's range
    scan: Tensor  # (S, 3) one point per voxel
    truth: Tensor  # (M, 3)
    origin: Tensor  # (3,) where the rays start
    replicated: Tensor  # (N, 3) p*: points in holes, if the pipeline has them, then K copies of the scan
    scale: Tensor  # (N, 3) of the noise around p*
    clear_space: ClearSpace | None = None  # free space that the sweep saw, if networks or loss use it


def prepare(sample: Sample, recipe: Recipe, generator: torch.Generator) -> PreparedSweep:
    """Augment a sample and treat its sweep as SceneCompleter does."""
    pipeline = recipe.pipeline
    transform = augmentation(recipe.data.augmentation, generator).to(sample.sweep)
    near = crop_range(sample.sweep, pipeline.min_range_m, pipeline.max_range_m) @ transform.T
    scan = downsample(near, pipeline)
    replicated = start_points(scan, pipeline).points
    truth, origin = sample.truth @ transform.T, sample.origin @ transform.T
    clear_space = None
    if recipe.architecture.ray_features or recipe.direct.free_space_weight:
        beyond_vehicle = sample.sweep.norm(dim=1) > pipeline.min_range_m
        clear_space = ClearSpace.from_returns(sample.sweep[beyond_vehicle] @ transform.T)
    return PreparedSweep(near, scan, truth, origin, replicated, pipeline.noise_scale(replicated), clear_space)


def augmentation(recipe: AugmentationRecipe, generator: torch.Generator) -> Tensor:
    """A random linear map (3, 3): rotation about z, flip of y, and as the recipe says tilt and scale."""
    device = generator.device
    angle = torch.rand((), generator=generator, device=device) * (2 * torch.pi)
    flip = 1.0 if torch.rand((), generator=generator, device=device) < 0.5 else -1.0
    c, s = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    matrix = torch.stack([c, -flip * s, zero, s, flip * c, zero, zero, zero, one]).view(3, 3)
    if recipe.tilt_rad:
        axis = torch.randn(3, generator=generator, device=device).clamp(-TILT_LIMIT, TILT_LIMIT) * recipe.tilt_rad
        x, y, z = axis
        skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
        matrix = torch.linalg.matrix_exp(skew) @ matrix
    if recipe.scale:
        matrix = matrix * (1.0 + recipe.scale * (2.0 * torch.rand((), generator=generator, device=device) - 1.0))
    return matrix
