"""Takes the sensor's own motion out of a sweep: every point moves to where it would have been measured in mid-sweep."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from lidar_completion import deskew as core
from lidar_completion_evaluation.drives.drive import Drive, Sweep

MID_SWEEP = 0.5  # poses belong to the middle of a sweep, as KITTI's do


def deskew(points: np.ndarray, sweep_time: np.ndarray, T_before_after: np.ndarray) -> np.ndarray:
    """Points (N, 3) moved to the sensor frame of mid-sweep, float32 metres.

    sweep_time (N,) in [0, 1]; T_before_after: the sensor's motion during one sweep (pose at its end in the frame of its
    start), taken as constant.
    """
    return core.deskew(points, np.asarray(sweep_time) - MID_SWEEP, *core.velocity(T_before_after, 1.0))


def time_from_azimuth(points: np.ndarray) -> np.ndarray:
    """Share of the sweep (N,) float32 in [0, 1] from the direction alone, for files without time stamps.

    A Velodyne on a KITTI car turns clockwise and its sweeps start and end behind the car (azimuth ±180°).
    """
    azimuth = np.arctan2(points[:, 1], points[:, 0])
    return (0.5 * (1.0 - azimuth / np.pi)).astype(np.float32)


def motion_of_sweep(T_map_sensor: np.ndarray, index: int) -> np.ndarray:
    """The sensor's motion (4, 4) during the sweep of this index, from the poses (S, 4, 4) of its neighbours."""
    first, last = max(index - 1, 0), min(index + 1, len(T_map_sensor) - 1)
    if first == last:
        return np.eye(4)
    motion = np.linalg.inv(T_map_sensor[first]) @ T_map_sensor[last]
    share = 1.0 / (last - first)
    one_sweep = np.eye(4)
    one_sweep[:3, :3] = Rotation.from_rotvec(Rotation.from_matrix(motion[:3, :3]).as_rotvec() * share).as_matrix()
    one_sweep[:3, 3] = motion[:3, 3] * share
    return one_sweep


def deskewed(drive: Drive, index: int) -> Sweep:
    """The sweep of a drive without its own motion; time from the points' stamps, from their azimuth where there are none."""
    sweep = drive.read(index)
    time = time_from_azimuth(sweep.points) if sweep.sweep_time is None else sweep.sweep_time
    points = deskew(sweep.points, time, motion_of_sweep(drive.T_map_sensor, index))
    return Sweep(points, sweep.intensity, sweep.labels, sweep.static, sweep.sweep_time)
