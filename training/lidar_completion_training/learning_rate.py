"""Optimisers and their learning rate."""

import math

import torch
from torch import nn

from lidar_completion_training.configuration import OptimiserRecipe


def optimiser_of(recipe: OptimiserRecipe, module: nn.Module) -> torch.optim.Optimizer:
    """Adam or SGD over the module's parameters; the trainer sets the learning rate before every step."""
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    return kinds[recipe.kind](module.parameters(), lr=recipe.learning_rate)


def learning_rate(settings: OptimiserRecipe, iteration: int, iterations: int) -> float:
    """The rate at an iteration: linear warm-up, then a cosine that ends at `iterations`, or step decay."""
    if iteration < settings.warm_up_iterations:
        return settings.learning_rate * (iteration + 1) / settings.warm_up_iterations
    if settings.decay == "steps":
        return settings.learning_rate * settings.step_factor ** (iteration // settings.step_iterations)
    done = (iteration - settings.warm_up_iterations) / max(1, iterations - settings.warm_up_iterations)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
    return settings.learning_rate * (settings.final_fraction + (1.0 - settings.final_fraction) * cosine)
