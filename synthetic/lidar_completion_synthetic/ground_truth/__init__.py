"""Exact ground truth of a world: the static surface that is visible on the drive."""

from .surface import visible_surface
from .voxels import one_per_voxel

__all__ = ["one_per_voxel", "visible_surface"]
