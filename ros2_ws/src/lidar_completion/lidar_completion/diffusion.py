"""The diffusion process on points: noise schedule, forward process, guidance. Pure functions without state.

Symbols as in the paper: p* the replicated scan, p_t the noised points, eps the noise, abar_t the product of the alphas up
to t, sigma_t = sqrt(1 - abar_t). The samplers are in samplers.py.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lidar_completion import diffusion_compiled
from lidar_completion.errors import ModelError
from lidar_completion.settings import between, check_bounds
from lidar_completion.sparse import points_cpu


@dataclass(frozen=True)
class NoiseSchedule:
    """Betas that rise linearly over `steps` timesteps; the defaults are the published values."""

    steps: int = between(1, 100_000, 1000)
    beta_first: float = between(1e-12, 0.999, 3.5e-5)
    beta_last: float = between(1e-12, 0.999, 0.007)  # from 1 on, abar would be 0 or negative

    def __post_init__(self) -> None:
        check_bounds(self, "schedule")
        if self.beta_first > self.beta_last:
            raise ModelError(
                f"schedule.beta_first is {self.beta_first}; expected at most schedule.beta_last, which is {self.beta_last}"
            )

    @cached_property
    def alpha_bar(self) -> Tensor:
        """abar_t of every timestep, (T,) float64, rounded to float32 as in the published code."""
        betas = torch.linspace(self.beta_first, self.beta_last, self.steps, dtype=torch.float32)
        return torch.cumprod(1.0 - betas, 0).double()

    @cached_property
    def sigma(self) -> Tensor:
        """Noise level sqrt(1 - abar_t) of every timestep in metres, (T,) float64."""
        return (1.0 - self.alpha_bar).sqrt()

    def timesteps(self, count: int, start: int | None = None) -> list[int]:
        """`count` timesteps, equally spaced in time from `start` (default: the last) down towards 0, which is left out."""
        start = self.steps - 1 if start is None else start
        return torch.linspace(0, start, count + 1, dtype=torch.float64).round().long().flip(0)[:-1].tolist()

    def timesteps_by_sigma(self, count: int, start: int | None = None) -> list[int]:
        """`count` timesteps whose noise levels are equally spaced from that of `start` down towards 0, which is left out."""
        start = self.steps - 1 if start is None else start
        levels = self.sigma[start] * torch.linspace(1, 0, count + 1, dtype=torch.float64)[:-1]
        return (self.sigma[None] - levels[:, None]).abs().argmin(1).tolist()


def add_noise(points: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """Forward process, Eq. 1: p_t = p + sigma_t eps. The points are never scaled."""
    return points + sigma * noise


def add_scaled_noise(points: Tensor, scale: Tensor | float, noise: Tensor, sigma: float) -> Tensor:
    """Forward process with a noise scale per point and axis: p_t = p + sigma_t * (scale * eps), all (N, 3)."""
    if isinstance(scale, Tensor) and scale.shape == points.shape and points_cpu.usable(points, scale, noise):
        return diffusion_compiled.add_scaled_noise(points, scale, noise, sigma)
    return add_noise(points, scale * noise, sigma)


def clean_estimate(points: Tensor, scale: Tensor | float, noise: Tensor, sigma: float) -> Tensor:
    """Noised points (N, 3) without their predicted noise: p_t - sigma_t * scale * eps."""
    if isinstance(scale, Tensor) and scale.shape == points.shape and points_cpu.usable(points, scale, noise):
        return diffusion_compiled.clean_estimate(points, scale, noise, sigma)
    return points - sigma * scale * noise


def noise_like(points: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of the shape, device and dtype of points (N, 3)."""
    return torch.randn(points.shape, generator=generator, device=points.device, dtype=points.dtype)


def range_scale(points: Tensor, per_metre: float, minimum: float, maximum: float, vertical: float) -> Tensor:
    """Noise scale (N, 3) of start points: clip(per_metre * range, minimum, maximum), and `vertical` times that along z.

    Gaps between the rings of a spinning LiDAR grow with range and are mostly horizontal. Noise of this shape moves points
    into the gaps, and moves points near the sensor, which are dense, very little. per_metre = 0 means 1 everywhere.
    """
    if per_metre == 0.0:
        return torch.ones_like(points)
    horizontal = (per_metre * points.norm(dim=1)).clamp(minimum, maximum)
    return torch.stack([horizontal, horizontal, vertical * horizontal], dim=1)


def guide(conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
    """Classifier-free guidance eps_u + w (eps_c - eps_u)."""
    return torch.lerp(unconditional, conditional, weight)
