"""Surface materials: their LiDAR echo and their semantic label."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np


class Material(IntEnum):
    """Material of a surface; determines the echo (`SURFACES`) and, on the ground, the semantic label."""

    ASPHALT = 0
    MARKING = 1
    PAVEMENT = 2
    GRASS = 3
    GRAVEL = 4
    FACADE = 5
    WINDOW = 6
    METAL = 7
    PAINT = 8
    CAR_GLASS = 9
    RUBBER = 10
    PLATE = 11
    FOLIAGE = 12
    BARK = 13
    WOOD = 14
    MESH = 15
    REFLECTIVE = 16
    CLOTH = 17
    PLASTIC = 18


class Surface(NamedTuple):
    """Echo of a material: diffuse reflectivity in [0, 1], its standard deviation, the probability that a ray passes, and the
    probability that a hit gives no return."""

    reflectivity: float
    spread: float
    see_through: float
    lost: float


SURFACES: dict[Material, Surface] = {
    Material.ASPHALT: Surface(0.32, 0.07, 0.0, 0.005),
    Material.MARKING: Surface(0.60, 0.12, 0.0, 0.01),
    Material.PAVEMENT: Surface(0.40, 0.07, 0.0, 0.005),
    Material.GRASS: Surface(0.42, 0.10, 0.0, 0.01),
    Material.GRAVEL: Surface(0.33, 0.06, 0.0, 0.01),
    Material.FACADE: Surface(0.46, 0.11, 0.0, 0.005),
    Material.WINDOW: Surface(0.15, 0.15, 0.0, 0.30),
    Material.METAL: Surface(0.35, 0.15, 0.0, 0.05),
    Material.PAINT: Surface(0.30, 0.15, 0.0, 0.03),
    Material.CAR_GLASS: Surface(0.06, 0.10, 0.55, 0.30),
    Material.RUBBER: Surface(0.10, 0.05, 0.0, 0.10),
    Material.PLATE: Surface(0.99, 0.02, 0.0, 0.0),
    Material.FOLIAGE: Surface(0.42, 0.16, 0.12, 0.02),
    Material.BARK: Surface(0.30, 0.08, 0.0, 0.01),
    Material.WOOD: Surface(0.38, 0.10, 0.0, 0.01),
    Material.MESH: Surface(0.30, 0.10, 0.75, 0.05),
    Material.REFLECTIVE: Surface(0.99, 0.01, 0.0, 0.0),
    Material.CLOTH: Surface(0.35, 0.20, 0.0, 0.02),
    Material.PLASTIC: Surface(0.45, 0.15, 0.0, 0.02),
}
SURFACE_TABLE = np.array([SURFACES[m] for m in Material], dtype=np.float32)  # (materials, 4)

# Labels of SemanticKITTI.
ROAD, SIDEWALK, PARKING, TERRAIN, BUILDING, FENCE, OTHER_STRUCTURE, OTHER_OBJECT = 40, 48, 44, 72, 50, 51, 52, 99
VEGETATION, TRUNK, POLE, SIGN = 70, 71, 80, 81
CAR, BICYCLE, MOTORCYCLE, TRUCK, OTHER_VEHICLE, PERSON = 10, 11, 15, 18, 20, 30
MOVING_CAR, MOVING_BICYCLIST, MOVING_PERSON, MOVING_TRUCK, MOVING_OTHER = 252, 253, 254, 258, 259
GROUND_LABELS = {Material.ASPHALT: ROAD, Material.MARKING: ROAD, Material.PAVEMENT: SIDEWALK}
