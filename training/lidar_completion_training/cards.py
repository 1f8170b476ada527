"""Model cards of the models that recipes train."""

import dataclasses
import math
from pathlib import Path

from lidar_completion.model.card import ModelCard, Seen
from lidar_completion_synthetic import SensorMix, mix_of, mounting_of
from lidar_completion_training.configuration import DataRecipe, Recipe

HEIGHT_SPREAD_M = 0.2  # a model trained at one sensor height is also used this far above and below it
# Maximum tilt of the ground around the sensor relative to the road under the vehicle, in the training worlds.
ROAD_TILT_DEG = 3.0


def model_card(recipe: Recipe) -> ModelCard:
    """The model card during training."""
    return ModelCard(
        name=recipe.name,
        architecture=recipe.architecture,
        pipeline=recipe.pipeline,
        schedule=recipe.schedule,
        networks=recipe.architecture.networks,
        training_data=then(recipe.trained_before, training_data(recipe.data)),
        seen=seen(recipe.data),
    )


def exported_card(recipe: Recipe) -> ModelCard:
    """The model card exported with the weights: model_card with the settings of recipe.export applied."""
    card, settings = model_card(recipe), recipe.export
    pipeline = dataclasses.replace(
        card.pipeline,
        replication=settings.replication,
        sampler=settings.sampler or card.pipeline.sampler,
        steps=settings.steps or card.pipeline.steps,
        hole_levels=settings.hole_levels or card.pipeline.hole_levels,
    )
    return dataclasses.replace(card, pipeline=pipeline, description=settings.description)


def then(before: str, data: str) -> str:
    """Training data of a model that was trained on `data` after what its card says already."""
    if not before or before.endswith(data):
        return before or data
    return f"{before}; then {data}"


def training_data(recipe: DataRecipe) -> str:
    """The card's description of the training data."""
    if recipe.source == "drives":
        return "drives " + ", ".join(Path(drive).name for drive in recipe.drives)
    source = mix_of(recipe.sensor)
    sensors = source.describe() if isinstance(source, SensorMix) else source.sensor.name
    worlds = "" if recipe.world == "town" else f"{recipe.world} worlds, "
    return f"synthetic streets (lidar_completion_synthetic), {worlds}{sensors}"


def seen(recipe: DataRecipe) -> Seen:
    """Sensors and mounting ranges of the training data, for the card; recorded drives get the defaults."""
    augmented_deg = math.degrees(3 * recipe.augmentation.tilt_rad)
    if recipe.source == "drives":
        return Seen(max_tilt_deg=max(ROAD_TILT_DEG, augmented_deg), sensors=())
    source = mix_of(recipe.sensor)
    if isinstance(source, SensorMix):
        heights, tilts = list(source.heights_m), list(source.tilts_deg)
        low, high = min(low for low, _ in heights), max(high for _, high in heights)
        tilt = max(high for _, high in tilts)
        sensors = tuple(sorted(mounting_of(each).sensor.name for each, weight in source.sensors.items() if weight > 0))
    else:
        low, high = round(source.height_m - HEIGHT_SPREAD_M, 2), round(source.height_m + HEIGHT_SPREAD_M, 2)
        tilt, sensors = source.tilt_deg, (source.sensor.name,)
    return Seen(low, high, round(max(ROAD_TILT_DEG, tilt + augmented_deg), 1), sensors)
