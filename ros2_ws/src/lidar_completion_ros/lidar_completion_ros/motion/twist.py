"""The sensor's velocity: the newest twists of a topic, looked up by stamp."""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.spatial.transform import RigidTransform

MAX_TWISTS = 200  # two seconds at 100 Hz
MAX_AGE_S = 0.5  # maximum difference between the stamps of twist and sweep


@dataclass(frozen=True)
class Twist:
    """Velocity of a frame, expressed in that frame."""

    stamp_ns: int
    linear: np.ndarray  # (3,) m/s
    angular: np.ndarray  # (3,) rad/s
    frame: str

    def in_sensor_frame(self, T_body_sensor: RigidTransform) -> Twist:
        """The twist of a sensor that is rigidly attached to the body."""
        to_sensor = T_body_sensor.rotation.inv()
        at_sensor = self.linear + np.cross(self.angular, T_body_sensor.translation)
        return Twist(self.stamp_ns, to_sensor.apply(at_sensor), to_sensor.apply(self.angular), self.frame)

    def integrated(self, seconds: float) -> np.ndarray:
        """(4, 4): pose of the moving frame after `seconds` of this twist, in the frame at the start."""
        from scipy.spatial.transform import RigidTransform

        exponential = RigidTransform.from_exp_coords(np.concatenate([self.angular, self.linear]) * seconds)
        return np.asarray(exponential.as_matrix())


class TwistBuffer:
    """The newest twists. Filled by the executor's thread, read by the worker's thread."""

    def __init__(self) -> None:
        self._twists: list[Twist] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._twists)

    def add(self, twist: Twist) -> None:
        """Store a twist. If its stamp is older than the newest one, time has jumped back, and the buffer is cleared first."""
        if not (np.isfinite(twist.linear).all() and np.isfinite(twist.angular).all()):
            return
        with self._lock:
            if self._twists and twist.stamp_ns < self._twists[-1].stamp_ns:
                self._twists.clear()
            self._twists.append(twist)
            del self._twists[:-MAX_TWISTS]

    def at(self, stamp_ns: int) -> Twist | None:
        """The twist nearest to a time; None if there is none within `MAX_AGE_S`."""
        with self._lock:
            twists = list(self._twists)
        if not twists:
            return None
        place = bisect_left([each.stamp_ns for each in twists], stamp_ns)
        nearest = min(twists[max(place - 1, 0) : place + 1], key=lambda each: abs(each.stamp_ns - stamp_ns))
        return nearest if abs(nearest.stamp_ns - stamp_ns) <= MAX_AGE_S * 1e9 else None

    def clear(self) -> None:
        with self._lock:
            self._twists.clear()
