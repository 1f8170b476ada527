"""Deskews the sweeps of a drive with its poses: every point moves to where it would have been measured at mid-sweep."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import RigidTransform

from lidar_completion import deskew
from lidar_completion_evaluation.drives.drive import Drive, DriveSweep

MID_SWEEP = 0.5  # poses refer to the middle of a sweep, as KITTI's do


def to_mid_sweep(points: np.ndarray, sweep_time: np.ndarray, T_start_end: np.ndarray) -> np.ndarray:
    """Points (N, 3) in the sensor frame of mid-sweep, float32 metres.

    sweep_time (N,) in [0, 1]; T_start_end (4, 4): the sensor's motion during one sweep, at constant velocity.
    """
    return deskew.deskew(points, np.asarray(sweep_time) - MID_SWEEP, *deskew.velocity(T_start_end, 1.0))


def time_from_azimuth(points: np.ndarray) -> np.ndarray:
    """Time within the sweep (N,) float32 in [0, 1] from the azimuth alone, for files without timestamps.

    A Velodyne on a KITTI car turns clockwise, and its sweeps start and end behind the car (azimuth ±180°).
    """
    azimuth = np.arctan2(points[:, 1], points[:, 0])
    return (0.5 * (1.0 - azimuth / np.pi)).astype(np.float32)


def motion_of_sweep(T_map_sensor: np.ndarray, index: int) -> np.ndarray:
    """The sensor's motion (4, 4) during the sweep of this index, from the poses (S, 4, 4) of its neighbours."""
    first, last = max(index - 1, 0), min(index + 1, len(T_map_sensor) - 1)
    if first == last:
        return np.eye(4)
    motion = RigidTransform.from_matrix(T_map_sensor[first]).inv() * RigidTransform.from_matrix(T_map_sensor[last])
    return (motion ** (1.0 / (last - first))).as_matrix()


def deskewed(drive: Drive, index: int) -> DriveSweep:
    """The deskewed sweep of a drive; without timestamps, the time follows from the azimuth."""
    sweep = drive.read(index)
    time = time_from_azimuth(sweep.points) if sweep.sweep_time is None else sweep.sweep_time
    points = to_mid_sweep(sweep.points, time, motion_of_sweep(drive.T_map_sensor, index))
    return DriveSweep(points, sweep.intensity, sweep.labels, sweep.static, sweep.sweep_time)
