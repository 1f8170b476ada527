"""Deskewing: moves each point of a sweep to where it would have been measured at one common time.

The sensor's velocity is assumed constant over a sweep: p' = exp(t (v, w)) p, the exponential of a rigid motion.
"""

from __future__ import annotations

import numpy as np

STILL = 1e-9  # rad: smaller rotations are treated as none


def deskew(points: np.ndarray, seconds: np.ndarray, linear_m_s: np.ndarray, angular_rad_s: np.ndarray) -> np.ndarray:
    """Transform points (N, 3) from the sensor frame at their own time to the sensor frame at time 0; returns float32 metres.

    seconds (N,): time of each point, negative before time 0. linear_m_s, angular_rad_s (3,): the sensor's velocity in its own
    frame. Raises ValueError if the shapes do not match.
    """
    points, seconds = np.asarray(points), np.asarray(seconds, np.float64)
    linear, angular = np.asarray(linear_m_s, np.float64), np.asarray(angular_rad_s, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or seconds.shape != points.shape[:1]:
        raise ValueError(f"points {points.shape} and seconds {seconds.shape}: expected (N, 3) and (N,)")
    if linear.shape != (3,) or angular.shape != (3,):
        raise ValueError(f"linear {linear.shape} and angular {angular.shape} velocity: expected (3,) each")
    p, t, speed = points.astype(np.float64), seconds[:, None], np.linalg.norm(angular)
    if speed * np.abs(seconds).max(initial=0.0) < STILL:
        return (p + t * linear).astype(np.float32)
    axis, angle = angular / speed, speed * t
    # scipy's RigidTransform.from_exp_coords (from 1.16, not in Ubuntu 24.04) gives the same in four times the time
    sine, versine = np.sin(angle), 1.0 - np.cos(angle)
    along = (linear @ axis) * axis
    across, sideways = linear - along, np.cross(axis, linear)
    turned = p + sine * np.cross(axis, p) + versine * ((p @ axis)[:, None] * axis - p)  # Rodrigues
    return (turned + t * along + (sine * across + versine * sideways) / speed).astype(np.float32)


def velocity(T_before_after: np.ndarray, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """The constant velocity, linear (3,) m/s and angular (3,) rad/s in the sensor frame, that gives this motion (4, 4) in `seconds`."""
    from scipy.spatial.transform import Rotation  # here, because the node only deskews

    angular = Rotation.from_matrix(T_before_after[:3, :3]).as_rotvec()
    angle = np.linalg.norm(angular)
    translation = np.asarray(T_before_after[:3, 3], np.float64)
    if angle < STILL:
        return translation / seconds, angular / seconds
    axis = angular / angle
    along = (translation @ axis) * axis
    across = translation - along
    half = angle / 2
    linear = along + half / np.tan(half) * across - half * np.cross(axis, across)
    return linear / seconds, angular / seconds
