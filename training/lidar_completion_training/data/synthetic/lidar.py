"""Spinning LiDARs: beam tables, sweep motion, echoes and their errors."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import raycast
from .objects import BOX, SURFACE_TABLE, Material, Parts, solids
from .world import World, empty_solids


@dataclass(frozen=True)
class SpinningLidar:
    """A spinning LiDAR.

    elevations_deg: one beam a ring, from the lowest to the highest, degrees above the horizon. columns: firings a turn.
    range_noise_m: standard deviation of the range. height_m: of the sensor above the road.
    """

    name: str
    elevations_deg: tuple[float, ...]
    columns: int
    min_range_m: float = 0.9
    max_range_m: float = 80.0
    range_noise_m: float = 0.02
    height_m: float = 1.73
    rate_hz: float = 10.0
    sensitivity: float = 1.0
    beam_spread_deg: float = field(default=0.0)  # each beam's fixed error of mounting

    @property
    def rings(self) -> int:
        return len(self.elevations_deg)

    @property
    def field_of_view_deg(self) -> tuple[float, float]:
        """Lowest and highest beam."""
        return self.elevations_deg[0], self.elevations_deg[-1]


def _fan(low: float, high: float, beams: int) -> tuple[float, ...]:
    return tuple(float(v) for v in np.linspace(low, high, beams))


SENSORS: dict[str, SpinningLidar] = {
    "HDL-64E": SpinningLidar(
        # two blocks: 1/2 degree below, 1/3 degree above -8.5
        "HDL-64E", _fan(-24.33, -8.83, 32) + _fan(-8.33, 2.0, 32), 2083, beam_spread_deg=0.04,
    ),
    "HDL-32E": SpinningLidar("HDL-32E", _fan(-30.67, 10.67, 32), 2170, max_range_m=70.0, beam_spread_deg=0.02),
    "VLP-16": SpinningLidar("VLP-16", _fan(-15.0, 15.0, 16), 1808, max_range_m=100.0, range_noise_m=0.015),
    "OS1-128": SpinningLidar("OS1-128", _fan(-22.5, 22.5, 128), 1024, max_range_m=100.0, range_noise_m=0.015),
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
        raise ValueError(f"sensor: expected one of {', '.join(SENSORS)}, found {sensor!r}; pass a SpinningLidar for another")
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
    ring, column, beams = _beams(sensor, rng if noise else None)
    time = column / (sensor.columns * sensor.rate_hz)
    poses = _poses_of_columns(pose, sensor, speed_m_s, yaw_rate)
    directions = np.einsum("nij,nj->ni", poses[column, :3, :3], beams)
    origins = np.ascontiguousarray(poses[column, :3, 3])
    movers = world.movers_at(time_s) if moving else empty_solids()
    distance, solid, cosine = raycast.cast(
        world.solids, movers, world.ground, origins, directions, far, int(rng.integers(2**32))
    )
    material, label = world.surface(solid, origins + directions * distance[:, None], moving)
    if self_returns:
        distance, solid, cosine, material, label = _own_car(beams, distance, solid, cosine, material, label)
    kept = solid != raycast.MISS
    kept &= distance >= sensor.min_range_m
    intensity = np.zeros(len(distance), np.float32)
    if noise:
        intensity, returned = _echo(sensor, distance, cosine, material, rng)
        distance = distance + _range_noise(sensor, distance, cosine, rng)
        kept &= returned
    row = np.flatnonzero(kept)
    local = beams[row] * distance[row, None]
    if deskewed:
        world_points = np.einsum("nij,nj->ni", poses[column[row], :3, :3], local) + origins[row]
        local = (world_points - pose[:3, 3]) @ pose[:3, :3]
    return Sweep(
        local.astype(np.float32), intensity[row].astype(np.float32), ring[row], time[row].astype(np.float32),
        label[row], solid[row], pose,
    )  # fmt: skip


def _beams(sensor: SpinningLidar, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ring (R,), column (R,), unit directions (R, 3) in the sensor's own frame; clockwise from the rear, as Velodynes turn.

    The mounting error of a beam belongs to the sensor, so it is the same in every sweep.
    """
    elevation = np.radians(np.asarray(sensor.elevations_deg))
    fixed = np.random.default_rng(64)
    error = fixed.normal(0, 1, (2, sensor.rings)) * np.radians(sensor.beam_spread_deg)
    if rng is not None:
        elevation = elevation + error[0]
    ring = np.repeat(np.arange(sensor.rings - 1, -1, -1), sensor.columns)
    column = np.tile(np.arange(sensor.columns), sensor.rings)
    azimuth = np.pi - 2 * np.pi * (column + 0.5) / sensor.columns
    if rng is not None:
        azimuth = azimuth + error[1, ring] * 3 + rng.normal(0, 2e-4, len(ring))
    e = elevation[ring]
    return ring.astype(np.uint8), column, np.column_stack([np.cos(e) * np.cos(azimuth), np.cos(e) * np.sin(azimuth), np.sin(e)])


def _poses_of_columns(pose: np.ndarray, sensor: SpinningLidar, speed_m_s: float, yaw_rate: float) -> np.ndarray:
    """Pose (columns, 4, 4) of the sensor at every firing of a turn with constant speed and yaw rate."""
    t = ((np.arange(sensor.columns) + 0.5) / sensor.columns - 0.5) / sensor.rate_hz
    turn = yaw_rate * t
    motion = np.tile(np.eye(4), (sensor.columns, 1, 1))
    motion[:, 0, 0] = motion[:, 1, 1] = np.cos(turn)
    motion[:, 0, 1], motion[:, 1, 0] = -np.sin(turn), np.sin(turn)
    motion[:, 0, 3], motion[:, 1, 3] = speed_m_s * t * np.cos(turn / 2), speed_m_s * t * np.sin(turn / 2)
    return pose @ motion


def _echo(sensor, distance, cosine, material, rng) -> tuple[np.ndarray, np.ndarray]:
    """Intensity (R,) and whether the echo came back (R,): weak echoes (far, dark, grazing) are lost."""
    surface = SURFACE_TABLE[material]
    reflectivity = np.clip(surface[:, 0] + surface[:, 1] * rng.standard_normal(len(distance), dtype=np.float32), 0.01, 1.0)
    shiny = np.isin(material, (Material.PLATE, Material.REFLECTIVE))
    power = reflectivity * np.where(shiny, 1.0, np.clip(cosine, 0.0, 1.0) ** 0.5)
    strength = sensor.sensitivity * power * (60.0 / np.maximum(distance, 5.0)) ** 2
    lost = surface[:, 3] + (1 - surface[:, 3]) * np.exp(-3.0 * strength)
    intensity = reflectivity * np.where(shiny, 1.0, 0.55 + 0.45 * cosine)
    return np.clip(np.round(intensity, 2), 0, 0.99), rng.random(len(distance)) >= lost


def _range_noise(sensor, distance, cosine, rng) -> np.ndarray:
    """Metres; wider at grazing incidence, where the footprint stretches along the ray."""
    spread = sensor.range_noise_m * (0.7 + 0.3 * np.minimum(1 / np.maximum(cosine, 0.1), 4.0))
    return spread * rng.standard_normal(len(distance), dtype=np.float32)


def _own_car_parts() -> Parts:
    """Roof and rack of the carrying car in the sensor frame (0 at the sensor)."""
    return solids(BOX, [(-0.4, 0, -0.45), (0.9, 0, -0.75)], [(1.1, 0.7, 0.12), (0.9, 0.72, 0.1)], Material.PAINT, 0)


def _own_car(beams, distance, solid, cosine, material, label):
    """Hits on the carrying car replace what lies behind."""
    parts = _own_car_parts()
    own = raycast.make_solids(parts.shape, parts.to_world, np.zeros(len(parts)))
    flat = raycast.make_ground(np.full((2, 2), -1e3), np.zeros((2, 2)), (-1.0, -1.0), 1.0)
    near, hit, own_cosine = raycast.cast(own, empty_solids(), flat, np.zeros_like(beams), np.ascontiguousarray(beams), 5.0, 0)
    mine = (hit >= 0) & (near < distance)
    return (
        np.where(mine, near, distance), np.where(mine, raycast.GROUND, solid), np.where(mine, own_cosine, cosine),
        np.where(mine, Material.PAINT, material).astype(np.uint8), np.where(mine, 1, label).astype(np.uint16),
    )  # fmt: skip
