"""Groups of solids in object coordinates: x forward, y left, z up from the ground at 0, metres."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike

from ..raycast import BOX, CYLINDER
from .materials import Material


@dataclass(frozen=True)
class Parts:
    """n solids of one or several objects.

    shape (n,) int8; to_world (n, 3, 4) float64; material (n,) uint8; label (n,) uint16, SemanticKITTI; tone (n,) float32: factor on the
    reflectivity of the material (dark and light paint, plaster, brick).
    """

    shape: np.ndarray
    to_world: np.ndarray
    material: np.ndarray
    label: np.ndarray
    tone: np.ndarray

    def __len__(self) -> int:
        return len(self.shape)

    def placed(self, x: float, y: float, z: float, yaw: float) -> Parts:
        """The solids rotated by yaw (radians) about z, then translated."""
        turn = rotation(yaw)
        matrix = turn @ self.to_world
        matrix[:, :, 3] += (x, y, z)
        return Parts(self.shape, matrix, self.material, self.label, self.tone)

    def toned(self, tone: float, material: Material) -> Parts:
        """The solids with another tone on one material."""
        return replace(self, tone=np.where(self.material == material, tone, self.tone).astype(np.float32))

    def chosen(self, which: np.ndarray) -> Parts:
        """The solids that a mask or an index array selects."""
        return Parts(*(getattr(self, f.name)[which] for f in fields(self)))


def rotation(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Rotation (3, 3) = Rz(yaw) Ry(pitch) Rx(roll), radians."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def solids(
    shape: int, centre: ArrayLike, half: ArrayLike, material: Material, label: int, turn: np.ndarray | None = None
) -> Parts:
    """n solids of one shape: centre (n, 3), half sizes (n, 3) along their axes, turn: rotation (3, 3), (n, 3, 3) or None."""
    centre = np.atleast_2d(np.asarray(centre, dtype=np.float64))
    half = np.broadcast_to(np.asarray(half, dtype=np.float64), centre.shape)
    linear = np.zeros((len(centre), 3, 3))
    linear[:, [0, 1, 2], [0, 1, 2]] = half
    if turn is not None:
        linear = turn @ linear
    return Parts(
        np.full(len(centre), shape, np.int8),
        np.concatenate([linear, centre[:, :, None]], axis=2),
        np.full(len(centre), material, np.uint8),
        np.full(len(centre), label, np.uint16),
        np.ones(len(centre), np.float32),
    )


def join(*parts: Parts) -> Parts:
    """Concatenation of several groups."""
    kept = [p for p in parts if len(p)]
    if not kept:
        return solids(BOX, np.zeros((0, 3)), np.zeros((0, 3)), Material.ASPHALT, 0)
    return Parts(*(np.concatenate([getattr(p, f.name) for p in kept]) for f in fields(Parts)))


def random_rotations(rng: np.random.Generator, count: int) -> np.ndarray:
    """Uniformly distributed rotations (count, 3, 3)."""
    q = rng.normal(size=(count, 4))
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    return np.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
            2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
            2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
        ],
        axis=1,
    ).reshape(-1, 3, 3)  # fmt: skip


def panel(
    corner_low: tuple[float, float],
    corner_high: tuple[float, float],
    half_width: float,
    material: Material,
    label: int,
    thickness: float = 0.02,
) -> Parts:
    """Sheet across a vehicle from (x, z) low to (x, z) high: windscreen, bonnet."""
    (x0, z0), (x1, z1) = corner_low, corner_high
    pitch = -np.arctan2(z1 - z0, x1 - x0)
    half = (np.hypot(x1 - x0, z1 - z0) / 2, half_width, thickness)
    return solids(BOX, ((x0 + x1) / 2, 0, (z0 + z1) / 2), half, material, label, rotation(0, pitch))


def tube(start: ArrayLike, end: ArrayLike, radius: float, material: Material, label: int) -> Parts:
    """Cylinder between two points (3,)."""
    start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    axis = end - start
    length = float(np.linalg.norm(axis))
    axis = axis / length
    turn = rotation(np.arctan2(axis[1], axis[0]), np.arccos(np.clip(axis[2], -1, 1)))
    return solids(CYLINDER, (start + end) / 2, (radius, radius, length / 2), material, label, turn)
