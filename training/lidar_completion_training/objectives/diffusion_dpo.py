"""Diffusion-DPO fine-tuning of a teacher on pairs of its own completions, Eq. 10: LiDiff* of Table 5."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lidar_completion.networks import Condition
from lidar_completion_training.configuration import Recipe, exported_card
from lidar_completion_training.objectives.distillation import drawn_seed
from lidar_completion_training.objectives.noising import drawn_timestep, noise_error, noised, predicted
from lidar_completion_training.objectives.preference import checked_metric, cost
from lidar_completion_training.objectives.preparation import (
    PreparedSweep,
    completion,
    encode,
    needed,
    prepare,
    starting_networks,
)
from lidar_completion_training.objectives.sampling import drawn_timesteps, sampled
from lidar_completion_training.stream import Sample


class DiffusionDPO:
    """-log sigmoid(-beta [(e_eta^w - e_ref^w) - (e_eta^l - e_ref^l)]) with e = ||eps - eps_.(x_t, t)||^2, mean of its numbers.

    The pair comes from the frozen reference, so it is as good as one that was made offline. Batch norms keep their
    statistics: model and reference start as the same function, where the loss is log 2.
    """

    def __init__(self, recipe: Recipe) -> None:
        checked_metric(recipe.diffusion_dpo.metric, "diffusion_dpo.metric")
        needed(recipe.start_from, "diffusion_dpo")
        self.recipe = recipe
        self.card = exported_card(recipe)
        networks = starting_networks(recipe)
        self.exported = nn.ModuleDict(networks)
        reference = copy.deepcopy(networks["denoiser"])
        self.networks = nn.ModuleDict({**networks, "reference": reference}).requires_grad_(False).eval()
        self.trained: dict[str, nn.Module] = {"model": self.networks["denoiser"].requires_grad_(True)}

    def losses(self, sample: Sample, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Eq. 10, the mean of `draws` noise levels of one pair."""
        settings = self.recipe.diffusion_dpo
        prepared = prepare(sample, self.recipe, generator)
        with torch.no_grad():
            condition = encode(self.networks["encoder"], prepared.scan, self.recipe)
        (winner, loser), costs = self.pair(prepared, condition, generator)
        margins = []
        for _ in range(settings.draws):
            t, seed = self.timestep(generator), drawn_seed(generator)  # one t and eps for both
            gains = [self.gain(points, t, seed, prepared, condition) for points in (winner, loser)]
            margins.append(gains[1] - gains[0])
        margin = torch.stack(margins)
        return {"model": -F.logsigmoid(settings.beta * margin).mean()}, {
            "margin": margin.mean().item(),
            "right": (margin > 0).float().mean().item(),
            "winner_cost": costs[0],
            "loser_cost": costs[1],
        }

    @torch.no_grad()
    def pair(
        self, prepared: PreparedSweep, condition: Condition, generator: torch.Generator
    ) -> tuple[tuple[Tensor, Tensor], tuple[float, float]]:
        """Winner and loser of two completions by the reference, (S * K, 3) each, and their costs."""
        settings, recipe = self.recipe.diffusion_dpo, self.recipe
        timesteps = drawn_timesteps([settings.pair_steps], False, recipe, generator)
        reference = self.networks["reference"]
        pair = [sampled(reference, condition, prepared, timesteps, recipe, generator).points for _ in range(2)]
        rows = torch.Generator(generator.device)
        seed = drawn_seed(generator)
        costs = [
            cost(
                settings.metric,
                points,
                prepared.truth,
                settings.metric_points,
                recipe.direct.clamp_m,
                rows.manual_seed(seed),
            )
            for points in pair
        ]
        if costs[0] <= costs[1]:
            return (pair[0], pair[1]), (costs[0], costs[1])
        return (pair[1], pair[0]), (costs[1], costs[0])

    def gain(self, points: Tensor, t: int, seed: int, prepared: PreparedSweep, condition: Condition) -> Tensor:
        """Error of the model minus that of the reference in predicting the noise that was put on completed points."""
        metres = self.recipe.noise_prediction.metres
        generator = torch.Generator(points.device).manual_seed(seed)
        cloud = noised(points, prepared.replicated, t, prepared.scan, self.recipe, generator)
        tables = condition.nearest_tables(cloud.cloud.pyramid)
        with torch.no_grad():
            of_reference = noise_error(predicted(self.networks["reference"], cloud, condition, tables), cloud, metres)
        return noise_error(predicted(self.networks["denoiser"], cloud, condition, tables), cloud, metres) - of_reference

    def timestep(self, generator: torch.Generator) -> int:
        """A random timestep, drawn as the teacher's were."""
        recipe = self.recipe
        last = recipe.pipeline.start_timestep
        return drawn_timestep(0, last, recipe.noise_prediction.uniform_in_sigma, recipe.schedule, generator)

    def preview(self, sample: Sample, generator: torch.Generator) -> Tensor:
        """A completion of the sample's sweep, (N, 3)."""
        return completion(self.card, self.exported, sample, generator)
