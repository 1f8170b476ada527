"""Derives a run's length, accumulation and learning rate from epochs, global batch and number of processes."""

import dataclasses
import math
from dataclasses import dataclass

from lidar_completion_evaluation.drives.open import open_drive
from lidar_completion_training.configuration import DataRecipe, OptimiserRecipe, Recipe
from lidar_completion_training.errors import RecipeError


@dataclass(frozen=True)
class Schedule:
    """How a given number of processes executes a recipe."""

    processes: int
    global_batch: int  # sweeps per optimiser step, over all processes
    iterations: int  # optimiser steps
    optimiser: OptimiserRecipe  # with the learning rate and step_iterations of this schedule
    sweeps_per_epoch: int  # 0: the recipe sets iterations, not epochs
    variant: str  # what differs from the recipe; empty if nothing does

    @property
    def accumulation(self) -> int:
        """Sweeps per process and step, whose gradients are accumulated."""
        return self.global_batch // self.processes


def schedule_of(recipe: Recipe, processes: int) -> Schedule:
    """The schedule of a recipe; RecipeError if the processes cannot share its global batch equally."""
    batch = recipe.global_batch
    if batch % processes:
        if recipe.batch_scaling == "none":
            possible = ", ".join(str(n) for n in range(1, batch + 1) if batch % n == 0)
            raise RecipeError(
                f"global_batch is {batch}, which {processes} processes cannot share equally; possible are {possible} "
                "processes, or a variant with another batch and learning rate: batch_scaling=proportional"
            )
        batch = processes * math.ceil(batch / processes)
    factor = batch / recipe.global_batch
    # the usual rules for a larger batch: the learning rate grows with its square root for Adam, linearly for SGD
    rate_factor = math.sqrt(factor) if recipe.optimiser.kind == "adam" else factor
    sweeps = sweeps_per_epoch(recipe.data) if recipe.epochs else 0
    steps_per_epoch = math.ceil(sweeps / batch)
    optimiser = dataclasses.replace(
        recipe.optimiser,
        learning_rate=recipe.optimiser.learning_rate * rate_factor,
        step_iterations=round(recipe.optimiser.step_epochs * steps_per_epoch) or recipe.optimiser.step_iterations,
    )
    iterations = round(recipe.epochs * steps_per_epoch) if recipe.epochs else math.ceil(recipe.iterations / factor)
    return Schedule(processes, batch, iterations, optimiser, sweeps, _variant(recipe, batch, rate_factor))


def _variant(recipe: Recipe, batch: int, rate_factor: float) -> str:
    if batch == recipe.global_batch:
        return ""
    return f"global batch {batch} instead of {recipe.global_batch}, learning rate x {rate_factor:.4g}; not published"


def sweeps_per_epoch(recipe: DataRecipe) -> int:
    """data.sweeps_per_epoch, or the number of sweeps of all drives."""
    if recipe.sweeps_per_epoch:
        return recipe.sweeps_per_epoch
    if recipe.source != "drives":
        raise RecipeError("epochs needs data.sweeps_per_epoch where data.source is not 'drives'; or set iterations")
    return sum(len(open_drive(folder)) for folder in recipe.drives)
