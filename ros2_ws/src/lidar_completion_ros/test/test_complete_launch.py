"""launch_testing: complete.launch.py starts a node that completes a sweep and ends with exit code 0.

Runs where launch_testing is installed (`colcon test` in a ROS workspace, or launch_test on this file).
"""

import os
import time
import unittest

import numpy as np
import pytest

pytest.importorskip("launch_testing", reason="needs ROS 2 launch_testing")
pytest.importorskip("launch_ros", reason="needs ROS 2 launch_ros")

import launch_testing.actions
import launch_testing.asserts
import launch_testing.markers
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from lidar_completion.point_clouds import allocate_points
from lidar_completion_ros.installed_files import launch_file
from lidar_completion_ros.point_cloud_messages import cloud_message

WAIT_S = 120.0  # loading torch takes long on a busy machine


@pytest.mark.launch_test
@launch_testing.markers.keep_alive
def generate_test_description():
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    arguments = [("namespace", "front"), ("log_level", "info"), ("device", "cpu")]
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(launch_file("complete.launch.py"))), launch_arguments=arguments
    )
    return LaunchDescription([node, launch_testing.actions.ReadyToTest()])


class TestCompleteLaunch(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        rclpy.init()
        cls.node = rclpy.create_node("launch_test")

    @classmethod
    def tearDownClass(cls):
        cls.node.destroy_node()
        rclpy.shutdown()

    def test_a_sweep_is_completed(self):
        completions, states = [], []
        self.node.create_subscription(PointCloud2, "/front/velodyne_points/completed", completions.append, 5)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", lambda array: states.append(array.status[0]), 5)
        publisher = self.node.create_publisher(PointCloud2, "/front/velodyne_points", 5)
        until_s = time.monotonic() + WAIT_S
        while not completions and time.monotonic() < until_s:
            publisher.publish(_street())
            rclpy.spin_once(self.node, timeout_sec=0.5)
        assert completions, f"no completion in {WAIT_S} s; last diagnostic: {states[-1:]}"
        assert completions[0].header.frame_id == "front_lidar"
        assert completions[0].point_step == 24
        assert completions[0].width > len(_street().data) // 16


@launch_testing.post_shutdown_test()
class TestAfterShutdown(unittest.TestCase):
    def test_the_node_ends_cleanly(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info)


def _street():
    """Ground 1.8 m below the sensor and a wall around it at 20 m, with x, y, z, intensity float32."""
    azimuth, ring = np.meshgrid(np.linspace(-np.pi, np.pi, 180), np.arange(16))
    distance = np.minimum(4.0 + 2.0 * ring, 20.0)
    layout = np.dtype([(name, np.float32) for name in ("x", "y", "z", "intensity")])
    buffer, points = allocate_points(azimuth.size, layout)
    points["x"], points["y"] = (distance * np.cos(azimuth)).ravel(), (distance * np.sin(azimuth)).ravel()
    points["z"] = (0.4 * np.maximum(ring - 8, 0) - 1.8).ravel()
    return cloud_message(Header(frame_id="front_lidar"), buffer, layout)
