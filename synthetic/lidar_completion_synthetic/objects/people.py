"""Pedestrians, bicycles and cyclists."""

from __future__ import annotations

import numpy as np

from ..raycast import BOX, CYLINDER, ELLIPSOID
from .materials import BICYCLE, MOTORCYCLE, MOVING_BICYCLIST, MOVING_PERSON, PERSON, Material
from .solids import Parts, join, rotation, solids, tube


def person(rng: np.random.Generator, label: int = MOVING_PERSON) -> Parts:
    """Pedestrian in mid-stride, sometimes with a bag."""
    h = rng.uniform(1.5, 1.9)
    swing, lean = rng.uniform(0.05, 0.45), rng.uniform(-0.05, 0.12)
    limbs = []
    for s in (-1, 1):
        leg, arm = rotation(0, s * swing), rotation(0, -s * swing * 0.8)
        hip, shoulder = np.array((0, s * 0.1, 0.47 * h)), np.array((0, s * 0.24, 0.8 * h))
        limbs.append(solids(CYLINDER, hip - leg[:, 2] * 0.22 * h, (0.07, 0.075, 0.24 * h), Material.CLOTH, label, leg))
        limbs.append(
            solids(CYLINDER, shoulder - arm[:, 2] * 0.16 * h, (0.045, 0.045, 0.17 * h), Material.CLOTH, label, arm)
        )
    trunk = solids(
        ELLIPSOID, [(lean * 0.3, 0, 0.66 * h), (lean * 0.6, 0, 0.93 * h)], [(0.14, 0.23, 0.21 * h), (0.10, 0.09, 0.13)],
        Material.CLOTH, label,
    )  # fmt: skip
    extra = []
    if rng.random() < 0.3:
        extra.append(solids(BOX, (-0.2, rng.uniform(-0.1, 0.1), 0.7 * h), (0.09, 0.15, 0.2), Material.CLOTH, label))
    return join(trunk, *limbs, *extra)


def bicycle(rng: np.random.Generator, label: int = BICYCLE) -> Parts:
    """Bicycle: rims as thin discs that most rays pass, frame tubes, saddle, handlebar."""
    r = rng.uniform(0.31, 0.35)
    wheel = rotation(0, 0, np.pi / 2)
    rims = solids(CYLINDER, [(0.52, 0, r), (-0.52, 0, r)], (r, r, 0.02), Material.MESH, label, wheel)
    tubes = join(
        tube((-0.52, 0, r), (-0.15, 0, 0.9), 0.02, Material.METAL, label),
        tube((-0.15, 0, 0.85), (0.40, 0, 0.85), 0.02, Material.METAL, label),
        tube((-0.05, 0, 0.30), (0.40, 0, 0.80), 0.02, Material.METAL, label),
        tube((0.52, 0, r), (0.38, 0, 1.02), 0.02, Material.METAL, label),
        tube((0.36, -0.28, 1.03), (0.36, 0.28, 1.03), 0.015, Material.METAL, label),
    )
    saddle = solids(ELLIPSOID, (-0.18, 0, 0.95), (0.13, 0.07, 0.04), Material.PLASTIC, label)
    return join(rims, tubes, saddle)


def cyclist(rng: np.random.Generator, label: int = MOVING_BICYCLIST) -> Parts:
    """Rider on a bicycle."""
    h = rng.uniform(0.95, 1.1)
    body = join(
        tube((-0.18, 0, 0.97), (0.12, 0, 1.45 * h), 0.17, Material.CLOTH, label),
        tube((0.10, -0.2, 1.40 * h), (0.34, -0.25, 1.06), 0.045, Material.CLOTH, label),
        tube((0.10, 0.2, 1.40 * h), (0.34, 0.25, 1.06), 0.045, Material.CLOTH, label),
        tube((-0.15, -0.1, 0.95), (0.10, -0.1, 0.30), 0.07, Material.CLOTH, label),
        tube((-0.15, 0.1, 0.95), (0.15, 0.1, 0.50), 0.07, Material.CLOTH, label),
        solids(ELLIPSOID, (0.20, 0, 1.63 * h), (0.11, 0.09, 0.13), Material.CLOTH, label),
    )
    return join(bicycle(rng, label), body)


def motorcycle(rng: np.random.Generator, label: int = MOTORCYCLE) -> Parts:
    """Motorcycle or scooter on its stand."""
    r = rng.uniform(0.24, 0.32)
    wheels = solids(
        CYLINDER, [(0.65, 0, r), (-0.65, 0, r)], (r, r, 0.06), Material.RUBBER, label, rotation(0, 0, np.pi / 2)
    )
    body = solids(
        BOX, [(-0.1, 0, 0.55), (-0.3, 0, 0.8), (0.5, 0, 0.75)], [(0.45, 0.14, 0.2), (0.4, 0.13, 0.06), (0.06, 0.18, 0.3)],
        Material.PAINT, label,
    )  # fmt: skip
    return join(wheels, body, tube((0.45, -0.35, 1.05), (0.45, 0.35, 1.05), 0.02, Material.METAL, label))


def bicycle_rack(rng: np.random.Generator) -> Parts:
    """A row of hoops with bicycles at some of them."""
    parts = []
    for place in range(int(rng.integers(2, 7))):
        y = 0.7 * place
        parts.append(solids(BOX, (0, y, 0.4), (0.35, 0.02, 0.4), Material.MESH, BICYCLE))
        if rng.random() < 0.6:
            parts.append(bicycle(rng).placed(0.1, y + 0.15, 0, rng.normal(0, 0.1)))
    return join(*parts)


def standing_people(rng: np.random.Generator) -> Parts:
    """One to four people who stand together."""
    people = []
    count = int(rng.integers(1, 5))
    for _ in range(count):
        x, y = rng.normal(0, 0.2 + 0.2 * count, 2)
        people.append(person(rng, PERSON).placed(x, y, 0, rng.uniform(0, 6)))
    return join(*people)
