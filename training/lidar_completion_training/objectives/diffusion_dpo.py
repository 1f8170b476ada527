"""Diffusion-DPO: fine-tunes a teacher on pairs of its own completions (Eq. 10). The result is LiDiff* of Table 5."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lidar_completion_training.cards import exported_card
from lidar_completion_training.configuration import Recipe
from lidar_completion_training.objectives.networks import begin, completion, required, starting_networks
from lidar_completion_training.objectives.noising import draw_timestep, noise_error, noised, predict_noise
from lidar_completion_training.objectives.precision import without_autocast
from lidar_completion_training.objectives.preference import Preference, Ranking
from lidar_completion_training.objectives.sampling import complete, draw_timesteps
from lidar_completion_training.objectives.step import Step
from lidar_completion_training.objectives.sweep import PreparedSweep
from lidar_completion_training.stream import Sample


class DiffusionDPO:
    """-log sigmoid(-beta [(e_eta^w - e_ref^w) - (e_eta^l - e_ref^l)]), e = ||eps - eps_.(x_t, t)||^2 (Eq. 10).

    The frozen reference generates the pairs, which is equivalent to generating them offline. Batch norms stay in eval mode,
    so model and reference start as the same function, for which the loss is log 2.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.settings = recipe.diffusion_dpo
        self.preference = Preference(self.settings.metric, self.settings.metric_points, "diffusion_dpo")
        required(recipe.start_from, "diffusion_dpo")
        self.card = exported_card(recipe)
        networks = starting_networks(recipe)
        self.exported = nn.ModuleDict(networks)
        reference = copy.deepcopy(networks["denoiser"])
        self.networks = nn.ModuleDict({**networks, "reference": reference}).requires_grad_(False).eval()
        self.trained: dict[str, nn.Module] = {"model": self.networks["denoiser"].requires_grad_(True)}

    @without_autocast
    def losses(
        self, sample: Sample | PreparedSweep, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Eq. 10, the mean over `draws` noise levels of one pair."""
        with torch.no_grad():
            step = begin(self.networks, sample, self.recipe, generator)
        winner, loser, ranking = self.pair(step)
        margin = torch.stack([self.margin(winner, loser, step) for _ in range(self.settings.draws)])
        return {"model": -F.logsigmoid(self.settings.beta * margin).mean()}, {
            "margin": margin.mean().item(),
            "correct_share": (margin > 0).float().mean().item(),
            "winner_cost": ranking.winner_cost,
            "loser_cost": ranking.loser_cost,
        }

    @torch.no_grad()
    def pair(self, step: Step) -> tuple[Tensor, Tensor, Ranking]:
        """Winner and loser of two completions (S * K, 3) by the reference."""
        timesteps = draw_timesteps([self.settings.pair_steps], False, self.recipe, step.generator)
        pair = [complete(self.networks["reference"], step, timesteps).points for _ in range(2)]
        ranking = self.preference.rank(pair[0], pair[1], step)
        return pair[ranking.winner], pair[1 - ranking.winner], ranking

    def margin(self, winner: Tensor, loser: Tensor, step: Step) -> Tensor:
        """(e_eta^l - e_ref^l) - (e_eta^w - e_ref^w) at one random t and eps for both."""
        t, seed = self.timestep(step.generator), step.seed()
        of_winner, of_loser = (self.excess_error(points, t, step.seeded(seed)) for points in (winner, loser))
        return of_loser - of_winner

    def excess_error(self, points: Tensor, t: int, step: Step) -> Tensor:
        """e_eta - e_ref of completed points (N, 3)."""
        weighted = self.recipe.noise_prediction.weight_by_noise_scale
        cloud = noised(points, step.sweep.replicated, t, step)
        with torch.no_grad():
            of_reference = noise_error(predict_noise(self.networks["reference"], cloud, step), cloud, weighted)
        return noise_error(predict_noise(self.networks["denoiser"], cloud, step), cloud, weighted) - of_reference

    def timestep(self, generator: torch.Generator) -> int:
        """A random timestep, drawn as in the teacher's training."""
        recipe = self.recipe
        uniform_in_sigma = recipe.noise_prediction.uniform_in_sigma
        return draw_timestep(0, recipe.pipeline.start_timestep, uniform_in_sigma, recipe.schedule, generator)

    def preview(self, sample: Sample, generator: torch.Generator) -> Tensor:
        """A completion (N, 3) of the sample's sweep."""
        return completion(self.card, self.exported, sample, generator)
