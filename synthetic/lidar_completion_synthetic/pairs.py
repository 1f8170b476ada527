"""Pairs of a sweep and the ground truth around it, drawn from the world of a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import raycast
from .crop_compiled import crop_to_pose
from .ground_truth import visible_surface
from .lidar import NO_FAULTS, Faults, Mounting, SensorMix, SimulatedSweep, simulate_sweep
from .world import World, street

TRUTH_RANGE_M = 50.0
DRIVE_MARGIN_M = 60.0  # length of the drive before the first and after the last sweep


@dataclass(frozen=True)
class PairSetup:
    """How a pair was generated: sensor, mounting (see `Mounting`), faults of the sweep (see `Faults`), and kind of world."""

    sensor: str
    height_m: float
    roll_deg: float
    pitch_deg: float
    tilt_deg: float
    vehicle: str
    every_ring: int
    loss: float
    visibility_m: float
    sectors: int
    recipe: str
    street: str


@dataclass(frozen=True)
class TrainingPair:
    """One sweep and the static surface around it, both in the sensor frame (tilted with the sensor), metres.

    sweep (N, 3) float32; intensity, time (N,) float32; ring (N,) uint8; label (N,) uint16 (SemanticKITTI); truth (M, 3) float32: one
    point per voxel of 0.1 m; origin (3,) float32: mean start of the rays; the space between origin and a sweep point is free; pose
    (4, 4) world from sensor; seed of the world; name of the sensor; setup: how the pair was generated.
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
    setup: PairSetup


@dataclass(frozen=True)
class PairOptions:
    """Options of the pairs of one world.

    source: a mounting, or a mix from which the mounting is drawn once per world. faults: faults of every sweep, unless a mix draws them.
    moving: moving objects appear in the sweep. threads: numba threads. world: arguments of `street`.
    """

    source: Mounting | SensorMix
    faults: Faults = NO_FAULTS
    moving: bool = False
    max_range_m: float = 50.0
    threads: int | None = None
    world: dict[str, Any] = field(default_factory=dict)


def pairs_of_world(seed: int, count: int, options: PairOptions) -> Iterator[TrainingPair]:
    """`count` pairs of the world of a seed, all with the same mounting."""
    raycast.set_threads(options.threads)
    world = street(seed, **options.world)
    source = options.source
    mounting = source.draw(np.random.default_rng([seed, 21])) if isinstance(source, SensorMix) else source
    places = np.arange(-_room_m(world) - 0.5, _room_m(world) + 1.5)
    around = np.array([world.pose_at(along, mounting.height_m)[:2, 3] for along in places])
    truth = visible_surface(world, mounting, seen_within_m=TRUTH_RANGE_M, around=around)
    for number in range(count):
        faults = options.faults
        if isinstance(source, SensorMix):
            faults = source.draw_faults(np.random.default_rng([seed, number, 22]))
        yield _draw_pair(world, truth, mounting, faults, np.random.default_rng([seed, number, 11]), options)


def _draw_pair(
    world: World,
    truth: np.ndarray,
    mounting: Mounting,
    faults: Faults,
    rng: np.random.Generator,
    options: PairOptions,
) -> TrainingPair:
    """A pair at a random place of the drive, with a random speed."""
    room = _room_m(world)
    vehicle_pose = world.pose_at(rng.uniform(-room, room), mounting.height_m)
    speed, yaw_rate, time_s = rng.uniform(0, 14), rng.normal(0, 0.1), rng.uniform(0, 4)
    sweep = simulate_sweep(
        world, mounting.pose_of(vehicle_pose), mounting, rng, faults=faults, speed_m_s=speed, yaw_rate=yaw_rate,
        moving=options.moving, max_range_m=options.max_range_m, time_s=time_s,
    )  # fmt: skip
    return pair_of(world, truth, sweep, mounting, faults, vehicle_pose[:3, 2], options.max_range_m)


def _room_m(world: World) -> float:
    """Largest distance of a sweep from the middle of the drive."""
    return max(1.0, world.drive_length_m / 2 - DRIVE_MARGIN_M)


def pair_of(
    world: World,
    truth: np.ndarray,
    sweep: SimulatedSweep,
    mounting: Mounting,
    faults: Faults,
    up: np.ndarray,
    max_range_m: float = 50.0,
) -> TrainingPair:
    """Pair of a sweep and the part of the world's truth (M, 3) within max_range_m and less than 4 m below the sensor along up (3,)."""
    local = crop_to_pose(truth, sweep.pose, np.ascontiguousarray(up), float(max_range_m))
    origin = np.array((0, 0, mounting.sensor.eyes_m.mean()), np.float32)
    return TrainingPair(
        sweep.points, sweep.intensity, local, origin, sweep.ring, sweep.time, sweep.label, sweep.pose, world.seed,
        mounting.sensor.name, _setup(world, mounting, faults),
    )  # fmt: skip


def _setup(world: World, mounting: Mounting, faults: Faults) -> PairSetup:
    return PairSetup(
        mounting.sensor.name, mounting.height_m, mounting.roll_deg, mounting.pitch_deg, mounting.tilt_deg,
        mounting.vehicle, faults.every_ring, faults.loss, faults.visibility_m, len(faults.sectors_deg),
        str(world.parameters["recipe"]), world.kind,
    )  # fmt: skip


def crop_to_pose_plain(points: np.ndarray, pose: np.ndarray, up: np.ndarray, max_range_m: float) -> np.ndarray:
    """Plain implementation of `crop_to_pose`."""
    offset = points - pose[:3, 3]
    kept = ((offset**2).sum(axis=1) < max_range_m**2) & (offset @ up > -4.0)
    return (offset @ pose[:3, :3])[kept].astype(np.float32)
