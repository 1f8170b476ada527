"""World recipes: kinds of street and the objects in them.

"town" is the recipe of the test scenes and of the models up to 2026; its worlds never change. "varied" adds objects and terrain that "town"
lacks: poles, signs, walls, fences, bare trees, bridges, rows of parked cars, slopes, open and industrial roads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Range = tuple[float, float]


@dataclass(frozen=True)
class StreetKind:
    """Ranges (metres) and probabilities of one kind of street.

    probability: share of the worlds. half_width: half the width of the carriageway. setback: from the pavement to the houses. house, height:
    width and height of the houses. gap: probability of a gap between two houses, and a factor on its width. parked: share of the kerb with
    parked cars. trees, fences: probability of a row of trees, and of a fence or hedge in front of a house. rural: no kerbs, grass, steeper
    banks, less traffic. scattered: expected number of trees, bushes and houses away from the streets. halls: share of the buildings that
    are halls. houses: share of the plots that have a house.
    """

    probability: float
    half_width: Range
    sidewalk: Range
    setback: Range
    house: Range
    height: Range
    gap: Range
    parked: float
    trees: float
    fences: float
    rural: bool = False
    scattered: float = 16
    halls: float = 0.0
    houses: float = 0.93


STREET_KINDS: dict[str, StreetKind] = {
    "inner city": StreetKind(
        0.27, half_width=(3.0, 5.5), sidewalk=(1.2, 3.5), setback=(0.0, 0.6), house=(7, 18), height=(7, 18),
        gap=(0.0, 0.25), parked=0.55, trees=0.12, fences=0.1, scattered=6,
    ),
    "terraces": StreetKind(
        0.25, half_width=(2.8, 5.2), sidewalk=(1.0, 2.8), setback=(1.5, 6.0), house=(6, 14), height=(5, 10),
        gap=(0.3, 0.5), parked=0.5, trees=0.3, fences=0.75,
    ),
    "gardens": StreetKind(
        0.25, half_width=(2.8, 5.0), sidewalk=(0.0, 2.4), setback=(3.0, 11.0), house=(7, 14), height=(3.5, 8),
        gap=(0.8, 0.8), parked=0.35, trees=0.6, fences=0.8,
    ),
    "avenue": StreetKind(
        0.13, half_width=(4.5, 8.0), sidewalk=(2.0, 5.0), setback=(1.0, 14.0), house=(12, 30), height=(8, 20),
        gap=(0.6, 0.8), parked=0.5, trees=0.8, fences=0.35,
    ),
    "country": StreetKind(
        0.10, half_width=(2.4, 4.0), sidewalk=(0.0, 0.0), setback=(6.0, 20.0), house=(7, 16), height=(3.5, 8),
        gap=(0.9, 4.0), parked=0.04, trees=1.0, fences=0.5, rural=True, scattered=30,
    ),
}  # fmt: skip

VARIED_KINDS: dict[str, StreetKind] = {
    "inner city": replace(STREET_KINDS["inner city"], probability=0.20),
    "terraces": replace(STREET_KINDS["terraces"], probability=0.19),
    "gardens": replace(STREET_KINDS["gardens"], probability=0.19, trees=0.45),
    "avenue": replace(STREET_KINDS["avenue"], probability=0.12, trees=0.6),
    "country": replace(STREET_KINDS["country"], probability=0.08, trees=0.6),
    "open": StreetKind(
        0.07, half_width=(2.4, 4.5), sidewalk=(0.0, 0.0), setback=(15.0, 40.0), house=(8, 20), height=(4, 8),
        gap=(1.0, 12.0), parked=0.0, trees=0.25, fences=0.1, rural=True, scattered=14, houses=0.3,
    ),
    "industrial": StreetKind(
        0.08, half_width=(3.5, 6.0), sidewalk=(0.0, 2.5), setback=(5.0, 20.0), house=(20, 60), height=(5, 12),
        gap=(0.8, 2.0), parked=0.35, trees=0.2, fences=0.5, halls=0.8, scattered=10,
    ),
    "campus": StreetKind(
        0.07, half_width=(1.4, 3.0), sidewalk=(0.0, 1.5), setback=(4.0, 20.0), house=(15, 45), height=(5, 16),
        gap=(0.9, 2.5), parked=0.08, trees=0.6, fences=0.15, scattered=24,
    ),
}  # fmt: skip

# Expected number per 100 m of street side in the recipe "varied"; rows: objects of placements.py, columns: kinds of street.
COLUMNS = ("inner city", "terraces", "gardens", "avenue", "country", "open", "industrial", "campus")
RATES: dict[str, tuple[float, ...]] = {
    "pole": (1.6, 1.2, 1.0, 1.8, 0.6, 0.5, 1.5, 2.0),
    "utility poles": (0.2, 0.8, 0.9, 0.1, 1.2, 1.2, 0.8, 0.1),
    "tram masts": (0.6, 0.1, 0.0, 1.2, 0.0, 0.0, 0.1, 0.0),
    "lamps": (1.2, 1.0, 0.9, 1.3, 0.2, 0.1, 1.0, 1.3),
    "sign post": (2.2, 1.5, 1.0, 2.2, 0.7, 0.7, 1.6, 0.8),
    "large sign": (0.2, 0.1, 0.1, 0.5, 0.3, 0.3, 0.6, 0.3),
    "signal mast": (0.5, 0.2, 0.1, 0.7, 0.0, 0.0, 0.3, 0.0),
    "delineators": (0.0, 0.0, 0.0, 0.1, 0.8, 1.2, 0.1, 0.0),
    "advertising column": (0.25, 0.05, 0.0, 0.3, 0.0, 0.0, 0.0, 0.1),
    "bollards": (0.8, 0.4, 0.2, 0.6, 0.0, 0.0, 0.3, 1.0),
    "small object": (2.5, 1.5, 1.2, 2.0, 0.3, 0.2, 1.2, 2.0),
    "standing people": (1.5, 0.6, 0.4, 1.2, 0.05, 0.0, 0.3, 1.2),
    "bicycle rack": (0.5, 0.2, 0.1, 0.4, 0.0, 0.0, 0.1, 0.6),
    "motorcycle": (0.6, 0.3, 0.2, 0.4, 0.0, 0.0, 0.2, 0.2),
    "barrier": (0.4, 0.9, 1.2, 0.5, 0.6, 0.4, 0.9, 0.6),
    "tall fence": (0.2, 0.3, 0.4, 0.3, 0.3, 0.3, 1.2, 0.4),
    "guard rail": (0.0, 0.0, 0.05, 0.4, 0.7, 0.9, 0.3, 0.0),
    "hedge": (0.1, 0.5, 0.9, 0.4, 0.6, 0.4, 0.3, 0.7),
    "bush": (0.2, 1.0, 1.8, 1.0, 1.8, 1.4, 0.8, 1.8),
    "tree": (0.5, 0.7, 1.0, 0.9, 1.2, 0.6, 0.5, 1.2),
    "parked row": (0.25, 0.25, 0.15, 0.45, 0.0, 0.0, 0.5, 0.25),
    "large vehicle": (0.25, 0.15, 0.1, 0.35, 0.05, 0.05, 0.9, 0.05),
}
# Probability per world.
BRIDGE, GANTRY = 0.12, 0.10
TREES = {"mixed": 0.50, "bare": 0.12, "high": 0.13, "column": 0.08, "sapling": 0.12, "stump": 0.05}
WINTER = 0.12  # probability of a world in which broad-leaved trees are bare


@dataclass(frozen=True)
class WorldRecipe:
    """Distribution of worlds.

    kinds: kinds of street. relief, banks: range of the factor on hills and on banks beside the street. trees: weights of the kinds of
    tree; empty: the mix of `objects.tree`. rates: see RATES; empty: none. bridge, gantry, winter: probability per world.
    """

    name: str
    kinds: Mapping[str, StreetKind]
    relief: Range = (1.0, 1.0)
    banks: Range = (1.0, 1.0)
    trees: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    bridge: float = 0.0
    gantry: float = 0.0
    winter: float = 0.0

    @property
    def is_varied(self) -> bool:
        """Whether objects beyond those of "town" are placed."""
        return bool(self.rates)


RECIPES: dict[str, WorldRecipe] = {
    "town": WorldRecipe("town", STREET_KINDS),
    "varied": WorldRecipe(
        "varied", VARIED_KINDS, relief=(0.3, 3.0), banks=(0.5, 4.0), trees=TREES, rates=RATES, bridge=BRIDGE,
        gantry=GANTRY, winter=WINTER,
    ),
}  # fmt: skip


def recipe_of(recipe: str | WorldRecipe) -> WorldRecipe:
    """The recipe of this name, or the recipe itself. Raises ValueError for an unknown name."""
    if isinstance(recipe, WorldRecipe):
        return recipe
    if recipe not in RECIPES:
        raise ValueError(f"recipe: expected one of {', '.join(RECIPES)}, found {recipe!r}")
    return RECIPES[recipe]
