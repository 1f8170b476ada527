"""The view follows what a node publishes."""

import threading

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: pip install 'lidar_completion_ros[ros]'")

from rclpy.context import Context  # noqa: E402
from rclpy.qos import qos_profile_sensor_data  # noqa: E402
from sensor_msgs.msg import PointCloud2, PointField  # noqa: E402

from lidar_completion_evaluation.view import live  # noqa: E402

LAYOUT = np.dtype(
    {
        "names": ["x", "y", "z", "intensity", "provenance", "confidence"],
        "formats": ["<f4", "<f4", "<f4", "<f4", "u1", "<f4"],
        "offsets": [0, 4, 8, 12, 16, 20],
        "itemsize": 24,
    }
)
KINDS = {"float32": PointField.FLOAT32, "uint8": PointField.UINT8}


def completion() -> PointCloud2:
    """Three measured points, then five completed ones of confidence 0.5."""
    rows = np.zeros(8, LAYOUT)
    rows["x"], rows["provenance"][3:], rows["confidence"] = np.arange(8), 1, 0.5
    message = PointCloud2(height=1, width=8, point_step=24, row_step=192, data=rows.tobytes())
    for name in LAYOUT.names:
        kind, offset = LAYOUT.fields[name][:2]
        message.fields.append(PointField(name=name, offset=offset, datatype=KINDS[kind.name], count=1))
    message.header.stamp.sec = 7
    return message


@pytest.fixture
def node():
    """A stand-in for the completion node, which publishes its outputs ten times a second."""
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node(live.NODE_NAME, context=context)
    whole = node.create_publisher(PointCloud2, "/velodyne_points/completed", qos_profile_sensor_data)
    node.create_publisher(PointCloud2, "~/points_completed", qos_profile_sensor_data)
    stop = threading.Event()

    def publish() -> None:
        while not stop.wait(0.1):
            whole.publish(completion())

    thread = threading.Thread(target=publish)
    thread.start()
    yield node
    stop.set()
    thread.join()
    node.destroy_node()
    context.try_shutdown()


@pytest.mark.parametrize("topic", [None, "/velodyne_points/completed"])
def test_completions_of_the_node_are_shown(node, topic):
    shown = []
    live.follow(shown.append, topic, stop=lambda: len(shown) > 1)
    assert shown[0].title == "/velodyne_points/completed, stamp 7.000000000"
    np.testing.assert_array_equal(shown[0].measured[:, 0], [0, 1, 2])
    np.testing.assert_array_equal(shown[0].completed[:, 0], [3, 4, 5, 6, 7])
    np.testing.assert_array_equal(shown[0].confidence, 0.5)


def test_waits_for_the_node_and_says_so(monkeypatch):
    monkeypatch.setattr(live, "DISCOVERY_S", 0.5)
    said: list[str] = []
    live.follow(pytest.fail, stop=lambda: bool(said), on_wait=said.append)
    assert "waiting for a node named lidar_completion (PointCloud2 topics now: none)" in said[0]
