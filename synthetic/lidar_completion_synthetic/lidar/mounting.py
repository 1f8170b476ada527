"""How a sensor is mounted on a vehicle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..objects import rotation
from .own_vehicle import OWN_VEHICLES
from .sensors import SpinningLidar, sensor_of


@dataclass(frozen=True)
class Mounting:
    """A sensor on a vehicle.

    height_m: sensor origin above the road. roll_deg, pitch_deg: rotation of the sensor relative to the vehicle (about x, then y; positive
    pitch looks down). vehicle: key of OWN_VEHICLES, the parts of the vehicle that block rays. The sensor frame is tilted with the sensor.
    """

    sensor: SpinningLidar
    height_m: float
    roll_deg: float = 0.0
    pitch_deg: float = 0.0
    vehicle: str = "none"

    def __post_init__(self) -> None:
        if self.vehicle not in OWN_VEHICLES:
            raise ValueError(f"vehicle: expected one of {', '.join(OWN_VEHICLES)}, found {self.vehicle!r}")
        if self.height_m <= 0:
            raise ValueError(f"height_m: expected more than 0, found {self.height_m}")

    @property
    def is_upright(self) -> bool:
        return self.roll_deg == 0.0 and self.pitch_deg == 0.0

    @property
    def tilt_deg(self) -> float:
        """Angle between the z axes of sensor and vehicle."""
        return float(np.degrees(np.arccos(np.clip(self.R_vehicle_sensor[2, 2], -1.0, 1.0))))

    @property
    def R_vehicle_sensor(self) -> np.ndarray:
        """Rotation (3, 3) from the sensor frame to the axes of the vehicle (x forward, z up)."""
        return rotation(0.0, np.radians(self.pitch_deg), np.radians(self.roll_deg))

    def pose_of(self, vehicle_pose: np.ndarray) -> np.ndarray:
        """Sensor pose (4, 4) from the pose of an upright sensor at the same place."""
        if self.is_upright:
            return vehicle_pose
        pose = vehicle_pose.copy()
        pose[:3, :3] = vehicle_pose[:3, :3] @ self.R_vehicle_sensor
        return pose


def mounting_of(sensor: str | Path | SpinningLidar | Mounting, height_m: float | None = None) -> Mounting:
    """The mounting itself, or the sensor upright at its own height and on its own vehicle; height_m replaces the height."""
    if not isinstance(sensor, Mounting):
        sensor = sensor_of(sensor)
        sensor = Mounting(sensor, sensor.height_m, vehicle="car" if sensor.own_car else "none")
    return sensor if height_m is None else replace(sensor, height_m=height_m)


def tilted(mounting: Mounting, tilt_deg: float, direction_deg: float) -> Mounting:
    """The mounting tilted by an angle towards a direction: 0 forward (nose down), 90 to the left."""
    tilt, direction = np.radians(tilt_deg), np.radians(direction_deg)
    pitch = np.arctan2(np.sin(tilt) * np.cos(direction), np.cos(tilt))
    roll = -np.arcsin(np.sin(tilt) * np.sin(direction))
    return replace(mounting, roll_deg=float(np.degrees(roll)), pitch_deg=float(np.degrees(pitch)))
