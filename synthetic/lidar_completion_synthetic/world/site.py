"""What the placement functions share: the terrain, the streets, and the static objects placed so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .. import objects
from ..objects import Parts
from ..raycast import Ground
from .centre_line import Street
from .recipe import StreetKind, WorldRecipe

TREES = {
    "mixed": objects.tree,
    "bare": objects.bare_tree,
    "high": objects.high_tree,
    "column": objects.column_tree,
    "sapling": objects.sapling,
    "stump": objects.stump,
}
MARGIN_M = 5  # objects may stand this far outside the nominal extent


@dataclass
class Site:
    """A world while it is being furnished. placed: static parts; occupied: circles (x, y, radius) taken by houses and trees."""

    rng: np.random.Generator
    streets: tuple[Street, ...]
    ground: Ground
    recipe: WorldRecipe
    kind: str
    half_length_m: float
    half_depth_m: float
    placed: list[Parts] = field(default_factory=list)
    occupied: list[tuple[float, float, float]] = field(default_factory=list)
    winter: bool = False

    @property
    def settings(self) -> StreetKind:
        return self.recipe.kinds[self.kind]

    def put(self, parts: Parts, x: float, y: float, yaw: float) -> None:
        """Places an object on the ground; objects outside the extent are dropped."""
        if abs(x) < self.half_length_m + MARGIN_M and abs(y) < self.half_depth_m + MARGIN_M:
            self.placed.append(parts.placed(x, y, float(self.ground.height_at(x, y)), yaw))

    def tree(self, scale: float = 1.0) -> Parts:
        """A random tree of the recipe; in winter most are bare."""
        if not self.recipe.trees:
            return objects.tree(self.rng, scale)
        kind = str(self.rng.choice(list(self.recipe.trees), p=list(self.recipe.trees.values())))
        if self.winter and kind in ("mixed", "high"):
            kind = "bare"
        return TREES[kind](self.rng, scale)

    def fence(self, length: float) -> Parts:
        """A fence, wall or hedge along x."""
        if not self.recipe.is_varied:
            return objects.fence(self.rng, length)
        choice = self.rng.random()
        if choice < 0.55:
            return objects.fence(self.rng, length)
        return (objects.barrier if choice < 0.85 else objects.tall_fence)(self.rng, length)

    def building(self, width: float, depth: float, height: float) -> Parts:
        """A house, or a hall if this kind of street has them."""
        if not self.recipe.is_varied:
            return objects.building(self.rng, width, depth, height)
        choice = self.rng.random()
        if choice < self.settings.halls:
            return objects.hall(self.rng, width, depth, height)
        make = objects.stepped_building if choice > 0.8 else objects.building
        return make(self.rng, width, depth, height)

    def clearance(self, x: float, y: float, ignore: int = -1) -> float:
        """Distance in metres from a point to the nearest street, its right pavement included; `ignore`: index of a street to skip."""
        return min(
            (abs(s.offsets(x, y)[1]) - s.half_width - s.sidewalk[0] for i, s in enumerate(self.streets) if i != ignore),
            default=1e3,
        )

    def occupy(self, x: float, y: float, radius: float) -> bool:
        """Mark a circle as occupied; returns False, without a change, if it overlaps an occupied one."""
        if self.occupied:
            c = np.asarray(self.occupied)
            if np.any(np.hypot(c[:, 0] - x, c[:, 1] - y) < c[:, 2] + radius):
                return False
        self.occupied.append((x, y, radius))
        return True


@dataclass(frozen=True)
class StreetSide:
    """One side of a street between two distances along it. side: 1 left, -1 right."""

    street: Street
    number: int
    side: int
    start: float
    reach: float

    @property
    def sidewalk(self) -> float:
        """Width of the pavement."""
        return self.street.sidewalk[0 if self.side < 0 else 1]

    @property
    def facing(self) -> float:
        """Yaw, relative to the street, of an object whose front faces the street."""
        return 0.0 if self.side > 0 else np.pi

    def at(self, along: float, beyond: float) -> tuple[float, float, float]:
        """World x, y and street yaw at a distance from the centre line on this side."""
        return self.street.at(along, self.side * beyond)
