"""Where the sensor is: rigid transforms from tf2 where ROS provides it, else from the node's parameters.

A transform is named T_target_source: it takes points of the frame `source` into the frame `target`. Rotations are made
by tf_transformations where ROS provides it and by transforms3d, which it wraps, elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from rclpy.node import Node

TF_WAIT_S = 0.05  # for a transform that comes after its sweep
POSE_HELP = "6 numbers (x, y, z in metres; roll, pitch, yaw in radians) or 7 (x, y, z; quaternion x, y, z, w)"


class FrameError(ValueError):
    """A pose that is none, or a transform that is not known. `fault` is the short name under which diagnostics count it."""

    fault = "no transform"


@dataclass(frozen=True)
class RigidTransform:
    """T_target_source: p_target = rotation @ p_source + translation."""

    rotation: np.ndarray  # (3, 3) float64
    translation: np.ndarray  # (3,) float64 metres

    @classmethod
    def identity(cls) -> RigidTransform:
        return cls(np.eye(3), np.zeros(3))

    @property
    def is_identity(self) -> bool:
        return bool((self.rotation == np.eye(3)).all() and not self.translation.any())

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) float32 of the source in the target frame, float32; computed in float64. The identity copies nothing."""
        if self.is_identity:
            return points
        moved: np.ndarray = (points.astype(np.float64) @ self.rotation.T + self.translation).astype(np.float32)
        return moved


class Frames(Protocol):
    """A source of transforms."""

    def transform(self, target: str, source: str, stamp_ns: int) -> RigidTransform:
        """T_target_source at a time. Raises FrameError where it is not known."""


def pose(values: Sequence[float]) -> RigidTransform:
    """The transform that a pose describes: T_target_sensor of the sensor's pose in the target frame.

    x, y, z (metres), then roll, pitch, yaw (radians, about the fixed axes x, y, z in that order, as URDF has it), or a
    quaternion x, y, z, w.
    """
    numbers = np.asarray(values, np.float64)
    if len(numbers) not in (6, 7) or not np.isfinite(numbers).all():
        raise FrameError(f"sensor_pose: expected {POSE_HELP}, found {list(values)}")
    if len(numbers) == 6:
        return RigidTransform(_rotation_of_angles(numbers[3:]), numbers[:3])
    if not 0.99 < np.linalg.norm(numbers[3:]) < 1.01:
        raise FrameError(f"sensor_pose: expected a quaternion of length 1, found {numbers[3:].tolist()}")
    return RigidTransform(_rotation_of_quaternion(numbers[3:]), numbers[:3])


class FixedFrames:
    """The sensor at a fixed pose, given by the parameter `sensor_pose`, whatever the frames are called."""

    def __init__(self, T_target_sensor: Callable[[], RigidTransform]) -> None:
        """T_target_sensor: gives the pose as it is now; the parameter may change."""
        self._T_target_sensor = T_target_sensor

    def transform(self, target: str, source: str, stamp_ns: int) -> RigidTransform:
        return RigidTransform.identity() if target == source else self._T_target_sensor()


class TfFrames:
    """The transforms that tf2 hears. Its subscriptions live on the node; `transform` may wait, so not in a callback."""

    def __init__(self, node: Node) -> None:
        tf2_ros = _tf2_ros()
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        self._error = tf2_ros.TransformException

    def transform(self, target: str, source: str, stamp_ns: int) -> RigidTransform:
        from rclpy.duration import Duration
        from rclpy.time import Time

        if target == source:
            return RigidTransform.identity()
        try:
            found = self._buffer.lookup_transform(
                target, source, Time(nanoseconds=max(stamp_ns, 0)), Duration(seconds=TF_WAIT_S)
            ).transform
        except self._error as error:
            raise FrameError(f"no transform from {source!r} to {target!r}: {error}") from error
        turn, shift = found.rotation, found.translation
        return RigidTransform(
            _rotation_of_quaternion(np.array([turn.x, turn.y, turn.z, turn.w])), np.array([shift.x, shift.y, shift.z])
        )

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
            "transforms: 'tf' needs tf2_ros, which a ROS installation provides (apt install ros-jazzy-tf2-ros-py); "
            "set transforms to 'parameters' and give sensor_pose"
        ) from error
    return tf2_ros


def _rotation_of_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """Matrix (3, 3) of a quaternion x, y, z, w."""
    x, y, z, w = quaternion
    try:
        from tf_transformations import quaternion_matrix
    except ImportError:
        return np.asarray(_transforms3d().quaternions.quat2mat((w, x, y, z)))
    return np.asarray(quaternion_matrix((x, y, z, w)))[:3, :3]


def _rotation_of_angles(angles: np.ndarray) -> np.ndarray:
    """Matrix (3, 3) of roll, pitch, yaw in radians about fixed axes."""
    if not angles.any():  # the default pose: a node that needs no rotation starts without either package
        return np.eye(3)
    try:
        from tf_transformations import euler_matrix
    except ImportError:
        return np.asarray(_transforms3d().euler.euler2mat(*angles, axes="sxyz"))
    return np.asarray(euler_matrix(*angles, axes="sxyz"))[:3, :3]


def _transforms3d() -> Any:
    try:
        import transforms3d
    except ImportError as error:
        raise FrameError(
            "sensor_pose: a rotation needs tf_transformations or transforms3d: pip install transforms3d"
        ) from error
    return transforms3d
