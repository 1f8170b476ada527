"""Training and test pairs, reproducible from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .lidar import SpinningLidar, sensor_of
from .pair_cache import cached_pairs
from .pairs import TrainingPair, pairs_of_world

TEST_SEED = 1_000_000_000  # training never uses seeds from here on


def training_pair(
    seed: int,
    sensor: str | SpinningLidar = "HDL-64E",
    *,
    moving: bool = False,
    max_range_m: float = 50.0,
    threads: int | None = None,
    **parameters: Any,
) -> TrainingPair:
    """One pair in a world of its own, the same for the same arguments.

    moving: moving objects appear in the sweep. threads: numba threads. parameters: passed to `street`. Use `training_pairs` for many
    pairs.
    """
    return next(pairs_of_world(seed, 1, sensor_of(sensor), moving, max_range_m, threads, parameters))


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
    **parameters: Any,
) -> Iterator[TrainingPair]:
    """Endless pairs: sweeps_per_world from the world of first_seed, then of first_seed + seed_step, and so on.

    Worker w of W takes first_seed + w and seed_step=W: the worlds are then the same for every number of workers. threads: numba threads
    (1 in workers). cache: folder in which finished worlds are stored (about 10 MB per pair) and looked up; the pairs are the same with
    and without it. Raises ValueError if first_seed is a test seed or a cached file is damaged.
    """
    if not 0 <= first_seed < TEST_SEED:
        raise ValueError(f"first_seed: expected 0 <= first_seed < {TEST_SEED} (reserved for tests), found {first_seed}")
    sensor, seed = sensor_of(sensor), first_seed
    while seed < TEST_SEED:
        settings = (seed, sweeps_per_world, sensor, moving, max_range_m, threads, parameters)
        yield from pairs_of_world(*settings) if cache is None else cached_pairs(Path(cache), *settings)
        seed += seed_step


def test_pair(index: int, sensor: str | SpinningLidar = "HDL-64E", **options: Any) -> TrainingPair:  # noqa: PT028 (not a test)
    """Pair number index of the test scenes, which training never uses."""
    if index < 0:
        raise ValueError(f"index: expected 0 or more, found {index}")
    return training_pair(TEST_SEED + index, sensor, **options)


test_pair.__test__ = False  # type: ignore[attr-defined]  # not a test for pytest
