"""Pairs of a sweep and the ground truth around it, drawn from the world of a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from . import raycast
from .crop_compiled import crop_to_pose
from .ground_truth import visible_surface
from .lidar import SimulatedSweep, SpinningLidar, simulate_sweep
from .world import World, street

TRUTH_RANGE_M = 50.0
DRIVE_MARGIN_M = 60.0  # of the drive before the first and after the last sweep


@dataclass(frozen=True)
class TrainingPair:
    """One sweep and the static surface around it, both in the sensor frame, metres.

    sweep (N, 3) float32; intensity, time (N,) float32; ring (N,) uint8; label (N,) uint16 (SemanticKITTI); truth (M, 3) float32: one
    point per voxel of 0.1 m; origin (3,) float32: mean start of the rays; the space between origin and a sweep point is free; pose
    (4, 4) world from sensor; seed of the world; name of the sensor.
    """

    sweep: np.ndarray
    intensity: np.ndarray
    truth: np.ndarray
    origin: np.ndarray
    ring: np.ndarray
    time: np.ndarray
    label: np.ndarray
    pose: np.ndarray
    seed: int
    sensor: str


def pairs_of_world(
    seed: int,
    count: int,
    sensor: SpinningLidar,
    moving: bool,
    max_range_m: float,
    threads: int | None,
    parameters: dict,
) -> Iterator[TrainingPair]:
    """`count` pairs of the world of a seed."""
    raycast.set_threads(threads)
    world = street(seed, **parameters)
    places = np.arange(-_room_m(world) - 0.5, _room_m(world) + 1.5)
    around = np.array([world.pose_at(along, sensor.height_m)[:2, 3] for along in places])
    truth = visible_surface(world, sensor, seen_within_m=TRUTH_RANGE_M, around=around)
    for number in range(count):
        rng = np.random.default_rng([seed, number, 11])
        yield _draw_pair(world, truth, sensor, rng, moving, max_range_m)


def _draw_pair(
    world: World, truth: np.ndarray, sensor: SpinningLidar, rng: np.random.Generator, moving: bool, max_range_m: float
) -> TrainingPair:
    """A pair at a random place of the drive, with a random speed."""
    room = _room_m(world)
    pose = world.pose_at(rng.uniform(-room, room), sensor.height_m)
    speed, yaw_rate, time_s = rng.uniform(0, 14), rng.normal(0, 0.1), rng.uniform(0, 4)
    sweep = simulate_sweep(
        world, pose, sensor, rng, speed_m_s=speed, yaw_rate=yaw_rate, moving=moving, max_range_m=max_range_m,
        time_s=time_s,
    )  # fmt: skip
    return pair_of(world, truth, sweep, sensor, max_range_m)


def _room_m(world: World) -> float:
    """Largest distance of a sweep from the middle of the drive."""
    return max(1.0, world.drive_length_m / 2 - DRIVE_MARGIN_M)


def pair_of(
    world: World, truth: np.ndarray, sweep: SimulatedSweep, sensor: SpinningLidar, max_range_m: float = 50.0
) -> TrainingPair:
    """Pair of a sweep and the part of the world's truth (M, 3) within max_range_m and above -4 m in the sensor frame."""
    local = crop_to_pose(truth, sweep.pose, float(max_range_m))
    origin = np.array((0, 0, sensor.eyes_m.mean()), np.float32)
    return TrainingPair(
        sweep.points, sweep.intensity, local, origin, sweep.ring, sweep.time, sweep.label, sweep.pose, world.seed,
        sensor.name,
    )  # fmt: skip


def crop_to_pose_plain(points: np.ndarray, pose: np.ndarray, max_range_m: float, min_z_m: float = -4.0) -> np.ndarray:
    """Plain implementation of `crop_to_pose`."""
    offset = points - pose[:3, 3]
    local = offset @ pose[:3, :3]
    kept = ((offset**2).sum(axis=1) < max_range_m**2) & (local[:, 2] > min_z_m)
    return local[kept].astype(np.float32)
