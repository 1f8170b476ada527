"""Samples of a network while it is trained, drawn as inference draws them, with the gradient through the last pass."""

import torch
from torch import Tensor, nn

from lidar_completion.diffusion import add_noise, noise_like
from lidar_completion.networks import Condition
from lidar_completion.samplers import SAMPLERS, Prediction, SampledPoints
from lidar_completion_training.configuration import Recipe, model_card
from lidar_completion_training.objectives.preparation import PreparedSweep


def sampled(
    denoiser: nn.Module,
    condition: Condition,
    prepared: PreparedSweep,
    timesteps: list[int],
    recipe: Recipe,
    generator: torch.Generator,
    start_noise: float = 1.0,
) -> SampledPoints:
    """Completed points (S * K, 3), row by row those of prepared.replicated: the estimate after the last of `timesteps`.

    start_noise: lambda of Eq. 19, p_T = p* + lambda sigma_T eps.
    """
    has_logit = recipe.architecture.point_confidence

    def denoise(points: Tensor, t: int) -> Prediction:
        with torch.set_grad_enabled(torch.is_grad_enabled() and t == timesteps[-1]):
            cloud = recipe.architecture.cloud(points, prepared.scan)
            out: Tensor = denoiser(cloud, condition, torch.tensor([t], device=points.device))
        return Prediction(out[:, :3], out[:, 3] if has_logit else None)

    level = start_noise * model_card(recipe).start_sigma()
    start = add_noise(prepared.replicated, prepared.scale * noise_like(prepared.replicated, generator), level)
    sampler = SAMPLERS[recipe.pipeline.sampler].sample
    return sampler(denoise, prepared.replicated, start, timesteps, recipe.schedule, generator, prepared.scale)


def drawn_timesteps(counts: list[int], stop_early: bool, recipe: Recipe, generator: torch.Generator) -> list[int]:
    """Timesteps of one of the numbers of steps in `counts`; with stop_early only those up to a random one of them."""
    device = generator.device
    steps = counts[int(torch.randint(len(counts), (), generator=generator, device=device))]
    pipeline = recipe.pipeline
    timesteps = SAMPLERS[pipeline.sampler].timesteps(recipe.schedule, steps, pipeline.start_timestep)
    if not stop_early:
        return timesteps
    return timesteps[: int(torch.randint(1, len(timesteps) + 1, (), generator=generator, device=device))]
