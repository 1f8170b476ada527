"""The space that the sweeps of a drive have observed: elsewhere its map has no surfaces to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lidar_completion_evaluation.truth.observed_space import UNKNOWN, ObservedSpace


@dataclass(frozen=True)
class KnownSpace:
    """Voxels that a ray has crossed or that hold a surface.

    grid (X, Y, Z) bool; corner (3,) of the grid and voxel_size_m in the sensor frame; to_sensor (3, 3) turns points of the
    frame in use, which an augmentation may have rotated, into the sensor frame.
    """

    grid: Tensor
    corner: Tensor
    voxel_size_m: float
    to_sensor: Tensor

    @classmethod
    def of(cls, observed: ObservedSpace) -> KnownSpace:
        """The known space of a scene of the evaluation."""
        rules = observed.rules
        grid = torch.from_numpy(observed.state != UNKNOWN)
        corner = torch.tensor([-rules.half_extent_m, -rules.half_extent_m, rules.min_z_m])
        return cls(grid, corner, rules.voxel_size_m, torch.eye(3))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> KnownSpace:
        """The space with its tensors moved to another device or another kind of memory."""
        return KnownSpace(change(self.grid), change(self.corner), self.voxel_size_m, change(self.to_sensor))

    def augmented(self, matrix: Tensor) -> KnownSpace:
        """The same space for points that a linear map (3, 3) of the sensor frame has moved."""
        return replace(self, to_sensor=self.to_sensor @ torch.linalg.inv(matrix))

    def contains(self, points: Tensor) -> Tensor:
        """Which points (N, 3) lie in known space, (N,) bool; False outside the grid."""
        index = ((points @ self.to_sensor.T - self.corner) / self.voxel_size_m).floor().long()
        size = torch.tensor(self.grid.shape, device=index.device)
        inside = ((index >= 0) & (index < size)).all(dim=1)
        x, y, z = (index * inside[:, None]).unbind(dim=1)
        return self.grid[x, y, z] & inside
