"""The street world in the form used for ray casting.

World frame: metres, z up, origin on the centre line of the main street near the middle of the drive.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .. import raycast
from ..objects import GROUND_LABELS, SURFACE_TABLE, TERRAIN, Material, Parts, rotation
from .centre_line import Street

PATH_STEP_M = 0.5
GROUND_TABLE = np.array([GROUND_LABELS.get(m, TERRAIN) for m in Material], dtype=np.uint16)
CLEARANCE_M = 2.0  # moving objects closer than this to the ego vehicle are removed
WHEELBASE_M, TRACK_M = 2.8, 1.6


@dataclass(frozen=True)
class World:
    """Static surfaces, moving objects, and the path of the ego vehicle.

    material, label, tone (P,) belong to `solids`. mover_parts: Q solids of moving objects at time 0; mover_velocity (Q, 2) m/s;
    mover_thing (Q,): index of the object that a solid belongs to. path (K, 4): x, y, z of the road under the vehicle and yaw, every
    0.5 m; path_middle: index of its middle. streets: the main street first.
    """

    seed: int
    ground: raycast.Ground
    solids: raycast.Solids
    material: np.ndarray
    label: np.ndarray
    tone: np.ndarray
    mover_parts: Parts
    mover_velocity: np.ndarray
    mover_thing: np.ndarray
    path: np.ndarray
    path_middle: int
    streets: tuple[Street, ...]
    kind: str
    parameters: dict = field(default_factory=dict)

    def movers_at(self, time_s: float, clear_of: np.ndarray | None = None) -> raycast.Solids:
        """Solids of the moving objects at a time in seconds; objects near clear_of (2,) are moved far below the ground."""
        if not len(self.mover_parts):
            return empty_solids()
        matrix = self.mover_parts.to_world.copy()
        matrix[:, :2, 3] += self.mover_velocity * time_s
        if clear_of is not None:
            reach = np.linalg.norm(matrix[:, :2, :3], axis=(1, 2))
            near = np.linalg.norm(matrix[:, :2, 3] - clear_of, axis=1) - reach < CLEARANCE_M
            matrix[np.isin(self.mover_thing, self.mover_thing[near]), 2, 3] -= 1e3
        return raycast.make_solids(self.mover_parts.shape, matrix, SURFACE_TABLE[self.mover_parts.material, 2])

    def surface(
        self, solid: np.ndarray, points: np.ndarray, moving: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Material (N,) uint8, label (N,) uint16 and tone (N,) float32 of hits: `solid` as `raycast.cast` returns it, points (N, 3)."""
        tables = [self.material, self.label, self.tone]
        if moving:
            parts = self.mover_parts
            tables = [
                np.concatenate(pair) for pair in zip(tables, (parts.material, parts.label, parts.tone), strict=True)
            ]
        hit, ground = solid >= 0, np.flatnonzero(solid == raycast.GROUND)
        if len(tables[0]):
            material, label, tone = (
                np.where(hit, table[np.maximum(solid, 0)], 0).astype(table.dtype) for table in tables
            )
        else:
            material, label, tone = (np.zeros(len(solid), table.dtype) for table in tables)
        material[ground] = self.ground.material_at(points[ground, 0], points[ground, 1])
        label[ground] = GROUND_TABLE[material[ground]]
        tone[ground] = 1.0
        return material, label, tone

    def pose_at(self, along_m: float, height_m: float = 1.73) -> np.ndarray:
        """Sensor pose (4, 4), world from sensor, at a distance from the middle of the drive; pitch and roll follow the road."""
        row = np.clip(self.path_middle + along_m / PATH_STEP_M, 0, len(self.path) - 1.001)
        i, u = int(row), row - int(row)
        x, y, _z, yaw = self.path[i] * (1 - u) + self.path[i + 1] * u
        c, s = np.cos(yaw), np.sin(yaw)
        front, rear = self.ground.height_at([x + 1.4 * c, x - 1.4 * c], [y + 1.4 * s, y - 1.4 * s])
        left, right = self.ground.height_at([x - 0.8 * s, x + 0.8 * s], [y + 0.8 * c, y - 0.8 * c])
        pose = np.eye(4)
        pose[:3, :3] = rotation(yaw, -np.arctan2(front - rear, WHEELBASE_M), np.arctan2(left - right, TRACK_M))
        pose[:3, 3] = (x, y, (front + rear + left + right) / 4) + pose[:3, 2] * height_m
        return pose

    @property
    def drive_length_m(self) -> float:
        """Length of the path."""
        return (len(self.path) - 1) * PATH_STEP_M


def empty_solids() -> raycast.Solids:
    """No solids."""
    return raycast.make_solids(np.zeros(0, np.int8), np.zeros((0, 3, 4)), np.zeros(0))
