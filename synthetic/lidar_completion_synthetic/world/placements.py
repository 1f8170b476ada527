"""Objects that the recipe "varied" adds along the streets, at the rates of its table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import objects
from ..objects import Parts
from .recipe import COLUMNS
from .site import Site, StreetSide

Make = Callable[[np.random.Generator], Parts]
PARKED_VEHICLES = {"car": 0.86, "van": 0.11, "trailer": 0.03}

# Single objects: maker, distance from the carriageway in metres, and orientation relative to the street.
SINGLE: dict[str, tuple[Make, tuple[float, float], str]] = {
    "pole": (objects.pole, (0.2, 4.0), "any"),
    "sign post": (objects.sign_post, (0.25, 1.5), "along"),
    "large sign": (objects.large_sign, (0.6, 4.0), "along"),
    "signal mast": (objects.signal_mast, (0.4, 1.2), "street"),
    "advertising column": (objects.advertising_column, (0.8, 2.5), "any"),
    "small object": (objects.small_object, (0.3, 3.0), "any"),
    "standing people": (objects.standing_people, (0.3, 3.0), "any"),
    "bicycle rack": (objects.bicycle_rack, (0.5, 2.5), "along"),
    "motorcycle": (objects.motorcycle, (-0.9, 1.5), "any"),
    "bush": (objects.bush, (0.8, 8.0), "any"),
}
# Rows: maker, distance from the carriageway, spacing in metres, and number of objects.
ROWS: dict[str, tuple[Make, tuple[float, float], tuple[float, float], tuple[int, int]]] = {
    "utility poles": (objects.utility_pole, (0.4, 3.0), (22, 45), (2, 7)),
    "tram masts": (objects.tram_mast, (0.3, 1.2), (18, 35), (2, 7)),
    "lamps": (objects.arm_lamp, (0.3, 1.5), (15, 35), (1, 6)),
    "delineators": (objects.delineator, (0.4, 1.2), (12, 40), (2, 8)),
    "bollards": (objects.bollard, (0.15, 0.6), (1.1, 2.6), (3, 16)),
}
# Stretches along the street: maker and distance from the carriageway; 4-35 m long.
STRETCHES: dict[str, tuple[Callable[[np.random.Generator, float], Parts], tuple[float, float]]] = {
    "barrier": (objects.barrier, (1.2, 5.0)),
    "tall fence": (objects.tall_fence, (1.5, 6.0)),
    "guard rail": (objects.guard_rail, (0.4, 1.2)),
    "hedge": (objects.flat_hedge, (1.0, 5.0)),
}


def place_extras(site: Site, here: StreetSide) -> None:
    """All objects of the table along one side of a street. Their density varies from street to street."""
    rng = site.rng
    column = COLUMNS.index(site.kind)
    hundreds = max(here.reach - here.start, 0) / 100
    for name, rates in site.recipe.rates.items():
        expected = rates[column] * hundreds * rng.gamma(1.5, 1 / 1.5)
        for _ in range(rng.poisson(expected)):
            along = rng.uniform(here.start, here.reach)
            _place(site, here, name, along)


def _place(site: Site, here: StreetSide, name: str, along: float) -> None:
    rng = site.rng
    if name in SINGLE:
        make, beyond, facing = SINGLE[name]
        _put(site, here, make(rng), along, rng.uniform(*beyond), facing)
    elif name in ROWS:
        make, beyond, spacing, count = ROWS[name]
        offset, step = rng.uniform(*beyond), rng.uniform(*spacing)
        for number in range(int(rng.integers(*count))):
            _put(site, here, make(rng), along + number * step, offset, "street")
    elif name in STRETCHES:
        make_stretch, beyond = STRETCHES[name]
        _place_stretch(site, here, make_stretch, along, rng.uniform(*beyond))
    elif name == "tree":
        _put(site, here, site.tree(rng.uniform(0.6, 1.1)), along, rng.uniform(1.0, 10.0), "any")
    elif name == "parked row":
        _park_row(site, here, along)
    else:
        vehicle = (objects.bus, objects.truck, objects.van)[int(rng.integers(3))](rng)
        _put(site, here, vehicle, along, rng.uniform(0.5, 6.0), "along")


def _put(site: Site, here: StreetSide, parts: Parts, along: float, beyond: float, facing: str) -> None:
    """Places an object beyond the edge of the carriageway, unless it would stand on another street."""
    x, y, yaw = here.at(along, here.street.half_width + beyond)
    if along > here.reach or site.clearance(x, y, ignore=here.number) <= 0.3:
        return
    if facing == "any":
        turn = site.rng.uniform(0, 2 * np.pi)
    elif facing == "along":
        turn = np.pi * (here.side > 0) + site.rng.normal(0, 0.1)
    else:  # arms point to +y, towards the street
        turn = np.pi if here.side > 0 else 0.0
    site.put(parts, x, y, yaw + turn)


def _place_stretch(
    site: Site, here: StreetSide, make: Callable[[np.random.Generator, float], Parts], along: float, beyond: float
) -> None:
    """A wall, fence or hedge in pieces of at most 8 m, so that it follows bends and slopes."""
    rng = site.rng
    end = min(along + float(np.exp(rng.uniform(np.log(4.0), np.log(35.0)))), here.reach)
    seed = int(rng.integers(2**31))
    while along < end - 1.0:
        length = min(8.0, end - along)
        pieces = np.random.default_rng(seed)  # the same height and material in every piece
        _put(site, here, make(pieces, length), along + length / 2, beyond, "straight")
        along += length


def _park_row(site: Site, here: StreetSide, along: float) -> None:
    """Vehicles side by side, perpendicular or at an angle to the street, in one or two rows, with gaps."""
    rng = site.rng
    angle = np.pi / 2 if rng.random() < 0.6 else rng.uniform(0.6, 1.1)
    occupied, step = rng.uniform(0.4, 0.95), 2.6 / np.sin(angle)
    base = rng.uniform(2.6, 4.5)
    for row in range(1 + int(rng.random() < 0.3)):
        for place in range(int(rng.integers(3, 12))):
            if rng.random() >= occupied:
                continue
            kind = str(rng.choice(list(PARKED_VEHICLES), p=list(PARKED_VEHICLES.values())))
            vehicle = {"car": objects.car, "van": objects.van, "trailer": objects.trailer}[kind](rng)
            x, y, yaw = here.at(along + place * step, here.street.half_width + base + 5.2 * row)
            if along + place * step < here.reach and site.clearance(x, y, ignore=here.number) > 2.0:
                flip = np.pi * (rng.random() < 0.3)
                site.put(vehicle, x, y, yaw + here.side * angle + flip + rng.normal(0, 0.03))


def place_over_street(site: Site) -> None:
    """Bridge and gantry over the main street."""
    rng, street = site.rng, site.streets[0]
    clear = street.half_width + max(street.sidewalk)
    for make, probability in ((objects.bridge, site.recipe.bridge), (objects.gantry, site.recipe.gantry)):
        if rng.random() < probability:
            x, y, yaw = street.at(rng.uniform(-0.8, 0.8) * site.half_length_m)
            site.put(make(rng, clear), x, y, yaw)
