"""What training minimises: one short file an objective, each with the paper's equations that it follows.

direct              one or two passes from the noised sweep, a clamped Chamfer distance (no diffusion loss at all)
teacher             noise prediction with condition dropout (LiDiff)
refiner             six offsets a point, a Chamfer distance (LiDiff)
diffusion_dpo       fine-tunes a teacher on pairs of its own completions, Eq. 10 (LiDiff*)
score_distillation  Eq. 6, one auxiliary model
distillation_dpo    Eq. 16-20, two auxiliary models
"""

from importlib import import_module
from typing import Protocol

import torch
from torch import Tensor, nn

from lidar_completion.model.card import ModelCard
from lidar_completion_training.configuration import Recipe, RecipeError
from lidar_completion_training.stream import Sample


class Objective(Protocol):
    """One objective of one training run. Its networks lie on the CPU until `networks.to(device)`.

    networks: everything that a saved state must hold, the frozen ones too.
    trained: the parts of `networks` that each optimiser trains, by the name of its group; everything else is frozen
        (requires_grad False). Names: "model" for objectives of one group, "student" and "auxiliary" for distillation.
    exported: what the model folder holds (encoder, denoiser, refiner), modules of `networks`; their average is exported.
    card: the card of the exported folder.

    An objective sets its networks to train or eval mode itself and leaves them so: nobody else calls train() or eval().
    """

    networks: nn.ModuleDict
    trained: dict[str, nn.Module]
    exported: nn.ModuleDict
    card: ModelCard

    def losses(self, sample: Sample, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, float]]:
        """One loss a group, and numbers to log. Sample, generator and networks are on one device.

        A loss gives gradient to its own group alone, so the sum of all can be backpropagated at once. Everything that
        is drawn comes from the generator: the same sample and seed give the same numbers. Accumulation over sweeps,
        clipping, precision and processes are the trainer's.
        """
        ...

    def preview(self, sample: Sample, generator: torch.Generator) -> Tensor:
        """A completion (N, 3) of the sample's sweep with the networks as they are, for pictures; without gradient."""
        ...


OBJECTIVES = {
    "direct": "DirectCompletion",
    "teacher": "NoisePrediction",
    "refiner": "Refinement",
    "diffusion_dpo": "DiffusionDPO",
    "score_distillation": "ScoreDistillation",
    "distillation_dpo": "DistillationDPO",
}  # file -> class


def objective_of(recipe: Recipe) -> Objective:
    """The objective that the recipe names, its networks fresh (seeded by the recipe) or from `recipe.start_from`.

    Raises RecipeError for an objective that does not exist or lacks a model to start from, ModelError for a damaged one.
    """
    if recipe.objective not in OBJECTIVES:
        raise RecipeError(f"objective is {recipe.objective!r}; it can be one of {', '.join(OBJECTIVES)}")
    torch.manual_seed(recipe.seed)
    module = import_module(f"{__name__}.{recipe.objective}")
    objective: Objective = getattr(module, OBJECTIVES[recipe.objective])(recipe)
    return objective
