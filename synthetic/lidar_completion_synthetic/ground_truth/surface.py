"""Exact ground truth: the static surface that a vehicle sees on its drive through the world.

Every surface is covered with a lattice finer than the voxel. A lattice point is kept if at least one pose of the drive has it in range,
inside the sensor's vertical field of view, and with nothing opaque in between. One point per voxel remains.
"""

from __future__ import annotations

import numpy as np

from ..lidar import Mounting, SpinningLidar, mounting_of
from ..world import World
from .ground_compiled import PATCH, see_ground
from .solids_compiled import see_solids
from .visibility_compiled import solids_in_view
from .voxels import one_per_voxel


def visible_surface(
    world: World,
    sensor: str | SpinningLidar | Mounting,
    *,
    voxel_m: float = 0.1,
    seen_within_m: float = 50.0,
    pose_step_m: float = 2.0,
    lanes: str = "own",
    least_angle_sr: float = 3e-7,
    around: np.ndarray | None = None,
) -> np.ndarray:
    """Points (M, 3) float32, world frame, metres: one per voxel on static surfaces that the drive sees.

    The vertical field of view is that of the mounted sensor and tilts with it. seen_within_m: largest distance of a point from a pose
    that sees it. pose_step_m: distance between the poses of the drive. lanes: "own" (the path of the ego vehicle) or "both" (also the
    opposite lane). least_angle_sr: smallest solid angle that a voxel face must cover from some pose. An HDL-64E has one ray per 2e-5 sr,
    so at 3e-7 about half of the voxels at the limit receive a ray while the vehicle passes; flat ground is kept up to 38 m, a wall seen
    head-on up to 50 m. around (C, 2): only surfaces within seen_within_m of one of these places, which is faster; the points there are
    the same as without it.
    """
    mounting = mounting_of(sensor)
    views = _viewpoints(world, mounting, pose_step_m, lanes)
    around = np.ascontiguousarray(views[:, :2] if around is None else around, dtype=np.float64)
    low, high = np.sin(np.radians(mounting.sensor.field_of_view_deg))
    view = (float(low), float(high), float(seen_within_m), least_angle_sr / voxel_m**2)
    solids = world.solids
    chosen = solids_in_view(solids.to_world, views, view, around, np.radians(mounting.tilt_deg))
    on_solids, count = see_solids(solids.arrays, solids.to_world, world.ground.arrays, views, view, chosen)
    on_ground = _ground_points(world, views, view, around, voxel_m)
    return one_per_voxel(np.concatenate([on_solids[:count], on_ground]), voxel_m)


def _viewpoints(world: World, mounting: Mounting, step_m: float, lanes: str) -> np.ndarray:
    """Sensor positions and up axes (K, 6) along the drive."""
    if lanes not in ("own", "both"):
        raise ValueError(f"lanes: expected 'own' or 'both', found {lanes!r}")
    half = world.drive_length_m / 2
    height = mounting.height_m + float(mounting.sensor.eyes_m.mean())
    poses = np.array([mounting.pose_of(world.pose_at(along, height)) for along in np.arange(-half, half, step_m)])
    views = np.concatenate([poses[:, :3, 3], poses[:, :3, 2]], axis=1)
    if lanes == "both":
        _, lateral = world.streets[0].offsets(views[:, 0], views[:, 1])
        other = views.copy()
        other[:, :3] -= 2 * lateral[:, None] * poses[:, :3, 1] * np.sign(poses[:, 0, 0])[:, None]
        views = np.concatenate([views, other])
    return np.ascontiguousarray(views)


def _ground_points(
    world: World, views: np.ndarray, view: tuple[float, float, float, float], around: np.ndarray, voxel_m: float
) -> np.ndarray:
    """Seen points of the height field, one at the centre of every voxel column."""
    ground = world.ground
    end = np.array(ground.corner) + (np.array(ground.height.shape) - 1) * ground.cell
    low = np.maximum(views[:, :2].min(axis=0) - view[2], ground.corner)
    high = np.minimum(views[:, :2].max(axis=0) + view[2], end - 0.01)
    low = np.ceil(low / voxel_m) * voxel_m
    count = np.maximum(((high - low) / (PATCH * voxel_m)).astype(int), 0)
    seen = see_ground(
        world.solids.arrays, ground.arrays, views, view, around, low[0], low[1], count[0], count[1], voxel_m
    )
    i, j = np.nonzero(seen)
    x, y = low[0] + (i + 0.5) * voxel_m, low[1] + (j + 0.5) * voxel_m
    return np.column_stack([x, y, ground.height_at(x, y)]).astype(np.float32)
