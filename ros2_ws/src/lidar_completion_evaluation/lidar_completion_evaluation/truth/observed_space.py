"""The space that the sensor has seen: free, occupied, or unknown, by casting the rays of many sweeps through a grid.

A completion in unknown space can be neither right nor wrong: no sweep ever looked there. A completed point in space that
was seen free contradicts a measurement.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np

UNKNOWN, FREE, OCCUPIED = 0, 1, 2


@dataclass(frozen=True)
class RayRules:
    """How rays become observed space; metres."""

    voxel_size_m: float = 0.2
    half_extent_m: float = 50.0
    min_z_m: float = -6.0
    max_z_m: float = 10.0
    margin_m: float = 0.3  # a ray frees nothing this close to its end: range noise and beam width
    # A beam that grazes the road is within 0.2 m of it for the last 12 % of its way (sensor 1.7 m above it).
    grazing_share: float = 0.12


@dataclass(frozen=True)
class ObservedSpace:
    """state (X, Y, Z) uint8 of UNKNOWN, FREE, OCCUPIED on a grid around the sensor, in the sensor frame of one sweep."""

    state: np.ndarray
    near_surface: np.ndarray  # (X, Y, Z) bool: occupied or next to an occupied voxel
    rules: RayRules

    def free(self, points: np.ndarray) -> np.ndarray:
        """Which points (N, 3) lie in space that some sweep saw free; (N,) bool."""
        return self._look_up(self.state, points) == FREE

    def observed(self, points: np.ndarray) -> np.ndarray:
        """Which points (N, 3) can be judged: seen free, or within a voxel of a known surface; (N,) bool."""
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

    Surfaces win over rays: a voxel with a surface point is occupied however many rays pass through a corner of it.
    """
    rules = rules or RayRules()
    state = np.zeros(_shape(rules), np.uint8)
    for origin, ends in rays:
        _free_rays(state, _to_voxels(origin[None], rules)[0], _to_voxels(_shortened(origin, ends, rules), rules))
    for points in surfaces:
        index = np.floor(_to_voxels(points, rules)).astype(np.int64)
        index = index[((index >= 0) & (index < state.shape)).all(axis=1)]
        state[tuple(index.T)] = OCCUPIED
    return ObservedSpace(state, _grown(state == OCCUPIED), rules)


def _grown(occupied: np.ndarray) -> np.ndarray:
    """The voxels (X, Y, Z) bool and their 26 neighbours, one axis after the other."""
    for axis in range(3):
        along = np.moveaxis(occupied, axis, 0)
        grown = along.copy()
        grown[1:] |= along[:-1]
        grown[:-1] |= along[1:]
        occupied = np.moveaxis(grown, 0, axis)
    return occupied


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


@numba.njit(cache=True, nogil=True)
def _free_rays(state, origin, ends):  # pragma: no cover (compiled)
    """Mark every voxel from the origin to each end as free (Amanatides & Woo); all in voxel units."""
    step = np.empty(3, np.int64)
    voxel = np.empty(3, np.int64)
    next_wall = np.empty(3)
    per_voxel = np.empty(3)
    for ray in range(len(ends)):
        count, done, leaves = 0.0, 0, False
        for axis in range(3):
            way = ends[ray, axis] - origin[axis]
            voxel[axis] = int(np.floor(origin[axis]))
            step[axis] = 1 if way > 0 else -1
            per_voxel[axis] = abs(1.0 / way) if way != 0.0 else np.inf
            wall = voxel[axis] + 1 if way > 0 else voxel[axis]
            next_wall[axis] = abs(wall - origin[axis]) * per_voxel[axis] if way != 0.0 else np.inf
            count += abs(np.floor(ends[ray, axis]) - voxel[axis])
        while done <= count and not leaves:  # what has left the grid never comes back: a stray return may lie at 1e10 m
            inside = True
            for axis in range(3):
                inside &= 0 <= voxel[axis] < state.shape[axis]
            if inside:
                state[voxel[0], voxel[1], voxel[2]] = 1
            axis = 0
            if next_wall[1] < next_wall[axis]:
                axis = 1
            if next_wall[2] < next_wall[axis]:
                axis = 2
            voxel[axis] += step[axis]
            next_wall[axis] += per_voxel[axis]
            leaves = voxel[axis] >= state.shape[axis] if step[axis] > 0 else voxel[axis] < 0
            done += 1
