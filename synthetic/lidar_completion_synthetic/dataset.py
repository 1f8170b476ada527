# ruff: noqa: PT028  (test_pair is not a test)
"""Training and test pairs, reproducible from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .lidar import SENSORS, Faults, Mounting, SensorMix, SpinningLidar, mix_of, mounting_of, tilted
from .pair_cache import cached_pairs
from .pairs import PairOptions, TrainingPair, pairs_of_world
from .world import WorldRecipe, recipe_of

TEST_SEED = 1_000_000_000  # reserved for tests from here on: training uses smaller seeds
Source = str | Path | SpinningLidar | Mounting | SensorMix

# Sets of test scenes: `test_pair(index, **TEST_SETS[name])`. Set and index determine a scene; the worlds are the same in all sets.
TEST_SETS: dict[str, dict[str, Any]] = {
    **{f"sensor {name}": {"sensor": name} for name in SENSORS},
    **{f"tilt {angle}": {"tilt_deg": float(angle)} for angle in (0, 5, 10, 15)},
    **{f"height {height}": {"height_m": height} for height in (0.5, 1.0, 1.8, 2.5)},
    **{f"every ring {n}": {"every_ring": n} for n in (1, 2, 4)},
}


def check_source(sensor: Source, recipe: str | WorldRecipe = "town") -> None:
    """Raises ValueError if the sensor or mix, or the recipe of the worlds, does not exist or is not valid."""
    mix_of(sensor)
    recipe_of(recipe)


def training_pair(
    seed: int,
    sensor: Source = "HDL-64E",
    *,
    moving: bool = False,
    max_range_m: float = 50.0,
    threads: int | None = None,
    **world: Any,
) -> TrainingPair:
    """One pair in its own world, the same for the same arguments.

    sensor: name or TOML file of a sensor, "mix" or the TOML file of a mix, or an object. moving: moving objects appear in the sweep.
    threads: numba threads. world: arguments of `street`. Use `training_pairs` for many pairs.
    """
    options = PairOptions(mix_of(sensor), moving=moving, max_range_m=max_range_m, threads=threads, world=world)
    return next(pairs_of_world(seed, 1, options))


def training_pairs(
    first_seed: int,
    sweeps_per_world: int = 16,
    sensor: Source = "HDL-64E",
    *,
    moving: bool = False,
    max_range_m: float = 50.0,
    seed_step: int = 1,
    threads: int | None = None,
    cache: str | Path | None = None,
    **world: Any,
) -> Iterator[TrainingPair]:
    """Endless pairs: sweeps_per_world from the world of first_seed, then of first_seed + seed_step, and so on.

    A mix draws one mounting per world, and faults per sweep. Worker w of W uses first_seed + w and seed_step=W, which gives the same worlds
    for every number of workers. threads: numba threads (1 in workers). cache: folder for finished worlds (about 10 MB per pair); the pairs
    are the same with and without it. Raises ValueError if first_seed is a test seed or a cached file is damaged.
    """
    if not 0 <= first_seed < TEST_SEED:
        raise ValueError(f"first_seed: expected 0 <= first_seed < {TEST_SEED} (reserved for tests), found {first_seed}")
    options = PairOptions(mix_of(sensor), moving=moving, max_range_m=max_range_m, threads=threads, world=world)
    for seed in range(first_seed, TEST_SEED, seed_step):
        if cache is None:
            yield from pairs_of_world(seed, sweeps_per_world, options)
        else:
            yield from cached_pairs(Path(cache), seed, sweeps_per_world, options)


def scene_mounting(
    index: int, sensor: Source = "HDL-64E", height_m: float | None = None, tilt_deg: float = 0.0
) -> Mounting:
    """Mounting of a test scene; the direction of the tilt depends on the index."""
    mounting = mounting_of(sensor, height_m)  # type: ignore[arg-type]
    direction = np.random.default_rng([TEST_SEED + index, 31]).uniform(0, 360)
    return tilted(mounting, tilt_deg, direction) if tilt_deg else mounting


def test_pair(
    index: int,
    sensor: Source = "HDL-64E",
    *,
    height_m: float | None = None,
    tilt_deg: float = 0.0,
    every_ring: int = 1,
    moving: bool = False,
    max_range_m: float = 50.0,
    threads: int | None = None,
    **world: Any,
) -> TrainingPair:
    """Pair number index of the test scenes, which training never uses; see TEST_SETS.

    height_m: sensor height above the road; None: its usual height. tilt_deg: tilt of the sensor. every_ring: keep only every n-th ring.
    With sensor "mix", sensor and mounting are drawn instead.
    """
    if index < 0:
        raise ValueError(f"index: expected 0 or more, found {index}")
    source = mix_of(sensor)
    if isinstance(source, Mounting):
        source = scene_mounting(index, source, height_m, tilt_deg)
    options = PairOptions(source, Faults(every_ring), moving, max_range_m, threads, world)
    return next(pairs_of_world(TEST_SEED + index, 1, options))


test_pair.__test__ = False  # type: ignore[attr-defined]  # not a test for pytest
