"""Samples of a network while it is trained, drawn as inference draws them, with the gradient through the last pass."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lidar_completion.completer import start_level
from lidar_completion.diffusion import SAMPLERS, add_noise, noise_like, sampling_timesteps
from lidar_completion.networks import Condition
from lidar_completion_training.configuration import Recipe, model_card
from lidar_completion_training.objectives.preparation import PreparedSweep


class Sampled(NamedTuple):
    """Completed points (N, 3), and (N,) the logit of each lying near a surface, where the network judges its points."""

    points: Tensor
    logit: Tensor | None


def sampled(
    denoiser: nn.Module,
    condition: Condition,
    prepared: PreparedSweep,
    timesteps: list[int],
    recipe: Recipe,
    generator: torch.Generator,
    start_noise: float = 1.0,
) -> Sampled:
    """Completed points (S * K, 3), row by row those of prepared.replicated: the estimate after the last of `timesteps`.

    start_noise: lambda of Eq. 19, p_T = p* + lambda sigma_T eps.
    """
    judged = recipe.architecture.point_confidence
    logit: Tensor | None = None

    def denoise(points: Tensor, t: int) -> Tensor:
        nonlocal logit
        with torch.set_grad_enabled(torch.is_grad_enabled() and t == timesteps[-1]):
            cloud = recipe.architecture.cloud(points, prepared.scan)
            out: Tensor = denoiser(cloud, condition, torch.tensor([t], device=points.device))
        logit = out[:, 3] if judged else None
        return out[:, :3]

    level = start_noise * start_level(model_card(recipe))
    start = add_noise(prepared.replicated, prepared.scale * noise_like(prepared.replicated, generator), level)
    extra = {} if recipe.pipeline.sampler == "dpm_solver" else {"scale": prepared.scale}
    sampler = SAMPLERS[recipe.pipeline.sampler]
    points = sampler(denoise, prepared.replicated, start, timesteps, recipe.schedule, generator, **extra)
    return Sampled(points, logit)


def drawn_timesteps(counts: list[int], stop_early: bool, recipe: Recipe, generator: torch.Generator) -> list[int]:
    """Timesteps of one of the numbers of steps in `counts`; with stop_early only those up to a random one of them."""
    device = generator.device
    steps = counts[int(torch.randint(len(counts), (), generator=generator, device=device))]
    pipeline = recipe.pipeline
    timesteps = sampling_timesteps(pipeline.sampler, steps, recipe.schedule, pipeline.start_timestep)
    if not stop_early:
        return timesteps
    return timesteps[: int(torch.randint(1, len(timesteps) + 1, (), generator=generator, device=device))]
