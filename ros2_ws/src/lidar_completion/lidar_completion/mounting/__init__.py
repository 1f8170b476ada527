"""How the sensor is mounted, estimated from its sweeps.

ground_plane.py  the plane of the ground, and the share of points that others hide
check.py         compares them with what the model card says the model has seen
levelling.py     rotates a sweep before the network and its completion back
"""

from lidar_completion.mounting.check import Confirmation, Finding, Mounting, MountingCheck, findings
from lidar_completion.mounting.ground_plane import SensorView
from lidar_completion.mounting.levelling import Levelling, level_rotation

__all__ = [
    "Confirmation",
    "Finding",
    "Levelling",
    "Mounting",
    "MountingCheck",
    "SensorView",
    "findings",
    "level_rotation",
]
