"""The diffusion of points: noise schedule, forward process, samplers, guidance. Pure functions; no state outlives a scene.

Symbols as in the paper: p* the replicated scan, p_t the noised points, eps the noise, abar_t the product of alphas up to t.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from lidar_completion.errors import refuse_below

Denoise = Callable[[Tensor, int], Tensor]  # (points (N, 3), timestep) -> predicted noise (N, 3)


@dataclass(frozen=True)
class NoiseSchedule:
    """Linear betas over T steps; the published values are the defaults."""

    steps: int = 1000
    beta_first: float = 3.5e-5
    beta_last: float = 0.007

    def __post_init__(self) -> None:
        refuse_below(self, "schedule", {"steps": 1, "beta_first": 1e-12, "beta_last": 1e-12})

    @cached_property
    def alpha_bar(self) -> Tensor:  # (T,) float64
        betas = torch.linspace(self.beta_first, self.beta_last, self.steps, dtype=torch.float32)
        return torch.cumprod(1.0 - betas, 0).double()  # rounded to float32 as the reference's is

    @cached_property
    def sigma(self) -> Tensor:
        """Noise level sqrt(1 - abar_t) of every timestep in metres, (T,) float64."""
        return (1.0 - self.alpha_bar).sqrt()

    def timesteps(self, count: int, start: int | None = None) -> list[int]:
        """`count` timesteps, evenly from `start` (default T-1) down towards 0, which is not one of them."""
        start = self.steps - 1 if start is None else start
        return torch.linspace(0, start, count + 1, dtype=torch.float64).round().long().flip(0)[:-1].tolist()

    def timesteps_by_level(self, count: int, start: int | None = None) -> list[int]:
        """`count` timesteps whose noise levels fall evenly from that of `start` towards 0: sigma, 3/4 sigma, 1/2 ..."""
        start = self.steps - 1 if start is None else start
        levels = self.sigma[start] * torch.linspace(1, 0, count + 1, dtype=torch.float64)[:-1]
        return (self.sigma[None] - levels[:, None]).abs().argmin(1).tolist()


def add_noise(points: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """Forward process, Eq. 1: p_t = p + sigma_t eps; the points are never scaled."""
    return points + sigma * noise


def range_scale(points: Tensor, per_metre: float, least: float, most: float, vertical: float) -> Tensor:
    """Noise scale (N, 3) of points around which a scan is completed: clip(per_metre * range, least, most), z times `vertical`.

    Gaps between rings grow with range and lie flat, so noise that spreads points into them does too; near points,
    which are dense, are hardly moved. per_metre = 0 means 1 everywhere.
    """
    if per_metre == 0.0:
        return torch.ones_like(points)
    horizontal = (per_metre * points.norm(dim=1)).clamp(least, most)
    return torch.stack([horizontal, horizontal, vertical * horizontal], dim=1)


def reverse_step(points: Tensor, eps: Tensor, t: int, schedule: NoiseSchedule, noise: Tensor) -> Tensor:
    """Reverse step as printed in the paper, Eq. 2 (from t to t - 1)."""
    alpha_bar = schedule.alpha_bar
    before = alpha_bar[t - 1] if t > 0 else alpha_bar.new_tensor(1.0)
    alpha = float(alpha_bar[t] / before)
    posterior = float(((1 - before) / (1 - alpha_bar[t]) * (1 - alpha)).sqrt())
    return (points - (1 - alpha) / float(schedule.sigma[t]) * eps) / alpha**0.5 + posterior * noise


def guide(conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
    """Classifier-free guidance eps_u + w (eps_c - eps_u)."""
    return torch.lerp(unconditional, conditional, weight)


# ---------------------------------------------------------------------------------------------------------------------
# The published sampler


def dpm_solver_step(
    offset: Tensor,
    eps: Tensor,
    t: int,
    t_next: int,
    schedule: NoiseSchedule,
    noise: Tensor,
    before: tuple[Tensor, int] | None,
) -> tuple[Tensor, Tensor]:
    """One step of SDE-DPM-Solver++ (midpoint, variance-preserving coefficients) on the offset from p*.

    before: the clean estimate and timestep of the previous step for second order, None for first.
    Returns the offset at t_next and this step's clean estimate.
    """
    alpha, sigma = (schedule.alpha_bar.sqrt(), schedule.sigma)
    log_snr = alpha.log() - sigma.log()
    clean = (offset - float(sigma[t]) * eps) / float(alpha[t])
    h = float(log_snr[t_next] - log_snr[t])
    decay = float(torch.exp(torch.tensor(-h, dtype=torch.float64)))
    estimate = clean
    if before is not None:
        r = float(log_snr[t] - log_snr[before[1]]) / h
        estimate = clean + 0.5 / r * (clean - before[0])
    mean = float(sigma[t_next] / sigma[t]) * decay * offset + float(alpha[t_next]) * (1 - decay**2) * estimate
    return mean + float(sigma[t_next]) * (1 - decay**2) ** 0.5 * noise, clean


# A sampler takes (denoise, scan p* (N, 3), start (N, 3), timesteps, schedule, generator) and returns the clean points (N, 3).


def dpm_solver(
    denoise: Denoise,
    scan: Tensor,
    start: Tensor,
    timesteps: list[int],
    schedule: NoiseSchedule,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The reference's sampler, for the public checkpoints: acts on the offset from `scan` = p* (N, 3), starts at `start`.

    It contradicts Eq. 1 (it divides the offset by sqrt(abar)), which those checkpoints were trained around; our own
    models use few_step or deterministic. The last step goes to the noise level of t = 0 and is first-order below 15 steps.
    """
    offset, before = start - scan, None
    for t, t_next in pairwise([*timesteps, 0]):
        eps = denoise(scan + offset, t)
        last_is_first_order = t_next == 0 and len(timesteps) < 15
        noise = noise_like(offset, generator)
        offset, clean = dpm_solver_step(
            offset, eps, t, t_next, schedule, noise, None if last_is_first_order else before
        )
        before = (clean, t)
    return scan + offset


# ---------------------------------------------------------------------------------------------------------------------
# Samplers that are consistent with Eq. 1: the clean estimate is p_t - sigma_t eps. `scale` (N, 3) stretches the noise of
# every point and axis (range_scale); 1 is the published, uniform noise.


def few_step(
    denoise: Denoise,
    scan: Tensor,
    start: Tensor,
    timesteps: list[int],
    schedule: NoiseSchedule,
    generator: torch.Generator | None = None,
    scale: Tensor | float = 1.0,
) -> Tensor:
    """Clean estimate, fresh noise of the next level, and again (the sampler of consistency models); ends clean."""
    return _consistent(denoise, start, timesteps, schedule, scale, lambda eps: noise_like(eps, generator))


def deterministic(
    denoise: Denoise,
    scan: Tensor,
    start: Tensor,
    timesteps: list[int],
    schedule: NoiseSchedule,
    generator: torch.Generator | None = None,
    scale: Tensor | float = 1.0,
) -> Tensor:
    """Clean estimate, then the predicted noise at the next level (DDIM with the variance-exploding process of Eq. 1)."""
    return _consistent(denoise, start, timesteps, schedule, scale, lambda eps: eps)


def ancestral(
    denoise: Denoise,
    scan: Tensor,
    start: Tensor,
    timesteps: list[int],
    schedule: NoiseSchedule,
    generator: torch.Generator | None = None,
    scale: Tensor | float = 1.0,
) -> Tensor:
    """The posterior of Eq. 1 at every step: variance sigma_s^2 (sigma_t^2 - sigma_s^2) / sigma_t^2, mean on the line to the estimate."""
    points = start
    for t, t_next in zip(timesteps, [*timesteps[1:], None], strict=True):
        sigma, lower = float(schedule.sigma[t]), 0.0 if t_next is None else float(schedule.sigma[t_next])
        clean = points - sigma * scale * denoise(points, t)
        mean = clean + (lower / sigma) ** 2 * (points - clean)
        spread = lower * (1 - (lower / sigma) ** 2) ** 0.5 * scale
        points = mean + spread * noise_like(points, generator) if lower else clean
    return points


def _consistent(  # type: ignore[no-untyped-def]
    denoise: Denoise, start: Tensor, timesteps: list[int], schedule: NoiseSchedule, scale: Tensor | float, next_noise
) -> Tensor:
    points = start
    for t, t_next in zip(timesteps, [*timesteps[1:], None], strict=True):
        eps = denoise(points, t)
        points = points - float(schedule.sigma[t]) * scale * eps
        if t_next is not None:
            points = add_noise(points, scale * next_noise(eps), float(schedule.sigma[t_next]))
    return points


def noise_like(points: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of the shape, device and dtype of points (N, 3)."""
    return torch.randn(points.shape, generator=generator, device=points.device, dtype=points.dtype)


def sampling_timesteps(sampler: str, steps: int, schedule: NoiseSchedule, start: int | None = None) -> list[int]:
    """The timesteps of `steps` steps from `start`: evenly spaced in time as published, evenly in noise level for ours."""
    return schedule.timesteps(steps, start) if sampler == "dpm_solver" else schedule.timesteps_by_level(steps, start)


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "dpm_solver": dpm_solver,
    "few_step": few_step,
    "deterministic": deterministic,
    "ancestral": ancestral,
}
