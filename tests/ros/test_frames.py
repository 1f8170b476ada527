"""Poses, transforms and twists of the sensor."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lidar_completion_ros.motion import frames
from lidar_completion_ros.motion.frames import (
    FixedFrames,
    FrameError,
    TfFrames,
    identity,
    is_identity,
    pose,
    tf_is_installed,
)
from lidar_completion_ros.motion.twist import MAX_TWISTS, Twist, TwistBuffer

angles = st.floats(-np.pi, np.pi)


def turned(axis, angle):
    """Right-handed rotation matrix about a coordinate axis."""
    c, s = np.cos(angle), np.sin(angle)
    matrices = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }
    return np.array(matrices[axis])


@given(roll=angles, pitch=angles, yaw=angles)
def test_angles_are_about_fixed_axes_as_in_urdf(roll, pitch, yaw):
    found = pose([1, 2, 3, roll, pitch, yaw])
    np.testing.assert_allclose(
        found.rotation.as_matrix(), turned("z", yaw) @ turned("y", pitch) @ turned("x", roll), rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(found.translation, [1, 2, 3])


@given(angle=angles)
def test_quaternion_order_is_x_y_z_w(angle):
    found = pose([0, 0, 0, 0, 0, np.sin(angle / 2), np.cos(angle / 2)])
    np.testing.assert_allclose(found.rotation.as_matrix(), turned("z", angle), rtol=0, atol=1e-12)


def test_point_moves_from_the_sensor_into_the_target_frame():
    """The sensor is 2 m up and turned to the left: a point ahead of it is to the left of the vehicle."""
    T_base_sensor = pose([0, 0, 2, 0, 0, np.pi / 2])
    moved = frames.apply(T_base_sensor, np.array([[3, 0, 0]], np.float32))
    np.testing.assert_allclose(moved, [[0, 3, 2]], rtol=0, atol=1e-6)
    assert moved.dtype == np.float32


def test_identity_keeps_every_bit():
    points = np.array([[1e-30, np.nan, 3.3]], np.float32)
    assert frames.apply(identity(), points) is points
    assert frames.apply(None, points) is points
    assert is_identity(pose([0] * 6))


@given(roll=angles, pitch=angles, yaw=angles)
def test_rotations_agree_with_tf_transformations(roll, pitch, yaw):
    oracle = pytest.importorskip("tf_transformations", reason="needs tf_transformations, which is not on PyPI")
    expected = oracle.euler_matrix(roll, pitch, yaw, axes="sxyz")[:3, :3]
    np.testing.assert_allclose(Rotation.from_euler("xyz", [roll, pitch, yaw]).as_matrix(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "values", [[0] * 5, [0] * 8, [0, 0, 0, 0, 0, np.nan], [0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1]]
)
def test_invalid_pose_is_refused(values):
    with pytest.raises(FrameError, match="sensor_pose"):
        pose(values)


def test_fixed_frames_apply_to_different_frames_only():
    fixed = FixedFrames(lambda: pose([1, 0, 0, 0, 0, 0]))
    assert is_identity(fixed.transform("base_link", "base_link", 0))
    np.testing.assert_array_equal(fixed.transform("base_link", "velodyne", 0).translation, [1, 0, 0])


def test_tf_receives_a_static_transform(ros):
    pytest.importorskip("tf2_ros", reason="needs tf2_ros, which is not on PyPI")
    from geometry_msgs.msg import TransformStamped
    from rclpy.executors import SingleThreadedExecutor
    from tf2_ros import StaticTransformBroadcaster

    node = ros.create_node("listens")
    transforms, broadcaster = TfFrames(node), StaticTransformBroadcaster(node)
    message = TransformStamped(child_frame_id="velodyne")
    message.header.frame_id = "base_link"
    message.transform.translation.z = 1.8
    broadcaster.sendTransform(message)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    for _ in range(50):
        executor.spin_once(timeout_sec=0.1)
    assert transforms.transform("base_link", "velodyne", 10**18).translation[2] == pytest.approx(1.8)
    with pytest.raises(FrameError, match="no transform"):
        transforms.transform("map", "velodyne", 10**18)
    node.destroy_node()


@pytest.mark.skipif(tf_is_installed(), reason="tf2_ros is installed here")
def test_tf_without_tf2_ros_says_what_to_do():
    with pytest.raises(FrameError, match="sensor_pose"):
        TfFrames(None)


def twist(stamp_ns, linear=(10, 0, 0), angular=(0, 0, 0)):
    return Twist(stamp_ns, np.array(linear, np.float64), np.array(angular, np.float64), "base_link")


def test_nearest_twist_is_found():
    motion = TwistBuffer()
    for stamp_ns in (0, 10**8, 2 * 10**8):
        motion.add(twist(stamp_ns))
    assert motion.at(14 * 10**7).stamp_ns == 10**8
    assert motion.at(10**9) is None
    motion.clear()
    assert motion.at(0) is None


def test_jump_back_in_time_clears_the_buffer_and_nan_is_ignored():
    motion = TwistBuffer()
    motion.add(twist(10**12))
    motion.add(twist(10**9))
    motion.add(twist(11 * 10**8, linear=(np.nan, 0, 0)))
    assert motion.at(10**12) is None
    assert motion.at(11 * 10**8).stamp_ns == 10**9
    for index in range(2 * MAX_TWISTS):
        motion.add(twist(10**9 + index))
    assert len(motion) == MAX_TWISTS


def test_sensor_ahead_of_the_axle_moves_sideways_in_a_turn():
    """10 m/s forward, turning left at 0.5 rad/s; the sensor is 2 m ahead and turned to the left."""
    found = twist(0, (10, 0, 0), (0, 0, 0.5)).in_sensor_frame(pose([2, 0, 0, 0, 0, np.pi / 2]))
    np.testing.assert_allclose(found.linear, [1, -10, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.angular, [0, 0, 0.5], rtol=0, atol=1e-12)


def test_constant_twist_moves_a_frame_along_a_circle():
    quarter = Twist(0, np.array([np.pi / 2, 0.0, 0.0]), np.array([0.0, 0.0, np.pi / 2]), "velodyne").integrated(1.0)
    np.testing.assert_allclose(quarter[:3, 3], [1.0, 1.0, 0.0], atol=1e-9)  # radius 1 m, a quarter turn to the left
    np.testing.assert_allclose(quarter[:3, :3], turned("z", np.pi / 2), atol=1e-9)
