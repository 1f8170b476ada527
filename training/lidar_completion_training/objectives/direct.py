"""Direct completion: the network is used in training as it is used on the vehicle, and pulled to the truth.

Starts lie around the scan, not around the truth: noise prediction from truth-centred starts learns to project onto the
nearest surface and never to cross a gap, because it has not seen a start that lies in one.
"""

import torch
from torch import Tensor

from lidar_completion.samplers import SAMPLERS
from lidar_completion_training.objectives.chamfer import direct_loss
from lidar_completion_training.objectives.preparation import CompletionModel, encode, prepare
from lidar_completion_training.objectives.sampling import sampled
from lidar_completion_training.stream import Sample


class DirectCompletion(CompletionModel):
    """One or two passes of the few-step sampler, the gradient through the last, a clamped Chamfer distance as loss."""

    def losses(self, sample: Sample, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Accuracy plus coverage, each a clamped mean distance in metres, and what the network thinks of its points."""
        prepared = prepare(sample, self.recipe, generator)
        condition = encode(self.networks["encoder"], prepared.scan, self.recipe)
        timesteps = self.timesteps(generator)
        points, logit = sampled(self.networks["denoiser"], condition, prepared, timesteps, self.recipe, generator)
        loss, numbers = direct_loss(points, logit, prepared.truth, self.recipe.direct, generator)
        return {"model": loss}, {**numbers, "passes": float(len(timesteps))}

    def timesteps(self, generator: torch.Generator) -> list[int]:
        """The first timestep alone, or with it any later one of any number of steps: the model then meets every level
        that inference can ask for, always from an estimate of its own."""
        settings, pipeline = self.recipe.direct, self.recipe.pipeline
        start = pipeline.start_timestep
        device = generator.device
        if torch.rand((), generator=generator, device=device) >= settings.second_pass:
            return [start]
        steps = int(torch.randint(2, settings.max_steps + 1, (), generator=generator, device=device))
        later = SAMPLERS[pipeline.sampler].timesteps(self.recipe.schedule, steps, start)[1:]
        return [start, later[int(torch.randint(len(later), (), generator=generator, device=device))]]
