"""How the node ends: signals, failures to start, and the exit codes that tell them apart."""

import signal
import time

import pytest
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from lidar_completion_evaluation.replay.replay import replay
from lidar_completion_evaluation.replay.result import ReplayError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_cleanly(number, node_process, peer, tiny_model):
    with node_process(model=tiny_model) as process:
        peer.until_connected()
        process.send_signal(number)
        assert process.wait(30) == 0
        peer.until(lambda: peer.values["state"] == "finalized")


def test_a_signal_in_the_middle_of_a_sweep_ends_the_node_cleanly(node_process, peer, tiny_model, street, cloud):
    reliable = {"qos_overrides./velodyne_points.subscription.reliability": "reliable"}
    with node_process(model=tiny_model, steps=8, replication=20, warm_up=False, **reliable) as process:
        peer.until_connected()
        peer.sweeps.publish(cloud(street(rings=32, columns=720)))
        peer.until(lambda: peer.values["sweeps in"] == "1")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"model": "/no/such/model"}, "/no/such/model"),
        ({"steps": 9}, "steps"),
    ],
)
def test_what_prevents_the_start_is_told_with_exit_code_2(parameters, told, node_process, ros, tiny_model):
    with node_process(**{"model": tiny_model, **parameters}) as process:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 2
        assert told in errors
        assert "Traceback" not in errors


def test_without_autostart_the_node_waits_unconfigured(node_process, peer, tiny_model):
    with node_process(model=tiny_model, autostart="false") as process:
        peer.until(lambda: peer.values.get("state") == "unconfigured")
        time.sleep(0.3)
        assert peer.values["state"] == "unconfigured"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.slow
def test_a_node_that_dies_during_a_replay_is_told(node_process, peer, tiny_model, street, cloud, tmp_path):
    typestore = get_typestore(Stores.ROS2_JAZZY)
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/velodyne_points", "sensor_msgs/msg/PointCloud2", typestore=typestore)
        for index in range(50):
            writer.write(topic, 10**18 + index, serialize_message(cloud(street(), stamp_ns=10**18 + index)))
    with node_process(model=tiny_model) as process:
        peer.until(lambda: peer.values.get("state") == "active")
        with pytest.raises(ReplayError, match="last diagnostic"):
            replay(
                tmp_path / "bag",
                tmp_path / "out",
                rate=0,
                progress=lambda done, total: process.kill() if done == 3 else None,
            )
