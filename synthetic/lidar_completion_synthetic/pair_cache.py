"""Cache of finished worlds on disk."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from .lidar import SensorMix
from .pairs import PairOptions, PairSetup, TrainingPair, pairs_of_world

GENERATOR_VERSION = 2  # increase when seeds give different worlds or sweeps, so that older caches are not used


def cached_pairs(folder: Path, seed: int, count: int, options: PairOptions) -> Iterator[TrainingPair]:
    """The pairs of a world from the folder, generated and stored first if missing. Files appear complete or not at all.

    Raises ValueError if the file is damaged.
    """
    settings = repr((GENERATOR_VERSION, count, asdict(replace(options, threads=None))))
    name = options.source.name if isinstance(options.source, SensorMix) else options.source.sensor.name
    file = folder / f"{name}-{seed}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}.npz"
    if not file.exists():
        pairs = list(pairs_of_world(seed, count, options))
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.stem}.{os.getpid()}.npz")
        np.savez(
            part, **{f"{name} {n}": value for n, pair in enumerate(pairs) for name, value in _stored(pair).items()}
        )
        os.replace(part, file)
    try:
        with np.load(file) as stored:
            for n in range(count):
                yield _restored({field.name: stored[f"{field.name} {n}"] for field in fields(TrainingPair)})
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file}: expected {count} cached pairs, found a damaged file ({error}); delete it") from error


def _stored(pair: TrainingPair) -> dict[str, Any]:
    return vars(pair) | {"setup": json.dumps(asdict(pair.setup))}


def _restored(values: dict[str, Any]) -> TrainingPair:
    setup = PairSetup(**json.loads(str(values["setup"])))
    return TrainingPair(**values | {"seed": int(values["seed"]), "sensor": str(values["sensor"]), "setup": setup})
