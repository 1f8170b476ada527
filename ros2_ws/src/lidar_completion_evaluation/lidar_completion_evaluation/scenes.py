"""Scenes to evaluate: a sweep, its ground truth and the observed space, loaded one by one.

Sources: held-out synthetic scenes (exact truth) and drives (truth aggregated from all sweeps by their poses).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from lidar_completion_evaluation.drives.drive import Drive, transform
from lidar_completion_evaluation.drives.rings import every_nth_ring
from lidar_completion_evaluation.metrics import NearestDistances, nearest_distances
from lidar_completion_evaluation.truth.ground_truth_map import GroundTruthMap, check_map, map_settings
from lidar_completion_evaluation.truth.observed_space import ObservedSpace, RayRules, observe
from lidar_completion_evaluation.truth.rules import (
    DRIVE_RULES,
    PUBLISHED_RULES,
    MapRules,
    in_range,
    in_view_cells,
    in_window,
    truth_for_sweep,
)


@dataclass(frozen=True)
class Scene:
    """One sweep and what its completion is compared with; sensor frame, metres.

    sweep (N, 3) float32: the measured points within the range limits; truth (M, 3) float32;
    rules: the limits within which truth exists;
    returns (R, 3) float32: all measured points, also beyond the range limits, as the models get them; None: the sweep;
    tilt (3, 3): rotation from this frame to that of a tilted sensor, whose sweep the methods get; None: upright.
    """

    name: str
    sweep: np.ndarray
    truth: np.ndarray
    observed: ObservedSpace
    rules: MapRules = DRIVE_RULES
    returns: np.ndarray | None = None
    tilt: np.ndarray | None = None

    def as_tilted(self) -> Scene:
        """The scene as methods get it: sweep and returns in the frame of the tilted sensor."""
        if self.tilt is None:
            return self
        returns = None if self.returns is None else _rotated(self.returns, self.tilt)
        return replace(self, sweep=_rotated(self.sweep, self.tilt), returns=returns)

    def from_tilted(self, points: np.ndarray) -> np.ndarray:
        """Completed points (N, 3) of the tilted sensor in the frame of the scene."""
        return points if self.tilt is None else _rotated(points, self.tilt.T)

    @cached_property
    def sweep_distances(self) -> NearestDistances:
        """Nearest distances between sweep and truth, the same for every method."""
        return nearest_distances(self.sweep, self.truth)


def tilt_of(number: int, degrees: float) -> np.ndarray:
    """Rotation (3, 3) by so many degrees about a horizontal axis whose direction depends on the number."""
    direction = number * np.pi * (3.0 - np.sqrt(5.0))  # golden angle: neighbouring sweeps tilt in different directions
    axis = np.array([np.cos(direction), np.sin(direction), 0.0])
    return Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix()


def _rotated(points: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    return (points.astype(np.float64) @ rotation.T).astype(np.float32)


def _in_view(surface: np.ndarray, sweep: np.ndarray, rules: MapRules) -> np.ndarray:
    """The part of the surface (M, 3) that counts as truth; the rest only counts as occupied space."""
    if rules.view_cell_m is None:
        return surface
    return surface[in_view_cells(surface, sweep, rules.view_cell_m, rules.max_range_m)]


class SceneSource(ABC):
    """Scenes by number: names (S,) and load(index); picklable, for worker processes."""

    names: list[str]
    rules: MapRules

    @abstractmethod
    def load(self, index: int) -> Scene:
        """The scene of this number."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Data and rules, for the report."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that a scene's figures depend on. Stored results with other settings are recomputed."""


@dataclass
class SyntheticScenes(SceneSource):
    """The held-out test scenes of the synthetic street world, with exact truth.

    Truth and observed space are those of a whole drive through the scene. It covers streets that a single sweep cannot see, so by
    default the truth is restricted to the view cells of the sweep.
    """

    count: int = 100
    sensor: str = "HDL-64E"  # name or TOML file
    height_m: float | None = None  # of the sensor above the road; None: its usual height
    tilt_deg: float = 0.0  # the direction of the tilt depends on the scene
    every_ring: int = 1  # the sweep keeps only every n-th ring
    world: str = "town"  # recipe of the worlds
    drive_by_m: tuple[float, ...] = (-30.0, -20.0, -10.0, -5.0, 5.0, 10.0, 20.0, 30.0)
    rules: MapRules = PUBLISHED_RULES
    rays: RayRules = field(default_factory=RayRules)

    def __post_init__(self) -> None:
        self.names = [f"synthetic-{index:04d}" for index in range(self.count)]
        if self.tilt_deg:  # the rules limit z in the sensor frame, where the ground is tilted
            reach = self.rules.max_range_m * float(np.sin(np.radians(self.tilt_deg)))
            self.rules = replace(self.rules, min_z_m=self.rules.min_z_m - reach, max_z_m=self.rules.max_z_m + reach)

    def load(self, index: int) -> Scene:
        from lidar_completion_synthetic import test_pair

        pair = test_pair(
            index, self.sensor, height_m=self.height_m, tilt_deg=self.tilt_deg, every_ring=self.every_ring,
            recipe=self.world,
        )  # fmt: skip
        sweep = in_range(pair.sweep, self.rules)
        surface = in_window(pair.truth, self.rules)
        observed = observe([(np.zeros(3), pair.sweep), *self._drive_by(pair, index)], [surface, sweep], self.rays)
        return Scene(self.names[index], sweep, _in_view(surface, pair.sweep, self.rules), observed, self.rules)

    def _drive_by(self, pair: Any, index: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rays of further sweeps along the drive, in the frame of the pair's sweep."""
        from lidar_completion_synthetic import scene_mounting, simulate_sweep, street

        world = street(pair.seed, recipe=self.world)
        mounting = scene_mounting(index, self.sensor, self.height_m, self.tilt_deg)
        along = np.arange(-world.drive_length_m / 2, world.drive_length_m / 2, 1.0)
        places = np.array([world.pose_at(value, mounting.height_m)[:3, 3] for value in along])
        here = along[np.argmin(np.linalg.norm(places - pair.pose[:3, 3], axis=1))]
        rays = []
        for number, ahead in enumerate(self.drive_by_m):
            pose = mounting.pose_of(world.pose_at(here + ahead, mounting.height_m))
            sweep = simulate_sweep(
                world, pose, mounting, np.random.default_rng([pair.seed, number, 12]), speed_m_s=0.0, moving=False
            )
            T_pair_sweep = np.linalg.inv(pair.pose) @ sweep.pose
            rays.append((T_pair_sweep[:3, 3], transform(T_pair_sweep, sweep.points)))
        return rays

    def describe(self) -> dict[str, Any]:
        options = {
            "height_m": self.height_m, "tilt_deg": self.tilt_deg, "every_ring": self.every_ring, "world": self.world,
        }  # fmt: skip
        changed = {name: value for name, value in options.items() if value != getattr(SyntheticScenes, name)}
        return {"data": "synthetic-test", "sensor": self.sensor, **changed, "rules": asdict(self.rules)}

    def settings(self) -> dict[str, Any]:
        return {**self.describe(), "drive_by_m": self.drive_by_m, "rays": asdict(self.rays)}


@dataclass
class DriveScenes(SceneSource):
    """Sweeps of a drive and the map of the whole drive (see truth/ground_truth_map.py).

    Raises DriveError if the map was built with other poses.

    every_ring, tilt_deg: the methods get every n-th ring alone, from a sensor tilted by so many degrees in a direction that
    changes from sweep to sweep. Truth, observed space and figures are those of the full, upright sweep.
    """

    drive: Drive
    map_file: Path
    rules: MapRules = DRIVE_RULES
    every: int = 5
    limit: int | None = None
    first: int = 0  # number of the first sweep
    drop_moving_input: bool = True
    every_ring: int = 1
    tilt_deg: float = 0.0
    ray_sweeps: int = 10  # sweeps whose rays give the observed space
    rays: RayRules = field(default_factory=RayRules)

    def __post_init__(self) -> None:
        check_map(self.map_file, self.drive)
        self.indices = list(range(self.first, len(self.drive), self.every))[: self.limit]
        self.names = [self.drive.names[index] for index in self.indices]
        self._map: GroundTruthMap | None = None

    def load(self, index: int) -> Scene:
        number = self.indices[index]
        pose = self.drive.T_map_sensor[number]
        measured = self.drive.read(number)
        static = measured.static if self.drop_moving_input else None
        returns = measured.points if static is None else measured.points[static]
        kept = self._kept(measured.points, number)
        seen = measured.points[kept if static is None else kept & static]
        sweep = in_range(seen, self.rules)
        self._map = self._map or GroundTruthMap(self.map_file)
        around = self._map.around(pose[:3, 3], self.rules.max_range_m)
        surface = truth_for_sweep(around, pose, replace(self.rules, view_cell_m=None))
        observed = observe(self._rays(number), [surface, in_range(returns, self.rules)], self.rays)
        truth = _in_view(surface, returns, self.rules)
        tilt = tilt_of(number, self.tilt_deg) if self.tilt_deg else None
        return Scene(self.names[index], sweep, truth, observed, self.rules, seen, tilt)

    def _kept(self, points: np.ndarray, number: int) -> np.ndarray:
        return every_nth_ring(points, self.every_ring, f"{self.drive.name}, sweep {self.drive.names[number]}")

    def _rays(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        pose = self.drive.T_map_sensor[number]
        away = np.linalg.norm(self.drive.T_map_sensor[:, :3, 3] - pose[:3, 3], axis=1)
        near = np.flatnonzero(away < self.rules.max_range_m)
        chosen = near[np.linspace(0, len(near) - 1, min(len(near), self.ray_sweeps)).round().astype(int)]
        for other in np.unique(np.append(chosen, number)):
            T_here_other = np.linalg.inv(pose) @ self.drive.T_map_sensor[other]
            points = self.drive.read(int(other)).points
            points = points[np.isfinite(points).all(axis=1)]
            yield T_here_other[:3, 3], transform(T_here_other, points)

    def describe(self) -> dict[str, Any]:
        return {
            "data": self.drive.name,
            "sweeps": len(self.drive),
            "every": self.every,
            **({"first": self.first} if self.first else {}),
            **self._changed(),
            "rules": asdict(self.rules),
        }

    def _changed(self) -> dict[str, Any]:
        options = {"every_ring": self.every_ring, "tilt_deg": self.tilt_deg}
        return {name: value for name, value in options.items() if value != getattr(DriveScenes, name)}

    def settings(self) -> dict[str, Any]:
        return {
            "data": self.drive.name,
            "map": map_settings(self.map_file),
            **self._changed(),
            "rules": asdict(self.rules),
            "drop_moving_input": self.drop_moving_input,
            "rays": [self.ray_sweeps, asdict(self.rays)],
            "models_get": "all returns",
        }

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_map": None}  # an open file cannot be pickled
