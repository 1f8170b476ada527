"""Trees, bushes and hedges: trunks and limbs of cylinders, foliage of flat ellipsoids with gaps between them."""

from __future__ import annotations

import numpy as np

from ..raycast import BOX, ELLIPSOID
from .materials import POLE, TRUNK, VEGETATION, Material
from .solids import Parts, join, random_rotations, solids, tube


def tree(rng: np.random.Generator, scale: float = 1.0) -> Parts:
    """Broad-leaved tree, conifer, or bare tree; height 4.5-11 m times scale."""
    height = rng.uniform(4.5, 11) * scale
    trunk_r = height * rng.uniform(0.014, 0.026)
    kind = rng.choice(["broad", "conifer", "bare"], p=[0.72, 0.16, 0.12])
    low = rng.uniform(0.2, 0.45) * height if kind != "conifer" else rng.uniform(0.2, 1.0)
    lean = rng.normal(0, 0.03, 2)
    top = np.array([lean[0] * height, lean[1] * height, height * (0.8 if kind != "broad" else 0.65)])
    wood = [tube((0, 0, -0.3), top, trunk_r, Material.BARK, TRUNK)]
    for _ in range(rng.integers(3, 7) if kind != "conifer" else 0):
        start = top * rng.uniform(0.4, 1.0)
        out = rng.normal(size=3) * (1, 1, 0.3) + (0, 0, 0.8)
        wood.append(tube(start, start + out * height * 0.16, trunk_r * 0.35, Material.BARK, TRUNK))
    if kind == "bare":
        return join(*wood, *_bare_branches(rng, top, height, trunk_r))
    crown = _conifer_crown if kind == "conifer" else _broad_crown
    return join(*wood, _clumps(rng, crown(rng, int(rng.integers(130, 320)), top, low, height), 0.12, 0.42))


def _bare_branches(rng: np.random.Generator, top: np.ndarray, height: float, trunk_r: float) -> list[Parts]:
    branches = []
    for _ in range(14):
        start = top * rng.uniform(0.5, 1.0) + rng.normal(0, 0.05, 3)
        out = rng.normal(size=3) * (1, 1, 0.4) + (0, 0, 0.7)
        branches.append(tube(start, start + out * height * 0.15, trunk_r * 0.15, Material.BARK, VEGETATION))
    return branches


def _conifer_crown(rng: np.random.Generator, count: int, top: np.ndarray, low: float, height: float) -> np.ndarray:
    """Centres (count, 3) of leaf clumps in a cone."""
    level = rng.random(count) ** 1.4
    angle, radius = rng.uniform(0, 2 * np.pi, count), (1 - level) * height * rng.uniform(0.16, 0.24)
    radius = radius * np.sqrt(rng.uniform(0.2, 1, count))
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle), low + level * (height - low)])


def _broad_crown(rng: np.random.Generator, count: int, top: np.ndarray, low: float, height: float) -> np.ndarray:
    """Centres (count, 3) of leaf clumps in several overlapping lobes."""
    crown = np.array([rng.uniform(0.22, 0.38), rng.uniform(0.22, 0.38), 0.5]) * (height, height, height - low)
    lobes = _ball(rng, int(rng.integers(2, 6)), 0.3) * crown * 0.55
    which = rng.integers(0, len(lobes), count)
    centre = lobes[which] + _ball(rng, count, 0.4) * crown * 0.62 + (top[0], top[1], (height + low) / 2)
    centre[:, 2] = np.maximum(centre[:, 2], low * 0.75)
    return centre


def bare_tree(rng: np.random.Generator, scale: float = 1.0) -> Parts:
    """Leafless tree: trunk, limbs and twigs."""
    height = rng.uniform(4.0, 11) * scale
    radius = height * rng.uniform(0.014, 0.024)
    fork = rng.uniform(0.25, 0.6)
    top = np.array([*rng.normal(0, 0.03, 2), 1.0]) * height * rng.uniform(0.7, 0.9)
    wood = [tube((0, 0, -0.3), top, radius, Material.BARK, TRUNK)]
    for _ in range(int(rng.integers(5, 11))):
        start = top * rng.uniform(fork, 1.0)
        limb = (rng.normal(size=3) * (1, 1, 0.25) + (0, 0, 0.9)) * height * rng.uniform(0.1, 0.2)
        wood.append(tube(start, start + limb, radius * 0.35, Material.BARK, TRUNK))
        for _ in range(int(rng.integers(1, 4))):
            twig = start + limb * rng.uniform(0.4, 1.0)
            out = (rng.normal(size=3) * (1, 1, 0.5) + (0, 0, 0.5)) * height * 0.08
            wood.append(tube(twig, twig + out, radius * 0.15, Material.BARK, VEGETATION))
    return join(*wood)


def high_tree(rng: np.random.Generator, scale: float = 1.0) -> Parts:
    """Tree whose crown begins at 3-6 m."""
    height = rng.uniform(8, 14) * scale
    low, radius = rng.uniform(3.0, 6.0) * scale, height * rng.uniform(0.012, 0.022)
    top = np.array([*rng.normal(0, 0.02, 2), 0.7]) * height
    crown = _broad_crown(rng, int(rng.integers(90, 220)), top, low, height)
    return join(tube((0, 0, -0.3), top, radius, Material.BARK, TRUNK), _clumps(rng, crown, 0.15, 0.45))


def column_tree(rng: np.random.Generator, scale: float = 1.0) -> Parts:
    """Poplar or cypress: a narrow crown from near the ground to the top."""
    height, width = rng.uniform(4, 12) * scale, rng.uniform(0.35, 0.9)
    z = rng.uniform(0.3, height, int(rng.integers(70, 160)))
    angle, radius = rng.uniform(0, 2 * np.pi, len(z)), width * np.sqrt(rng.random(len(z))) * (1.1 - z / height)
    centre = np.column_stack([radius * np.cos(angle), radius * np.sin(angle), z])
    trunk = tube((0, 0, -0.2), (0, 0, height * 0.8), 0.1, Material.BARK, TRUNK)
    return join(trunk, _clumps(rng, centre, 0.12, 0.3))


def sapling(rng: np.random.Generator, scale: float = 1.0) -> Parts:
    """Young tree, 2-4.5 m high, sometimes with a stake; small crown or none."""
    height = rng.uniform(2.0, 4.5) * scale
    parts = [tube((0, 0, -0.1), (0, 0, height), rng.uniform(0.02, 0.05), Material.BARK, TRUNK)]
    if rng.random() < 0.5:
        parts.append(tube((0.25, 0, 0), (0.22, 0, height * 0.6), 0.03, Material.WOOD, POLE))
    count = int(rng.integers(0, 40))
    if count:
        size = np.array((0.5, 0.5, 0.8)) * rng.uniform(0.5, 1.1)
        centre = _ball(rng, count, 0.2) * size + (0, 0, height)
        parts.append(_clumps(rng, centre, 0.06, 0.2))
    return join(*parts)


def stump(rng: np.random.Generator, scale: float = 1.0) -> Parts:
    """Stump or pollarded trunk, 0.4-4 m high."""
    height = rng.uniform(0.4, 4.0) * scale
    return tube((0, 0, -0.2), (0, 0, height), rng.uniform(0.1, 0.3), Material.BARK, TRUNK)


def flat_hedge(rng: np.random.Generator, length: float) -> Parts:
    """Hedge, 0.5-3.5 m high: a core under a thinner layer of leaf clumps than that of `hedge`."""
    height, depth = float(np.exp(rng.uniform(np.log(0.5), np.log(3.5)))), rng.uniform(0.25, 0.7)
    half = (length / 2, depth * 0.85, height * 0.47)
    core = solids(BOX, (0, 0, height * 0.47), half, Material.FOLIAGE, VEGETATION)
    count = int(min(length * height * 6, 220))
    y = rng.choice((-1.0, 1.0), count) * depth
    centre = np.column_stack([rng.uniform(-length / 2, length / 2, count), y, rng.uniform(0.05, height, count)])
    top = rng.random(count) < 0.25
    centre[top, 1:] = np.column_stack([rng.uniform(-depth, depth, top.sum()), np.full(top.sum(), height)])
    return join(core, _clumps(rng, centre + rng.normal(0, 0.04, centre.shape), 0.08, 0.2))


def bush(rng: np.random.Generator, scale: float = 1.0) -> Parts:
    """Shrub."""
    size = np.array([rng.uniform(0.4, 1.1), rng.uniform(0.4, 1.1), rng.uniform(0.35, 0.9)]) * scale
    centre = _ball(rng, int(rng.integers(25, 80)), 0.3) * size + (0, 0, size[2] * 0.8)
    return _clumps(rng, np.maximum(centre, (-9, -9, 0.05)), 0.08, 0.24)


def hedge(rng: np.random.Generator, length: float) -> Parts:
    """Clipped or wild hedge along x: a dense core under a layer of leaf clumps."""
    height, depth = rng.uniform(0.8, 2.2), rng.uniform(0.25, 0.55)
    core = solids(BOX, (0, 0, height * 0.46), (length / 2, depth * 0.75, height * 0.46), Material.FOLIAGE, VEGETATION)
    count = int(length * height * rng.uniform(9, 16))
    x, face = rng.uniform(-length / 2, length / 2, count), rng.random(count)
    y = np.where(face < 0.75, np.sign(rng.normal(size=count)) * depth, rng.uniform(-depth, depth, count))
    z = np.where(face < 0.75, rng.uniform(0.1, height, count), height)
    rough = rng.uniform(0.03, 0.12)
    centre = np.column_stack([x, y, z]) + rng.normal(0, rough, (count, 3))
    return join(core, _clumps(rng, centre, 0.08, 0.22))


def _clumps(rng: np.random.Generator, centre: np.ndarray, smallest: float, largest: float) -> Parts:
    """Leaf clumps: randomly oriented flat ellipsoids at the centres (n, 3); smallest, largest: radius in metres."""
    count = len(centre)
    radius = rng.uniform(smallest, largest, (count, 1))
    half = radius * np.column_stack([rng.uniform(0.6, 1.2, (count, 2)), rng.uniform(0.15, 0.5, count)])
    return solids(ELLIPSOID, centre, half, Material.FOLIAGE, VEGETATION, random_rotations(rng, count))


def _ball(rng: np.random.Generator, count: int, hollow: float) -> np.ndarray:
    """Random points (count, 3) in the unit ball, at least `hollow` from its centre."""
    p = rng.normal(size=(count, 3))
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    return p * (hollow + (1 - hollow) * rng.random((count, 1)) ** (1 / 3))
