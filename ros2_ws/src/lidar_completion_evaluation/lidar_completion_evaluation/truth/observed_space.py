"""Observed space: a grid of free, occupied and unknown voxels, from tracing the rays of many sweeps.

A completion in unknown space cannot be evaluated; a completed point in free space contradicts a measurement.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lidar_completion_evaluation.truth.free_rays import free_rays

UNKNOWN, FREE, OCCUPIED = 0, 1, 2


@dataclass(frozen=True)
class RayRules:
    """How rays become observed space."""

    voxel_size_m: float = 0.2
    half_extent_m: float = 50.0
    min_z_m: float = -6.0
    max_z_m: float = 10.0
    margin_m: float = 0.3  # end of a ray that is not marked as free, because of range noise and beam width
    # share of a ray at its end that is not marked as free: a beam that grazes the road from 1.7 m above is within 0.2 m of the
    # road for its last 12 %
    grazing_share: float = 0.12


@dataclass(frozen=True)
class ObservedSpace:
    """state (X, Y, Z) uint8 of UNKNOWN, FREE, OCCUPIED on a grid around the sensor, in the sensor frame of one sweep."""

    state: np.ndarray
    near_surface: np.ndarray  # (X, Y, Z) bool: occupied or next to an occupied voxel
    rules: RayRules

    def free(self, points: np.ndarray) -> np.ndarray:
        """Which points (N, 3) lie in free space; (N,) bool."""
        return self._look_up(self.state, points) == FREE

    def observed(self, points: np.ndarray) -> np.ndarray:
        """Which points (N, 3) lie in observed space: free, or within a voxel of a known surface; (N,) bool."""
        return (self._look_up(self.state, points) != UNKNOWN) | self._look_up(self.near_surface, points).astype(bool)

    def _look_up(self, grid: np.ndarray, points: np.ndarray) -> np.ndarray:
        index = np.floor(_to_voxels(points, self.rules)).astype(np.int64)
        inside = ((index >= 0) & (index < grid.shape)).all(axis=1)
        values = np.zeros(len(points), np.uint8)
        values[inside] = grid[tuple(index[inside].T)]
        return values


def observe(
    rays: Iterable[tuple[np.ndarray, np.ndarray]], surfaces: Iterable[np.ndarray], rules: RayRules | None = None
) -> ObservedSpace:
    """Observed space from rays (origin (3,), end points (N, 3)) and known surface points (M, 3), all in one frame, metres.

    Surfaces take precedence: a voxel with a surface point is occupied even if rays pass through it.
    """
    rules = rules or RayRules()
    state = np.zeros(_shape(rules), np.uint8)
    for origin, ends in rays:
        free_rays(state, _to_voxels(origin[None], rules)[0], _to_voxels(_shortened(origin, ends, rules), rules))
    for points in surfaces:
        index = np.floor(_to_voxels(points, rules)).astype(np.int64)
        index = index[((index >= 0) & (index < state.shape)).all(axis=1)]
        state[tuple(index.T)] = OCCUPIED
    return ObservedSpace(state, _grown(state == OCCUPIED), rules)


def _grown(occupied: np.ndarray) -> np.ndarray:
    """The voxels (X, Y, Z) bool and their 26 neighbours. Few of the many voxels are occupied."""
    grown = np.zeros(np.array(occupied.shape) + 2, bool)  # a border on every side, so that every neighbour exists
    flat, centre = grown.ravel(), np.ravel_multi_index(tuple(np.array(np.nonzero(occupied)) + 1), grown.shape)
    for offset in itertools.product((-1, 0, 1), repeat=3):
        flat[centre + np.dot(offset, grown.strides)] = True
    return grown[1:-1, 1:-1, 1:-1]


def _shape(rules: RayRules) -> tuple[int, int, int]:
    across = round(2 * rules.half_extent_m / rules.voxel_size_m)
    return across, across, round((rules.max_z_m - rules.min_z_m) / rules.voxel_size_m)


def _to_voxels(points: np.ndarray, rules: RayRules) -> np.ndarray:
    corner = np.array([-rules.half_extent_m, -rules.half_extent_m, rules.min_z_m])
    return (np.asarray(points, np.float64) - corner) / rules.voxel_size_m


def _shortened(origin: np.ndarray, ends: np.ndarray, rules: RayRules) -> np.ndarray:
    way = ends.astype(np.float64) - origin
    length = np.linalg.norm(way, axis=1)
    kept = np.minimum(length - rules.margin_m, length * (1 - rules.grazing_share))
    usable = kept > 0
    return origin + way[usable] * (kept[usable] / length[usable])[:, None]
