"""Training pairs: a sweep and the ground truth around it, reproducible from a seed."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numba import njit

from . import raycast
from .ground_truth import visible_surface
from .lidar import SpinningLidar, Sweep, scan, sensor_of
from .world import World, street

TEST_SEED = 1_000_000_000  # seeds from here on are never trained on
GENERATOR_VERSION = 1  # raise it when a seed draws another world or sweep: older caches are then left alone


@dataclass(frozen=True)
class TrainingPair:
    """One sweep and the static surface around it, both in the sensor's frame, metres.

    sweep (N, 3) float32; intensity, time (N,) float32; ring (N,) uint8; label (N,) uint16 (SemanticKITTI); truth (M, 3) float32: one
    point a voxel of 0.1 m; origin (3,) float32: where the rays start (mean of the beams), so the space between origin and a sweep point was seen free;
    pose (4, 4) world from sensor; seed of the world; sensor name.
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


def training_pair(
    seed: int,
    sensor: str | SpinningLidar = "HDL-64E",
    *,
    moving: bool = False,
    max_range_m: float = 50.0,
    threads: int | None = None,
    **parameters,
) -> TrainingPair:
    """One pair in a world of its own; the same for the same arguments. `parameters` go to `street`. For many pairs use `training_pairs`."""
    return next(_pairs_of_world(seed, 1, sensor_of(sensor), moving, max_range_m, threads, parameters))


def training_pairs(
    first_seed: int,
    sweeps_per_world: int = 16,
    sensor: str | SpinningLidar = "HDL-64E",
    *,
    moving: bool = False,
    max_range_m: float = 50.0,
    seed_step: int = 1,
    threads: int | None = None,
    cache: str | Path | None = None,
    **parameters,
) -> Iterator[TrainingPair]:
    """Endless pairs: sweeps_per_world from the world of first_seed, then of first_seed + seed_step, and so on.

    Worker w of W takes first_seed + w and seed_step=W: the worlds are then the same for every number of workers. threads: numba's threads (1 in workers).
    cache: a folder in which finished worlds are kept (some 10 MB a pair) and looked up; the pairs are the same with and without.
    Raises ValueError when first_seed is a test seed or a cached file is damaged.
    """
    if not 0 <= first_seed < TEST_SEED:
        raise ValueError(
            f"first_seed: expected 0 <= first_seed < {TEST_SEED} (held back for tests), found {first_seed}"
        )
    sensor, seed = sensor_of(sensor), first_seed
    while seed < TEST_SEED:
        settings = (seed, sweeps_per_world, sensor, moving, max_range_m, threads, parameters)
        yield from _pairs_of_world(*settings) if cache is None else _cached_pairs(Path(cache), *settings)
        seed += seed_step


def test_pair(index: int, sensor: str | SpinningLidar = "HDL-64E", **options) -> TrainingPair:  # noqa: PT028 (not a test)
    """Pair number index of the held-back test scenes."""
    if index < 0:
        raise ValueError(f"index: expected 0 or more, found {index}")
    return training_pair(TEST_SEED + index, sensor, **options)


test_pair.__test__ = False  # not a test for pytest


def _pairs_of_world(seed, count, sensor, moving, max_range_m, threads, parameters) -> Iterator[TrainingPair]:
    raycast.set_threads(threads)
    world = street(seed, **parameters)
    places = np.arange(-_room_m(world) - 0.5, _room_m(world) + 1.5)
    around = np.array([world.pose_at(along, sensor.height_m)[:2, 3] for along in places])
    truth = visible_surface(world, sensor, seen_within_m=50.0, around=around)
    for number in range(count):
        rng = np.random.default_rng([seed, number, 11])
        yield _pair(world, truth, sensor, rng, moving, max_range_m)


def _cached_pairs(
    folder: Path, seed, count, sensor, moving, max_range_m, threads, parameters
) -> Iterator[TrainingPair]:
    """The pairs of a world from the folder; made and stored where it has none, the file whole or not at all."""
    settings = repr((GENERATOR_VERSION, count, asdict(sensor), moving, max_range_m, sorted(parameters.items())))
    file = folder / f"{sensor.name}-{seed}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}.npz"
    if not file.exists():
        pairs = list(_pairs_of_world(seed, count, sensor, moving, max_range_m, threads, parameters))
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.stem}.{os.getpid()}.npz")
        np.savez(part, **{f"{name} {n}": value for n, pair in enumerate(pairs) for name, value in vars(pair).items()})
        os.replace(part, file)
    try:
        with np.load(file) as stored:
            for n in range(count):
                values = {field.name: stored[f"{field.name} {n}"] for field in fields(TrainingPair)}
                yield TrainingPair(**values | {"seed": int(values["seed"]), "sensor": str(values["sensor"])})
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file}: expected {count} cached pairs, found a damaged file ({error}); delete it") from error


def _pair(world: World, truth: np.ndarray, sensor, rng, moving: bool, max_range_m: float) -> TrainingPair:
    room = _room_m(world)
    pose = world.pose_at(rng.uniform(-room, room), sensor.height_m)
    speed, yaw_rate = rng.uniform(0, 14), rng.normal(0, 0.1)
    sweep = scan(
        world,
        pose,
        sensor,
        rng,
        speed_m_s=speed,
        yaw_rate=yaw_rate,
        moving=moving,
        max_range_m=max_range_m,
        time_s=rng.uniform(0, 4),
    )
    return pair_of(world, truth, sweep, sensor, max_range_m)


def _room_m(world: World) -> float:
    """Sweeps are taken at most this far from the middle of the drive, which goes on for 60 m before and after."""
    return max(1.0, world.drive_length_m / 2 - 60.0)


def pair_of(
    world: World, truth: np.ndarray, sweep: Sweep, sensor: SpinningLidar, max_range_m: float = 50.0
) -> TrainingPair:
    """Pair of a sweep and the part of the world's truth (M, 3) within max_range_m and above -4 m."""
    local = _near_pose(truth, sweep.pose, float(max_range_m))
    return TrainingPair(
        sweep.points, sweep.intensity, local, np.array((0, 0, sensor.eyes_m.mean()), np.float32), sweep.ring, sweep.time, sweep.label, sweep.pose,
        world.seed, sensor.name,
    )  # fmt: skip


@njit(cache=True)
def _near_pose(points, pose, max_range_m):
    """Points (M, 3) float32 of the world within the range of a pose (4, 4) and above -4 m, in the frame of the pose."""
    kept = np.empty((len(points), 3), np.float32)
    count = 0
    for n in range(len(points)):
        dx, dy, dz = points[n, 0] - pose[0, 3], points[n, 1] - pose[1, 3], points[n, 2] - pose[2, 3]
        if dx * dx + dy * dy + dz * dz >= max_range_m * max_range_m:
            continue
        z = dx * pose[0, 2] + dy * pose[1, 2] + dz * pose[2, 2]
        if z > -4.0:
            kept[count, 0] = dx * pose[0, 0] + dy * pose[1, 0] + dz * pose[2, 0]
            kept[count, 1] = dx * pose[0, 1] + dy * pose[1, 1] + dz * pose[2, 1]
            kept[count, 2] = z
            count += 1
    return kept[:count].copy()
