"""Places all static and moving objects of a world."""

from __future__ import annotations

import numpy as np

from .. import objects
from ..objects import Parts, join
from ..raycast import Ground
from .centre_line import Street
from .houses import place_houses
from .kerbside import place_kerbside
from .placements import place_extras, place_over_street
from .recipe import WorldRecipe
from .site import Site, StreetSide
from .traffic import Traffic, place_traffic


def furnish(
    rng: np.random.Generator,
    streets: tuple[Street, ...],
    ground: Ground,
    recipe: WorldRecipe,
    kind: str,
    half_length_m: float,
    half_depth_m: float,
    traffic: float,
) -> tuple[Parts, Parts, np.ndarray, np.ndarray]:
    """Static parts, moving parts (Q solids), their velocity (Q, 2) in m/s, and the index (Q,) of the object they belong to."""
    site = Site(rng, streets, ground, recipe, kind, half_length_m, half_depth_m)
    moving = Traffic()
    density = traffic * 0.4 if site.settings.rural else traffic
    if recipe.is_varied:
        site.winter = rng.random() < recipe.winter
        place_over_street(site)
    for number, s in enumerate(streets):
        reach = half_length_m if number == 0 else half_depth_m
        start = streets[0].half_width + 2 if number and s.is_one_sided else -reach
        for side in (-1, 1):
            here = StreetSide(s, number, side, start, reach)
            place_houses(site, here)
            place_kerbside(site, here)
            if recipe.is_varied:
                place_extras(site, here)
        place_traffic(site, s, start, reach, density, moving)
    _scatter(site)
    return join(*site.placed), moving.parts, moving.velocity, moving.thing


def _scatter(site: Site) -> None:
    """Houses, trees and bushes behind the rows of houses and in the fields."""
    rng = site.rng
    for _ in range(rng.poisson(site.settings.scattered)):
        x, y = rng.uniform(-site.half_length_m, site.half_length_m), rng.uniform(-site.half_depth_m, site.half_depth_m)
        if site.clearance(x, y) <= 4:
            continue
        if rng.random() < 0.25 and site.occupy(x, y, 7):
            house = site.building(rng.uniform(8, 20), rng.uniform(7, 14), rng.uniform(4, 10))
            site.put(house, x, y, rng.uniform(0, 6))
        elif site.occupy(x, y, 1.0):
            site.put(site.tree(), x, y, rng.uniform(0, 6))
        else:
            site.put(objects.bush(rng, 1.3), x, y, rng.uniform(0, 6))
