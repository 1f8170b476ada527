"""Solids, their bounding volume hierarchy, and the height field of the ground.

A solid is a unit shape under an affine map: the box [-1, 1]^3, the cylinder with axis z, the ball, or the cone with radius 1 at
z = -1 and its apex at z = 1. A ray is mapped into the coordinates of the shape, where the parameter t of the hit is the same, so a
3x4 matrix describes a solid completely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .hierarchy_compiled import block_maxima, build_hierarchy
from .shapes import BOX, ELLIPSOID


@dataclass(frozen=True)
class Solids:
    """P solids in the world frame (metres) with a bounding volume hierarchy.

    shape (P,) int8; to_local, to_world (P, 3, 4) float32 affine maps; see_through (P,) float32: probability that a ray passes (glass,
    wire mesh). node_bounds (K, 6) float32: lower and upper corner; node_links (K, 2) int32: (first child, 0) or (first index into
    order, count); order (P,) int32.
    """

    shape: np.ndarray
    to_local: np.ndarray
    to_world: np.ndarray
    see_through: np.ndarray
    node_bounds: np.ndarray
    node_links: np.ndarray
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.shape)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Arguments of the compiled functions, in their order."""
        return self.shape, self.to_local, self.see_through, self.node_bounds, self.node_links, self.order


@dataclass(frozen=True)
class Ground:
    """Height field, bilinear between its nodes.

    height (X, Y) float32: metres at x = corner[0] + i * cell, y = corner[1] + j * cell; material (X, Y) uint8; highest: maximum of
    each block of BLOCK x BLOCK cells, float32.
    """

    height: np.ndarray
    material: np.ndarray
    highest: np.ndarray
    corner: tuple[float, float]
    cell: float

    @property
    def arrays(self) -> tuple:
        """Arguments of the compiled functions, in their order."""
        return self.height, self.highest, self.corner[0], self.corner[1], self.cell

    def height_at(self, x: ArrayLike, y: ArrayLike) -> np.ndarray:
        """Height (N,) in metres at x, y (N,), which are clamped to the height field."""
        u = np.clip((np.asarray(x) - self.corner[0]) / self.cell, 0, self.height.shape[0] - 1.001)
        v = np.clip((np.asarray(y) - self.corner[1]) / self.cell, 0, self.height.shape[1] - 1.001)
        i, j = u.astype(int), v.astype(int)
        u, v = u - i, v - j
        z = self.height
        return (z[i, j] * (1 - u) + z[i + 1, j] * u) * (1 - v) + (z[i, j + 1] * (1 - u) + z[i + 1, j + 1] * u) * v

    def material_at(self, x: ArrayLike, y: ArrayLike) -> np.ndarray:
        """Material (N,) uint8 of the nearest node."""
        i = np.clip(np.rint((np.asarray(x) - self.corner[0]) / self.cell).astype(int), 0, self.height.shape[0] - 1)
        j = np.clip(np.rint((np.asarray(y) - self.corner[1]) / self.cell).astype(int), 0, self.height.shape[1] - 1)
        return self.material[i, j]


def make_ground(height: np.ndarray, material: np.ndarray, corner: tuple[float, float], cell: float) -> Ground:
    """Height field with the maxima of its blocks."""
    height = np.ascontiguousarray(height, dtype=np.float32)
    return Ground(height, np.ascontiguousarray(material, dtype=np.uint8), block_maxima(height), corner, cell)


def make_solids(shape: np.ndarray, to_world: np.ndarray, see_through: np.ndarray) -> Solids:
    """Solids with their hierarchy from shape (P,), to_world (P, 3, 4) and see_through (P,)."""
    to_world = np.ascontiguousarray(to_world, dtype=np.float32).reshape(-1, 3, 4)
    shape = np.ascontiguousarray(shape, dtype=np.int8)
    linear = np.linalg.inv(to_world[:, :, :3].astype(np.float64))
    to_local = np.concatenate([linear, -linear @ to_world[:, :, 3:]], axis=2).astype(np.float32)
    lower, upper = _bounds(shape, to_world)
    bounds, links, order = build_hierarchy(lower, upper)
    return Solids(shape, to_local, to_world, np.ascontiguousarray(see_through, dtype=np.float32), bounds, links, order)


def _bounds(shape: np.ndarray, to_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper corners (P, 3) of the axis-aligned boxes around the solids; exact, except that a cone has its cylinder's box."""
    linear, centre = to_world[:, :, :3], to_world[:, :, 3]
    box = np.abs(linear).sum(axis=2)
    ball = np.linalg.norm(linear, axis=2)
    round_ = np.linalg.norm(linear[:, :, :2], axis=2) + np.abs(linear[:, :, 2])
    half = np.select([(shape == BOX)[:, None], (shape == ELLIPSOID)[:, None]], [box, ball], round_) + 1e-4
    return (centre - half).astype(np.float32), (centre + half).astype(np.float32)
