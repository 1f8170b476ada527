"""The forward process (Eq. 1), predictions of its noise, and their loss."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lidar_completion.diffusion import NoiseSchedule, add_noise, guide, noise_like
from lidar_completion.networks import VoxelisedCloud
from lidar_completion_training.objectives.chamfer import nearest_rows
from lidar_completion_training.objectives.precision import run
from lidar_completion_training.objectives.step import Step


@dataclass(frozen=True)
class NoisedCloud:
    """p_t of Eq. 1: points = clean + sigma_t scale noise, row by row, in metres."""

    points: Tensor  # (N, 3) with the gradient of the clean points
    noise: Tensor  # (N, 3) without gradient: the target of a network
    scale: Tensor  # (N, 3)
    t: int
    voxelised: VoxelisedCloud  # without gradient; kernel maps are built once for all networks that see it
    tables: list[Tensor]  # per level: the nearest condition row of each voxel


def noised(clean: Tensor, start: Tensor | None, t: int, step: Step) -> NoisedCloud:
    """Clean points (N, 3), noised to timestep t.

    start (N, 3): the scan point that each of them starts from at inference; None for the published process.
    pipeline.noised_around "truth": noise = eps, the published process.
    "scan": noise = eps + (start - clean) / (sigma_T scale). At the first timestep T of inference p_T is exactly the
    noised scan, start + sigma_T scale eps; clean = p_t - sigma_t scale noise holds for every t, so networks and samplers
    are the same for both.
    """
    pipeline, sigma = step.recipe.pipeline, step.recipe.schedule.sigma
    centre = clean.detach() if start is None else start
    scale = pipeline.noise_scale(centre)
    noise = noise_like(clean.detach(), step.generator)
    if pipeline.noised_around == "scan":
        noise = noise + (centre - clean) / (float(sigma[pipeline.start_timestep]) * scale)
    points = add_noise(clean, scale * noise, float(sigma[t]))
    voxelised = step.cloud(points)
    assert step.condition is not None  # networks without encoder are trained with the objective direct
    tables = step.condition.nearest_tables(voxelised.pyramid)
    return NoisedCloud(points, noise.detach(), scale, t, voxelised, tables)


def predict_noise(denoiser: nn.Module, cloud: NoisedCloud, step: Step) -> Tensor:
    """eps(p_t, P, t), (N, 3), by a network that sees the step's condition P."""
    timestep = torch.tensor([cloud.t], device=cloud.points.device)
    prediction: Tensor = run(denoiser, step.recipe, cloud.voxelised, step.condition, timestep, cloud.tables)
    return prediction[:, :3].float()


@torch.no_grad()
def predict_guided_noise(denoiser: nn.Module, cloud: NoisedCloud, step: Step, weight: float) -> Tensor:
    """A frozen network's noise (N, 3), guided if the step has an unconditional branch."""
    conditional = predict_noise(denoiser, cloud, step)
    if step.unconditional is None:
        return conditional
    timestep = torch.tensor([cloud.t], device=cloud.points.device)
    tables = step.unconditional.nearest_tables(cloud.voxelised.pyramid)
    unconditional: Tensor = run(denoiser, step.recipe, cloud.voxelised, step.unconditional, timestep, tables)
    return guide(conditional, unconditional[:, :3].float(), weight)


def noise_error(
    prediction: Tensor, cloud: NoisedCloud, weight_by_noise_scale: bool, where: Tensor | None = None
) -> Tensor:
    """||eps - eps_hat||^2, the mean over all coordinates, or over those of the points `where` (N,) bool.

    Weighted by the noise scale it is in square metres. 0 if no point counts.
    """
    error = prediction - cloud.noise
    squares = (error * cloud.scale if weight_by_noise_scale else error).square()
    if where is None:
        return squares.mean()
    return squares[where].sum() / (where.sum() * squares.shape[1]).clamp(min=1)


def draw_timestep(
    first: int, last: int, uniform_in_sigma: bool, schedule: NoiseSchedule, generator: torch.Generator
) -> int:
    """A random timestep first ... last, uniform in time as published, or uniform in noise level."""
    draw = torch.rand((), generator=generator, device=generator.device).item()
    if not uniform_in_sigma:
        return first + int(draw * (last - first + 1))
    level = schedule.sigma[first] + draw * (schedule.sigma[last] - schedule.sigma[first])
    return first + int((schedule.sigma[first : last + 1] - level).abs().argmin())


def couple(
    truth: Tensor, scan: Tensor, rows: int, within_m: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pairs of truth points and the scan points they start from, two (P, 3), P <= rows, for noise around the scan.

    A truth point belongs to its nearest scan point, or to none if that is farther than within_m. Every scan point is
    the start equally often, as at inference, each time of a random one of its truth points; scan points without truth
    points are left out.
    """
    owner = nearest_rows(truth, scan)
    near = (truth - scan[owner]).norm(dim=1) < within_m
    truth, owner = truth[near], owner[near]
    by_owner = owner.argsort(stable=True)
    counts = torch.bincount(owner, minlength=len(scan))
    firsts = counts.cumsum(0) - counts
    start = torch.arange(rows, device=scan.device) % len(scan)
    start = start[counts[start] > 0]
    draw = torch.rand(len(start), generator=generator, device=generator.device)
    place = firsts[start] + (draw * counts[start]).long().clamp(max=counts[start] - 1)
    return truth[by_owner[place]], scan[start]
