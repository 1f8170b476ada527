"""Lamps, signs, traffic lights, bus stops, and small objects on the pavement."""

from __future__ import annotations

import numpy as np

from ..raycast import BOX, CONE, CYLINDER
from .materials import OTHER_OBJECT, OTHER_STRUCTURE, POLE, SIGN, Material
from .solids import Parts, join, rotation, solids, tube

SMALL_OBJECTS = {"bollard": 0.25, "cone": 0.15, "bin": 0.15, "box": 0.2, "bench": 0.1, "dustbin": 0.15}


def lamp(rng: np.random.Generator) -> Parts:
    """Street lamp, often with an arm."""
    height, radius = rng.uniform(4, 9), rng.uniform(0.05, 0.1)
    parts = [
        tube((0, 0, -0.2), (0, 0, height), radius, Material.METAL, POLE),
        solids(CYLINDER, (0, 0, 0.4), (radius * 1.5, radius * 1.5, 0.4), Material.METAL, POLE),
    ]
    if rng.random() < 0.6:
        parts.append(tube((0, 0, height), (0, rng.uniform(0.8, 2.2), height + 0.3), 0.04, Material.METAL, POLE))
    return join(*parts)


def sign(rng: np.random.Generator) -> Parts:
    """Traffic sign on a post: round, a square standing on its corner, or rectangular."""
    height = rng.uniform(1.9, 2.8)
    post = tube((0, 0, -0.1), (0, 0, height + 0.2), 0.035, Material.METAL, POLE)
    kind = rng.integers(0, 3)
    if kind == 0:
        board = solids(CYLINDER, (0.05, 0, height), (0.3, 0.3, 0.01), Material.REFLECTIVE, SIGN, rotation(0, np.pi / 2))
    else:
        half = (0.01, 0.3, 0.3) if kind == 1 else (0.01, rng.uniform(0.2, 0.9), rng.uniform(0.15, 0.45))
        turn = rotation(0, 0, np.pi / 4 if kind == 1 else 0)
        board = solids(BOX, (0.05, 0, height), half, Material.REFLECTIVE, SIGN, turn)
    return join(post, board)


def traffic_light(rng: np.random.Generator) -> Parts:
    """Traffic light on a post."""
    post = tube((0, 0, 0), (0, 0, 3.0), 0.06, Material.METAL, POLE)
    return join(post, solids(BOX, (0.1, 0, 2.6), (0.1, 0.15, 0.42), Material.PLASTIC, SIGN))


def small_object(rng: np.random.Generator) -> Parts:
    """Bollard, traffic cone, bin, row of dustbins, junction box, or bench."""
    kind = rng.choice(list(SMALL_OBJECTS), p=list(SMALL_OBJECTS.values()))
    if kind == "bollard":
        return bollard(rng)
    if kind == "cone":
        h = rng.uniform(0.5, 0.8)
        foot = solids(BOX, (0, 0, 0.02), (0.18, 0.18, 0.02), Material.PLASTIC, OTHER_OBJECT)
        return join(foot, solids(CONE, (0, 0, h / 2), (0.16, 0.16, h / 2), Material.PLASTIC, OTHER_OBJECT))
    if kind == "bin":
        return solids(CYLINDER, (0, 0, 0.45), (0.25, 0.25, 0.45), Material.PLASTIC, OTHER_OBJECT)
    if kind == "dustbin":
        centre = [(0.65 * i, 0, 0.53) for i in range(int(rng.integers(1, 4)))]
        return solids(BOX, centre, (0.28, 0.33, 0.53), Material.PLASTIC, OTHER_OBJECT)
    if kind == "box":
        half = rng.uniform((0.3, 0.15, 0.4), (0.7, 0.25, 0.75))
        return solids(BOX, (0, 0, half[2]), half, Material.METAL, OTHER_OBJECT)
    return _bench()


def bollard(rng: np.random.Generator) -> Parts:
    """Bollard, 0.6-1.1 m high."""
    h = rng.uniform(0.6, 1.1)
    return solids(CYLINDER, (0, 0, h / 2), (0.07, 0.07, h / 2), Material.METAL, POLE)


def _bench() -> Parts:
    legs = solids(BOX, [(-0.6, 0, 0.21), (0.6, 0, 0.21)], (0.04, 0.2, 0.21), Material.METAL, OTHER_OBJECT)
    centre, half = [(0, 0, 0.44), (0, 0.22, 0.68)], [(0.8, 0.22, 0.025), (0.8, 0.02, 0.16)]
    return join(legs, solids(BOX, centre, half, Material.WOOD, OTHER_OBJECT))


def bus_stop(rng: np.random.Generator) -> Parts:
    """Shelter of glass and posts."""
    posts = [tube((x, y, 0), (x, y, 2.4), 0.04, Material.METAL, OTHER_STRUCTURE) for x in (-1.8, 1.8) for y in (0, 1.3)]
    back = solids(BOX, (0, 1.3, 1.2), (1.8, 0.01, 1.0), Material.CAR_GLASS, OTHER_STRUCTURE)
    roof = solids(BOX, (0, 0.65, 2.45), (2.0, 0.9, 0.06), Material.METAL, OTHER_STRUCTURE)
    return join(*posts, back, roof)
