"""Noise prediction with condition dropout: the teacher as in LiDiff, or with noise around the scan."""

import torch
from torch import Tensor

from lidar_completion_training.objectives.chamfer import random_rows
from lidar_completion_training.objectives.networks import CompletionModel
from lidar_completion_training.objectives.noising import (
    NoisedCloud,
    couple,
    draw_timestep,
    noise_error,
    noised,
    predict_noise,
)
from lidar_completion_training.objectives.precision import without_autocast
from lidar_completion_training.objectives.step import Step, encode, no_scan
from lidar_completion_training.objectives.sweep import PreparedSweep, prepared
from lidar_completion_training.stream import Sample


class NoisePrediction(CompletionModel):
    """||eps - eps_theta(p_t, P, t)||^2 at random t (Eq. 1); the condition P is dropped at random, for guidance."""

    @without_autocast
    def losses(
        self, sample: Sample | PreparedSweep, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """mse(eps_hat, eps) + moments_weight (mean(eps_hat)^2 + (std(eps_hat) - 1)^2), as published."""
        settings = self.recipe.noise_prediction
        step = self.begin(sample, generator)
        cloud = self.noised_truth(step)
        prediction = predict_noise(self.networks["denoiser"], cloud, step)
        error = noise_error(prediction, cloud, settings.weight_by_noise_scale)
        if settings.clean_estimate:
            error = self.relative_noise_level(cloud.t) ** 2 * error
        moments = prediction.mean().square() + (prediction.std() - 1.0).square()
        return {"model": error + settings.moments_weight * moments}, {
            "error": error.item(),
            "moments": moments.item(),
            "sigma": float(self.recipe.schedule.sigma[cloud.t]),
        }

    def begin(self, sample: Sample | PreparedSweep, generator: torch.Generator) -> Step:
        """The step of a sample, its condition dropped with probability `condition_dropout`."""
        sweep = prepared(sample, self.recipe, generator)
        draw = torch.rand((), generator=generator, device=generator.device)
        dropped = draw < self.recipe.noise_prediction.condition_dropout
        scan = no_scan(sweep.scan) if dropped else sweep.scan
        return Step(self.recipe, sweep, scan, encode(self.networks["encoder"], scan, self.recipe), generator)

    def noised_truth(self, step: Step) -> NoisedCloud:
        """As many truth points as a completion has, noised to a random timestep."""
        settings, pipeline, sweep = self.recipe.noise_prediction, self.recipe.pipeline, step.sweep
        t = draw_timestep(0, pipeline.start_timestep, settings.uniform_in_sigma, self.recipe.schedule, step.generator)
        rows = len(sweep.replicated)
        if pipeline.noised_around == "truth":
            clean = sweep.truth[random_rows(len(sweep.truth), rows, step.generator)]
            return noised(clean, None, t, step)
        clean, start = couple(sweep.truth, sweep.scan, rows, settings.couple_within_m, step.generator)
        return noised(clean, start, t, step)

    def relative_noise_level(self, t: int) -> float:
        """sigma_t / sigma_T: converts an error of the noise into one of the clean estimate p_t - sigma_t eps."""
        sigma = self.recipe.schedule.sigma
        return float(sigma[t] / sigma[self.recipe.pipeline.start_timestep])
