"""Echo strength, lost returns, intensity and range noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from ..objects import SURFACE_TABLE, Material
from .sensors import SpinningLidar


@dataclass
class Hits:
    """First hits of R rays: distance in metres, solid and cosine of the incidence angle as in `raycast.cast`; material, label and tone
    as in `World.surface`."""

    distance: np.ndarray
    solid: np.ndarray
    cosine: np.ndarray
    material: np.ndarray
    label: np.ndarray
    tone: np.ndarray


def echo(
    sensor: SpinningLidar, hits: Hits, firing: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Intensity (R,) float32 in [0, 0.99] and whether there is a return (R,); weak echoes (far, dark, grazing) are lost.

    firing (R,): index of each ray among all firings of a turn. The random numbers of neighbouring firings are correlated, so that
    returns are lost in patches.
    """
    distance, cosine, material, tone = hits.distance, hits.cosine, hits.material, hits.tone
    surface = SURFACE_TABLE[material]
    spread = rng.standard_normal(len(distance), dtype=np.float32)
    reflectivity = np.clip(surface[:, 0] * tone + surface[:, 1] * spread, 0.0, 1.0)
    retro = (material == Material.PLATE) | (material == Material.REFLECTIVE)
    power = np.where(retro, 1.0, np.maximum(surface[:, 0] * tone, 0.02) * np.sqrt(np.clip(cosine, 0.0, 1.0)))
    strength = sensor.sensitivity * power * (60.0 / np.maximum(distance, 5.0)) ** 2
    lost = surface[:, 3] + (1 - surface[:, 3]) * np.exp(-8.0 * strength)
    paint = material == Material.PAINT  # reflects specularly; dark paint loses more returns
    lost = np.where(
        paint, np.maximum(lost, np.clip(0.5 - 0.5 * np.minimum(tone, 1.2) * (0.5 + cosine), 0.02, 0.5)), lost
    )
    fade = np.clip(1.15 - distance / 70, 0.2, 1.0)
    intensity = np.where(retro, 0.99, reflectivity * (0.7 + 0.3 * cosine) * fade)
    luck = _patchy_uniform(sensor, rng)[firing]
    intensity = np.where(luck < lost + 0.05, 0.0, intensity)  # the weakest detected echoes have intensity 0
    return np.clip(np.round(intensity, 2), 0, 0.99).astype(np.float32), luck >= lost


def _patchy_uniform(sensor: SpinningLidar, rng: np.random.Generator) -> np.ndarray:
    """Uniform numbers (rings * columns,) in [0, 1]; neighbouring firings share two thirds of the variance."""
    white = rng.standard_normal((sensor.rings, sensor.columns), dtype=np.float32)
    shared = np.zeros_like(white)
    for rings, columns in ((2, 6), (5, 24)):
        coarse = rng.standard_normal((sensor.rings // rings + 1, sensor.columns // columns + 1), dtype=np.float32)
        shared += np.repeat(np.repeat(coarse, rings, axis=0)[: sensor.rings], columns, axis=1)[:, : sensor.columns]
    return ndtr(((white + shared) * np.float32(3**-0.5)).ravel())


def range_noise(
    sensor: SpinningLidar, distance: np.ndarray, cosine: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Range error (R,) in metres; larger at grazing incidence, where the footprint is stretched along the ray."""
    spread = sensor.range_noise_m * (0.7 + 0.3 * np.minimum(1 / np.maximum(cosine, 0.1), 4.0))
    return spread * rng.standard_normal(len(distance), dtype=np.float32)
