"""Moving objects: vehicles and cyclists in the lanes, pedestrians on the pavements."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .. import objects
from ..objects import Parts, join
from .centre_line import Street
from .site import Site

VEHICLES = {"car": 0.68, "truck": 0.07, "van": 0.11, "bike": 0.14}


@dataclass
class Traffic:
    """Moving objects and their speeds."""

    objects: list[Parts] = field(default_factory=list)
    velocities: list[np.ndarray] = field(default_factory=list)

    def add(self, site: Site, parts: Parts, place: tuple[float, float, float], speed: float, direction: int) -> None:
        """Adds an object at x, y, yaw; direction 1 or -1 along the yaw; speed in m/s."""
        x, y, yaw = place
        yaw += 0 if direction > 0 else np.pi
        self.objects.append(parts.placed(x, y, float(site.ground.height_at(x, y)), yaw))
        self.velocities.append(np.tile((speed * np.cos(yaw), speed * np.sin(yaw)), (len(parts), 1)))

    @property
    def parts(self) -> Parts:
        """All solids (Q)."""
        return join(*self.objects)

    @property
    def velocity(self) -> np.ndarray:
        """Velocity (Q, 2) of each solid in m/s."""
        return np.concatenate([np.zeros((0, 2)), *self.velocities])

    @property
    def thing(self) -> np.ndarray:
        """Index (Q,) of the object that each solid belongs to."""
        return np.repeat(np.arange(len(self.objects)), [len(m) for m in self.objects])


def place_traffic(site: Site, s: Street, start: float, reach: float, density: float, traffic: Traffic) -> None:
    """Draws the moving objects of one street."""
    rng = site.rng
    length = max(reach - start, 0)
    for _ in range(rng.poisson(density * length / 28)):
        direction = int(rng.choice((-1, 1)))
        kind = str(rng.choice(list(VEHICLES), p=list(VEHICLES.values())))
        vehicle = _vehicle(rng, kind)
        place = s.at(rng.uniform(start, reach), -direction * s.half_width * 0.45)
        speed = rng.uniform(2, 7) if kind == "bike" else rng.uniform(3, 14)
        traffic.add(site, vehicle, place, speed, direction)
    for _ in range(rng.poisson(density * length / 22)):
        side, direction = int(rng.choice((-1, 1))), int(rng.choice((-1, 1)))
        lateral = side * (s.half_width + rng.uniform(0.2, max(s.sidewalk[0 if side < 0 else 1], 0.7)))
        pedestrian = objects.person(rng)
        place = s.at(rng.uniform(start, reach), lateral)
        traffic.add(site, pedestrian, place, rng.uniform(0.5, 1.8), direction)


def _vehicle(rng: np.random.Generator, kind: str) -> Parts:
    if kind == "bike":
        return objects.cyclist(rng)
    if kind == "truck":
        return objects.truck(rng, objects.MOVING_TRUCK)
    return objects.van(rng, objects.MOVING_OTHER) if kind == "van" else objects.car(rng, objects.MOVING_CAR)
