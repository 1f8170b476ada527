"""Spinning LiDARs: beam tables, range, noise and mounting height."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class SpinningLidar:
    """A spinning LiDAR.

    elevations_deg: one beam per ring, from the lowest to the highest, degrees above the horizon. columns: firings per turn.
    eye_heights_m: height above the sensor origin at which each beam leaves the sensor (empty: 0). range_noise_m: standard deviation.
    height_m: sensor origin above the road. sensitivity: factor on the strength of the echoes. beam_spread_deg: standard deviation of the
    fixed mounting errors of the beams. own_car: the roof of the car that carries it blocks rays.
    approximate: the beam table is nominal.
    """

    name: str
    elevations_deg: tuple[float, ...]
    columns: int
    eye_heights_m: tuple[float, ...] = ()
    min_range_m: float = 0.9
    max_range_m: float = 80.0
    range_noise_m: float = 0.02
    height_m: float = 1.73
    rate_hz: float = 10.0
    sensitivity: float = 1.0
    beam_spread_deg: float = 0.0
    own_car: bool = True
    approximate: bool = False

    def __post_init__(self) -> None:
        if not self.elevations_deg or tuple(sorted(self.elevations_deg)) != self.elevations_deg:
            raise ValueError(f"{self.name}: elevations_deg: expected one beam or more from the lowest to the highest")
        if self.eye_heights_m and len(self.eye_heights_m) != self.rings:
            raise ValueError(
                f"{self.name}: eye_heights_m: expected {self.rings} values, one per ring, found {len(self.eye_heights_m)}"
            )

    @property
    def rings(self) -> int:
        return len(self.elevations_deg)

    @property
    def field_of_view_deg(self) -> tuple[float, float]:
        """Elevation of the lowest and the highest beam."""
        return self.elevations_deg[0], self.elevations_deg[-1]

    @property
    def eyes_m(self) -> np.ndarray:
        """Height (rings,) above the sensor origin at which each beam leaves the sensor."""
        return np.asarray(self.eye_heights_m) if self.eye_heights_m else np.zeros(self.rings)


def load_sensor(path: str | Path) -> SpinningLidar:
    """The sensor in a TOML file, which has the fields of SpinningLidar, and beams as `elevations_deg` or as `fans`.

    A fan has low_deg, high_deg, beams and optionally eye_heights_m (of its lowest and its highest beam). Raises ValueError if the file
    does not describe a sensor.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text())
        fans = table.pop("fans", [])
        if fans:
            table["elevations_deg"] = [e for f in fans for e in np.linspace(f["low_deg"], f["high_deg"], f["beams"])]
            heights = [
                h
                for f in fans
                if "eye_heights_m" in f
                for h in np.linspace(f["eye_heights_m"][0], f["eye_heights_m"][1], f["beams"])
            ]
            table["eye_heights_m"] = heights
        for name in ("elevations_deg", "eye_heights_m"):
            table[name] = tuple(float(v) for v in table.get(name, ()))
        return SpinningLidar(**{"own_car": False, **table})
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected a sensor file such as {SENSOR_FOLDER}/VLP-16.toml, found: {error}"
        ) from error


SENSOR_FOLDER = Path(__file__).parents[1] / "sensors"
SENSORS: dict[str, SpinningLidar] = {
    sensor.name: sensor for sensor in map(load_sensor, sorted(SENSOR_FOLDER.glob("*.toml")))
}


def sensor_of(sensor: str | Path | SpinningLidar) -> SpinningLidar:
    """The sensor of this name or TOML file, or the sensor itself. Raises ValueError for an unknown name."""
    if isinstance(sensor, SpinningLidar):
        return sensor
    if sensor in SENSORS:
        return SENSORS[str(sensor)]
    if str(sensor).endswith(".toml"):
        return load_sensor(sensor)
    raise ValueError(f"sensor: expected a file (.toml) or one of {', '.join(SENSORS)}, found {str(sensor)!r}")
