"""Objective `refiner`: several offsets per point (six in LiDiff), trained with a Chamfer distance to the ground truth."""

import torch
from torch import Tensor, nn

from lidar_completion.diffusion import noise_like
from lidar_completion.networks import Architecture, new_network, refined_points
from lidar_completion_training.cards import exported_card
from lidar_completion_training.configuration import Recipe
from lidar_completion_training.objectives.chamfer import (
    clamped_chamfer,
    confidence_loss,
    random_points,
    sampled_distances,
    squared_chamfer,
)
from lidar_completion_training.objectives.networks import begin, completion, networks_of, required
from lidar_completion_training.objectives.precision import run, without_autocast
from lidar_completion_training.objectives.sampling import complete, draw_timesteps
from lidar_completion_training.objectives.step import Step
from lidar_completion_training.objectives.sweep import PreparedSweep
from lidar_completion_training.stream import Sample


class Refinement:
    """Trains the refiner on jittered ground truth, or on completions by the start_from model.

    Only the refiner is trained. The other networks are exported unchanged with it; the denoiser comes from the model in
    refiner.denoiser, if the recipe sets one.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.card = exported_card(recipe)
        networks = networks_of(required(recipe.start_from, "refiner"), recipe.architecture)
        if recipe.refiner.denoiser is not None:
            networks["denoiser"] = networks_of(recipe.refiner.denoiser, recipe.architecture)["denoiser"]
        networks.setdefault("refiner", _new_refiner(recipe.architecture, networks["denoiser"]))
        self.networks = self.exported = nn.ModuleDict(networks).requires_grad_(False).eval()
        self.trained: dict[str, nn.Module] = {"model": self.networks["refiner"].requires_grad_(True).train()}

    @without_autocast
    def losses(
        self, sample: Sample | PreparedSweep, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Chamfer distance of the refined points to the truth: squared as published (m^2), or clamped (m); see refiner.loss."""
        step = begin(self.networks, sample, self.recipe, generator)
        points = self.coarse_cloud(step)
        offsets, logits = run(self.networks["refiner"], self.recipe, step.cloud(points))
        cloud, logit = refined_points(points, offsets.float(), logits.float())
        chamfer = self.squared if self.recipe.refiner.loss == "squared" else self.clamped
        loss, numbers = chamfer(cloud, logit, step)
        return {"model": loss}, {"offset_m": offsets.detach().norm(dim=2).mean().item(), **numbers}

    def squared(self, cloud: Tensor, logit: Tensor | None, step: Step) -> tuple[Tensor, dict[str, float]]:
        """The published loss, plus the cross entropy of the confidence if the network estimates one."""
        settings, direct, truth = self.recipe.refiner, self.recipe.direct, step.sweep.truth
        if 0 < settings.target_points < len(truth):
            rows = torch.randperm(len(truth), generator=step.generator, device=truth.device)
            truth = truth[rows[: settings.target_points]]
        loss = squared_chamfer(cloud, truth, settings.queries, step.generator)
        if logit is None:
            return loss, {}
        rows, distance = sampled_distances(cloud, truth, direct.queries, direct.clamp_m, step.generator)
        entropy = confidence_loss(logit[rows], distance)
        return loss + direct.confidence_weight * entropy, {"confidence_loss": entropy.item()}

    def clamped(self, cloud: Tensor, logit: Tensor | None, step: Step) -> tuple[Tensor, dict[str, float]]:
        """The loss of the direct objective."""
        sweep = step.sweep
        return clamped_chamfer(
            cloud, logit, sweep.truth, self.recipe.direct, step.generator, sweep.clear_space, sweep.known
        )

    @torch.no_grad()
    def coarse_cloud(self, step: Step) -> Tensor:
        """Input of the refiner (P, 3): refiner.points random points, or all points if that is 0."""
        settings = self.recipe.refiner
        if settings.inputs == "jitter":
            points = random_points(step.sweep.truth, settings.points, step.generator)
            limit = settings.jitter_clip_m
            return points + (settings.jitter_m * noise_like(points, step.generator)).clamp(-limit, limit)
        timesteps = draw_timesteps([self.recipe.pipeline.steps], False, self.recipe, step.generator)
        completed = complete(self.networks["denoiser"], step, timesteps).points
        return random_points(completed, settings.points, step.generator)

    def preview(self, sample: Sample, generator: torch.Generator) -> Tensor:
        """A refined completion (N, 3) of the sample's sweep."""
        return completion(self.card, self.exported, sample, generator)


def _new_refiner(architecture: Architecture, denoiser: nn.Module) -> nn.Module:
    """A new refiner. With conditioning "union" it gets the denoiser's weights, which already move points onto surfaces."""
    refiner = new_network("refiner", architecture)
    if architecture.conditioning == "union":
        refiner.load_state_dict(denoiser.state_dict())
    return refiner
