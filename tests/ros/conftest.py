"""Real ROS for the tests of the node: a DDS domain of their own, node processes, and a peer that talks to them."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

# Before rclpy is imported: the first participant reads it, as it does the domain of tests/conftest.py.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

pytest.importorskip("rclpy", reason="needs ROS 2: pip install 'lidar_completion_ros[ros]'")

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from lidar_completion_ros.__main__ import DEFAULT_REMAPS
from lidar_completion_ros.installed_files import use_shared_memory_profile
from lidar_completion_ros.point_cloud_messages import allocate_points, cloud_message

use_shared_memory_profile(os.environ)

XYZI = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])


@pytest.fixture(scope="session")
def ros():
    """rclpy, initialised for the session."""
    rclpy.init(args=["--ros-args", *DEFAULT_REMAPS], signal_handler_options=SignalHandlerOptions.NO)
    yield rclpy
    rclpy.try_shutdown()


@pytest.fixture(scope="session")
def street():
    """A function that makes the sweep (N, 3) float32 of a sensor 1.8 m above a street between two walls, with noise."""

    def make(seed=0, rings=16, columns=180):
        random = np.random.default_rng(seed)
        azimuth, elevation = np.meshgrid(
            np.linspace(-np.pi, np.pi, columns, endpoint=False), np.radians(np.linspace(-20, 5, rings))
        )
        direction = np.stack(
            [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], -1
        )
        to_ground = np.where(direction[..., 2] < 0, -1.8 / np.minimum(direction[..., 2], -1e-6), np.inf)
        to_wall = 8.0 / np.maximum(np.abs(direction[..., 1]), 1e-6)
        distance = np.minimum(np.minimum(to_ground, to_wall), 45.0) + random.normal(0, 0.02, azimuth.shape)
        return (direction * distance[..., None]).reshape(-1, 3).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def cloud():
    """A function that makes a PointCloud2 (x, y, z, intensity float32) of points (N, 3); intensity counts from 0 to 255."""

    def make(points, stamp_ns=10**18, frame="velodyne"):
        stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        buffer, array = allocate_points(len(points), XYZI)
        for axis, name in enumerate("xyz"):
            array[name] = points[:, axis]
        array["intensity"] = np.arange(len(points)) % 256
        return cloud_message(Header(stamp=stamp, frame_id=frame), buffer, XYZI)

    return make


class Peer:
    """The rest of the vehicle: publishes sweeps, receives completions and diagnostics."""

    def __init__(self, namespace=""):
        self.node = Node("peer", namespace=namespace)
        self.completions: list[PointCloud2] = []
        self.diagnostics: list[DiagnosticStatus] = []
        qos = QoSProfile(depth=5)
        self.sweeps = self.node.create_publisher(PointCloud2, "velodyne_points", qos)
        self.node.create_subscription(PointCloud2, "velodyne_points/completed", self.completions.append, qos)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._hear, 50)
        self._name = f"{namespace.strip('/')}/lidar_completion: completion".lstrip("/")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)

    def _hear(self, message):
        self.diagnostics += [status for status in message.status if status.name == self._name]

    @property
    def values(self):
        return {pair.key: pair.value for pair in self.diagnostics[-1].values} if self.diagnostics else {}

    def until(self, condition, timeout_s=120.0):
        """Spin until the condition holds; fails the test when it does not in time."""
        until_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < until_s, (
                f"did not happen in {timeout_s} s; last diagnostic: {self.diagnostics[-1:]}"
            )
            self.executor.spin_once(timeout_sec=0.05)

    def until_connected(self):
        self.until(
            lambda: (
                self.values.get("state") == "active"
                and self.values["input publishers"] == "1"
                and self.values["output subscribers"] == "1"
                and self.sweeps.get_subscription_count() == 1
            )
        )

    def until_diagnosed(self, condition):
        """Spin until a diagnostic that is yet to come meets the condition, and return it."""
        seen = len(self.diagnostics)
        self.until(lambda: any(condition(status) for status in self.diagnostics[seen:]))
        return next(status for status in self.diagnostics[seen:] if condition(status))

    def complete(self, sweep):
        """Publish a sweep and return its completion."""
        seen = len(self.completions)
        self.sweeps.publish(sweep)
        self.until(lambda: any(each.header == sweep.header for each in self.completions[seen:]))
        return self.completions[-1]

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()


@pytest.fixture(scope="session")
def make_peer(ros):
    """A context manager that makes a `Peer` in a namespace."""

    @contextlib.contextmanager
    def make(namespace=""):
        peer = Peer(namespace)
        try:
            yield peer
        finally:
            peer.close()

    return make


@pytest.fixture
def peer(make_peer):
    with make_peer() as made:
        yield made


@pytest.fixture(scope="session")
def node_process():
    """A context manager that runs the node in a process of its own; keyword arguments are parameters."""

    @contextlib.contextmanager
    def start(namespace="", **parameters):
        values = {"diagnostics_period_s": 0.1, **parameters}
        values = {name: str(value).lower() if isinstance(value, bool) else value for name, value in values.items()}
        arguments = [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]
        if namespace:
            arguments += ["-r", f"__ns:={namespace}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "lidar_completion_ros", "--ros-args", *arguments], stderr=subprocess.PIPE, text=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                _, log = process.communicate(timeout=30)
                print(log or "", file=sys.stderr)  # shown when the test fails
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()

    return start
