"""Ray casting against analytic solids and a height field."""

from .cast import cast, set_threads
from .scene import Ground, Solids, make_ground, make_solids
from .shapes import BLOCK, BOX, CONE, CYLINDER, ELLIPSOID, GROUND, MISS

__all__ = [
    "BLOCK",
    "BOX",
    "CONE",
    "CYLINDER",
    "ELLIPSOID",
    "GROUND",
    "MISS",
    "Ground",
    "Solids",
    "cast",
    "make_ground",
    "make_solids",
    "set_threads",
]
