"""Objects of the street world, built of solids: x forward, y left, z up from the ground at 0, metres.

Every object function takes a `numpy.random.Generator` and returns `Parts`; dimensions and details are drawn anew in every call.
"""

from .boundaries import fence
from .buildings import building, shed
from .materials import (
    BUILDING,
    GROUND_LABELS,
    MOVING_CAR,
    MOVING_OTHER,
    MOVING_TRUCK,
    ROAD,
    SIDEWALK,
    SURFACE_TABLE,
    TERRAIN,
    VEGETATION,
    Material,
)
from .people import bicycle, cyclist, person
from .solids import Parts, join, random_rotations, rotation, solids
from .street_furniture import bus_stop, lamp, sign, small_object, traffic_light
from .vegetation import bush, hedge, tree
from .vehicles import car, truck, van

__all__ = [
    "BUILDING",
    "GROUND_LABELS",
    "MOVING_CAR",
    "MOVING_OTHER",
    "MOVING_TRUCK",
    "ROAD",
    "SIDEWALK",
    "SURFACE_TABLE",
    "TERRAIN",
    "VEGETATION",
    "Material",
    "Parts",
    "bicycle",
    "building",
    "bus_stop",
    "bush",
    "car",
    "cyclist",
    "fence",
    "hedge",
    "join",
    "lamp",
    "person",
    "random_rotations",
    "rotation",
    "shed",
    "sign",
    "small_object",
    "solids",
    "traffic_light",
    "tree",
    "truck",
    "van",
]
