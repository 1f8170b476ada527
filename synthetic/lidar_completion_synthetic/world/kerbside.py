"""Objects along the kerb: parked vehicles, lamps, trees, signs, and small objects."""

from __future__ import annotations

import numpy as np

from .. import objects
from .site import Site, StreetSide

PARKED = {"car": (0.87, 0.0), "van": (0.11, 1.5), "truck": (0.02, 5.0)}  # probability, metres longer than a car
MAKE = {"car": objects.car, "van": objects.van, "truck": objects.truck}


def place_kerbside(site: Site, here: StreetSide) -> None:
    """Objects along one side of a street."""
    _park_vehicles(site, here)
    _place_lamps(site, here)
    if site.rng.random() < site.settings.trees:
        _place_trees(site, here)
    for _ in range(site.rng.poisson((here.reach - here.start) / 14)):
        _place_on_sidewalk(site, here)
    if site.rng.random() < 0.12:
        _place_row(site, here)


def _park_vehicles(site: Site, here: StreetSide) -> None:
    """Parked vehicles on the edge of the carriageway; half on the pavement in narrow streets."""
    rng, s = site.rng, here.street
    parked = np.clip(site.settings.parked + rng.normal(0, 0.3), 0, 0.95)
    inset = s.half_width - 0.95 if s.half_width > 3.6 else s.half_width + rng.uniform(-0.2, 0.6)
    inset = max(inset, here.side * s.lane + rng.uniform(2.2, 2.6))  # room for the ego vehicle
    along = here.start + rng.uniform(0, 8)
    while along < here.reach:
        length = 4.5
        if rng.random() < parked:
            kind = str(rng.choice(list(PARKED), p=[p for p, _ in PARKED.values()]))
            x, y, yaw = here.at(along, inset + rng.normal(0, 0.08))
            if site.clearance(x, y, ignore=here.number) > 3:
                vehicle = MAKE[kind](rng)
                site.put(vehicle, x, y, yaw + (np.pi if rng.random() < 0.3 else 0) + rng.normal(0, 0.02))
            length += PARKED[kind][1]
        along += length + rng.exponential(1.2) + 0.4


def _place_lamps(site: Site, here: StreetSide) -> None:
    rng = site.rng
    every = rng.uniform(18, 35)
    for along in np.arange(here.start + rng.uniform(0, every), here.reach, every):
        x, y, yaw = here.at(along, here.street.half_width + 0.4)
        if site.clearance(x, y, ignore=here.number) > 0:
            site.put(objects.lamp(rng), x, y, yaw + (np.pi if here.side > 0 else 0))


def _place_trees(site: Site, here: StreetSide) -> None:
    """A row of trees."""
    rng = site.rng
    every = rng.uniform(6, 16)
    beyond = here.street.half_width + max(0.6, min(here.sidewalk * 0.3, 1.2))
    for along in np.arange(here.start + rng.uniform(0, every), here.reach, every):
        x, y, _ = here.at(along + rng.normal(0, 0.8), beyond + rng.uniform(0, 0.5))
        if site.clearance(x, y, ignore=here.number) > 1 and rng.random() < 0.8:
            site.put(site.tree(rng.uniform(0.7, 1.1)), x, y, rng.uniform(0, 6))


def _place_on_sidewalk(site: Site, here: StreetSide) -> None:
    """One sign, traffic light, bus stop, bicycle, or small object."""
    rng = site.rng
    walk = here.sidewalk
    x, y, yaw = here.at(rng.uniform(here.start, here.reach), here.street.half_width + rng.uniform(0.25, max(walk, 0.8)))
    if site.clearance(x, y, ignore=here.number) <= 0:
        return
    choice = rng.random()
    if choice < 0.3:
        site.put(objects.sign(rng), x, y, yaw + here.facing + rng.normal(0, 0.1))
    elif choice < 0.36:
        site.put(objects.traffic_light(rng), x, y, yaw)
    elif choice < 0.40 and walk > 2:
        site.put(objects.bus_stop(rng), x, y, yaw + here.facing)
    elif choice < 0.5:
        site.put(objects.bicycle(rng), x, y, yaw + rng.uniform(-0.5, 0.5))
    else:
        site.put(objects.small_object(rng), x, y, yaw)


def _place_row(site: Site, here: StreetSide) -> None:
    """A row of small objects, such as cones or bollards, on the carriageway."""
    rng = site.rng
    along = rng.uniform(here.start, here.reach)
    for i in range(int(rng.integers(3, 12))):
        x, y, yaw = here.at(along + 2.0 * i, here.street.half_width - 0.2)
        site.put(objects.small_object(np.random.default_rng(int(rng.integers(9)))), x, y, yaw)
