"""Training objectives, one short file each, with the equations of the paper that it implements.

direct              one or two passes from the noised scan, a clamped Chamfer distance, no diffusion loss
teacher             noise prediction with condition dropout (LiDiff)
refiner             six offsets per point, a Chamfer distance (LiDiff)
diffusion_dpo       fine-tunes a teacher on pairs of its own completions, Eq. 10 (LiDiff*)
score_distillation  Eq. 6, one auxiliary model
distillation_dpo    Eq. 16-20, two auxiliary models; preference.py decides the winner
"""

from importlib import import_module
from typing import Protocol

import torch
from torch import Tensor, nn

from lidar_completion.model.card import ModelCard
from lidar_completion_training.configuration import Recipe, check_choice
from lidar_completion_training.errors import RecipeError
from lidar_completion_training.objectives.sweep import PreparedSweep
from lidar_completion_training.stream import Sample


class Objective(Protocol):
    """The objective of one training run. Its networks are on the CPU until `networks.to(device)`.

    networks: everything that a saved state contains, frozen networks included.
    trained: the parts of `networks` that each optimiser trains, by group; everything else is frozen. Groups: "model", or
        "student" and "auxiliary" for distillation.
    exported: the networks of the model folder (encoder, denoiser, refiner), modules of `networks`.
    card: the card of the exported model.

    An objective sets train or eval mode of its networks itself; nothing else calls train() or eval().
    """

    networks: nn.ModuleDict
    trained: dict[str, nn.Module]
    exported: nn.ModuleDict
    card: ModelCard

    def losses(
        self, sample: Sample | PreparedSweep, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """One loss per group, and numbers to log, for a sample that a data worker has prepared, or a raw one.

        Sample, generator and networks are on one device. A loss has gradients only for its own group, so the sum of all
        losses can be backpropagated at once. All random numbers come from the generator. The trainer handles accumulation
        over sweeps, clipping, precision and processes.
        """
        ...

    def preview(self, sample: Sample, generator: torch.Generator) -> Tensor:
        """A completion (N, 3) of the sample's sweep by the current networks, without gradient."""
        ...


OBJECTIVES = {
    "direct": "DirectCompletion",
    "teacher": "NoisePrediction",
    "refiner": "Refinement",
    "diffusion_dpo": "DiffusionDPO",
    "score_distillation": "ScoreDistillation",
    "distillation_dpo": "DistillationDPO",
}  # file -> class
UNION_OBJECTIVES = ("direct", "refiner")


def objective_of(recipe: Recipe) -> Objective:
    """The recipe's objective. Its networks are new (seeded by the recipe) or loaded from `recipe.start_from`.

    RecipeError for an unknown objective or a missing start_from, ModelError for a damaged model.
    """
    check_choice("objective", recipe.objective, tuple(OBJECTIVES))
    if recipe.architecture.conditioning == "union" and recipe.objective not in UNION_OBJECTIVES:
        raise RecipeError(
            f"objective is {recipe.objective}; networks with architecture.conditioning 'union' can only be trained with "
            + " and ".join(map(repr, UNION_OBJECTIVES))
        )
    torch.manual_seed(recipe.seed)
    module = import_module(f"{__name__}.{recipe.objective}")
    objective: Objective = getattr(module, OBJECTIVES[recipe.objective])(recipe)
    return objective
