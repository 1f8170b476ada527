"""Geometry of a street: its curved centre line and cross section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .recipe import StreetKind


@dataclass(frozen=True)
class Street:
    """A street along the curve y = amplitude * (sin(2 pi x / period + phase) - sin(phase)) in its own frame.

    That frame is rotated by heading and translated to start (2,) in the world. Metres and radians.
    """

    start: tuple[float, float]
    heading: float
    amplitude: float
    period: float
    phase: float
    half_width: float
    sidewalk: tuple[float, float]  # right (y < 0), left
    kerb: float
    lane: float  # lateral offset of the ego vehicle's lane

    def offsets(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Distance along the street and lateral offset (left positive) of world points x, y (...), metres."""
        c, s = np.cos(self.heading), np.sin(self.heading)
        dx, dy = x - self.start[0], y - self.start[1]
        along, across = c * dx + s * dy, -s * dx + c * dy
        k = 2 * np.pi / self.period
        angle = along * k + self.phase
        slope = self.amplitude * k * np.cos(angle)
        return along, (across - self.amplitude * (np.sin(angle) - np.sin(self.phase))) / np.sqrt(1 + slope**2)

    def at(self, along: float, lateral: float = 0.0) -> tuple[float, float, float]:
        """World x, y and yaw of the street at a distance along it and a lateral offset."""
        k = 2 * np.pi / self.period
        angle = along * k + self.phase
        bend = np.arctan(self.amplitude * k * np.cos(angle))
        across = self.amplitude * (np.sin(angle) - np.sin(self.phase))
        lx, ly = along - lateral * np.sin(bend), across + lateral * np.cos(bend)
        c, s = np.cos(self.heading), np.sin(self.heading)
        return self.start[0] + c * lx - s * ly, self.start[1] + s * lx + c * ly, self.heading + bend

    @property
    def is_one_sided(self) -> bool:
        """Whether a cross street ends at the main street; most do."""
        return self.phase < 4.0


def draw_streets(rng: np.random.Generator, kind: StreetKind, half_length_m: float) -> tuple[Street, ...]:
    """The main street along x, followed by its cross streets."""
    main = _draw_street(rng, kind, (0.0, 0.0), 0.0, 5.0)
    crossings = []
    x = -half_length_m + rng.uniform(10, 90)
    while x < half_length_m - 10:
        px, py, yaw = main.at(x)
        heading = yaw + rng.choice((-1, 1)) * (np.pi / 2 + rng.normal(0, 0.2))
        crossings.append(_draw_street(rng, kind, (px, py), heading, 3.0))
        x += rng.uniform(35, 150)
    return (main, *crossings)


def _draw_street(
    rng: np.random.Generator, kind: StreetKind, start: tuple[float, float], heading: float, bend: float
) -> Street:
    """A street of this kind. bend: standard deviation of the curve's amplitude, metres."""
    sidewalk = rng.uniform(*kind.sidewalk, 2)
    half_width = rng.uniform(*kind.half_width)
    side = -1 if rng.random() < 0.85 else 1  # mostly right-hand traffic
    lane = side * min(half_width * 0.45, rng.uniform(1.3, 2.0))
    amplitude, period, phase = rng.normal(0, bend), rng.uniform(90, 260), rng.uniform(0, 2 * np.pi)
    right, left = np.where(rng.random(2) < 0.9, sidewalk, 0)
    kerb = float(rng.uniform(0.04, 0.16)) if not kind.rural else 0.0
    return Street(start, heading, amplitude, period, phase, half_width, (float(right), float(left)), kerb, lane)
