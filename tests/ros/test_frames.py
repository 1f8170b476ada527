"""Frames: poses in, points moved, and clear words where a transform is not known."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lidar_completion_ros.frames import FixedFrames, FrameError, RigidTransform, TfFrames, pose, tf_is_installed
from lidar_completion_ros.motion import KEPT, Motion, Twist

pytest.importorskip("transforms3d", reason="rotations need transforms3d or tf_transformations")

angles = st.floats(-np.pi, np.pi)


def turned(axis, angle):
    """Right-handed rotation about a coordinate axis, written out."""
    c, s = np.cos(angle), np.sin(angle)
    matrices = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }
    return np.array(matrices[axis])


@given(roll=angles, pitch=angles, yaw=angles)
def test_angles_turn_about_fixed_axes_as_in_urdf(roll, pitch, yaw):
    found = pose([1, 2, 3, roll, pitch, yaw])
    np.testing.assert_allclose(
        found.rotation, turned("z", yaw) @ turned("y", pitch) @ turned("x", roll), rtol=0, atol=1e-12
    )
    np.testing.assert_array_equal(found.translation, [1, 2, 3])


@given(angle=angles)
def test_a_quaternion_is_read_as_x_y_z_w(angle):
    found = pose([0, 0, 0, 0, 0, np.sin(angle / 2), np.cos(angle / 2)])
    np.testing.assert_allclose(found.rotation, turned("z", angle), rtol=0, atol=1e-12)


def test_a_point_moves_from_the_sensor_into_the_target_frame():
    """A sensor 2 m up that looks to the left: what lies ahead of it lies to the left of the vehicle."""
    T_base_sensor = pose([0, 0, 2, 0, 0, np.pi / 2])
    moved = T_base_sensor.apply(np.array([[3, 0, 0]], np.float32))
    np.testing.assert_allclose(moved, [[0, 3, 2]], rtol=0, atol=1e-6)
    assert moved.dtype == np.float32


def test_the_identity_keeps_every_bit():
    points = np.array([[1e-30, np.nan, 3.3]], np.float32)
    assert RigidTransform.identity().apply(points) is points
    assert pose([0] * 6).is_identity


def test_a_pose_without_a_rotation_needs_no_package_for_rotations(monkeypatch):
    """A node with default parameters starts in any ROS installation."""
    for package in ("tf_transformations", "transforms3d"):
        monkeypatch.setitem(sys.modules, package, None)
    assert pose([0] * 6).is_identity
    np.testing.assert_array_equal(pose([1, 2, 3, 0, 0, 0]).translation, [1, 2, 3])
    with pytest.raises(FrameError, match="pip install transforms3d"):
        pose([0, 0, 0, 0, 0, 1])


@pytest.mark.parametrize(
    "values", [[0] * 5, [0] * 8, [0, 0, 0, 0, 0, np.nan], [0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1]]
)
def test_what_is_no_pose_is_refused_by_the_parameter_s_name(values):
    with pytest.raises(FrameError, match="sensor_pose"):
        pose(values)


def test_fixed_frames_move_into_the_target_and_nothing_else():
    frames = FixedFrames(lambda: pose([1, 0, 0, 0, 0, 0]))
    assert frames.transform("base_link", "base_link", 0).is_identity
    np.testing.assert_array_equal(frames.transform("base_link", "velodyne", 0).translation, [1, 0, 0])


def test_tf_hears_a_static_transform(ros):
    pytest.importorskip("tf2_ros", reason="needs tf2_ros, which no wheel provides")
    from geometry_msgs.msg import TransformStamped
    from rclpy.executors import SingleThreadedExecutor
    from tf2_ros import StaticTransformBroadcaster

    node = ros.create_node("listens")
    frames, broadcaster = TfFrames(node), StaticTransformBroadcaster(node)
    message = TransformStamped(child_frame_id="velodyne")
    message.header.frame_id = "base_link"
    message.transform.translation.z = 1.8
    broadcaster.sendTransform(message)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    for _ in range(50):
        executor.spin_once(timeout_sec=0.1)
    assert frames.transform("base_link", "velodyne", 10**18).translation[2] == pytest.approx(1.8)
    with pytest.raises(FrameError, match="no transform"):
        frames.transform("map", "velodyne", 10**18)
    node.destroy_node()


@pytest.mark.skipif(tf_is_installed(), reason="tf2_ros is installed here")
def test_without_tf2_ros_tf_says_what_to_do():
    with pytest.raises(FrameError, match="sensor_pose"):
        TfFrames(None)


def twist(stamp_ns, linear=(10, 0, 0), angular=(0, 0, 0)):
    return Twist(stamp_ns, np.array(linear, np.float64), np.array(angular, np.float64), "base_link")


def test_the_twist_nearest_to_a_stamp_is_found():
    motion = Motion()
    for stamp_ns in (0, 10**8, 2 * 10**8):
        motion.add(twist(stamp_ns))
    assert motion.at(14 * 10**7).stamp_ns == 10**8
    assert motion.at(10**9) is None
    motion.clear()
    assert motion.at(0) is None


def test_a_jump_back_in_time_forgets_what_was_before_and_nonsense_is_not_kept():
    motion = Motion()
    motion.add(twist(10**12))
    motion.add(twist(10**9))
    motion.add(twist(11 * 10**8, linear=(np.nan, 0, 0)))
    assert motion.at(10**12) is None
    assert motion.at(11 * 10**8).stamp_ns == 10**9
    for index in range(2 * KEPT):
        motion.add(twist(10**9 + index))
    assert len(motion._twists) == KEPT


def test_a_sensor_ahead_of_the_axle_moves_sideways_in_a_turn():
    """Ten metres a second forward, turning left with 0.5 rad/s; the sensor is 2 m ahead and looks to the left."""
    found = twist(0, (10, 0, 0), (0, 0, 0.5)).seen_from(pose([2, 0, 0, 0, 0, np.pi / 2]))
    np.testing.assert_allclose(found.linear, [1, -10, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.angular, [0, 0, 0.5], rtol=0, atol=1e-12)
