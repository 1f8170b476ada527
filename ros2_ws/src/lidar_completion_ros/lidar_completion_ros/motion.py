"""How the sensor moves: the newest twists of a topic, asked for by stamp."""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from scipy.linalg import expm

from lidar_completion_ros.frames import RigidTransform

KEPT = 200  # twists: two seconds at 100 Hz
OLDEST_S = 0.5  # a twist further from the sweep's stamp says nothing about it


@dataclass(frozen=True)
class Twist:
    """Velocity of a frame, in that frame."""

    stamp_ns: int
    linear: np.ndarray  # (3,) metres a second
    angular: np.ndarray  # (3,) radians a second
    frame: str

    def seen_from(self, T_body_sensor: RigidTransform) -> Twist:
        """The twist of a sensor that is fixed to the body, in the sensor's frame."""
        to_sensor = T_body_sensor.rotation.T
        at_sensor = self.linear + np.cross(self.angular, T_body_sensor.translation)
        return Twist(self.stamp_ns, to_sensor @ at_sensor, to_sensor @ self.angular, self.frame)

    def over(self, seconds: float) -> np.ndarray:
        """(4, 4): the pose of the moving frame after `seconds` of this twist, in the frame as it was before."""
        x, y, z = self.angular
        rate = np.zeros((4, 4))
        rate[:3, :3] = [[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]
        rate[:3, 3] = self.linear
        return np.asarray(expm(rate * seconds))


class Motion:
    """The newest twists. Filled by the executor's thread, read by the inference thread."""

    def __init__(self) -> None:
        self._twists: list[Twist] = []
        self._lock = threading.Lock()

    def add(self, twist: Twist) -> None:
        """Take in a twist; one with a stamp before that of the newest means that time jumped, and all earlier ones go."""
        if not (np.isfinite(twist.linear).all() and np.isfinite(twist.angular).all()):
            return
        with self._lock:
            if self._twists and twist.stamp_ns < self._twists[-1].stamp_ns:
                self._twists.clear()
            self._twists.append(twist)
            del self._twists[:-KEPT]

    def at(self, stamp_ns: int) -> Twist | None:
        """The twist nearest to a time, None where there is none within `OLDEST_S`."""
        with self._lock:
            twists = list(self._twists)
        if not twists:
            return None
        place = bisect_left([each.stamp_ns for each in twists], stamp_ns)
        nearest = min(twists[max(place - 1, 0) : place + 1], key=lambda each: abs(each.stamp_ns - stamp_ns))
        return nearest if abs(nearest.stamp_ns - stamp_ns) <= OLDEST_S * 1e9 else None

    def clear(self) -> None:
        with self._lock:
            self._twists.clear()
