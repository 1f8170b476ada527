"""Compares the mounting of a sensor, estimated over several sweeps, with what the model has seen in training."""

import dataclasses
from collections import deque
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from lidar_completion.model.card import Seen
from lidar_completion.mounting.ground_plane import MAX_SENSOR_HEIGHT_M, ON_GROUND_M, SensorView

WINDOW = 5  # sweeps whose median is compared
TILT_MARGIN_DEG = 2.0  # roads bend, vehicles pitch, and the estimate has an error of 0.5 deg
HEIGHT_MARGIN_M = 0.25
MIN_SENSOR_HEIGHT_M = -1.0  # no frame on a vehicle has a lower origin
MAX_HIDDEN_SHARE = 0.3  # in a sensor's own frame the share is at most 0.1
AXIS_SHARE = 0.9  # the message names an axis if at least this share of the tilt is about it


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the mounting or the frame of the sweeps."""

    cause: str  # short name; the same for the same cause
    text: str  # with figures, and what to do
    refuse: bool = False  # a completion would be worthless


@dataclass(frozen=True)
class Mounting:
    """The median of several views."""

    up: np.ndarray | None  # (3,) float64 unit normal of the ground in the sweeps' frame; None: no ground was found
    height_m: float  # height of the frame's origin above the ground; NaN if no ground was found
    hidden_share: float  # see SensorView

    @property
    def roll_deg(self) -> float:
        """Roll of the sensor about the x axis of a level frame, as in a sensor pose; NaN if no ground was found."""
        return float("nan") if self.up is None else float(np.degrees(np.arctan2(self.up[1], self.up[2])))

    @property
    def pitch_deg(self) -> float:
        """Pitch of the sensor about the y axis of a level frame; a sensor with positive pitch looks down."""
        return float("nan") if self.up is None else float(np.degrees(-np.arcsin(np.clip(self.up[0], -1.0, 1.0))))

    @property
    def tilt_deg(self) -> float:
        """Angle between the z axis of the sensor and the normal of the ground."""
        return float("nan") if self.up is None else float(np.degrees(np.arccos(np.clip(self.up[2], -1.0, 1.0))))

    def rotated(self, R_level_sensor: np.ndarray) -> Self:
        """The mounting after the sweep is rotated by R_level_sensor (3, 3)."""
        return self if self.up is None else dataclasses.replace(self, up=R_level_sensor @ self.up)


@dataclass
class MountingCheck:
    """The newest views of one sensor, and their median.

    The median is that of an odd number of views: in the mean of two, one wrong view would count.
    """

    window: int = WINDOW
    _views: deque[SensorView] = field(init=False)

    def __post_init__(self) -> None:
        self._views = deque(maxlen=self.window)

    def add(self, view: SensorView) -> Mounting:
        """The median of the newest views, this one included."""
        newest = self._views  # `clear` may replace them meanwhile
        newest.append(view)
        views = list(newest)[1 - len(newest) % 2 :]
        grounds = [each.ground for each in views if each.ground is not None]
        hidden = float(np.median([each.hidden_share for each in views]))
        if 2 * len(grounds) < len(views) or not grounds:
            return Mounting(None, float("nan"), hidden)
        up = np.median([each.up for each in grounds], axis=0)
        return Mounting(up / np.linalg.norm(up), float(np.median([each.height_m for each in grounds])), hidden)

    def clear(self) -> None:
        """Forget all views. Any thread may call it."""
        self._views = deque(maxlen=self.window)


@dataclass
class Confirmation:
    """Passes on what was found in the sweep before as well: about one sweep in a hundred is misjudged, rarely two in a row."""

    _before: frozenset[str] = frozenset()

    def add(self, found: list[Finding]) -> list[Finding]:
        """Those of the findings of a sweep whose cause was found in the sweep before."""
        before, self._before = self._before, frozenset(each.cause for each in found)
        return [each for each in found if each.cause in before]


def findings(mounting: Mounting, seen: Seen) -> list[Finding]:
    """What is wrong with a mounting, for a model whose training data had the mountings `seen`."""
    wrong_frame = _not_a_sensor_frame(mounting)
    if wrong_frame is not None:
        return [wrong_frame]
    return [each for each in (_tilt(mounting, seen), _height(mounting, seen)) if each is not None]


def _not_a_sensor_frame(mounting: Mounting) -> Finding | None:
    advice = "the cloud seems to be in a map frame; publish it in the frame of the sensor"
    if mounting.height_m > MAX_SENSOR_HEIGHT_M or mounting.height_m < MIN_SENSOR_HEIGHT_M:
        where = f"{abs(mounting.height_m):.1f} m {'above' if mounting.height_m > 0 else 'below'} the ground"
        return Finding("map frame", f"the origin of the cloud is {where}: {advice}", refuse=True)
    if mounting.hidden_share > MAX_HIDDEN_SHARE and not abs(mounting.height_m) < ON_GROUND_M:
        share = (
            f"{100 * mounting.hidden_share:.0f} % of the points are behind others as seen from the origin of the cloud"
        )
        return Finding("map frame", f"{share}: {advice}", refuse=True)
    return None


def _tilt(mounting: Mounting, seen: Seen) -> Finding | None:
    tilt = mounting.tilt_deg
    if not tilt > seen.max_tilt_deg + TILT_MARGIN_DEG:
        return None
    roll, pitch = (round(each, 1) + 0.0 for each in (mounting.roll_deg, mounting.pitch_deg))  # never -0.0
    angles = f"roll {roll:.1f}°, pitch {pitch:.1f}°"
    advice = f"the model has seen tilts up to {seen.max_tilt_deg:g}°; set level_sweep, or correct the mounting"
    if tilt > 135.0:
        return Finding("upside down", f"the sensor is upside down ({angles}): {advice}")
    if tilt > 45.0:
        text = f"the z axis of the cloud is {tilt:.0f}° from upward ({angles}), as in an optical frame: {advice}"
        return Finding("rotated", text)
    about = _axis(mounting)
    return Finding("tilt", f"the sensor is tilted by {tilt:.0f}°{about} ({angles}): {advice}")


def _axis(mounting: Mounting) -> str:
    roll, pitch = abs(mounting.roll_deg), abs(mounting.pitch_deg)
    if max(roll, pitch) < AXIS_SHARE * mounting.tilt_deg:
        return ""
    return " about x" if roll > pitch else " about y"


def _height(mounting: Mounting, seen: Seen) -> Finding | None:
    height, low, high = mounting.height_m, seen.min_height_m, seen.max_height_m
    if not (height < low - HEIGHT_MARGIN_M or height > high + HEIGHT_MARGIN_M):
        return None
    known = f"the model has seen heights of {low:g} to {high:g} m"
    if abs(height) < ON_GROUND_M:
        text = (
            f"the origin of the cloud is {height:.1f} m above the ground: the cloud seems to be in base_link; {known}"
        )
        return Finding("base_link", text)
    where = f"only {height:.1f} m" if height < low else f"{height:.1f} m"
    return Finding("height", f"the sensor is {where} above the ground; {known}")
