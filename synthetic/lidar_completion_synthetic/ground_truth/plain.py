"""Plain implementation of visibility: every surface point from every viewpoint. Tests compare the compiled search with it."""

from __future__ import annotations

import numpy as np

from .. import raycast
from ..world import World, empty_solids


def visible_plain(
    world: World,
    views: np.ndarray,
    view: tuple[float, float, float, float],
    points: np.ndarray,
    normals: np.ndarray,
) -> np.ndarray:
    """Whether any viewpoint sees each of the points (M, 3) with outward normals (M, 3); arguments as in visibility_compiled.py."""
    opaque = world.solids.see_through == 0
    solids = raycast.make_solids(world.solids.shape[opaque], world.solids.to_world[opaque], np.zeros(opaque.sum()))
    low, high, max_range, angle = view
    seen = np.zeros(len(points), bool)
    for k in range(len(views)):
        offset = points - views[k, :3]
        distance = np.linalg.norm(offset, axis=1)
        facing = -(offset * normals).sum(axis=1)
        up = offset @ views[k, 3:] / distance
        candidate = ~seen & (distance <= max_range) & (distance >= 1.0) & (facing > 0.01 * distance)
        candidate &= (up >= low) & (up <= high) & (facing >= angle * distance**3)
        row = np.flatnonzero(candidate)
        if len(row):
            origins = np.repeat(views[None, k, :3], len(row), axis=0)
            directions = offset[row] / distance[row, None]
            hit, _, _ = raycast.cast(solids, empty_solids(), world.ground, origins, directions, max_range, 0)
            seen[row] = hit >= distance[row] - 0.03
    return seen
