"""Rows of houses with gardens, fences, sheds, and trees in front of and between them."""

from __future__ import annotations

import numpy as np

from .. import objects
from .site import Site, StreetSide


def place_houses(site: Site, here: StreetSide) -> None:
    """A row of houses along one side of a street."""
    rng, settings = site.rng, site.settings
    walk = here.street.half_width + here.sidewalk
    setback = rng.uniform(*settings.setback)
    along = here.start + rng.uniform(0, 6)
    height = rng.uniform(*settings.height)
    fence_style = rng.random()
    while along < here.reach:
        width = rng.uniform(*settings.house)
        middle = along + width / 2
        depth = rng.uniform(7, 13)
        back = max(0.0, setback + rng.normal(0, 0.35) * min(setback, 3))
        front = walk + back
        corners = [here.at(middle + a * width / 2, front + b * depth)[:2] for a in (-1, 1) for b in (0, 1)]
        clear = min(site.clearance(*c, ignore=here.number) for c in corners) > 0.5
        if clear:
            _place_house(site, here, middle, front, width, depth, height)
        if clear and back > 1.2:
            _place_garden(site, here, middle, width, walk, back, fence_style)
        gap = 0.0 if rng.random() > settings.gap[0] else rng.uniform(1.5, 4 + 6 * settings.gap[1])
        if gap > 2.5:
            _fill_gap(site, here, along + width + gap / 2, front)
        along += width + gap


def _place_house(
    site: Site, here: StreetSide, along: float, front: float, width: float, depth: float, height: float
) -> None:
    """A house; or a shed or nothing, if another building is in the way or the plot stays empty."""
    rng = site.rng
    x, y, yaw = here.at(along, front)
    cx, cy, _ = here.at(along, front + depth / 2)
    if rng.random() < site.settings.houses and site.occupy(cx, cy, min(width, depth) * 0.45):
        site.put(site.building(width, depth, height * rng.uniform(0.85, 1.15)), x, y, yaw + here.facing)
    elif rng.random() < 0.4:
        site.put(objects.shed(rng), x, y, yaw + here.facing)


def _fill_gap(site: Site, here: StreetSide, along: float, front: float) -> None:
    """A tree, a shed, or a car between two houses."""
    rng = site.rng
    x, y, yaw = here.at(along, front + rng.uniform(0, 4))
    if site.clearance(x, y, ignore=here.number) <= 1:
        return
    choice = rng.random()
    if choice < 0.35:
        site.put(site.tree(0.8), x, y, 0)
    elif choice < 0.6:
        site.put(objects.shed(rng), x, y, yaw + here.facing)
    elif choice < 0.85:
        site.put(objects.car(rng), x, y, yaw + np.pi / 2)


def _place_garden(
    site: Site, here: StreetSide, middle: float, width: float, walk: float, back: float, style: float
) -> None:
    """Hedge or fence along the pavement, with bushes and trees behind it."""
    rng, settings = site.rng, site.settings
    if rng.random() < settings.fences:
        length = width * rng.uniform(0.5, 1.0)
        x, y, yaw = here.at(middle + rng.uniform(-0.2, 0.2) * width, walk + 0.4)
        hedge = (style < 0.45) ^ (rng.random() < 0.2)
        site.put(objects.hedge(rng, length) if hedge else site.fence(length), x, y, yaw)
    for _ in range(rng.poisson(min(back, 8) * width * 0.02)):
        x, y, _ = here.at(middle + rng.uniform(-0.5, 0.5) * width, walk + rng.uniform(0.8, back))
        site.put(objects.bush(rng), x, y, rng.uniform(0, 6))
    if back > 3 and rng.random() < settings.trees * 0.7:
        x, y, _ = here.at(middle + rng.uniform(-0.5, 0.5) * width, walk + rng.uniform(1.5, back))
        site.put(site.tree(rng.uniform(0.5, 0.9)), x, y, 0)
