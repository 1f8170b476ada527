"""Rigid transforms of the sensor, from tf2 or from the parameter `sensor_pose`.

T_target_source takes points of the frame `source` into the frame `target`. Poses are scipy's RigidTransform. Angles and
quaternions are converted by ROS's tf_transformations if it is installed, otherwise by scipy's Rotation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:  # scipy is imported where a transform is made: a node without transforms does not need its 20 MB
    from rclpy.node import Node
    from scipy.spatial.transform import RigidTransform, Rotation

TF_TIMEOUT_S = 0.05  # how long to wait for a transform that arrives after its sweep
POSE_FORMAT = "6 numbers (x, y, z in metres; roll, pitch, yaw in radians) or 7 (x, y, z; quaternion x, y, z, w)"


class FrameError(ValueError):
    """An invalid pose or an unknown transform. `fault` is the short name under which diagnostics count it."""

    fault = "no transform"


class Frames(Protocol):
    """A source of transforms."""

    def transform(self, target: str, source: str, stamp_ns: int) -> RigidTransform:
        """T_target_source at a time. Raises FrameError if it is unknown."""

    def close(self) -> None:
        """Release subscriptions."""


@cache
def identity() -> RigidTransform:
    from scipy.spatial.transform import RigidTransform

    return RigidTransform.identity()


def apply(T_target_source: RigidTransform | None, points: np.ndarray) -> np.ndarray:
    """Points (N, 3) float32 in the target frame, computed in float64; the same array for the identity and for None."""
    if T_target_source is None or is_identity(T_target_source):
        return points
    moved: np.ndarray = T_target_source.apply(points.astype(np.float64)).astype(np.float32)
    return moved


def is_identity(transform: RigidTransform) -> bool:
    return bool((transform.as_matrix() == np.eye(4)).all())


def pose_numbers(values: Sequence[float]) -> np.ndarray:
    """The numbers (6,) or (7,) float64 of a pose as in `pose`. Raises FrameError if the values are not a pose."""
    numbers = np.asarray(values, np.float64)
    if len(numbers) not in (6, 7) or not np.isfinite(numbers).all():
        raise FrameError(f"sensor_pose: expected {POSE_FORMAT}, found {list(values)}")
    if len(numbers) == 7 and not 0.99 < np.linalg.norm(numbers[3:]) < 1.01:
        raise FrameError(f"sensor_pose: expected a quaternion of length 1, found {numbers[3:].tolist()}")
    return numbers


def pose(values: Sequence[float]) -> RigidTransform:
    """T_target_sensor from the sensor's pose in the target frame.

    x, y, z (metres), then roll, pitch, yaw (radians about the fixed axes x, y, z, as in URDF) or a quaternion x, y, z, w.
    Raises FrameError if the values are not a pose.
    """
    from scipy.spatial.transform import RigidTransform

    numbers = pose_numbers(values)
    turn = _rotation_from_angles if len(numbers) == 6 else _rotation_from_quaternion
    return RigidTransform.from_components(numbers[:3], turn(numbers[3:]))


class FixedFrames:
    """A fixed pose of the sensor for any pair of different frames, from the parameter `sensor_pose`."""

    def __init__(self, T_target_sensor: Callable[[], RigidTransform]) -> None:
        """T_target_sensor: returns the current pose, since the parameter may change."""
        self._T_target_sensor = T_target_sensor

    def transform(self, target: str, source: str, stamp_ns: int) -> RigidTransform:
        return identity() if target == source else self._T_target_sensor()

    def close(self) -> None:
        """Nothing to release."""


class TfFrames:
    """Transforms received by tf2. `transform` may wait for `TF_TIMEOUT_S`, so do not call it in a callback of the node."""

    def __init__(self, node: Node) -> None:
        tf2_ros = _tf2_ros()
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        self._error = tf2_ros.TransformException

    def transform(self, target: str, source: str, stamp_ns: int) -> RigidTransform:
        from rclpy.duration import Duration
        from rclpy.time import Time
        from scipy.spatial.transform import RigidTransform

        if target == source:
            return identity()
        time, timeout = Time(nanoseconds=max(stamp_ns, 0)), Duration(seconds=TF_TIMEOUT_S)
        try:
            found = self._buffer.lookup_transform(target, source, time, timeout).transform
        except self._error as error:
            raise FrameError(f"no transform from {source!r} to {target!r}: {error}") from error
        q, t = found.rotation, found.translation
        rotation = _rotation_from_quaternion(np.array([q.x, q.y, q.z, q.w]))
        return RigidTransform.from_components([t.x, t.y, t.z], rotation)

    def close(self) -> None:
        self._listener.unregister()


def tf_is_installed() -> bool:
    try:
        _tf2_ros()
    except FrameError:
        return False
    return True


def _tf2_ros() -> Any:
    try:
        import tf2_ros
    except ImportError as error:
        raise FrameError(
            "transforms: 'tf' needs tf2_ros, which is part of a ROS installation (apt install ros-jazzy-tf2-ros-py); "
            "otherwise set transforms to 'parameters' and give sensor_pose"
        ) from error
    return tf2_ros


def _rotation_from_quaternion(xyzw: np.ndarray) -> Rotation:
    from scipy.spatial.transform import Rotation

    try:
        from tf_transformations import quaternion_matrix
    except ImportError:
        return Rotation.from_quat(xyzw)
    return Rotation.from_matrix(quaternion_matrix(xyzw)[:3, :3])


def _rotation_from_angles(roll_pitch_yaw: np.ndarray) -> Rotation:
    from scipy.spatial.transform import Rotation

    try:
        from tf_transformations import euler_matrix
    except ImportError:
        return Rotation.from_euler("xyz", roll_pitch_yaw)
    return Rotation.from_matrix(euler_matrix(*roll_pitch_yaw, axes="sxyz")[:3, :3])
