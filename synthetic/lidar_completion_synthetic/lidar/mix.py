"""Distributions from which the sensor, its mounting and its faults are drawn for training."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .faults import Faults
from .mounting import Mounting, mounting_of, tilted
from .sensors import SpinningLidar, sensor_of

Interval = tuple[float, float]

SENSOR_WEIGHTS: dict[str, float] = {
    "HDL-64E": 0.24,
    "HDL-32E": 0.08,
    "VLP-16": 0.10,
    "VLP-32C": 0.08,
    "VLS-128": 0.06,
    "OS0-32": 0.03,
    "OS0-64": 0.04,
    "OS0-128": 0.03,
    "OS1-32": 0.05,
    "OS1-64": 0.08,
    "OS1-128": 0.07,
    "Pandar40P": 0.04,
    "Pandar64": 0.06,
    "Pandar128": 0.02,
    "XT32": 0.02,
}
HEIGHT_WEIGHTS: dict[Interval, float] = {(0.4, 0.8): 0.2, (0.8, 1.5): 0.15, (1.5, 2.0): 0.45, (2.0, 2.5): 0.2}
TILT_WEIGHTS: dict[Interval, float] = {(0.0, 2.0): 0.6, (2.0, 5.0): 0.18, (5.0, 10.0): 0.14, (10.0, 15.0): 0.08}
# Weights of the vehicles for sensors below each height in metres.
VEHICLE_WEIGHTS: dict[float, dict[str, float]] = {
    1.2: {"none": 0.4, "robot": 0.4, "mast": 0.2},
    2.0: {"none": 0.25, "car": 0.35, "car with bonnet": 0.25, "mast": 0.15},
    np.inf: {"none": 0.3, "car with bonnet": 0.2, "van": 0.3, "cab": 0.2},
}
EVERY_RING_WEIGHTS: dict[int, float] = {1: 0.88, 2: 0.07, 4: 0.05}
LOSS_PROBABILITY, LOSS = 0.15, (0.02, 0.3)
FOG_PROBABILITY, VISIBILITY_M = 0.06, (15.0, 100.0)
SECTOR_PROBABILITY, SECTOR_COUNT, SECTOR_WIDTH_DEG = 0.05, (1, 3), (5.0, 60.0)


@dataclass(frozen=True)
class SensorMix:
    """Distribution of sensors and mountings.

    sensors: weight of each sensor (name, file, or SpinningLidar). heights_m, tilts_deg: weight of each interval; uniform within one.
    faults: whether sweeps have faults.
    """

    sensors: Mapping[Any, float] = field(default_factory=lambda: SENSOR_WEIGHTS)
    heights_m: Mapping[Interval, float] = field(default_factory=lambda: HEIGHT_WEIGHTS)
    tilts_deg: Mapping[Interval, float] = field(default_factory=lambda: TILT_WEIGHTS)
    faults: bool = True
    name: str = "mix"

    def __post_init__(self) -> None:
        for what, weights in (("sensors", self.sensors), ("heights_m", self.heights_m), ("tilts_deg", self.tilts_deg)):
            if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
                raise ValueError(f"{self.name}: {what}: expected weights of 0 or more, not all 0; found {weights}")
        for sensor in self.sensors:
            sensor_of(sensor)

    def draw(self, rng: np.random.Generator) -> Mounting:
        """A random sensor with its height, tilt and vehicle."""
        sensor = sensor_of(_choose(rng, self.sensors))
        height = rng.uniform(*_choose(rng, self.heights_m))
        vehicles = next(weights for limit, weights in VEHICLE_WEIGHTS.items() if height < limit)
        mounting = Mounting(sensor, float(height), vehicle=_choose(rng, vehicles))
        return tilted(mounting, rng.uniform(*_choose(rng, self.tilts_deg)), rng.uniform(0, 360))

    def draw_faults(self, rng: np.random.Generator) -> Faults:
        """Random faults of one sweep."""
        if not self.faults:
            return Faults()
        every = _choose(rng, EVERY_RING_WEIGHTS)
        loss = rng.uniform(*LOSS) if rng.random() < LOSS_PROBABILITY else 0.0
        visibility = rng.uniform(*VISIBILITY_M) if rng.random() < FOG_PROBABILITY else float("inf")
        sectors: tuple[Interval, ...] = ()
        if rng.random() < SECTOR_PROBABILITY:
            count = int(rng.integers(SECTOR_COUNT[0], SECTOR_COUNT[1] + 1))
            sectors = tuple((float(rng.uniform(0, 360)), float(rng.uniform(*SECTOR_WIDTH_DEG))) for _ in range(count))
        return Faults(every, int(rng.integers(every)), float(loss), float(visibility), sectors)

    def describe(self) -> str:
        """Sensors and ranges in one line, for a model card."""
        heights, tilts = np.array(list(self.heights_m)), np.array(list(self.tilts_deg))
        names = ", ".join(sorted(sensor_of(s).name for s, weight in self.sensors.items() if weight > 0))
        rings = f"; thinned to every n-th ring, n = {', '.join(map(str, EVERY_RING_WEIGHTS))}" if self.faults else ""
        return (
            f"{self.name} of {names}; height {heights.min():g}-{heights.max():g} m; tilt {tilts.min():g}-{tilts.max():g} deg"
            + rings
        )


def load_mix(path: str | Path) -> SensorMix:
    """The mix in a TOML file: a table `sensors` (name or file = weight), optionally heights_m, tilts_deg = [[low, high, weight], ...].

    Raises ValueError if the file does not describe a mix.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text())
        for name in ("heights_m", "tilts_deg"):
            if name in table:
                table[name] = {(low, high): weight for low, high, weight in table[name]}
        return SensorMix(**{"name": path.stem, **table})
    except (OSError, tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a sensor mix with a table [sensors], found: {error}") from error


def mix_of(sensor: str | Path | SpinningLidar | Mounting | SensorMix) -> SensorMix | Mounting:
    """The mix or the mounting with this name: "mix", a file of a mix or of a sensor, or the name of a sensor."""
    if isinstance(sensor, SensorMix):
        return sensor
    if sensor == "mix":
        return SensorMix()
    if isinstance(sensor, str | Path) and str(sensor).endswith(".toml"):
        path = Path(sensor)
        if path.is_file() and "[sensors]" in path.read_text():
            return load_mix(path)
    return mounting_of(sensor)


T = TypeVar("T")


def _choose(rng: np.random.Generator, weights: Mapping[T, float]) -> T:
    share = np.fromiter(weights.values(), float)
    return list(weights)[int(rng.choice(len(share), p=share / share.sum()))]
