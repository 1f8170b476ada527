"""Walls, fences and guard rails along x."""

from __future__ import annotations

import numpy as np

from ..raycast import BOX
from .materials import FENCE, Material
from .solids import Parts, join, solids

FENCE_KINDS = {"wall": 0.3, "pickets": 0.15, "boards": 0.15, "railing": 0.15, "mesh": 0.17, "guard rail": 0.08}
SLATS = {"pickets": (0.04, 0.07), "boards": (0.07, 0.01), "railing": (0.012, 0.11)}  # half width, gap, metres


def fence(rng: np.random.Generator, length: float) -> Parts:
    """Wall, pickets, boards, railing, wire mesh, or guard rail of this length."""
    kind = rng.choice(list(FENCE_KINDS), p=list(FENCE_KINDS.values()))
    height = rng.uniform(0.7, 1.7)
    if kind == "wall":
        return _wall(length, height, rng.uniform(0.08, 0.2))
    post_x = np.arange(-length / 2, length / 2 + 0.1, rng.uniform(1.6, 2.6))
    if kind == "guard rail":
        return _guard_rail(length, post_x)
    posts = _posts(post_x, height / 2, 0.04, Material.WOOD)
    if kind == "mesh":
        return join(posts, solids(BOX, (0, 0, height / 2), (length / 2, 0.008, height / 2), Material.MESH, FENCE))
    return join(posts, _slats(length, height, *SLATS[str(kind)]))


def guard_rail(rng: np.random.Generator, length: float) -> Parts:
    """Guard rail of this length."""
    return _guard_rail(length, np.arange(-length / 2, length / 2 + 0.1, rng.uniform(1.6, 2.6)))


def _wall(length: float, height: float, half_depth: float) -> Parts:
    """Wall with a pier at each end."""
    ends = [(x, 0, height * 0.55) for x in (-length / 2, length / 2)]
    piers = solids(BOX, ends, (0.2, 0.2, height * 0.55), Material.FACADE, FENCE)
    half = (length / 2, half_depth, height / 2 + 0.2)
    return join(piers, solids(BOX, (0, 0, height / 2 - 0.2), half, Material.FACADE, FENCE))


def _guard_rail(length: float, post_x: np.ndarray) -> Parts:
    posts = _posts(post_x, 0.35, 0.05, Material.METAL)
    return join(posts, solids(BOX, (0, 0.06, 0.6), (length / 2, 0.04, 0.16), Material.METAL, FENCE))


def _posts(x: np.ndarray, half_height: float, half_width: float, material: Material) -> Parts:
    zero = np.zeros_like(x)
    centre = np.column_stack([x, zero, zero + half_height])
    return solids(BOX, centre, (half_width, half_width, half_height), material, FENCE)


def _slats(length: float, height: float, width: float, gap: float) -> Parts:
    """Two rails with vertical slats; width: half the width of a slat, gap: between slats, metres."""
    rails = solids(BOX, [(0, 0, 0.2 * height), (0, 0, 0.85 * height)], (length / 2, 0.02, 0.04), Material.WOOD, FENCE)
    x = np.arange(-length / 2, length / 2, 2 * width + gap)
    centre = np.column_stack([x, 0 * x + 0.03, 0 * x + height / 2])
    return join(rails, solids(BOX, centre, (width, 0.012, height / 2 - 0.03), Material.WOOD, FENCE))
