import pytest
import torch

from lidar_completion import diffusion
from lidar_completion.diffusion import SAMPLERS, NoiseSchedule

SCHEDULE = NoiseSchedule()


def perfect(truth: torch.Tensor):
    """The noise predictor that knows the truth: p_t = truth + sigma_t eps."""
    return lambda points, t: (points - truth) / float(SCHEDULE.sigma[t])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_schedule_by_definition():
    betas = torch.linspace(3.5e-5, 0.007, 1000, dtype=torch.float64)
    torch.testing.assert_close(SCHEDULE.alpha_bar, torch.cumprod(1 - betas, 0), rtol=1e-4, atol=0)
    assert float(SCHEDULE.sigma[-1]) == pytest.approx(0.985, abs=1e-3)
    assert float(SCHEDULE.sigma[0]) == pytest.approx(0.0059, abs=1e-4)


def test_timesteps_run_down_and_leave_out_zero():
    assert SCHEDULE.timesteps(1) == [999]
    assert SCHEDULE.timesteps(4) == [999, 749, 500, 250]
    assert SCHEDULE.timesteps(2, start=500) == [500, 250]


@pytest.mark.parametrize("start", [999, 400])
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_our_own_timesteps_are_even_in_noise_level(start: int, steps: int):
    timesteps = diffusion.sampling_timesteps("few_step", steps, SCHEDULE, start)
    levels = [*(float(SCHEDULE.sigma[t]) for t in timesteps), 0.0]
    gaps = torch.tensor(levels).diff().abs()
    assert timesteps[0] == start
    assert len(timesteps) == steps
    torch.testing.assert_close(gaps, gaps.mean().expand(steps), atol=0.01, rtol=0)
    assert diffusion.sampling_timesteps("dpm_solver", 4, SCHEDULE, 999) == [999, 749, 500, 250]


def test_forward_process_never_scales_the_points():
    points, noise = torch.full((2, 3), 40.0), torch.ones(2, 3)
    assert torch.equal(diffusion.add_noise(points, noise, 0.5), points + 0.5)


def test_guidance_weights():
    conditional, unconditional = torch.tensor([3.0]), torch.tensor([1.0])
    assert diffusion.guide(conditional, unconditional, 1.0).item() == 3
    assert diffusion.guide(conditional, unconditional, 0.0).item() == 1
    assert diffusion.guide(conditional, unconditional, 3.5).item() == pytest.approx(8.0)


@pytest.mark.parametrize("sampler", ["few_step", "deterministic", "ancestral"])
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_consistent_samplers_find_the_truth(sampler: str, steps: int):
    scan = torch.randn(50, 3, generator=generator(1)) * 10
    truth = scan + 0.5
    start = scan + float(SCHEDULE.sigma[-1]) * torch.randn(50, 3, generator=generator(2))
    found = SAMPLERS[sampler](perfect(truth), scan, start, SCHEDULE.timesteps(steps), SCHEDULE, generator(3))
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("steps", "expected"), [(1, 2.92), (2, 0.78), (4, 0.56), (8, 0.515)])
def test_the_published_sampler_overshoots(steps: int, expected: float):
    """A perfect predictor and a true offset of 0.5 m: the sampler ends elsewhere, because it divides by sqrt(abar)."""
    scan = torch.zeros(20_000, 3, dtype=torch.float64)
    start = scan + torch.randn(20_000, 3, generator=generator(2), dtype=torch.float64)
    truth = torch.full_like(scan, 0.5)
    found = diffusion.dpm_solver(perfect(truth), scan, start, SCHEDULE.timesteps(steps), SCHEDULE, generator(3))
    assert float(found.mean()) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_the_same_generator_gives_the_same_points(sampler: str):
    scan = torch.randn(20, 3, generator=generator(1))
    runs = [
        SAMPLERS[sampler](lambda p, t: p * 0.1, scan, scan + 1, [999, 600, 300], SCHEDULE, generator(7))
        for _ in range(2)
    ]
    assert torch.equal(*runs)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_one_forward_a_step_at_falling_noise_levels(sampler: str):
    seen: list[int] = []

    def denoise(points: torch.Tensor, t: int) -> torch.Tensor:
        seen.append(t)
        return torch.zeros_like(points)

    scan = torch.zeros(4, 3)
    SAMPLERS[sampler](denoise, scan, scan, [900, 749, 500, 2], SCHEDULE, generator())
    assert seen == [900, 749, 500, 2]


def test_ancestral_noise_has_the_posteriors_variance():
    t, s = 999, 500
    sigma, lower = float(SCHEDULE.sigma[t]), float(SCHEDULE.sigma[s])
    truth = torch.zeros(200_000, 1, dtype=torch.float64)
    start = sigma * torch.randn(truth.shape, generator=generator(1), dtype=torch.float64)
    levels = []

    def denoise(points: torch.Tensor, t: int) -> torch.Tensor:
        levels.append(float(points.std()))
        return (points - truth) / float(SCHEDULE.sigma[t])

    diffusion.ancestral(denoise, truth, start, [t, s], SCHEDULE, generator(2))
    assert levels == [pytest.approx(sigma, rel=0.01), pytest.approx(lower, rel=0.01)]


def test_reverse_step_of_the_paper():
    points, eps = torch.full((1, 3), 2.0, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
    t, beta = 999, 0.007
    step = diffusion.reverse_step(points, eps, t, SCHEDULE, torch.zeros_like(points))
    expected = (2.0 - beta / float(SCHEDULE.sigma[t])) / (1 - beta) ** 0.5
    assert step[0, 0].item() == pytest.approx(expected, abs=1e-5)
    first = diffusion.reverse_step(points, eps, 0, SCHEDULE, torch.full_like(points, 5.0))
    assert torch.isfinite(first).all()
