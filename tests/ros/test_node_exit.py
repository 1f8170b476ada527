"""How the node ends: signals, failures to start, and exit codes."""

import signal
import time

import pytest
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from lidar_completion_evaluation.replay.replay import replay
from lidar_completion_evaluation.replay.result import ReplayError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_node(number, node_process, peer, tiny_model):
    with node_process(model=tiny_model) as process:
        peer.until_connected()
        process.send_signal(number)
        assert process.wait(30) == 0
        peer.until(lambda: peer.status.state == "finalized")


def test_signal_during_a_sweep_ends_the_node(node_process, peer, tiny_model, street, cloud):
    reliable = {"qos_overrides./velodyne_points.subscription.reliability": "reliable"}
    with node_process(model=tiny_model, steps=8, replication=20, warm_up=False, **reliable) as process:
        peer.until_connected()
        peer.sweeps.publish(cloud(street(rings=32, columns=720)))
        peer.until(lambda: peer.counts.received == 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"model": "/no/such/model"}, "/no/such/model"),
        ({"steps": 9}, "steps"),
    ],
)
def test_failure_to_start_exits_with_2_and_the_reason(parameters, reason, node_process, ros, tiny_model):
    with node_process(**{"model": tiny_model, **parameters}) as process:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 2
        assert reason in errors
        assert "Traceback" not in errors


def test_without_autostart_the_node_stays_unconfigured(node_process, peer, tiny_model):
    with node_process(model=tiny_model, autostart="false") as process:
        peer.until(lambda: peer.status.state == "unconfigured")
        time.sleep(0.3)
        assert peer.status.state == "unconfigured"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])  # SIGINT: the last diagnostic says "finalized"
def test_replay_reports_a_node_that_dies(number, node_process, peer, tiny_model, street, cloud, tmp_path):
    typestore = get_typestore(Stores.ROS2_JAZZY)
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/velodyne_points", "sensor_msgs/msg/PointCloud2", typestore=typestore)
        for index in range(50):
            writer.write(topic, 10**18 + index, serialize_message(cloud(street(), stamp_ns=10**18 + index)))
    with node_process(model=tiny_model) as process:
        peer.until(lambda: peer.is_active)
        with pytest.raises(ReplayError, match="last diagnostic"), peer.not_publishing():
            replay(
                tmp_path / "bag",
                tmp_path / "out",
                rate=0,
                on_progress=lambda done, total: process.send_signal(number) if done == 3 else None,
            )
