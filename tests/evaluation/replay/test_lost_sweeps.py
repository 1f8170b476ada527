"""A replay whose node answers only some of the sweeps, and one whose sweeps share a stamp."""

import threading
import time
from contextlib import suppress

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import PointCloud2
from typer import Typer
from typer.testing import CliRunner

from lidar_completion_evaluation.replay.command import LOST
from lidar_completion_evaluation.replay.command import bag as bag_command
from lidar_completion_ros.status import NodeStatus, SweepCounts, diagnostic_status

FIRST_NS = 10**18


class AnsweringNode:
    """Stands in for the node: returns the n-th sweep as its completion if answers[n]; counts the others as `unanswered`."""

    def __init__(self, answers, unanswered):
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("lidar_completion", context=self.context)
        self.answers, self.unanswered = list(answers), unanswered
        self.counts = {"received": 0, "completed": 0, "dropped": 0}
        self.sweeps = self.node.create_subscription(PointCloud2, "/velodyne_points", self.receive, 10)
        self.completions = self.node.create_publisher(PointCloud2, "/velodyne_points/completed", 10)
        self.labels = self.node.create_publisher(DiagnosticArray, "/lidar_completion/debug/sweep", 10)
        self.diagnostics = self.node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.node.create_timer(0.1, self.report)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.spin)

    def spin(self):
        with suppress(ExternalShutdownException):
            self.executor.spin()

    def receive(self, message):
        answered = self.answers[self.counts["received"]]
        self.counts["received"] += 1
        self.counts["completed" if answered else self.unanswered] += 1
        if answered:
            self.completions.publish(message)

    def report(self):
        status = NodeStatus(
            state="active",
            input_topic="/velodyne_points",
            output_topic="/velodyne_points/completed",
            input_publishers=self.sweeps.get_publisher_count(),
            output_subscribers=self.completions.get_subscription_count(),
        )
        values = status.to_key_values() | SweepCounts(**self.counts).to_key_values()
        name = "lidar_completion: completion"
        self.diagnostics.publish(
            DiagnosticArray(status=[diagnostic_status(name, DiagnosticStatus.OK, "completing", values)])
        )

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        rclpy.try_shutdown(context=self.context)
        self.thread.join(10)
        self.node.destroy_node()


@pytest.fixture
def replay_bag(ros, cloud, street, tmp_path, monkeypatch):
    """Runs the command `bag` on sweeps with these stamps, while a node with these answers runs; returns its result."""

    def run(answers, stamps_ns, unanswered="completed"):
        with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            typestore = get_typestore(Stores.ROS2_JAZZY)
            topic = writer.add_connection("/velodyne_points", "sensor_msgs/msg/PointCloud2", typestore=typestore)
            for index, stamp_ns in enumerate(stamps_ns):
                writer.write(topic, FIRST_NS + index, serialize_message(cloud(street(), stamp_ns=stamp_ns)))
        monkeypatch.chdir(tmp_path)
        app = Typer()
        app.command()(bag_command)
        with AnsweringNode(answers, unanswered):
            time.sleep(0.5)  # discovery: with a node in sight, the replay starts none
            return CliRunner().invoke(app, ["bag", "--rate", "0", "--output", "out", "--wait-for-node"])

    return run


def test_lost_sweeps_are_an_error(replay_bag):
    """The node counts three completions, but two arrive."""
    result = replay_bag([True, False, True], [FIRST_NS, FIRST_NS + 1, FIRST_NS + 2])
    assert result.exit_code == LOST != 0
    assert "1 of 3 sweeps were lost" in result.output
    assert "Traceback" not in result.output


def test_dropped_sweeps_are_no_error(replay_bag):
    result = replay_bag([True, False, True], [FIRST_NS, FIRST_NS + 1, FIRST_NS + 2], unanswered="dropped")
    assert result.exit_code == 0, result.output
    assert "1 replaced by a newer sweep" in result.output


def test_every_sweep_of_a_repeated_stamp_is_answered(replay_bag):
    result = replay_bag([True] * 3, [0, 0, 0])
    assert result.exit_code == 0, result.output
    assert "3 on /velodyne_points/completed" in result.output
