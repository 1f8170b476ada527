"""Watches how the sensor is mounted: refuses clouds in a map frame, warns once about each cause, and levels sweeps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rclpy.impl.rcutils_logger import RcutilsLogger
from std_msgs.msg import Header

from lidar_completion.model.card import Seen
from lidar_completion.mounting import (
    Confirmation,
    Finding,
    Levelling,
    Mounting,
    MountingCheck,
    SensorView,
    findings,
    level_rotation,
)

if TYPE_CHECKING:
    from lidar_completion.completer import Completion
    from lidar_completion_ros.parameters import Parameters
    from lidar_completion_ros.sensor_motion import SensorMotion

MAP_FRAMES = ("map", "odom", "world", "earth")
MAX_OUTSIDE_SHARE = 0.1  # share of the sampled points outside the scene, above which the monitor warns


class MountingError(ValueError):
    """A cloud that is not in the frame of a sensor. `fault` is the short name under which diagnostics count it."""

    fault = "map frame"


@dataclass(frozen=True)
class Inspection:
    """Mounting of one sweep, as inspected before its completion."""

    mounting: Mounting | None = None  # None: not estimated
    levelling: Levelling | None = None  # None: the sweep is not rotated
    findings: tuple[Finding, ...] = ()


class MountingMonitor:
    """Monitors the mounting of one sensor over the newest sweeps."""

    def __init__(self, motion: SensorMotion, logger: RcutilsLogger) -> None:
        self._motion = motion
        self._logger = logger
        self._check, self._confirmation = MountingCheck(), Confirmation()
        self._reported: set[str] = set()  # causes that have been logged

    def inspect(self, points: np.ndarray, header: Header, seen: Seen, parameters: Parameters) -> Inspection:
        """Inspect returns (N, 3) of a sweep. Raises MountingError for a cloud in a map frame, FrameError if a pose is missing."""
        estimated = parameters.check_mounting or parameters.level_sweep == "estimate"
        mounting = self._check.add(SensorView.of(points)) if estimated else None
        levelling = self._levelling(mounting, header, parameters.level_sweep)
        if mounting is None or not parameters.check_mounting:
            return Inspection(mounting, levelling)
        levelled = mounting if levelling is None else mounting.rotated(levelling.R_level_sensor)
        found = findings(levelled, seen)
        refused = next((each for each in found if each.refuse), None)
        if refused is not None:
            raise MountingError(f"{refused.cause}: {refused.text}")
        return Inspection(mounting, levelling, (*_frame_name(header), *self._confirmation.add(found)))

    def warning(self, inspection: Inspection, completion: Completion) -> str:
        """One-line warning about the mounting; empty if nothing is wrong. Each cause is logged once."""
        if inspection.mounting is None:
            return ""
        found = inspection.findings
        if not found and outside_share(completion) > MAX_OUTSIDE_SHARE:
            percent = 100 * outside_share(completion)
            text = f"{percent:.0f} % of the completed points lie outside the scene that the sweep spans: check tilt and frame"
            found = (Finding("outside", text),)
        for each in found:
            if each.cause not in self._reported:
                self._logger.warning(f"mounting: {each.text}")
        self._reported |= {each.cause for each in found}
        return "; ".join(each.text for each in found)

    def clear(self) -> None:
        """Forget the newest sweeps, after a jump in time."""
        self._check.clear()
        self._confirmation = Confirmation()

    def _levelling(self, mounting: Mounting | None, header: Header, source: str) -> Levelling | None:
        if source == "pose":
            return Levelling(level_rotation(self._motion.up_in_sensor(header)))
        if source == "estimate" and mounting is not None and mounting.up is not None:
            return Levelling(level_rotation(mounting.up))
        return None


def outside_share(completion: Completion) -> float:
    """Share of the sampled points outside the scene (crop.scene_rows); NaN if nothing was sampled."""
    return completion.removed.get("outside", 0) / completion.sampled if completion.sampled else math.nan


def _frame_name(header: Header) -> tuple[Finding, ...]:
    if header.frame_id.lstrip("/") not in MAP_FRAMES:
        return ()
    text = f"the frame of the sweep is named {header.frame_id!r}; publish sweeps in the frame of the sensor"
    return (Finding("frame name", text),)
