"""Ego-motion and transforms of one sensor, as the node's parameters configure them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.subscription import Subscription
from std_msgs.msg import Header

from lidar_completion_ros.motion.frames import (
    FixedFrames,
    FrameError,
    Frames,
    TfFrames,
    identity,
    pose,
    tf_is_installed,
)
from lidar_completion_ros.motion.twist import Twist, TwistBuffer
from lidar_completion_ros.parameters import Parameters
from lidar_completion_ros.point_cloud_messages import stamp_ns

if TYPE_CHECKING:
    from nav_msgs.msg import Odometry
    from scipy.spatial.transform import RigidTransform

DEFAULT_BASE_FRAME = "base_link"


class SensorMotion:
    """Where the sensor is and how it moves. Its subscriptions live on the node until `close`."""

    def __init__(self, node: Node, parameters: Callable[[], Parameters]) -> None:
        """Raises FrameError if `target_frame` has no source of transforms."""
        self._node = node
        self._target_frame = parameters().target_frame
        self._twists = TwistBuffer()
        self._frames = _frames(node, parameters)
        self._subscription = self._subscribe(parameters().motion)

    def output_transform(self, header: Header) -> tuple[Header, RigidTransform | None]:
        """The output's header, and the transform of points from the sweep's frame into the output's; None: the same frame."""
        if not self._target_frame:
            return header, None
        T_target_sensor = self._frames.transform(self._target_frame, header.frame_id, stamp_ns(header))
        return Header(stamp=header.stamp, frame_id=self._target_frame), T_target_sensor

    def sensor_twist(self, header: Header) -> Twist | None:
        """The sensor's velocity at the stamp, in its own frame; None if no twist is close enough."""
        twist = self._twists.at(stamp_ns(header))
        if twist is None:
            return None
        sensor = header.frame_id
        return twist.in_sensor_frame(self._frames.transform(twist.frame or sensor, sensor, stamp_ns(header)))

    def up_in_sensor(self, header: Header) -> np.ndarray:
        """The z axis (3,) of `target_frame`, or of base_link without one, in the frame of the sweep. Raises FrameError."""
        target = self._target_frame or DEFAULT_BASE_FRAME
        up: np.ndarray = self._frames.transform(target, header.frame_id, stamp_ns(header)).as_matrix()[2, :3]
        return up

    def clear(self) -> None:
        """Forget all twists, after a jump in time."""
        self._twists.clear()

    def close(self) -> None:
        self._frames.close()
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)

    def _subscribe(self, motion: str) -> Subscription | None:
        if motion == "twist":
            return self._node.create_subscription(TwistStamped, "twist", self._on_twist, qos_profile_sensor_data)
        if motion == "odometry":
            from nav_msgs.msg import Odometry  # optional: not a dependency of rclpy

            return self._node.create_subscription(Odometry, "odometry", self._on_odometry, qos_profile_sensor_data)
        return None

    def _on_twist(self, message: TwistStamped) -> None:
        self._add(message.header, message.twist, message.header.frame_id)

    def _on_odometry(self, message: Odometry) -> None:
        self._add(message.header, message.twist.twist, message.child_frame_id)

    def _add(self, header: Header, twist: Any, frame: str) -> None:
        linear, angular = (np.array([each.x, each.y, each.z]) for each in (twist.linear, twist.angular))
        self._twists.add(Twist(stamp_ns(header), linear, angular, frame))


def _frames(node: Node, parameters: Callable[[], Parameters]) -> Frames:
    """The source of the transforms to `target_frame` and from the frame of the twist."""
    given = parameters()
    if not given.target_frame and given.motion == "none" and given.level_sweep != "pose":
        return FixedFrames(identity)
    identity()  # imports scipy now, not during the first sweep
    has_pose = any(given.sensor_pose[:6])
    if given.transforms == "tf" or (given.transforms == "auto" and not has_pose and tf_is_installed()):
        return TfFrames(node)
    if given.transforms == "auto" and not has_pose and (given.target_frame or given.level_sweep == "pose"):
        needed_by = f"target_frame {given.target_frame!r}" if given.target_frame else "level_sweep 'pose'"
        raise FrameError(
            f"{needed_by}: tf2_ros is not installed and sensor_pose is not given; "
            "set sensor_pose, or set transforms to 'parameters' if the pose is the identity"
        )
    return FixedFrames(lambda: pose(parameters().sensor_pose))
