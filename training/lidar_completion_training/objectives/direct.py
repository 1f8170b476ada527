"""Direct completion: the network is trained as it is used at inference, with a Chamfer distance to the ground truth.

Start points lie around the scan. A noise predictor trained on points around the ground truth learns to project them onto
the nearest surface but never to cross a gap, because it never sees a start point inside one.
"""

import torch
from torch import Tensor

from lidar_completion.samplers import SAMPLERS
from lidar_completion_training.configuration import Recipe
from lidar_completion_training.objectives.chamfer import clamped_chamfer
from lidar_completion_training.objectives.networks import CompletionModel, begin
from lidar_completion_training.objectives.precision import without_autocast
from lidar_completion_training.objectives.sampling import complete
from lidar_completion_training.objectives.sweep import PreparedSweep
from lidar_completion_training.stream import Sample


class DirectCompletion(CompletionModel):
    """Clamped Chamfer distance after one or two sampling passes, with the gradient through the last pass only."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        if recipe.direct.batch_norm == "frozen":
            self.networks.eval()  # the networks have no other layers that depend on the mode

    @without_autocast
    def losses(
        self, sample: Sample | PreparedSweep, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Accuracy + coverage_weight * coverage + confidence_weight * cross entropy of the confidence
        + free_space_weight * depth in observed free space."""
        step = begin(self.networks, sample, self.recipe, generator)
        timesteps = self.timesteps(generator)
        points, logit = complete(self.networks["denoiser"], step, timesteps)
        sweep = step.sweep
        loss, numbers = clamped_chamfer(
            points, logit, sweep.truth, self.recipe.direct, generator, sweep.clear_space, sweep.known
        )
        return {"model": loss}, {**numbers, "passes": float(len(timesteps))}

    def timesteps(self, generator: torch.Generator) -> list[int]:
        """The start timestep only, or also a random later one of a schedule with a random number of steps.

        So the model sees every noise level of inference, always from its own first estimate.
        """
        settings, pipeline = self.recipe.direct, self.recipe.pipeline
        start, device = pipeline.start_timestep, generator.device
        if torch.rand((), generator=generator, device=device) >= settings.second_pass:
            return [start]
        steps = int(torch.randint(2, settings.max_steps + 1, (), generator=generator, device=device))
        later = SAMPLERS[pipeline.sampler].timesteps(self.recipe.schedule, steps, start)[1:]
        return [start, later[int(torch.randint(len(later), (), generator=generator, device=device))]]
