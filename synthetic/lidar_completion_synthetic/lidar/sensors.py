"""Spinning LiDARs: beam tables, range, noise and mounting height."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SpinningLidar:
    """A spinning LiDAR.

    elevations_deg: one beam a ring, from the lowest to the highest, degrees above the horizon. columns: firings a turn.
    eye_heights_m: height above the sensor origin at which each beam leaves the sensor (empty: 0). range_noise_m: standard deviation.
    height_m: sensor origin above the road. sensitivity: factor on the strength of the echoes. beam_spread_deg: standard deviation of the
    fixed mounting errors of the beams. own_car: the roof of the carrying car blocks rays.
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

    def __post_init__(self) -> None:
        if self.eye_heights_m and len(self.eye_heights_m) != self.rings:
            raise ValueError(
                f"{self.name}: eye_heights_m: expected {self.rings} values, one a ring, found {len(self.eye_heights_m)}"
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


def _fan(low: float, high: float, beams: int) -> tuple[float, ...]:
    return tuple(float(v) for v in np.linspace(low, high, beams))


SENSORS: dict[str, SpinningLidar] = {
    # Two blocks of lasers at two heights. Angles and heights are line fits to each ring of real sweeps; the data sheet says -24.33 to
    # -8.83 degrees in steps of 1/2 degree and -8.33 to 2 in steps of 1/3.
    "HDL-64E": SpinningLidar(
        "HDL-64E", _fan(-25.0, -9.03, 32) + _fan(-8.71, 1.94, 32), 2083, _fan(0.116, 0.126, 32) + _fan(0.198, 0.209, 32),
        range_noise_m=0.01, beam_spread_deg=0.05,
    ),
    # own_car describes the car that recorded the HDL-64E sweeps; no other sensor is blocked.
    "HDL-32E": SpinningLidar("HDL-32E", _fan(-30.67, 10.67, 32), 2170, max_range_m=70.0, beam_spread_deg=0.02, own_car=False),
    "VLP-16": SpinningLidar("VLP-16", _fan(-15.0, 15.0, 16), 1808, max_range_m=100.0, range_noise_m=0.015, own_car=False),
    "OS1-128": SpinningLidar("OS1-128", _fan(-22.5, 22.5, 128), 1024, max_range_m=100.0, range_noise_m=0.015, own_car=False),
}  # fmt: skip


def sensor_of(sensor: str | SpinningLidar) -> SpinningLidar:
    """The named sensor, or the sensor itself. Raises ValueError for an unknown name."""
    if isinstance(sensor, SpinningLidar):
        return sensor
    if sensor not in SENSORS:
        raise ValueError(
            f"sensor: expected one of {', '.join(SENSORS)}, found {sensor!r}; pass a SpinningLidar for another"
        )
    return SENSORS[sensor]
