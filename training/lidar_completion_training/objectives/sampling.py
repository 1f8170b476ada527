"""Completions during training, sampled as at inference, with the gradient through the last pass only."""

from functools import partial

import torch
from torch import Tensor, nn

from lidar_completion.denoiser import UnionScanDenoiser
from lidar_completion.diffusion import add_noise, noise_like
from lidar_completion.samplers import SAMPLERS, Denoise, Prediction, SampledPoints
from lidar_completion_training.cards import model_card
from lidar_completion_training.configuration import Recipe
from lidar_completion_training.objectives.precision import run
from lidar_completion_training.objectives.step import Step


def complete(denoiser: nn.Module, step: Step, timesteps: list[int], start_noise: float = 1.0) -> SampledPoints:
    """Completed points in the order of sweep.replicated: the clean estimates after the last of `timesteps`.

    start_noise: lambda of Eq. 19, p_T = p* + lambda sigma_T eps.
    """
    recipe, sweep = step.recipe, step.sweep
    predict = denoiser_of(denoiser, step)

    def denoise(points: Tensor, t: int) -> Prediction:
        with torch.set_grad_enabled(torch.is_grad_enabled() and t == timesteps[-1]):
            return predict(points, t)

    noise = sweep.scale * noise_like(sweep.replicated, step.generator)
    start = add_noise(sweep.replicated, noise, start_noise * model_card(recipe).start_sigma())
    sample = SAMPLERS[recipe.pipeline.sampler].sample
    return sample(denoise, sweep.replicated, start, timesteps, recipe.schedule, step.generator, sweep.scale)


def denoiser_of(denoiser: nn.Module, step: Step) -> Denoise:
    """The denoiser of the step's scan, as at inference; DivergedError if points left the voxel grid."""
    recipe, sweep = step.recipe, step.sweep

    def published(points: Tensor, t: int) -> Prediction:
        timestep = torch.tensor([t], device=points.device)
        out: Tensor = run(denoiser, recipe, step.cloud(points), step.condition, timestep)
        return Prediction(out[:, :3], out[:, 3] if recipe.architecture.point_confidence else None)

    if recipe.architecture.conditioning == "encoder":
        return published
    rays = None if sweep.clear_space is None else sweep.clear_space.ray_features
    union = UnionScanDenoiser(partial(run, denoiser, recipe), model_card(recipe), step.scan, sweep.scale, rays)
    return lambda points, t: union(step.on_grid(points), t)


def draw_timesteps(counts: list[int], stop_early: bool, recipe: Recipe, generator: torch.Generator) -> list[int]:
    """Timesteps of a schedule with a random number of steps out of `counts`; with stop_early, cut after a random one."""
    device = generator.device
    steps = counts[int(torch.randint(len(counts), (), generator=generator, device=device))]
    pipeline = recipe.pipeline
    timesteps = SAMPLERS[pipeline.sampler].timesteps(recipe.schedule, steps, pipeline.start_timestep)
    if not stop_early:
        return timesteps
    return timesteps[: int(torch.randint(1, len(timesteps) + 1, (), generator=generator, device=device))]
