"""Noise prediction with condition dropout: the teacher, as LiDiff trains it, or around the scan."""

import torch
from torch import Tensor

from lidar_completion_training.objectives.chamfer import some_rows
from lidar_completion_training.objectives.noising import (
    NoisedCloud,
    coupled,
    drawn_timestep,
    noise_error,
    noised,
    predicted,
)
from lidar_completion_training.objectives.preparation import (
    CompletionModel,
    PreparedSweep,
    encode,
    nothing_of,
    prepare,
)
from lidar_completion_training.stream import Sample


class NoisePrediction(CompletionModel):
    """|| eps - eps_theta(p_t, P, t) ||^2 at random t (Eq. 1), the scan P left out now and then for guidance."""

    def losses(self, sample: Sample, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Mean squared error of the noise, and as published 5 (mean^2 + (std - 1)^2) of the prediction."""
        settings = self.recipe.noise_prediction
        prepared = prepare(sample, self.recipe, generator)
        dropped = torch.rand((), generator=generator, device=generator.device) < settings.condition_dropout
        scan = nothing_of(prepared.scan) if dropped else prepared.scan
        cloud = self.noised_truth(prepared, scan, generator)
        condition = encode(self.networks["encoder"], scan, self.recipe)
        tables = condition.nearest_tables(cloud.cloud.pyramid)
        prediction = predicted(self.networks["denoiser"], cloud, condition, tables)
        error = noise_error(prediction, cloud, settings.metres)
        if settings.clean_estimate:
            error = self.share_of_first_level(cloud.t) ** 2 * error
        moments = prediction.mean().square() + (prediction.std() - 1.0).square()
        return {"model": error + settings.moments_weight * moments}, {
            "error": error.item(),
            "moments": moments.item(),
            "sigma": float(self.recipe.schedule.sigma[cloud.t]),
        }

    def share_of_first_level(self, t: int) -> float:
        """sigma_t / sigma_T: an error of the noise times this is one of p_t - sigma_t eps, in units of the first level."""
        sigma = self.recipe.schedule.sigma
        return float(sigma[t] / sigma[self.recipe.pipeline.start_timestep])

    def noised_truth(self, prepared: PreparedSweep, scan: Tensor, generator: torch.Generator) -> NoisedCloud:
        """As many truth points as there will be completed ones, noised to a random timestep, beside the scan that is shown."""
        settings, pipeline = self.recipe.noise_prediction, self.recipe.pipeline
        t = drawn_timestep(0, pipeline.start_timestep, settings.uniform_in_sigma, self.recipe.schedule, generator)
        rows = len(prepared.replicated)
        if pipeline.noised_around == "truth":
            clean = prepared.truth[some_rows(len(prepared.truth), rows, generator)]
            return noised(clean, None, t, scan, self.recipe, generator)
        clean, start = coupled(prepared.truth, prepared.scan, rows, settings.couple_within_m, generator)
        return noised(clean, start, t, scan, self.recipe, generator)
