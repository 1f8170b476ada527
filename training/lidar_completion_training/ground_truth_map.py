"""The truth of a drive: all its sweeps in one map, one point per voxel, without what moves; and the map as a sweep sees it.

In memory for short drives (`aggregated_truth`), on disk in tiles for drives of any length (`build_map`, `GroundTruthMap`).
The rules are the reference's (LiDiff's data preparation) and are all configuration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lidar_completion_training.data.drives import Drive, Sweep, transform


@dataclass(frozen=True)
class MapRules:
    """Which points a map holds, and which of them are the truth for one sweep. Metres; ranges from the sensor."""

    voxel_size_m: float = 0.1
    min_range_m: float = 3.5  # nearer points are the vehicle itself
    max_map_range_m: float | None = None  # farther points of a sweep stay out of the map; None: all go in, as published
    max_range_m: float = 50.0
    min_z_m: float = -4.0  # in the sensor frame of the judged sweep
    max_z_m: float = 4.4
    view_cell_m: float | None = None  # keep only the map's cells of this edge that the sweep touches; None: all


# As published: the truth is cut to the 10 m cells of the map that the sweep has points in.
PUBLISHED_RULES = MapRules(view_cell_m=10.0)
# The whole surroundings within 50 m, as in the trivial rows of the design: harder, as whole streets may be unseen.
DRIVE_RULES = MapRules()


def aggregated_truth(drive: Drive, rules: MapRules = DRIVE_RULES) -> np.ndarray:
    """All sweeps of a drive in the map frame, one measured point per voxel (the first), (M, 3) float64 metres.

    Labelled points that move or have no class are left out. Holds the whole map in memory: see build_map for long drives.
    """
    kept = np.zeros((0, 3))
    for index in range(len(drive)):
        points = map_points(drive.read(index), drive.T_map_sensor[index], rules)
        kept = first_per_voxel(np.concatenate([kept, first_per_voxel(points, rules.voxel_size_m)]), rules.voxel_size_m)
    return kept


def truth_for_sweep(
    points_map: np.ndarray, T_map_sensor: np.ndarray, rules: MapRules = DRIVE_RULES, sweep: np.ndarray | None = None
) -> np.ndarray:
    """The truth of one sweep in its sensor frame, (M, 3) float32: the map around it, cut by range, height and view.

    points_map (M, 3) in the map frame; sweep (N, 3) in the sensor frame is needed where the rules name a view cell.
    """
    near = np.abs(points_map - T_map_sensor[:3, 3]).max(axis=1) < rules.max_range_m
    points_map = points_map[near]
    points = transform(np.linalg.inv(T_map_sensor), points_map)
    inside = (np.linalg.norm(points, axis=1) < rules.max_range_m) & (points[:, 2] > rules.min_z_m)
    inside &= points[:, 2] < rules.max_z_m
    if rules.view_cell_m is not None:
        if sweep is None:
            raise ValueError(
                "sweep: expected the points of the sweep, found None; the rules cut the map to its view cells"
            )
        seen = np.unique(_cells(transform(T_map_sensor, in_range(sweep, rules)), rules.view_cell_m))
        inside &= np.isin(_cells(points_map, rules.view_cell_m), seen)
    return points[inside].astype(np.float32)


def map_points(sweep: Sweep, T_map_sensor: np.ndarray, rules: MapRules) -> np.ndarray:
    """What a sweep adds to the map: finite, static, far enough from the vehicle; (K, 3) float64 in the map frame."""
    keep = np.isfinite(sweep.points).all(axis=1)
    distance = np.linalg.norm(np.where(keep[:, None], sweep.points, 0), axis=1)
    keep &= distance > rules.min_range_m
    if rules.max_map_range_m is not None:
        keep &= distance < rules.max_map_range_m
    if sweep.static is not None:
        keep &= sweep.static
    return transform(T_map_sensor, sweep.points[keep])


def in_range(points: np.ndarray, rules: MapRules) -> np.ndarray:
    """The finite points between the two ranges, as a model sees them."""
    points = points[np.isfinite(points).all(axis=1)]
    distance = np.linalg.norm(points, axis=1)
    return points[(distance > rules.min_range_m) & (distance < rules.max_range_m)]


def first_per_voxel(points: np.ndarray, voxel_size_m: float) -> np.ndarray:
    """The first point of every voxel, in the order of the input."""
    if not len(points):
        return points
    _, first = np.unique(voxel_keys(points, voxel_size_m), return_index=True)
    return points[np.sort(first)]


def voxel_keys(points: np.ndarray, voxel_size_m: float) -> np.ndarray:
    """One int64 per point: its voxel's three indices in 21 bits each (±104 km at 0.1 m)."""
    index = np.floor(points / voxel_size_m).astype(np.int64) + (1 << 20)
    return (index[:, 0] << 42) | (index[:, 1] << 21) | index[:, 2]


def _cells(points_map: np.ndarray, edge: float) -> np.ndarray:
    index = np.floor(points_map[:, :2] / edge).astype(np.int64) + (1 << 30)
    return (index[:, 0] << 31) | index[:, 1]
