"""Objects of the street world, built of solids: x forward, y left, z up from the ground at 0, metres.

Every object function takes a `numpy.random.Generator` and returns `Parts`; every call draws new dimensions and details.
"""

from .boundaries import fence, guard_rail
from .buildings import building, hall, shed, stepped_building
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
from .people import bicycle, bicycle_rack, cyclist, motorcycle, person, standing_people
from .poles import (
    advertising_column,
    arm_lamp,
    delineator,
    large_sign,
    pole,
    sign_post,
    signal_mast,
    tram_mast,
    utility_pole,
)
from .solids import Parts, join, random_rotations, rotation, solids
from .street_furniture import bollard, bus_stop, lamp, sign, small_object, traffic_light
from .structures import barrier, bridge, gantry, tall_fence
from .vegetation import bare_tree, bush, column_tree, flat_hedge, hedge, high_tree, sapling, stump, tree
from .vehicles import bus, car, trailer, truck, van

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
    "advertising_column",
    "arm_lamp",
    "bare_tree",
    "barrier",
    "bicycle",
    "bicycle_rack",
    "bollard",
    "bridge",
    "building",
    "bus",
    "bus_stop",
    "bush",
    "car",
    "column_tree",
    "cyclist",
    "delineator",
    "fence",
    "flat_hedge",
    "gantry",
    "guard_rail",
    "hall",
    "hedge",
    "high_tree",
    "join",
    "lamp",
    "large_sign",
    "motorcycle",
    "person",
    "pole",
    "random_rotations",
    "rotation",
    "sapling",
    "shed",
    "sign",
    "sign_post",
    "signal_mast",
    "small_object",
    "solids",
    "standing_people",
    "stepped_building",
    "stump",
    "tall_fence",
    "traffic_light",
    "trailer",
    "tram_mast",
    "tree",
    "truck",
    "utility_pole",
    "van",
]
