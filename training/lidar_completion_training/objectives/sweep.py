"""A training sample as the networks receive it: augmented, cropped, downsampled and replicated as at inference.

Data workers prepare samples, so that a trainer on a GPU never waits for farthest point sampling.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lidar_completion.crop import crop_range
from lidar_completion.downsample import downsample
from lidar_completion.starts import start_points
from lidar_completion.visibility import ClearSpace
from lidar_completion_training.configuration import AugmentationRecipe, Recipe
from lidar_completion_training.known_space import KnownSpace
from lidar_completion_training.stream import Sample

TILT_LIMIT = 3.0  # standard deviations at which a tilt is clipped, as published


@dataclass(frozen=True)
class PreparedSweep:
    """A sweep and its ground truth; float32, metres, in the augmented sensor frame."""

    near: Tensor  # (N, 3) points within the model's range
    scan: Tensor  # (S, 3) one point per voxel
    truth: Tensor  # (M, 3)
    origin: Tensor  # (3,) origin of the rays
    replicated: Tensor  # (N, 3) p*: start points in holes, if the pipeline has them, then the replicated scan
    scale: Tensor  # (N, 3) noise scale around p*
    clear_space: ClearSpace | None = None  # observed free space, if networks or loss use it
    known: KnownSpace | None = None  # where the truth is complete; None: everywhere
    random_state: Tensor | None = None  # state of the sample's CPU generator after preparation in a data worker

    def to(self, device: torch.device | str) -> "PreparedSweep":
        """The sweep on another device; asynchronous from pinned memory."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "PreparedSweep":
        """The sweep in page-locked memory; a DataLoader calls this."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "PreparedSweep":
        space = self.clear_space
        if space is not None:
            space = dataclasses.replace(space, distance=change(space.distance))
        near, scan, truth = change(self.near), change(self.scan), change(self.truth)
        origin, replicated, scale = change(self.origin), change(self.replicated), change(self.scale)
        known = self.known and self.known.mapped(change)
        return PreparedSweep(near, scan, truth, origin, replicated, scale, space, known, self.random_state)


def generator_of(recipe: Recipe, number: int, device: torch.device | str) -> torch.Generator:
    """The generator of all random numbers of sample `number`."""
    return torch.Generator(device).manual_seed(recipe.seed * 1_000_003 + number)


def prepare_in_worker(recipe: Recipe, number: int, sample: Sample) -> PreparedSweep:
    """Sample `number`, prepared with its own random numbers; the trainer continues the sequence (`generator_after`)."""
    generator = generator_of(recipe, number, "cpu")
    sweep = prepare(sample, recipe, generator)
    return dataclasses.replace(sweep, random_state=generator.get_state())


def generator_after(
    sample: Sample | PreparedSweep, recipe: Recipe, number: int, device: torch.device
) -> torch.Generator:
    """The generator for the losses of sample `number`.

    On a CPU it continues where preparation ended, so that a sample prepared in a data worker gives the same losses as one
    prepared by the trainer. A GPU has its own sequence of numbers, from the same seed.
    """
    generator = generator_of(recipe, number, device)
    if device.type == "cpu" and isinstance(sample, PreparedSweep) and sample.random_state is not None:
        generator.set_state(sample.random_state)
    return generator


def prepared(sample: Sample | PreparedSweep, recipe: Recipe, generator: torch.Generator) -> PreparedSweep:
    """The sample as prepared by a data worker, or prepared here."""
    return sample if isinstance(sample, PreparedSweep) else prepare(sample, recipe, generator)


def prepare(sample: Sample, recipe: Recipe, generator: torch.Generator) -> PreparedSweep:
    """Augment a sample and preprocess its sweep as SceneCompleter does."""
    pipeline = recipe.pipeline
    transform = augmentation(recipe.data.augmentation, generator).to(sample.sweep)
    near = crop_range(sample.sweep, pipeline.min_range_m, pipeline.max_range_m) @ transform.T
    scan = downsample(near, pipeline)
    truth, origin = sample.truth @ transform.T, sample.origin @ transform.T
    clear_space = None
    if recipe.architecture.ray_features or recipe.direct.free_space_weight:
        beyond_vehicle = sample.sweep.norm(dim=1) > pipeline.min_range_m
        clear_space = ClearSpace.from_returns(sample.sweep[beyond_vehicle] @ transform.T)
    of_inference = clear_space if recipe.architecture.ray_features else None  # without ray features, inference has none
    replicated = start_points(scan, pipeline, clear_space=of_inference).points
    known = sample.known and sample.known.augmented(transform)
    return PreparedSweep(near, scan, truth, origin, replicated, pipeline.noise_scale(replicated), clear_space, known)


def augmentation(recipe: AugmentationRecipe, generator: torch.Generator) -> Tensor:
    """A random linear map (3, 3): rotation about z, flip of y, and the recipe's tilt and scale."""
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
