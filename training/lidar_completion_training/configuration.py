"""A recipe: everything that decides a training run, as typed dataclasses that YAML files and the command line fill.

lidar-completion-train direct --recipe recipes/first.yaml iterations=100 optimiser.learning_rate=1e-3
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lidar_completion.checkpoints import ModelCard, Pipeline
from lidar_completion.networks import Architecture


class RecipeError(ValueError):
    """A recipe has an entry that does not exist or does not fit; the message names file and entry."""


@dataclass
class ArchitectureRecipe:
    """lidar_completion.networks.Architecture, entry by entry."""

    width: float = 0.25
    voxel_size_m: float = 0.3
    head_width: int = 64
    point_offsets: bool = True


@dataclass
class PipelineRecipe:
    """The part of lidar_completion.checkpoints.Pipeline that training fixes."""

    min_range_m: float = 3.5
    max_range_m: float = 50.0
    downsample_voxel_m: float = 0.25
    replication: int = 10
    sampler: str = "few_step"
    steps: int = 1
    start_timestep: int = 999
    noise_per_metre: float = 0.02
    noise_least: float = 0.1
    noise_most: float = 1.0
    noise_vertical: float = 0.3


@dataclass
class DataRecipe:
    """Synthetic sweeps, made while training."""

    sensor: str = "HDL-64E"
    sweeps_per_world: int = 8
    workers: int = 1
    first_seed: int = 0
    view_cell_m: float = 10.0  # truth is cut to the grid cells that the sweep touches, as the reference does


@dataclass
class OptimiserRecipe:
    """Adam with a linear warm-up and a cosine decay to a tenth."""

    learning_rate: float = 2e-3
    warm_up_iterations: int = 50
    final_fraction: float = 0.05
    gradient_clip: float = 1.0
    average_decay: float = 0.998  # of the exponential moving average of the weights, which is what gets exported


@dataclass
class DirectRecipe:
    """The direct objective: passes from the replicated, noised sweep, pulled to the truth by a clamped Chamfer distance."""

    second_pass: float = 0.35  # share of samples with a second pass, from the model's own first estimate
    max_steps: int = 8  # the second pass is any step of up to this many
    queries: int = 20_000  # random points a direction of the Chamfer distance
    clamp_m: float = 2.0
    coverage_weight: float = 1.0  # truth -> prediction, beside prediction -> truth


@dataclass
class ExportRecipe:
    """Where the exported model's card differs from training."""

    replication: int = 20  # denser than training can afford: a network that moves points does not mind more of them
    description: str = ""


@dataclass
class Recipe:
    name: str = "unnamed"
    iterations: int = 1000
    seed: int = 0
    save_every: int = 50
    architecture: ArchitectureRecipe = field(default_factory=ArchitectureRecipe)
    pipeline: PipelineRecipe = field(default_factory=PipelineRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    optimiser: OptimiserRecipe = field(default_factory=OptimiserRecipe)
    direct: DirectRecipe = field(default_factory=DirectRecipe)
    export: ExportRecipe = field(default_factory=ExportRecipe)


def load_recipe(path: Path | None = None, overrides: list[str] | None = None) -> Recipe:
    """Defaults, then the YAML file, then `key.entry=value` overrides; RecipeError for anything unknown or ill-typed."""
    source = path or "the command line"
    if path is not None and not path.is_file():
        raise RecipeError(f"{path}: no such recipe")
    try:
        layers = [OmegaConf.structured(Recipe)]
        if path is not None:
            layers.append(OmegaConf.load(path))
        layers.append(OmegaConf.from_dotlist(overrides or []))
        recipe: Any = OmegaConf.to_object(OmegaConf.merge(*layers))
    except (OmegaConfBaseException, ValueError) as error:
        raise RecipeError(f"{source}: {str(error).splitlines()[0]}") from error
    return recipe


def exported_card(recipe: Recipe) -> ModelCard:
    """The card that goes out with the weights."""
    card = model_card(recipe)
    pipeline = dataclasses.replace(card.pipeline, replication=recipe.export.replication)
    return dataclasses.replace(card, pipeline=pipeline, description=recipe.export.description)


def model_card(recipe: Recipe) -> ModelCard:
    """The card of the model that this recipe trains."""
    return ModelCard(
        name=recipe.name,
        architecture=Architecture(**dataclasses.asdict(recipe.architecture)),
        pipeline=Pipeline(**dataclasses.asdict(recipe.pipeline)),
        training_data=f"synthetic streets (lidar_completion_training.data.synthetic), {recipe.data.sensor}",
    )
