"""All samplers, with noise predictors whose result is known."""

import pytest
import torch

from lidar_completion.diffusion import NoiseSchedule
from lidar_completion.samplers import SAMPLERS, Prediction, reverse_step

SCHEDULE = NoiseSchedule()


def perfect(truth: torch.Tensor):
    """The noise predictor that knows the truth: p_t = truth + sigma_t eps."""
    return lambda points, t: Prediction((points - truth) / float(SCHEDULE.sigma[t]))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sampler", ["few_step", "deterministic", "ancestral"])
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_samplers_that_follow_eq_1_reach_the_truth(sampler: str, steps: int):
    scan = torch.randn(50, 3, generator=generator(1)) * 10
    truth = scan + 0.5
    start = scan + float(SCHEDULE.sigma[-1]) * torch.randn(50, 3, generator=generator(2))
    timesteps = SAMPLERS[sampler].timesteps(SCHEDULE, steps, 999)
    found = SAMPLERS[sampler].sample(perfect(truth), scan, start, timesteps, SCHEDULE, generator(3)).points
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("steps", "expected"), [(1, 2.92), (2, 0.78), (4, 0.56), (8, 0.515)])
def test_published_sampler_overshoots(steps: int, expected: float):
    """A perfect predictor and a true offset of 0.5 m: the sampler ends elsewhere, because it divides by sqrt(abar)."""
    scan = torch.zeros(20_000, 3, dtype=torch.float64)
    start = scan + torch.randn(20_000, 3, generator=generator(2), dtype=torch.float64)
    truth, sampler = torch.full_like(scan, 0.5), SAMPLERS["dpm_solver"]
    timesteps = sampler.timesteps(SCHEDULE, steps, 999)
    found = sampler.sample(perfect(truth), scan, start, timesteps, SCHEDULE, generator(3)).points
    assert timesteps[:1] == [999]
    assert float(found.mean()) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_same_generator_gives_the_same_points(sampler: str):
    scan = torch.randn(20, 3, generator=generator(1))
    first, second = (
        SAMPLERS[sampler]
        .sample(lambda p, t: Prediction(p * 0.1), scan, scan + 1, [999, 600, 300], SCHEDULE, generator(7))
        .points
        for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_calls_the_network_once_per_step_and_returns_the_last_logit(sampler: str):
    seen: list[int] = []

    def denoise(points: torch.Tensor, t: int) -> Prediction:
        seen.append(t)
        return Prediction(torch.zeros_like(points), torch.full_like(points[:, 0], t))

    scan = torch.zeros(4, 3)
    result = SAMPLERS[sampler].sample(denoise, scan, scan, [900, 749, 500, 2], SCHEDULE, generator())
    assert seen == [900, 749, 500, 2]
    assert result.logit is not None
    assert result.logit.tolist() == [2.0] * 4


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_noise_scale_stretches_every_sampler(sampler: str):
    """With start, noise prediction and fresh noise in units of the scale, the whole sample stretches with it."""
    offset, scale = torch.randn(30, 3, generator=generator(1), dtype=torch.float64), 0.25
    points = torch.zeros_like(offset)

    def run(s: float) -> torch.Tensor:
        noise = lambda p, t: Prediction(0.3 * p / s)  # noqa: E731
        return SAMPLERS[sampler].sample(noise, points, s * offset, [999, 500], SCHEDULE, generator(2), s).points

    torch.testing.assert_close(run(scale), scale * run(1.0))


def test_ancestral_noise_has_the_posterior_variance():
    t, s = 999, 500
    sigma, lower = float(SCHEDULE.sigma[t]), float(SCHEDULE.sigma[s])
    truth = torch.zeros(200_000, 1, dtype=torch.float64)
    start = sigma * torch.randn(truth.shape, generator=generator(1), dtype=torch.float64)
    levels = []

    def denoise(points: torch.Tensor, t: int) -> Prediction:
        levels.append(float(points.std()))
        return Prediction((points - truth) / float(SCHEDULE.sigma[t]))

    SAMPLERS["ancestral"].sample(denoise, truth, start, [t, s], SCHEDULE, generator(2))
    assert levels == [pytest.approx(sigma, rel=0.01), pytest.approx(lower, rel=0.01)]


def test_reverse_step_is_eq_2():
    offset, eps = torch.full((1, 3), 2.0, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
    t, beta = 999, 0.007
    step = reverse_step(offset, eps, t, t - 1, SCHEDULE, torch.zeros_like(offset))
    expected = (2.0 - beta / float(SCHEDULE.sigma[t])) / (1 - beta) ** 0.5
    assert step[0, 0].item() == pytest.approx(expected, abs=1e-5)
    variance = (1 - SCHEDULE.alpha_bar[t - 1]) / (1 - SCHEDULE.alpha_bar[t]) * beta
    noise = reverse_step(torch.zeros_like(offset), torch.zeros_like(eps), t, t - 1, SCHEDULE, torch.ones_like(offset))
    assert noise[0, 0].item() == pytest.approx(float(variance) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("timesteps", [[999], [999, 500], list(range(999, 0, -1))])
def test_ddpm_reaches_the_truth_of_a_variance_preserving_process(timesteps: list[int]):
    """Eq. 2 belongs to the process sqrt(abar) x + sigma eps; with that process's perfect predictor it ends at x."""
    scan = torch.randn(40, 3, generator=generator(1), dtype=torch.float64) * 10
    truth = torch.full_like(scan, 0.5)

    def denoise(points: torch.Tensor, t: int) -> Prediction:
        scaled = float(SCHEDULE.alpha_bar[t]) ** 0.5 * truth
        return Prediction((points - scan - scaled) / float(SCHEDULE.sigma[t]))

    start = scan + torch.randn(scan.shape, generator=generator(2), dtype=torch.float64)
    found = SAMPLERS["ddpm"].sample(denoise, scan, start, timesteps, SCHEDULE, generator(3)).points
    torch.testing.assert_close(found, scan + truth, atol=1e-6, rtol=0)
