"""Cache of finished worlds on disk."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from .lidar import SpinningLidar
from .pairs import TrainingPair, pairs_of_world

GENERATOR_VERSION = 1  # increase when a seed gives another world or sweep, so that older caches are not used


def cached_pairs(
    folder: Path,
    seed: int,
    count: int,
    sensor: SpinningLidar,
    moving: bool,
    max_range_m: float,
    threads: int | None,
    parameters: dict,
) -> Iterator[TrainingPair]:
    """The pairs of a world from the folder, generated and stored first if missing. Files appear complete or not at all.

    Raises ValueError if the file is damaged.
    """
    settings = repr((GENERATOR_VERSION, count, asdict(sensor), moving, max_range_m, sorted(parameters.items())))
    file = folder / f"{sensor.name}-{seed}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}.npz"
    if not file.exists():
        pairs = list(pairs_of_world(seed, count, sensor, moving, max_range_m, threads, parameters))
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
