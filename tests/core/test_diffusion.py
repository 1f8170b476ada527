"""Noise schedule, forward process, guidance and noise scale."""

import pytest
import torch

from lidar_completion.diffusion import NoiseSchedule, add_noise, add_scaled_noise, clean_estimate, guide, range_scale
from lidar_completion.errors import ModelError

SCHEDULE = NoiseSchedule()


def test_schedule_matches_its_definition():
    betas = torch.linspace(3.5e-5, 0.007, 1000, dtype=torch.float64)
    torch.testing.assert_close(SCHEDULE.alpha_bar, torch.cumprod(1 - betas, 0), rtol=1e-4, atol=0)
    assert float(SCHEDULE.sigma[-1]) == pytest.approx(0.985, abs=1e-3)
    assert float(SCHEDULE.sigma[0]) == pytest.approx(0.0059, abs=1e-4)


@pytest.mark.parametrize("entry", [{"steps": 0}, {"steps": 100_001}, {"beta_first": 0.0}, {"beta_last": 1.0}])
def test_schedule_refuses_what_has_no_noise_levels(entry: dict):
    with pytest.raises(ModelError, match=f"schedule.{next(iter(entry))}"):
        NoiseSchedule(**entry)


def test_timesteps_descend_and_leave_out_zero():
    assert SCHEDULE.timesteps(1) == [999]
    assert SCHEDULE.timesteps(4) == [999, 749, 500, 250]
    assert SCHEDULE.timesteps(2, start=500) == [500, 250]


@pytest.mark.parametrize("start", [999, 400])
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_timesteps_by_sigma_are_equally_spaced_in_noise_level(start: int, steps: int):
    timesteps = SCHEDULE.timesteps_by_sigma(steps, start)
    levels = [*(float(SCHEDULE.sigma[t]) for t in timesteps), 0.0]
    gaps = torch.tensor(levels).diff().abs()
    assert timesteps[0] == start
    assert len(timesteps) == steps
    torch.testing.assert_close(gaps, gaps.mean().expand(steps), atol=0.01, rtol=0)


def test_forward_process_does_not_scale_the_points():
    points, noise = torch.full((2, 3), 40.0), torch.ones(2, 3)
    assert torch.equal(add_noise(points, noise, 0.5), points + 0.5)


def test_compiled_and_plain_noise_agree():
    generator = torch.Generator().manual_seed(0)
    points, scale, noise = (torch.randn(10_000, 3, generator=generator) for _ in range(3))
    assert torch.equal(add_scaled_noise(points, scale, noise, 0.3), add_noise(points, scale * noise, 0.3))
    plain = points - 0.3 * scale * noise
    assert torch.equal(clean_estimate(points, scale, noise, 0.3), plain)
    wider = torch.cat([noise, noise[:, :1]], dim=1)[:, :3]
    assert torch.equal(clean_estimate(points, scale, wider, 0.3), plain)


def test_guidance_weights():
    conditional, unconditional = torch.tensor([3.0]), torch.tensor([1.0])
    assert guide(conditional, unconditional, 1.0).item() == 3
    assert guide(conditional, unconditional, 0.0).item() == 1
    assert guide(conditional, unconditional, 3.5).item() == pytest.approx(8.0)


def test_noise_scale_grows_with_range_within_its_limits():
    points = torch.tensor([[1.0, 0, 0], [10, 0, 0], [0, 100, 0]])
    assert range_scale(points, 0.02, 0.1, 1.0, 0.5)[:, 0].tolist() == pytest.approx([0.1, 0.2, 1.0])
    assert range_scale(points, 0.02, 0.1, 1.0, 0.5)[:, 2].tolist() == pytest.approx([0.05, 0.1, 0.5])
    assert torch.equal(range_scale(points, 0.0, 0.1, 1.0, 0.5), torch.ones_like(points))
