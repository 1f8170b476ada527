"""The refiner, as LiDiff trains it: six offsets a point, a Chamfer distance between the denser cloud and the truth."""

import torch
from torch import Tensor, nn

from lidar_completion.diffusion import noise_like
from lidar_completion.networks import NETWORKS, refined_points
from lidar_completion_training.configuration import Recipe, RecipeError, exported_card
from lidar_completion_training.objectives.chamfer import direct_loss, distances, judgement, some_points, squared_chamfer
from lidar_completion_training.objectives.preparation import (
    PreparedSweep,
    completion,
    encode,
    needed,
    networks_of,
    prepare,
)
from lidar_completion_training.objectives.sampling import drawn_timesteps, sampled
from lidar_completion_training.stream import Sample

INPUTS = ("jitter", "completion")


def squared_loss(
    cloud: Tensor, logit: Tensor | None, truth: Tensor, recipe: Recipe, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """As published, in square metres; and what a network that judges its points thinks of them."""
    loss = squared_chamfer(cloud, truth, recipe.refiner.queries, generator)
    if logit is None:
        return loss, {}
    some, distance = distances(cloud, truth, recipe.direct.queries, generator)
    judged = judgement(logit[some], distance)
    return loss + recipe.direct.confidence_weight * judged, {"judgement": judged.item()}


def clamped_loss(
    cloud: Tensor, logit: Tensor | None, truth: Tensor, recipe: Recipe, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """As the direct objective's, in metres."""
    return direct_loss(cloud, logit, truth, recipe.direct, generator)


LOSSES = {"squared": squared_loss, "clamped": clamped_loss}


class Refinement:
    """Squared (or clamped) Chamfer distance of a jittered truth, or of a completion, with six offsets a point, to the truth.

    The model that it will refine is exported with it, unchanged.
    """

    def __init__(self, recipe: Recipe) -> None:
        for entry, possible in (("inputs", INPUTS), ("loss", LOSSES)):
            value = getattr(recipe.refiner, entry)
            if value not in possible:
                raise RecipeError(f"refiner.{entry} is {value!r}; it can be one of {', '.join(possible)}")
        self.recipe = recipe
        self.card = exported_card(recipe)
        networks = networks_of(needed(recipe.start_from, "refiner"), recipe.architecture)
        networks.setdefault("refiner", NETWORKS["refiner"](recipe.architecture))
        self.networks = self.exported = nn.ModuleDict(networks).requires_grad_(False).eval()
        self.trained: dict[str, nn.Module] = {"model": self.networks["refiner"].requires_grad_(True).train()}

    def losses(self, sample: Sample, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Square metres, or metres where the loss is clamped."""
        prepared = prepare(sample, self.recipe, generator)
        points = self.rough(prepared, generator)
        answers = self.networks["refiner"](self.recipe.architecture.cloud(points, prepared.scan)).float()
        cloud, logit = refined_points(points, answers)
        loss, numbers = LOSSES[self.recipe.refiner.loss](cloud, logit, prepared.truth, self.recipe, generator)
        return {"model": loss}, {"offset_m": answers[..., :3].detach().norm(dim=2).mean().item(), **numbers}

    @torch.no_grad()
    def rough(self, prepared: PreparedSweep, generator: torch.Generator) -> Tensor:
        """The cloud that is refined, (refiner.points, 3); all points where that is 0."""
        settings = self.recipe.refiner
        if settings.inputs == "jitter":
            points = some_points(prepared.truth, settings.points, generator)
            limit = settings.jitter_clip_m
            return points + (settings.jitter_m * noise_like(points, generator)).clamp(-limit, limit)
        condition = encode(self.networks["encoder"], prepared.scan, self.recipe)
        timesteps = drawn_timesteps([self.recipe.pipeline.steps], False, self.recipe, generator)
        completed = sampled(self.networks["denoiser"], condition, prepared, timesteps, self.recipe, generator).points
        return some_points(completed, settings.points, generator)

    def preview(self, sample: Sample, generator: torch.Generator) -> Tensor:
        """A refined completion of the sample's sweep, (N, 3)."""
        return completion(self.card, self.exported, sample, generator)
