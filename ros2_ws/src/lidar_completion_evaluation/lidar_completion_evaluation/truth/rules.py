"""Which points of a drive are ground truth: the rules of the map, and the part of the map that one sweep is compared with.

The rules follow LiDiff's data preparation and can be configured. Maps of short drives fit in memory (`aggregated_truth`);
those of long drives are built on disk (ground_truth_map.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from lidar_completion_evaluation.drives.drive import Drive, DriveSweep, transform
from lidar_completion_evaluation.truth.sweep_truth import CELL_BITS, CELL_OFFSET, range_mask, sweep_truth


@dataclass(frozen=True)
class MapRules:
    """Which points enter the map, and which points of it are the truth of one sweep. Metres; ranges from the sensor."""

    voxel_size_m: float = 0.1
    min_range_m: float = 3.5  # closer points are the vehicle itself
    max_map_range_m: float | None = None  # farther points do not enter the map; None: no limit, as published
    max_range_m: float = 50.0
    min_z_m: float = -4.0  # in the sensor frame of the evaluated sweep
    max_z_m: float = 4.4
    view_cell_m: float | None = None  # restrict the truth to cubic cells of this edge that contain a point of the sweep


# As published: the truth is restricted to the 10 m cells that contain a point of the sweep.
PUBLISHED_RULES = MapRules(view_cell_m=10.0)
# Everything within 50 m. This is harder, because whole streets may be out of sight.
DRIVE_RULES = MapRules()


def aggregated_truth(drive: Drive, rules: MapRules = DRIVE_RULES) -> np.ndarray:
    """All sweeps of a drive in the map frame, one measured point per voxel (the first), (M, 3) float64 metres.

    Points labelled as moving or unlabelled are left out. Holds the whole map in memory: see build_map for long drives.
    """
    return merged_sweeps(((drive.read(index), pose) for index, pose in enumerate(drive.T_map_sensor)), rules)


def merged_sweeps(sweeps: Iterable[tuple[DriveSweep, np.ndarray]], rules: MapRules = DRIVE_RULES) -> np.ndarray:
    """Sweeps with their poses T_map_sensor (4, 4) in one cloud (M, 3) float64, map frame: see aggregated_truth."""
    kept = np.zeros((0, 3))
    for sweep, T_map_sensor in sweeps:
        points = map_points(sweep, T_map_sensor, rules)
        kept = first_per_voxel(np.concatenate([kept, first_per_voxel(points, rules.voxel_size_m)]), rules.voxel_size_m)
    return kept


def truth_for_sweep(
    points_map: np.ndarray, T_map_sensor: np.ndarray, rules: MapRules = DRIVE_RULES, sweep: np.ndarray | None = None
) -> np.ndarray:
    """The truth of one sweep in its sensor frame, (M, 3) float32: the map around it, limited in range, height and view.

    points_map (M, 3) in the map frame; sweep (N, 3), sensor frame: required if the rules have a view_cell_m.
    """
    start, cells = np.zeros(3), np.zeros(0, np.int64)
    if rules.view_cell_m is not None:
        if sweep is None:
            raise ValueError(
                "sweep: expected the points of the sweep, found None; the rules restrict the truth to its view cells"
            )
        start, cells = _view_cells(sweep, rules.view_cell_m, rules.max_range_m)
    return sweep_truth(
        np.ascontiguousarray(points_map, np.float64), np.linalg.inv(T_map_sensor),
        rules.max_range_m, rules.min_z_m, rules.max_z_m, rules.view_cell_m or 0.0, start.astype(np.float64), cells,
    )  # fmt: skip


def truth_for_sweep_plain(
    points_map: np.ndarray, T_map_sensor: np.ndarray, rules: MapRules = DRIVE_RULES, sweep: np.ndarray | None = None
) -> np.ndarray:
    """The plain implementation of truth_for_sweep."""
    points = transform(np.linalg.inv(T_map_sensor), points_map)
    inside = window_mask(points, rules)
    if rules.view_cell_m is not None and sweep is not None:
        inside &= in_view_cells(points, sweep, rules.view_cell_m, rules.max_range_m)
    return points[inside].astype(np.float32)


def map_points(sweep: DriveSweep, T_map_sensor: np.ndarray, rules: MapRules) -> np.ndarray:
    """The points of a sweep that enter the map: finite, static, outside min_range_m; (K, 3) float64, map frame."""
    keep = np.isfinite(sweep.points).all(axis=1)
    distance = np.linalg.norm(np.where(keep[:, None], sweep.points, 0), axis=1)
    keep &= distance > rules.min_range_m
    if rules.max_map_range_m is not None:
        keep &= distance < rules.max_map_range_m
    if sweep.static is not None:
        keep &= sweep.static
    return transform(T_map_sensor, sweep.points[keep])


def in_range(points: np.ndarray, rules: MapRules) -> np.ndarray:
    """The finite points (K, 3) between the two ranges, which are the model's input."""
    return points[range_mask(points, rules.min_range_m, rules.max_range_m)]


def in_window(points: np.ndarray, rules: MapRules) -> np.ndarray:
    """The points (K, 3) where truth exists: finite, within the range and height limits."""
    return points[window_mask(points, rules)]


def window_mask(points: np.ndarray, rules: MapRules) -> np.ndarray:
    """Which points (N, 3) lie where truth exists, (N,) bool; False for points that are not finite."""
    inside = np.linalg.norm(points, axis=1) < rules.max_range_m
    return inside & (points[:, 2] > rules.min_z_m) & (points[:, 2] < rules.max_z_m)


def distance_to_truth(points: np.ndarray, truth: np.ndarray, rules: MapRules = DRIVE_RULES) -> np.ndarray:
    """Distance (M,) of points (M, 3) to the nearest point of the truth (K, 3), metres; NaN where the truth is not known."""
    distance = np.full(len(points), np.nan)
    inside = window_mask(points, rules)
    if len(truth):
        distance[inside] = cKDTree(truth).query(points[inside])[0]
    return distance


def first_per_voxel(points: np.ndarray, voxel_size_m: float) -> np.ndarray:
    """The first point of each voxel, in input order."""
    if not len(points):
        return points
    _, first = np.unique(cell_keys(points, voxel_size_m), return_index=True)
    return points[np.sort(first)]


def cell_keys(points: np.ndarray, voxel_size_m: float) -> np.ndarray:
    """One int64 per point (N, 3): the floored indices of its cell, 21 bits each (±104 km at 0.1 m)."""
    index = np.floor(points / voxel_size_m).astype(np.int64) + CELL_OFFSET
    return (index[:, 0] << 2 * CELL_BITS) | (index[:, 1] << CELL_BITS) | index[:, 2]


def in_view_cells(points: np.ndarray, sweep: np.ndarray, edge_m: float, max_range_m: float) -> np.ndarray:
    """Which points (M, 3) share a cubic cell of this edge with a point of the sweep (N, 3), sensor frame; (M,) bool.

    As in the published evaluation, the grid starts half a cell below the minimum of the sweep's points within max_range_m.
    """
    start, cells = _view_cells(sweep, edge_m, max_range_m)
    return np.isin(cell_keys(points - start, edge_m), cells)


def _view_cells(sweep: np.ndarray, edge_m: float, max_range_m: float) -> tuple[np.ndarray, np.ndarray]:
    """The start (3,) of the grid of view cells, and the sorted keys of those with a point of the sweep."""
    near = sweep[range_mask(sweep, -1.0, max_range_m)]
    start = near.min(axis=0) - edge_m / 2
    return start, np.unique(cell_keys(near - start, edge_m))


def in_view_columns(points: np.ndarray, sweep: np.ndarray, edge_m: float) -> np.ndarray:
    """Which points (M, 3) share a square column of this edge with a point of the sweep (N, 3), sensor frame; (M,) bool.

    The rule of synthetic training samples. Unlike `in_view_cells`, it keeps all heights; its grid starts at the sensor.
    """
    column, seen = (cell_keys(each * np.array([1, 1, 0], each.dtype), edge_m) for each in (points, sweep))
    return np.isin(column, np.unique(seen))
