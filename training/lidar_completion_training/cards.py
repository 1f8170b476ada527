"""Model cards of the models that recipes train."""

import dataclasses
from pathlib import Path

from lidar_completion.model.card import ModelCard
from lidar_completion_synthetic import SensorMix, mix_of
from lidar_completion_training.configuration import DataRecipe, Recipe


def model_card(recipe: Recipe) -> ModelCard:
    """The card of the model as it is trained."""
    return ModelCard(
        name=recipe.name,
        architecture=recipe.architecture,
        pipeline=recipe.pipeline,
        schedule=recipe.schedule,
        networks=recipe.architecture.networks,
        training_data=training_data(recipe.data),
    )


def exported_card(recipe: Recipe) -> ModelCard:
    """The card that is exported with the weights: model_card with the changes of recipe.export."""
    card, settings = model_card(recipe), recipe.export
    pipeline = dataclasses.replace(
        card.pipeline,
        replication=settings.replication,
        sampler=settings.sampler or card.pipeline.sampler,
        steps=settings.steps or card.pipeline.steps,
    )
    return dataclasses.replace(card, pipeline=pipeline, description=settings.description)


def training_data(recipe: DataRecipe) -> str:
    """The card's description of the training data."""
    if recipe.source == "drives":
        return "drives " + ", ".join(Path(drive).name for drive in recipe.drives)
    source = mix_of(recipe.sensor)
    sensors = source.describe() if isinstance(source, SensorMix) else source.sensor.name
    worlds = "" if recipe.world == "town" else f"{recipe.world} worlds, "
    return f"synthetic streets (lidar_completion_synthetic), {worlds}{sensors}"
