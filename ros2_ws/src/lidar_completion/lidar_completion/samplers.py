"""Samplers: from noised start points to clean points. Pure functions of one signature, registered in SAMPLERS.

    sampler(denoise, start_points, start, timesteps, schedule, generator, scale) -> SampledPoints

denoise       (points (N, 3), timestep) -> Prediction
start_points  (N, 3) the points that noise was added to: p* of the paper, or another source (starts.py)
start         (N, 3) the start points with noise
timesteps     descending; after the last one, a sampler goes to the clean points
schedule      noise level sigma_t of each timestep
generator     source of fresh noise; None: PyTorch's default
scale         (N, 3) or a number: factor on sigma_t for each point and axis (diffusion.range_scale); 1 as published

A new sampler is a function of this signature and a line in SAMPLERS; model cards name it in pipeline.sampler.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lidar_completion.diffusion import NoiseSchedule, add_scaled_noise, clean_estimate, noise_like


class Prediction:
    """A denoiser's output: the predicted noise (N, 3) and, if the network has a confidence, its logit (N,).

    A network with M clean estimates per point (networks/union.py) also gives these, (N * M, 3), with logits (N * M,). Its noise
    is a function, called only if a further step needs it.
    """

    def __init__(
        self, noise: Tensor | Callable[[], Tensor], logit: Tensor | None = None, estimates: Tensor | None = None
    ) -> None:
        self._noise, self.logit, self.estimates = noise, logit, estimates

    @property
    def noise(self) -> Tensor:
        """The predicted noise (N, 3)."""
        return self._noise if isinstance(self._noise, Tensor) else self._noise()


class SampledPoints(NamedTuple):
    """A sampler's output: clean points (N, 3) and the logit (N,) of the last prediction; N * M of both if it has estimates."""

    points: Tensor
    logit: Tensor | None = None

    @classmethod
    def of(cls, points: Tensor, prediction: Prediction) -> "SampledPoints":
        """The points (N, 3) where a sampler ended, or the estimates of its last prediction."""
        return cls(points if prediction.estimates is None else prediction.estimates, prediction.logit)


Denoise = Callable[[Tensor, int], Prediction]


class SamplingFunction(Protocol):
    """The signature that all samplers share; see the module's description."""

    def __call__(
        self,
        denoise: Denoise,
        start_points: Tensor,
        start: Tensor,
        timesteps: list[int],
        schedule: NoiseSchedule,
        generator: torch.Generator | None = None,
        scale: Tensor | float = 1.0,
    ) -> SampledPoints: ...


@dataclass(frozen=True)
class Sampler:
    """A sampler, how its timesteps are chosen, and whether it can start from a prior."""

    sample: SamplingFunction
    timesteps: Callable[[NoiseSchedule, int, int | None], list[int]] = NoiseSchedule.timesteps_by_sigma
    takes_prior: bool = True  # whether it can start at a lower noise level from a temporal prior


# ---------------------------------------------------------------------------------------------------------------------
# Samplers of the process of Eq. 1, whose clean estimate is p_t - sigma_t eps


def few_step(
    denoise: Denoise,
    start_points: Tensor,
    start: Tensor,
    timesteps: list[int],
    schedule: NoiseSchedule,
    generator: torch.Generator | None = None,
    scale: Tensor | float = 1.0,
) -> SampledPoints:
    """Each step: the clean estimate, then fresh noise of the next level (the multistep sampler of consistency models)."""
    return _clean_and_noise(denoise, start, timesteps, schedule, scale, lambda noise: noise_like(noise, generator))


def deterministic(
    denoise: Denoise,
    start_points: Tensor,
    start: Tensor,
    timesteps: list[int],
    schedule: NoiseSchedule,
    generator: torch.Generator | None = None,
    scale: Tensor | float = 1.0,
) -> SampledPoints:
    """Each step: the clean estimate, then the predicted noise at the next level (DDIM for the process of Eq. 1)."""
    return _clean_and_noise(denoise, start, timesteps, schedule, scale, lambda noise: noise)


def ancestral(
    denoise: Denoise,
    start_points: Tensor,
    start: Tensor,
    timesteps: list[int],
    schedule: NoiseSchedule,
    generator: torch.Generator | None = None,
    scale: Tensor | float = 1.0,
) -> SampledPoints:
    """Each step, from t to s: the posterior of Eq. 1, given the clean estimate.

    Its variance is sigma_s^2 (sigma_t^2 - sigma_s^2) / sigma_t^2; its mean lies between p_t and the clean estimate.
    """
    points, prediction = start, Prediction(start)
    for t, t_next in zip(timesteps, [*timesteps[1:], None], strict=True):
        sigma, lower = float(schedule.sigma[t]), 0.0 if t_next is None else float(schedule.sigma[t_next])
        prediction = denoise(points, t)
        clean = points - sigma * scale * prediction.noise
        mean = clean + (lower / sigma) ** 2 * (points - clean)
        spread = lower * (1 - (lower / sigma) ** 2) ** 0.5 * scale
        points = mean + spread * noise_like(points, generator) if lower else clean
    return SampledPoints.of(points, prediction)


def _clean_and_noise(
    denoise: Denoise,
    start: Tensor,
    timesteps: list[int],
    schedule: NoiseSchedule,
    scale: Tensor | float,
    next_noise: Callable[[Tensor], Tensor],
) -> SampledPoints:
    points, prediction = start, Prediction(start)
    for t, t_next in zip(timesteps, [*timesteps[1:], None], strict=True):
        prediction = denoise(points, t)
        if t_next is None and prediction.estimates is not None:
            break
        noise = prediction.noise
        points = clean_estimate(points, scale, noise, float(schedule.sigma[t]))
        if t_next is not None:
            points = add_scaled_noise(points, scale, next_noise(noise), float(schedule.sigma[t_next]))
    return SampledPoints.of(points, prediction)


# ---------------------------------------------------------------------------------------------------------------------
# Published samplers. They treat the offset from the start points as a variance-preserving process, which divides it by
# sqrt(abar_t) and contradicts Eq. 1. The public checkpoints were trained with this; our own models were not.


def dpm_solver(
    denoise: Denoise,
    start_points: Tensor,
    start: Tensor,
    timesteps: list[int],
    schedule: NoiseSchedule,
    generator: torch.Generator | None = None,
    scale: Tensor | float = 1.0,
) -> SampledPoints:
    """Second-order SDE-DPM-Solver++, the sampler of the published code.

    The last step goes to t = 0, whose noise level is not zero. It is first-order if there are fewer than 15 steps.
    """
    offset, prediction, previous = (start - start_points) / scale, Prediction(start), None
    for t, t_next in pairwise([*timesteps, 0]):
        prediction = denoise(start_points + scale * offset, t)
        last_is_first_order = t_next == 0 and len(timesteps) < 15
        noise = noise_like(offset, generator)
        offset, clean = dpm_solver_step(
            offset, prediction.noise, t, t_next, schedule, noise, None if last_is_first_order else previous
        )
        previous = (clean, t)
    return SampledPoints.of(start_points + scale * offset, prediction)


def dpm_solver_step(
    offset: Tensor,
    eps: Tensor,
    t: int,
    t_next: int,
    schedule: NoiseSchedule,
    noise: Tensor,
    previous: tuple[Tensor, int] | None,
) -> tuple[Tensor, Tensor]:
    """One step of SDE-DPM-Solver++ (midpoint, variance-preserving coefficients) from t to t_next.

    previous: clean estimate and timestep of the previous step for a second-order step; None for a first-order step.
    Returns the offset (N, 3) at t_next and this step's clean estimate (N, 3).
    """
    alpha, sigma = (schedule.alpha_bar.sqrt(), schedule.sigma)
    log_snr = alpha.log() - sigma.log()
    clean = (offset - float(sigma[t]) * eps) / float(alpha[t])
    h = float(log_snr[t_next] - log_snr[t])
    decay = float(torch.exp(torch.tensor(-h, dtype=torch.float64)))
    estimate = clean
    if previous is not None:
        r = float(log_snr[t] - log_snr[previous[1]]) / h
        estimate = clean + 0.5 / r * (clean - previous[0])
    mean = float(sigma[t_next] / sigma[t]) * decay * offset + float(alpha[t_next]) * (1 - decay**2) * estimate
    return mean + float(sigma[t_next]) * (1 - decay**2) ** 0.5 * noise, clean


def ddpm(
    denoise: Denoise,
    start_points: Tensor,
    start: Tensor,
    timesteps: list[int],
    schedule: NoiseSchedule,
    generator: torch.Generator | None = None,
    scale: Tensor | float = 1.0,
) -> SampledPoints:
    """The reverse process as printed in the paper (Eq. 2); the last step adds no noise."""
    offset, prediction = (start - start_points) / scale, Prediction(start)
    for t, t_next in zip(timesteps, [*timesteps[1:], None], strict=True):
        prediction = denoise(start_points + scale * offset, t)
        noise = noise_like(offset, generator)
        offset = reverse_step(offset, prediction.noise, t, t_next, schedule, noise)
    return SampledPoints.of(start_points + scale * offset, prediction)


def reverse_step(
    offset: Tensor, eps: Tensor, t: int, t_next: int | None, schedule: NoiseSchedule, noise: Tensor
) -> Tensor:
    """The reverse step of Eq. 2 from t to t_next, or to the clean point (None); its alpha_t is abar_t / abar_next."""
    alpha_bar = schedule.alpha_bar
    lower = alpha_bar.new_tensor(1.0) if t_next is None else alpha_bar[t_next]
    alpha = float(alpha_bar[t] / lower)
    posterior = float(((1 - lower) / (1 - alpha_bar[t]) * (1 - alpha)).sqrt())
    return (offset - (1 - alpha) / float(schedule.sigma[t]) * eps) / alpha**0.5 + posterior * noise


SAMPLERS: dict[str, Sampler] = {
    "few_step": Sampler(few_step),
    "deterministic": Sampler(deterministic),
    "ancestral": Sampler(ancestral),
    "dpm_solver": Sampler(dpm_solver, NoiseSchedule.timesteps, takes_prior=False),
    "ddpm": Sampler(ddpm, NoiseSchedule.timesteps, takes_prior=False),
}
