"""The forward process, shared by teachers, auxiliary models and the scores of samples, and the loss of predicting its noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lidar_completion.diffusion import NoiseSchedule, add_noise, guide, noise_like
from lidar_completion.networks import Condition, VoxelisedCloud
from lidar_completion_training.configuration import Recipe
from lidar_completion_training.objectives.chamfer import nearest_rows


@dataclass(frozen=True)
class NoisedCloud:
    """p_t of Eq. 1 and how it came about: points = clean + sigma_t scale noise. Row by row; metres.

    Networks see `cloud`, which carries no gradient: its kernel maps are built once for all that look at it.
    """

    points: Tensor  # (N, 3) with the gradient of the clean points
    noise: Tensor  # (N, 3) without gradient: what a network has to predict
    scale: Tensor  # (N, 3)
    t: int
    cloud: VoxelisedCloud


def noised(
    clean: Tensor, start: Tensor | None, t: int, scan: Tensor, recipe: Recipe, generator: torch.Generator
) -> NoisedCloud:
    """Noise clean points (N, 3) to timestep t; networks see them beside the scan (S, 3).

    start (N, 3): the scan point that each of them starts from at inference, None where it has none.
    pipeline.noised_around "truth": noise = eps, the published process.
    "scan": noise = eps + (scan - clean) / (sigma_T scale). At the first timestep T of inference this is the noised scan,
    scan + sigma_T scale eps, exactly where inference starts, and on the way clean = points - sigma_t scale noise as ever,
    so networks and samplers stay as they are.
    """
    pipeline, sigma = recipe.pipeline, recipe.schedule.sigma
    start_points = clean.detach() if start is None else start
    scale = pipeline.noise_scale(start_points)
    noise = noise_like(clean.detach(), generator)
    if pipeline.noised_around == "scan":
        noise = noise + (start_points - clean) / (float(sigma[pipeline.start_timestep]) * scale)
    points = add_noise(clean, scale * noise, float(sigma[t]))
    cloud = recipe.architecture.cloud(points.detach(), scan)
    return NoisedCloud(points, noise.detach(), scale, t, cloud)


def predicted(
    denoiser: nn.Module, noised: NoisedCloud, condition: Condition, tables: list[Tensor], stem: Tensor | None = None
) -> Tensor:
    """The network's noise (N, 3) of a noised cloud. tables: condition.nearest_tables of its pyramid; stem: stem_features."""
    timestep = torch.tensor([noised.t], device=noised.points.device)
    prediction: Tensor = denoiser(noised.cloud, condition, timestep, tables, stem)
    return prediction[:, :3].float()


@torch.no_grad()
def guided(
    denoiser: nn.Module,
    noised: NoisedCloud,
    condition: Condition,
    tables: list[Tensor],
    nothing: Condition | None,
    weight: float,
) -> Tensor:
    """A frozen network's noise (N, 3), guided where there is a condition `nothing`."""
    if nothing is None:
        return predicted(denoiser, noised, condition, tables)
    stem: Tensor = denoiser.stem_features(noised.cloud)  # type: ignore[operator]
    conditional = predicted(denoiser, noised, condition, tables, stem)
    unconditional = predicted(denoiser, noised, nothing, nothing.nearest_tables(noised.cloud.pyramid), stem)
    return guide(conditional, unconditional, weight)


def noise_error(prediction: Tensor, noised: NoisedCloud, metres: bool) -> Tensor:
    """Mean squared error of a predicted noise, in multiples of the noise, or in metres where its scale differs."""
    error = prediction - noised.noise
    return (error * noised.scale if metres else error).square().mean()


def drawn_timestep(first: int, last: int, by_level: bool, schedule: NoiseSchedule, generator: torch.Generator) -> int:
    """A random timestep from first to last, even in time as published, or even in noise level."""
    draw = torch.rand((), generator=generator, device=generator.device).item()
    if not by_level:
        return first + int(draw * (last - first + 1))
    level = schedule.sigma[first] + draw * (schedule.sigma[last] - schedule.sigma[first])
    return first + int((schedule.sigma[first : last + 1] - level).abs().argmin())


def coupled(
    truth: Tensor, scan: Tensor, rows: int, within_m: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Truth points and the scan points they start from, two (P, 3), P <= rows: the coupling of noise around the scan.

    Truth belongs to its nearest scan point, or to none beyond within_m. Every scan point starts equally often, as at
    inference, each time for a random one of its truth points; scan points that own none are left out.
    """
    owner = nearest_rows(truth, scan)
    near = (truth - scan[owner]).norm(dim=1) < within_m
    truth, owner = truth[near], owner[near]
    by_owner = owner.argsort(stable=True)
    counts = torch.bincount(owner, minlength=len(scan))
    starts = counts.cumsum(0) - counts
    start = torch.arange(rows, device=scan.device) % len(scan)
    start = start[counts[start] > 0]
    draw = torch.rand(len(start), generator=generator, device=generator.device)
    place = starts[start] + (draw * counts[start]).long().clamp(max=counts[start] - 1)
    return truth[by_owner[place]], scan[start]
