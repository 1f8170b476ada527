"""What all objectives begin with: a sample augmented, cropped, thinned and replicated as on the vehicle, and the networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lidar_completion.completer import SceneCompleter
from lidar_completion.crop import crop_range
from lidar_completion.downsample import downsample
from lidar_completion.model.card import ModelCard, Pipeline
from lidar_completion.model.weights import build_networks, load_model
from lidar_completion.networks import Architecture, Condition, fold_batch_norm
from lidar_completion.starts import replicate
from lidar_completion_training.configuration import (
    AugmentationRecipe,
    Recipe,
    RecipeError,
    exported_card,
    model_card,
)
from lidar_completion_training.stream import Sample

TILT_LIMIT = 3.0  # standard deviations at which a small rotation is cut, as published


@dataclass(frozen=True)
class PreparedSweep:
    """A sample as the networks are given it; float32 metres in the turned sensor frame."""

    near: Tensor  # (N, 3) the sweep within the model's range
    scan: Tensor  # (S, 3) one point a voxel: the condition
    truth: Tensor  # (M, 3)
    origin: Tensor  # (3,) where the rays start
    replicated: Tensor  # (S * K, 3) p*
    scale: Tensor  # (S * K, 3) of the noise around p*


def prepare(sample: Sample, recipe: Recipe, generator: torch.Generator) -> PreparedSweep:
    """Augment a sample and treat its sweep as SceneCompleter does."""
    settings: Pipeline = recipe.pipeline
    turn = augmentation(recipe.data.augmentation, generator).to(sample.sweep)
    near = crop_range(sample.sweep, settings.min_range_m, settings.max_range_m) @ turn.T
    scan = downsample(near, settings)
    replicated = replicate(scan, settings.replication)
    return PreparedSweep(
        near, scan, sample.truth @ turn.T, sample.origin @ turn.T, replicated, settings.noise_scale(replicated)
    )


def augmentation(recipe: AugmentationRecipe, generator: torch.Generator) -> Tensor:
    """A matrix (3, 3): any turn about z, y mirrored half of the time, and as the recipe says tilted and scaled."""
    device = generator.device
    angle = torch.rand((), generator=generator, device=device) * (2 * torch.pi)
    flip = 1.0 if torch.rand((), generator=generator, device=device) < 0.5 else -1.0
    c, s = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    matrix = torch.stack([c, -flip * s, zero, s, flip * c, zero, zero, zero, one]).view(3, 3)
    if recipe.tilt_rad:
        axis = torch.randn(3, generator=generator, device=device).clamp(-TILT_LIMIT, TILT_LIMIT) * recipe.tilt_rad
        x, y, z = axis
        skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
        matrix = torch.linalg.matrix_exp(skew) @ matrix
    if recipe.scale:
        matrix = matrix * (1.0 + recipe.scale * (2.0 * torch.rand((), generator=generator, device=device) - 1.0))
    return matrix


# ---------------------------------------------------------------------------------------------------------------------
# Networks


class CompletionModel:
    """What objectives begin with that train one model, encoder and denoiser together, and export it as it is."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.card = exported_card(recipe)
        self.networks = self.exported = nn.ModuleDict(starting_networks(recipe)).requires_grad_(False).eval()
        model = nn.ModuleDict({name: self.networks[name] for name in ("encoder", "denoiser")})
        self.trained: dict[str, nn.Module] = {"model": model.requires_grad_(True).train()}

    def preview(self, sample: Sample, generator: torch.Generator) -> Tensor:
        """A completion of the sample's sweep, (N, 3)."""
        return completion(self.card, self.exported, sample, generator)


def starting_networks(recipe: Recipe) -> dict[str, nn.Module]:
    """The networks (float32, CPU) of recipe.start_from, or fresh ones of the recipe's architecture."""
    if recipe.start_from is not None:
        return networks_of(recipe.start_from, recipe.architecture)
    networks = build_networks(model_card(recipe))
    open_gates(networks["denoiser"])
    return networks


def networks_of(folder: str, architecture: Architecture | None = None) -> dict[str, nn.Module]:
    """The networks of a model folder; RecipeError where its architecture is not the recipe's."""
    card, networks = load_model(folder)
    if architecture is not None and card.architecture != architecture:
        raise RecipeError(
            f"architecture is {architecture}, but {folder} has {card.architecture}; leave architecture out of the recipe"
        )
    return networks


def needed(folder: str | None, objective: str) -> str:
    """The folder, where there is one: RecipeError says that the objective cannot start from nothing."""
    if folder is None:
        raise RecipeError(f"start_from is missing: {objective} starts from a model; set start_from=runs/…/model")
    return folder


def open_gates(denoiser: nn.Module) -> None:
    """Start every gate near 1 instead of near 0, so that a fresh network lets its features through."""
    for name, module in denoiser.named_children():
        if name.startswith("latemp_"):
            nn.init.ones_(module[2].bias)


def encode(encoder: nn.Module, scan: Tensor, recipe: Recipe) -> Condition:
    """The condition of a scan (S, 3)."""
    condition: Condition = encoder(recipe.architecture.cloud(scan, scan))
    return condition


def nothing_of(scan: Tensor) -> Tensor:
    """The scan (1, 3) that stands for "no condition": one point at the origin."""
    return torch.zeros_like(scan[:1])


def completion(card: ModelCard, networks: nn.ModuleDict, sample: Sample, generator: torch.Generator) -> Tensor:
    """The completed points (N, 3) of a sample's sweep, by the pipeline that will run on the vehicle."""
    folded = {name: fold_batch_norm(network) for name, network in networks.items()}
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    completed = SceneCompleter(card, folded, sample.sweep.device).complete(sample.sweep, seed=seed)
    return torch.from_numpy(completed.completed_points)
