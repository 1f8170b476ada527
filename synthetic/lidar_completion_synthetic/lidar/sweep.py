"""Simulation of one turn of a spinning LiDAR."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import raycast
from ..objects import Material
from ..world import World, empty_solids
from .echo import Hits, echo, range_noise
from .faults import NO_FAULTS, Faults
from .mounting import Mounting, mounting_of
from .own_vehicle import OWN_VEHICLES, block_by_own_vehicle
from .sensors import SpinningLidar

EGO_VEHICLE = 1  # label of returns from the ego vehicle: SemanticKITTI's "outlier"


@dataclass(frozen=True)
class SimulatedSweep:
    """One turn of the sensor.

    points (N, 3) float32 metres in the sensor frame of `pose`; intensity (N,) float32 in [0, 1]; ring (N,) uint8, 0 the lowest beam;
    time (N,) float32 seconds since the first firing; label (N,) uint16 as in SemanticKITTI; solid (N,) int32 index of the solid hit;
    pose (4, 4) float64 world from sensor, at the middle of the turn.
    """

    points: np.ndarray
    intensity: np.ndarray
    ring: np.ndarray
    time: np.ndarray
    label: np.ndarray
    solid: np.ndarray
    pose: np.ndarray


def simulate_sweep(
    world: World,
    pose: np.ndarray,
    sensor: str | SpinningLidar | Mounting,
    rng: np.random.Generator,
    *,
    faults: Faults = NO_FAULTS,
    speed_m_s: float = 0.0,
    yaw_rate: float = 0.0,
    deskewed: bool = True,
    moving: bool = True,
    noise: bool = True,
    self_returns: bool = False,
    max_range_m: float | None = None,
    time_s: float = 0.0,
) -> SimulatedSweep:
    """One sweep from the sensor pose (4, 4), world from sensor at the middle of the turn; `Mounting.pose_of` gives it for a tilted sensor.

    During the turn, the vehicle moves at speed_m_s along its x axis and turns at yaw_rate (rad/s). deskewed=False leaves every point in
    the frame of its own firing, as drivers publish it. moving=False leaves out moving objects. noise=False gives the exact first hits.
    self_returns=True keeps returns from the ego vehicle. max_range_m: shorter range (faster). time_s: time for moving objects.
    """
    mounting = mounting_of(sensor)
    sensor, pose = mounting.sensor, np.asarray(pose, dtype=np.float64)
    max_range = sensor.max_range_m if max_range_m is None else min(max_range_m, sensor.max_range_m)
    rays = _rays(mounting, speed_m_s, yaw_rate, noise, faults)
    hits = _first_hits(world, pose, rays, max_range, time_s if moving else None, rng)
    kept = hits.solid != raycast.MISS
    if mounting.vehicle != "none":
        own = _block_by_own_vehicle(mounting, rays, hits)
        kept = kept | own if self_returns else kept & ~own
    kept &= hits.distance >= sensor.min_range_m
    intensity = np.zeros(len(kept), np.float32)
    if noise:
        intensity, returned = echo(sensor, hits, rays.firing, rng)
        lost_to_faults = faults.returned(hits.distance, rng)
        hits.distance = hits.distance + range_noise(sensor, hits.distance, hits.cosine, rng)
        kept &= returned if lost_to_faults is None else returned & lost_to_faults
    row = np.flatnonzero(kept)
    points = rays.eyes[row] + rays.beams[row] * hits.distance[row, None]
    if not deskewed:
        at_rest = _beams(sensor, np.zeros(sensor.columns), noise)[rays.firing[row]]
        points = at_rest * hits.distance[row, None]
        points[:, 2] += sensor.eyes_m[rays.ring[row]]
    time = rays.column[row] / (sensor.columns * sensor.rate_hz)
    return SimulatedSweep(
        points.astype(np.float32), intensity[row], rays.ring[row].astype(np.uint8), time.astype(np.float32),
        hits.label[row], hits.solid[row], pose,
    )  # fmt: skip


@dataclass(frozen=True)
class _Rays:
    """Rays of a turn: index of the firing, ring, column (R,); unit directions and origins (R, 3) in the sensor frame at the middle of the turn."""

    firing: np.ndarray
    ring: np.ndarray
    column: np.ndarray
    beams: np.ndarray
    eyes: np.ndarray


def _first_hits(
    world: World, pose: np.ndarray, rays: _Rays, max_range_m: float, time_s: float | None, rng: np.random.Generator
) -> Hits:
    """Hits on the static world and, unless time_s is None, on the objects moving in it."""
    directions, origins = rays.beams @ pose[:3, :3].T, rays.eyes @ pose[:3, :3].T + pose[:3, 3]
    movers = empty_solids() if time_s is None else world.movers_at(time_s, pose[:2, 3])
    seed = int(rng.integers(2**32))
    distance, solid, cosine = raycast.cast(world.solids, movers, world.ground, origins, directions, max_range_m, seed)
    points = origins + directions * distance[:, None]
    return Hits(distance, solid, cosine, *world.surface(solid, points, moving=time_s is not None))


def _block_by_own_vehicle(mounting: Mounting, rays: _Rays, hits: Hits) -> np.ndarray:
    """Replaces hits behind the ego vehicle; returns which rays hit the vehicle (R,)."""
    starts = np.zeros_like(rays.beams)
    starts[:, 2] = mounting.sensor.eyes_m[rays.ring]
    beams = rays.beams
    if not mounting.is_upright:
        to_vehicle = mounting.R_vehicle_sensor.T
        beams, starts = beams @ to_vehicle, starts @ to_vehicle
    hits.distance, own = block_by_own_vehicle(beams, starts, hits.distance, OWN_VEHICLES[mounting.vehicle])
    hits.material, hits.tone = np.where(own, Material.METAL, hits.material), np.where(own, 1, hits.tone)
    hits.label = np.where(own, EGO_VEHICLE, hits.label).astype(np.uint16)
    return own


def _rays(mounting: Mounting, speed_m_s: float, yaw_rate: float, misaligned: bool, faults: Faults) -> _Rays:
    sensor = mounting.sensor
    ring, column = _firings(sensor)
    t = ((np.arange(sensor.columns) + 0.5) / sensor.columns - 0.5) / sensor.rate_hz
    turn, shift = yaw_rate * t, speed_m_s * t
    beams = _beams(sensor, turn, misaligned)
    firing = faults.remaining_rays(ring, beams) if faults.blocks_rays else np.arange(len(ring))
    if faults.blocks_rays:
        ring, column, beams = ring[firing], column[firing], beams[firing]
    eyes = np.zeros_like(beams)
    eyes[:, 0] = (shift * np.cos(turn / 2))[column]
    eyes[:, 1] = (shift * np.sin(turn / 2))[column]
    if not mounting.is_upright:
        eyes = eyes @ mounting.R_vehicle_sensor  # from the vehicle's axes to the sensor frame
    eyes[:, 2] += sensor.eyes_m[ring]
    return _Rays(firing, ring, column, beams, eyes)


def _firings(sensor: SpinningLidar) -> tuple[np.ndarray, np.ndarray]:
    """ring (R,) and column (R,) of every ray of a turn: ring by ring from the highest, each in the order of firing."""
    ring = np.repeat(np.arange(sensor.rings - 1, -1, -1), sensor.columns)
    return ring, np.tile(np.arange(sensor.columns), sensor.rings)


def _beams(sensor: SpinningLidar, turn: np.ndarray, misaligned: bool) -> np.ndarray:
    """Unit directions (R, 3) in the order of _firings; clockwise from the rear, as Velodynes turn, plus turn (columns,) radians.

    The misalignment of a beam belongs to the sensor, so it is the same in every sweep.
    """
    elevation = np.radians(np.asarray(sensor.elevations_deg))[::-1]
    azimuth = np.pi - 2 * np.pi * (np.arange(sensor.columns) + 0.5) / sensor.columns + turn
    aside = np.zeros(sensor.rings)
    if misaligned:
        error = np.random.default_rng(64).normal(0, 1, (2, sensor.rings)) * np.radians(sensor.beam_spread_deg)
        elevation, aside = elevation + error[0], 3 * error[1]
    angle = azimuth[None, :] + aside[:, None]
    beams = np.empty((sensor.rings, sensor.columns, 3))
    beams[:, :, 0] = np.cos(elevation)[:, None] * np.cos(angle)
    beams[:, :, 1] = np.cos(elevation)[:, None] * np.sin(angle)
    beams[:, :, 2] = np.sin(elevation)[:, None]
    return beams.reshape(-1, 3)
