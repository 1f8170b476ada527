"""Spinning LiDARs: beam tables, sweep motion, echoes and their errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.special import ndtr

from . import raycast
from .objects import SURFACE_TABLE, Material
from .world import World, empty_solids


@dataclass(frozen=True)
class SpinningLidar:
    """A spinning LiDAR.

    elevations_deg: one beam a ring, from the lowest to the highest, degrees above the horizon. eye_heights_m: where each beam leaves the
    sensor above the origin of its frame (empty: at the origin). columns: firings a turn. range_noise_m: standard deviation. height_m: of the frame's origin above
    the road. beam_spread_deg: the beams' fixed errors of mounting (standard deviation). own_car: the carrying car hides what lies under its edges.
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
        """Lowest and highest beam."""
        return self.elevations_deg[0], self.elevations_deg[-1]

    @property
    def eyes_m(self) -> np.ndarray:
        """Height (rings,) at which each beam leaves the sensor."""
        return np.asarray(self.eye_heights_m) if self.eye_heights_m else np.zeros(self.rings)


def _fan(low: float, high: float, beams: int) -> tuple[float, ...]:
    return tuple(float(v) for v in np.linspace(low, high, beams))


SENSORS: dict[str, SpinningLidar] = {
    # Two blocks of lasers at two heights. Angles and heights are line fits, ring by ring, to real sweeps; the data sheet says -24.33 to -8.83
    # in steps of 1/2 degree and -8.33 to 2 in steps of 1/3.
    "HDL-64E": SpinningLidar(
        "HDL-64E", _fan(-25.0, -9.03, 32) + _fan(-8.71, 1.94, 32), 2083, _fan(0.116, 0.126, 32) + _fan(0.198, 0.209, 32),
        range_noise_m=0.01, beam_spread_deg=0.05,
    ),
    # The car below is the one that carried the sweeps of the HDL-64E; the others stand free, as in the real sweeps at hand.
    "HDL-32E": SpinningLidar("HDL-32E", _fan(-30.67, 10.67, 32), 2170, max_range_m=70.0, beam_spread_deg=0.02, own_car=False),
    "VLP-16": SpinningLidar("VLP-16", _fan(-15.0, 15.0, 16), 1808, max_range_m=100.0, range_noise_m=0.015, own_car=False),
    "OS1-128": SpinningLidar("OS1-128", _fan(-22.5, 22.5, 128), 1024, max_range_m=100.0, range_noise_m=0.015, own_car=False),
}  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """One turn of the sensor.

    points (N, 3) float32 metres in the sensor frame of `pose`; intensity (N,) float32 in [0, 1]; ring (N,) uint8, 0 the lowest beam; time (N,)
    float32 seconds since the first firing; label (N,) uint16 as in SemanticKITTI; solid (N,) int32 index of what was hit; pose (4, 4) float64 world from
    sensor, at the middle of the turn.
    """

    points: np.ndarray
    intensity: np.ndarray
    ring: np.ndarray
    time: np.ndarray
    label: np.ndarray
    solid: np.ndarray
    pose: np.ndarray


def sensor_of(sensor: str | SpinningLidar) -> SpinningLidar:
    """The named sensor, or the sensor itself."""
    if isinstance(sensor, SpinningLidar):
        return sensor
    if sensor not in SENSORS:
        raise ValueError(
            f"sensor: expected one of {', '.join(SENSORS)}, found {sensor!r}; pass a SpinningLidar for another"
        )
    return SENSORS[sensor]


def scan(
    world: World,
    pose: np.ndarray,
    sensor: str | SpinningLidar,
    rng: np.random.Generator,
    *,
    speed_m_s: float = 0.0,
    yaw_rate: float = 0.0,
    deskewed: bool = True,
    moving: bool = True,
    noise: bool = True,
    self_returns: bool = False,
    max_range_m: float | None = None,
    time_s: float = 0.0,
) -> Sweep:
    """One sweep from pose (4, 4), world from sensor at the middle of the turn.

    The sensor moves at speed_m_s along its x and turns at yaw_rate (rad/s) while it spins; deskewed=False leaves every point
    in the frame of its own firing, as a driver publishes it. moving=False leaves out what moves. noise=False gives every exact first
    hit. time_s places the moving things. max_range_m shortens the sensor's range (faster).
    """
    sensor = sensor_of(sensor)
    far = sensor.max_range_m if max_range_m is None else min(max_range_m, sensor.max_range_m)
    pose = np.asarray(pose, dtype=np.float64)
    ring, column = _firings(sensor)
    t = ((np.arange(sensor.columns) + 0.5) / sensor.columns - 0.5) / sensor.rate_hz
    turn, shift = yaw_rate * t, speed_m_s * t
    beams = _beams(sensor, turn, noise)
    eyes = np.zeros_like(beams)
    eyes[:, 0], eyes[:, 1], eyes[:, 2] = (
        (shift * np.cos(turn / 2))[column],
        (shift * np.sin(turn / 2))[column],
        sensor.eyes_m[ring],
    )
    directions, origins = beams @ pose[:3, :3].T, eyes @ pose[:3, :3].T + pose[:3, 3]
    movers = world.movers_at(time_s, pose[:2, 3]) if moving else empty_solids()
    distance, solid, cosine = raycast.cast(
        world.solids, movers, world.ground, origins, directions, far, int(rng.integers(2**32))
    )
    material, label, tone = world.surface(solid, origins + directions * distance[:, None], moving)
    kept = solid != raycast.MISS
    if sensor.own_car:
        distance, mine = _own_car(beams, sensor.eyes_m[ring], distance)
        material, label, tone = (
            np.where(mine, Material.METAL, material),
            np.where(mine, 1, label).astype(np.uint16),
            np.where(mine, 1, tone),
        )
        kept = kept & ~mine if not self_returns else kept | mine
    kept &= distance >= sensor.min_range_m
    intensity = np.zeros(len(distance), np.float32)
    if noise:
        intensity, returned = _echo(sensor, distance, cosine, material, tone, rng)
        distance = distance + _range_noise(sensor, distance, cosine, rng)
        kept &= returned
    row = np.flatnonzero(kept)
    if deskewed:
        local = eyes[row] + beams[row] * distance[row, None]
    else:
        own = _beams(sensor, np.zeros_like(turn), noise)[row]
        local = own * distance[row, None] + np.column_stack([np.zeros((len(row), 2)), eyes[row, 2]])
    time = column[row] / (sensor.columns * sensor.rate_hz)
    return Sweep(
        local.astype(np.float32),
        intensity[row].astype(np.float32),
        ring[row].astype(np.uint8),
        time.astype(np.float32),
        label[row],
        solid[row],
        pose,
    )


def _firings(sensor: SpinningLidar) -> tuple[np.ndarray, np.ndarray]:
    """ring (R,) and column (R,) of every ray of a turn: ring by ring from the highest, each in the order of firing."""
    ring = np.repeat(np.arange(sensor.rings - 1, -1, -1), sensor.columns)
    return ring, np.tile(np.arange(sensor.columns), sensor.rings)


def _beams(sensor: SpinningLidar, turn: np.ndarray, mounted_badly: bool) -> np.ndarray:
    """Unit directions (R, 3) in the order of _firings; clockwise from the rear, as Velodynes turn, plus turn (columns,) radians.

    The mounting error of a beam belongs to the sensor, so it is the same in every sweep.
    """
    elevation = np.radians(np.asarray(sensor.elevations_deg))[::-1]
    azimuth = np.pi - 2 * np.pi * (np.arange(sensor.columns) + 0.5) / sensor.columns + turn
    aside = np.zeros(sensor.rings)
    if mounted_badly:
        error = np.random.default_rng(64).normal(0, 1, (2, sensor.rings)) * np.radians(sensor.beam_spread_deg)
        elevation, aside = elevation + error[0], 3 * error[1]
    angle = azimuth[None, :] + aside[:, None]
    beams = np.empty((sensor.rings, sensor.columns, 3))
    beams[:, :, 0] = np.cos(elevation)[:, None] * np.cos(angle)
    beams[:, :, 1] = np.cos(elevation)[:, None] * np.sin(angle)
    beams[:, :, 2] = np.sin(elevation)[:, None]
    return beams.reshape(-1, 3)


def _echo(sensor, distance, cosine, material, tone, rng) -> tuple[np.ndarray, np.ndarray]:
    """Intensity (R,) and whether the echo came back (R,): weak echoes (far, dark, grazing) are lost.

    What is lost is lost in patches, so the random number is partly shared between neighbouring rays.
    """
    surface = SURFACE_TABLE[material]
    spread = rng.standard_normal(len(distance), dtype=np.float32)
    reflectivity = np.clip(surface[:, 0] * tone + surface[:, 1] * spread, 0.0, 1.0)
    shiny = (material == Material.PLATE) | (material == Material.REFLECTIVE)
    power = np.where(shiny, 1.0, np.maximum(surface[:, 0] * tone, 0.02) * np.sqrt(np.clip(cosine, 0.0, 1.0)))
    strength = sensor.sensitivity * power * (60.0 / np.maximum(distance, 5.0)) ** 2
    lost = surface[:, 3] + (1 - surface[:, 3]) * np.exp(-8.0 * strength)
    paint = material == Material.PAINT  # mirrors most of the light away; the darker, the more
    lost = np.where(
        paint, np.maximum(lost, np.clip(0.5 - 0.5 * np.minimum(tone, 1.2) * (0.5 + cosine), 0.02, 0.5)), lost
    )
    fade = np.clip(1.15 - distance / 70, 0.2, 1.0)
    intensity = np.where(shiny, 0.99, reflectivity * (0.7 + 0.3 * cosine) * fade)
    luck = _patchy(sensor, rng)
    intensity = np.where(luck < lost + 0.05, 0.0, intensity)  # the weakest echoes that still count read zero
    return np.clip(np.round(intensity, 2), 0, 0.99).astype(np.float32), luck >= lost


def _patchy(sensor: SpinningLidar, rng: np.random.Generator) -> np.ndarray:
    """Uniform numbers (R,) in [0, 1], two thirds of whose variance neighbouring rays share."""
    white = rng.standard_normal((sensor.rings, sensor.columns), dtype=np.float32)
    shared = np.zeros_like(white)
    for rings, columns in ((2, 6), (5, 24)):
        coarse = rng.standard_normal((sensor.rings // rings + 1, sensor.columns // columns + 1), dtype=np.float32)
        shared += np.repeat(np.repeat(coarse, rings, axis=0)[: sensor.rings], columns, axis=1)[:, : sensor.columns]
    return ndtr(((white + shared) * np.float32(3**-0.5)).ravel())


def _range_noise(sensor, distance, cosine, rng) -> np.ndarray:
    """Metres; wider at grazing incidence, where the footprint stretches along the ray."""
    spread = sensor.range_noise_m * (0.7 + 0.3 * np.minimum(1 / np.maximum(cosine, 0.1), 4.0))
    return spread * rng.standard_normal(len(distance), dtype=np.float32)


# The carrying car in the frame of its sensor: lower and upper corner of the roof, two rear posts of the rack, and a box at the right.
OWN_CAR = np.array(
    [
        [-1.20, -0.50, -0.60, 1.02, 0.50, -0.29],
        [-1.33, -0.58, -0.60, -1.20, -0.46, -0.22],
        [-1.33, 0.46, -0.60, -1.20, 0.58, -0.22],
        [0.15, -0.75, -0.60, 0.29, -0.62, -0.12],
    ]
)


def _own_car(beams: np.ndarray, eye: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances (R,) with the carrying car in the way, and where it is (R,) bool."""
    nearest = _nearest_box(OWN_CAR, np.ascontiguousarray(beams), np.ascontiguousarray(eye, dtype=np.float64))
    mine = nearest < distance
    return np.where(mine, nearest, distance), mine


@njit(cache=True)
def _nearest_box(boxes, beams, eye):
    """Distance (R,) at which rays from (0, 0, eye) enter the first of the boxes (B, 6), lower and upper corner; inf where none."""
    nearest = np.full(len(beams), np.inf)
    for r in range(len(beams)):
        if beams[r, 2] >= -0.15:
            continue
        for b in range(len(boxes)):
            near, far = 0.0, np.inf
            for axis in range(3):
                start = eye[r] if axis == 2 else 0.0
                way = beams[r, axis] if beams[r, axis] != 0.0 else 1e-300
                t0, t1 = (boxes[b, axis] - start) / way, (boxes[b, 3 + axis] - start) / way
                near, far = max(near, min(t0, t1)), min(far, max(t0, t1))
            if 0.0 < near <= far:
                nearest[r] = min(nearest[r], near)
    return nearest
