"""Draws a world from a seed."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from .. import raycast
from ..objects import SURFACE_TABLE, Parts
from .centre_line import Street, draw_streets
from .furnish import furnish
from .recipe import WorldRecipe, recipe_of
from .terrain import draw_ground
from .world import PATH_STEP_M, World

BORDER_M = 10  # width of the ground beyond the furnished area


def street(
    seed: int,
    *,
    recipe: str | WorldRecipe = "town",
    kind: str | None = None,
    half_length_m: float = 110.0,
    half_depth_m: float = 75.0,
    traffic: float = 1.0,
) -> World:
    """A street world drawn from a seed.

    recipe: "town", "varied", or a WorldRecipe. kind: a kind of street of the recipe; None: drawn. half_length_m, half_depth_m: extent
    of the world along and across the main street, to each side. traffic: factor on the number of moving objects. Raises ValueError for
    an unknown recipe or kind.
    """
    recipe = recipe_of(recipe)
    rng = np.random.default_rng([seed, 20240])
    if kind is None:
        kind = str(rng.choice(list(recipe.kinds), p=[k.probability for k in recipe.kinds.values()]))
    if kind not in recipe.kinds:
        raise ValueError(f"kind: expected one of {', '.join(recipe.kinds)}, found {kind!r}")
    streets = draw_streets(rng, recipe.kinds[kind], half_length_m)
    ground = draw_ground(
        rng, streets, recipe.kinds[kind], half_length_m + BORDER_M, half_depth_m + BORDER_M,
        *_terrain_factors(recipe, seed),
    )  # fmt: skip
    path = _drive(streets[0], ground, half_length_m)
    parts, movers, velocity, thing = furnish(rng, streets, ground, recipe, kind, half_length_m, half_depth_m, traffic)
    parts = _clear_of_drive(parts, path)
    solids = raycast.make_solids(parts.shape, parts.to_world, SURFACE_TABLE[parts.material, 2])
    return World(
        seed, ground, solids, parts.material, parts.label, parts.tone, movers, velocity, thing, path, len(path) // 2,
        streets, kind, dict(
            recipe=recipe.name, kind=kind, half_length_m=half_length_m, half_depth_m=half_depth_m, traffic=traffic
        ),
    )  # fmt: skip


def _terrain_factors(recipe: WorldRecipe, seed: int) -> tuple[float, float]:
    """Random factors on the height of hills and on the slope of banks."""
    rng = np.random.default_rng([seed, 20241])
    return float(rng.uniform(*recipe.relief)), float(rng.uniform(*recipe.banks))


def _drive(main: Street, ground: raycast.Ground, half_length_m: float) -> np.ndarray:
    """Path (K, 4) of the ego vehicle in its lane of the main street: x, y, z, yaw every PATH_STEP_M."""
    along = np.arange(-half_length_m + 2, half_length_m - 2, 0.1)
    points = np.array([main.at(a, main.lane + 0.15 * np.sin(a / 23)) for a in along])
    step = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points[:, :2], axis=0), axis=1))]
    s = np.arange(0, step[-1], PATH_STEP_M)
    x, y, yaw = (np.interp(s, step, points[:, i]) for i in range(3))
    if main.lane > 0:  # the left lane is driven towards -x, so that traffic keeps to the right
        x, y, yaw = x[::-1], y[::-1], yaw[::-1] + np.pi
    return np.column_stack([x, y, ground.height_at(x, y), yaw])


def _clear_of_drive(parts: Parts, path: np.ndarray) -> Parts:
    """The parts without those solids that block the path."""
    centre, reach = parts.to_world[:, :, 3], np.linalg.norm(parts.to_world[:, :2, :3], axis=(1, 2))
    road = path[::2]
    nearest, at = cKDTree(road[:, :2]).query(centre[:, :2])
    low = centre[:, 2] - road[at, 2]
    blocked = (nearest < 1.25 + np.minimum(reach, 0.6)) & (low < 2.6)
    return parts.chosen(~blocked)
