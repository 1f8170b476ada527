"""The networks of a training run, and the base class of objectives that train a whole model."""

from typing import cast

import torch
from torch import Tensor, nn

from lidar_completion.completer import SceneCompleter
from lidar_completion.model.card import ModelCard
from lidar_completion.model.weights import build_networks, load_model
from lidar_completion.networks import Architecture, fold_batch_norm
from lidar_completion_training.cards import exported_card, model_card
from lidar_completion_training.configuration import Recipe
from lidar_completion_training.errors import RecipeError
from lidar_completion_training.objectives.step import Step, encode
from lidar_completion_training.objectives.sweep import PreparedSweep, prepared
from lidar_completion_training.stream import Sample


class CompletionModel:
    """An objective that trains encoder (if the architecture has one) and denoiser together and exports them."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.card = exported_card(recipe)
        self.networks = self.exported = nn.ModuleDict(starting_networks(recipe)).requires_grad_(False).eval()
        model = nn.ModuleDict({name: self.networks[name] for name in recipe.architecture.networks})
        self.trained: dict[str, nn.Module] = {"model": model.requires_grad_(True).train()}

    def preview(self, sample: Sample, generator: torch.Generator) -> Tensor:
        """A completion (N, 3) of the sample's sweep."""
        return completion(self.card, self.exported, sample, generator)


def begin(networks: nn.ModuleDict, sample: Sample | PreparedSweep, recipe: Recipe, generator: torch.Generator) -> Step:
    """Prepare a sample, and encode its scan if there is an encoder."""
    sweep = prepared(sample, recipe, generator)
    condition = encode(networks["encoder"], sweep.scan, recipe) if "encoder" in networks else None
    return Step(recipe, sweep, sweep.scan, condition, generator)


def starting_networks(recipe: Recipe) -> dict[str, nn.Module]:
    """The networks (float32, CPU) of recipe.start_from, or new ones of the recipe's architecture."""
    if recipe.start_from is not None:
        return networks_of(recipe.start_from, recipe.architecture)
    networks = build_networks(model_card(recipe))
    if recipe.architecture.conditioning == "encoder":
        open_gates(networks["denoiser"])
    return networks


def networks_of(folder: str, architecture: Architecture | None = None) -> dict[str, nn.Module]:
    """The networks of a model folder; RecipeError if its architecture is not the one given."""
    card, networks = load_model(folder)
    if architecture is not None and card.architecture != architecture:
        raise RecipeError(
            f"architecture is {architecture}, but {folder} has {card.architecture}; leave architecture out of the recipe"
        )
    return networks


def required(folder: str | None, objective: str) -> str:
    """The folder; RecipeError if the objective has no model to start from."""
    if folder is None:
        raise RecipeError(f"start_from is missing: {objective} starts from a model; set start_from=runs/…/model")
    return folder


def open_gates(denoiser: nn.Module) -> None:
    """Initialise every gate near 1 instead of near 0, so that a new network passes its features on."""
    for name, head in denoiser.named_children():
        if name.startswith("latemp_"):
            nn.init.ones_(cast(nn.Linear, cast(nn.Sequential, head)[2]).bias)


def completion(card: ModelCard, networks: nn.ModuleDict, sample: Sample, generator: torch.Generator) -> Tensor:
    """The completed points (N, 3) of a sample's sweep, by the inference pipeline."""
    folded = {name: fold_batch_norm(network) for name, network in networks.items()}
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    completed = SceneCompleter(card, folded, sample.sweep.device).complete(sample.sweep, seed=seed)
    return torch.from_numpy(completed.completed_points)
