"""Bridges, gantries and barriers. x along the street, y across it."""

from __future__ import annotations

import numpy as np

from ..raycast import BOX, CYLINDER
from .materials import FENCE, OTHER_STRUCTURE, SIGN, Material
from .solids import Parts, join, solids, tube


def bridge(rng: np.random.Generator, clear_half_width: float) -> Parts:
    """Overpass or footbridge across the street. clear_half_width: half the width in metres that stays free of piers."""
    foot = rng.random() < 0.35
    half_x, depth = (rng.uniform(0.8, 1.8), 0.25) if foot else (rng.uniform(3.0, 8.0), rng.uniform(0.4, 0.8))
    low, half_y = rng.uniform(4.6, 6.5), clear_half_width + rng.uniform(3.0, 15.0)
    parts = [
        solids(BOX, (0, 0, low + depth), (half_x, half_y, depth), Material.FACADE, OTHER_STRUCTURE),
        solids(
            BOX, [(s * half_x, 0, low + 2 * depth + 0.5) for s in (-1, 1)], (0.08, half_y, 0.55),
            Material.MESH if foot else Material.FACADE, OTHER_STRUCTURE,
        ),
    ]  # fmt: skip
    for s in (-1, 1):
        y = s * (clear_half_width + rng.uniform(0.6, 2.0))
        x = np.arange(-half_x + 0.5, half_x - 0.4, rng.uniform(2.0, 4.0))
        if rng.random() < 0.5:
            radius = rng.uniform(0.25, 0.6)
            centre = np.column_stack([x, 0 * x + y, 0 * x + low / 2 - 0.3])
            half = (radius, radius, low / 2 + 0.3)
            parts.append(solids(CYLINDER, centre, half, Material.FACADE, OTHER_STRUCTURE))
        else:
            parts.append(
                solids(BOX, (0, y, low / 2 - 0.5), (half_x, 0.4, low / 2 + 0.5), Material.FACADE, OTHER_STRUCTURE)
            )
    if not foot:
        abutments = [(0, s * (half_y + 4.0), low / 2) for s in (-1, 1)]
        parts.append(solids(BOX, abutments, (half_x, 4.0, low / 2 + 1.0), Material.FACADE, OTHER_STRUCTURE))
    return join(*parts)


def gantry(rng: np.random.Generator, clear_half_width: float) -> Parts:
    """Sign gantry across the street."""
    y, z = clear_half_width + rng.uniform(0.4, 1.5), rng.uniform(5.2, 6.8)
    posts = [tube((0, s * y, -0.2), (0, s * y, z + 0.3), 0.14, Material.METAL, OTHER_STRUCTURE) for s in (-1, 1)]
    beam = solids(BOX, (0, 0, z), (0.15, y, 0.2), Material.METAL, OTHER_STRUCTURE)
    boards = [(0.2, rng.uniform(-0.7, 0.7) * clear_half_width, z + 0.4) for _ in range(int(rng.integers(1, 4)))]
    half = (0.03, rng.uniform(0.6, 1.6), rng.uniform(0.4, 1.0))
    return join(*posts, beam, solids(BOX, boards, half, Material.REFLECTIVE, SIGN))


def barrier(rng: np.random.Generator, length: float) -> Parts:
    """Wall from 0.3 to 4 m high: low walls, garden walls, retaining walls, noise barriers."""
    height = float(np.exp(rng.uniform(np.log(0.3), np.log(4.0))))
    material = (Material.FACADE, Material.WOOD, Material.PAVEMENT)[int(rng.integers(3))]
    half = (length / 2, rng.uniform(0.05, 0.25), height / 2 + 0.3)
    parts = [solids(BOX, (0, 0, height / 2 - 0.3), half, material, FENCE)]
    if rng.random() < 0.4:
        x = np.arange(-length / 2, length / 2 + 0.1, rng.uniform(2.5, 5.0))
        centre = np.column_stack([x, 0 * x, 0 * x + height / 2])
        parts.append(solids(BOX, centre, (0.12, half[1] + 0.08, height / 2 + 0.1), material, FENCE))
    return join(*parts).toned(rng.uniform(0.6, 1.4), material)


def tall_fence(rng: np.random.Generator, length: float) -> Parts:
    """Wire mesh or steel bars on posts, 1.6-3 m high."""
    height = rng.uniform(1.6, 3.0)
    x = np.arange(-length / 2, length / 2 + 0.1, rng.uniform(2.0, 3.5))
    posts = np.column_stack([x, 0 * x, 0 * x + height / 2])
    parts = [solids(BOX, posts, (0.03, 0.03, height / 2), Material.METAL, FENCE)]
    if rng.random() < 0.6:
        half = (length / 2, 0.008, height / 2)
        parts.append(solids(BOX, (0, 0, height / 2), half, Material.MESH, FENCE))
    else:
        bars = np.arange(-length / 2, length / 2, rng.uniform(0.12, 0.25))
        centre = np.column_stack([bars, 0 * bars, 0 * bars + height / 2])
        parts.append(solids(BOX, centre, (0.012, 0.012, height / 2 - 0.05), Material.METAL, FENCE))
        rails = [(0, 0, 0.15), (0, 0, height - 0.1)]
        parts.append(solids(BOX, rails, (length / 2, 0.02, 0.03), Material.METAL, FENCE))
    return join(*parts)
