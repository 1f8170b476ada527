"""Faults around a running node: a killed driver, clock jumps, looping bags, damaged model files, a full disk."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from std_srvs.srv import Trigger

from lidar_completion_evaluation.replay.replay import replay
from lidar_completion_evaluation.replay.result import ReplayError

rosgraph_msgs = pytest.importorskip("rosgraph_msgs.msg", reason="needs rosgraph_msgs for /clock")

RELIABLE = {"qos_overrides./velodyne_points.subscription.reliability": "reliable"}
HOUR_NS = 3600 * 10**9

# A LiDAR driver in its own process that publishes five sweeps a second.
DRIVER = """
import sys, time, rclpy
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import PointCloud2
rclpy.init()
node = rclpy.create_node("driver")
publisher = node.create_publisher(PointCloud2, "velodyne_points", QoSProfile(depth=1))
sweep = deserialize_message(open(sys.argv[1], "rb").read(), PointCloud2)
while True:
    sweep.header.stamp.sec += 1
    publisher.publish(sweep)
    time.sleep(0.2)
"""


@contextmanager
def driver(file):
    process = subprocess.Popen([sys.executable, "-c", DRIVER, str(file)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    """A model folder that tests may damage."""
    folder = tmp_path_factory.mktemp("damaged") / "tiny"
    shutil.copytree(tiny_model, folder)
    return folder


@pytest.fixture(scope="module")
def node(node_process, model):
    """One node for all tests of this file; it has to survive each of them."""
    with node_process(model=model, warm_up="false", sweep_timeout_s=1.0, use_sim_time="true", **RELIABLE) as process:
        yield process
        assert process.poll() is None


def test_driver_is_killed_and_restarted(node, peer, street, cloud, tmp_path):
    file = tmp_path / "sweep.cdr"
    file.write_bytes(serialize_message(cloud(street())))
    for _ in range(2):
        seen = len(peer.completions)
        with driver(file) as process:
            peer.until(lambda seen=seen: len(peer.completions) >= seen + 2)
            process.send_signal(signal.SIGKILL)
        assert peer.until_reported(lambda report: "waiting for sweeps" in report.message).level == 1
    assert node.poll() is None


def test_looping_bag_is_completed_in_every_round(node, peer, street, cloud):
    peer.until_connected()
    before = peer.counts.stamp_jumps
    sweeps = [cloud(street(seed=index), stamp_ns=2 * 10**18 + index * 10**8) for index in range(3)]
    for _ in range(3):
        for sweep in sweeps:
            peer.complete(sweep)
    peer.until(lambda: peer.counts.stamp_jumps >= before + 2)
    peer.complete(cloud(street(), stamp_ns=2 * 10**18 + 10**9))


def test_clock_jumps_back_an_hour(node, peer, street, cloud):
    clock = peer.node.create_publisher(rosgraph_msgs.Clock, "/clock", 10)
    peer.until_connected()
    peer.until(lambda: clock.get_subscription_count() == 1)
    now_ns = 2 * 10**18 + 10**16
    for jump_ns in (0, 10**9, -HOUR_NS, 2 * HOUR_NS):
        now_ns += jump_ns
        message = rosgraph_msgs.Clock()
        message.clock.sec, message.clock.nanosec = now_ns // 10**9, now_ns % 10**9
        clock.publish(message)
        assert peer.until_reported(lambda report: True).level < 2  # reports use steady time
        peer.complete(cloud(street(), stamp_ns=now_ns))
    peer.until_reported(lambda report: report.level == 0)


@pytest.mark.parametrize("fault", ["truncated", "deleted", "random bytes"])
def test_damaged_model_file_leaves_the_model_in_use(fault, node, peer, model, tiny_model, street, cloud):
    peer.until_connected()
    weights = model / "model.safetensors"
    if fault == "truncated":
        os.truncate(weights, weights.stat().st_size // 2)  # in place: a mapped file would end the process with SIGBUS
    elif fault == "deleted":
        weights.unlink()
    else:
        weights.write_bytes(b"\xff" * 5000)
    stamp_ns = 2 * 10**18 + 2 * 10**16
    peer.complete(cloud(street(), stamp_ns=stamp_ns))
    assert not peer.call(Trigger, "reload_model", Trigger.Request()).success
    assert peer.until_reported(lambda report: str(weights) in report.message).level == 1
    peer.complete(cloud(street(), stamp_ns=stamp_ns + 1))  # with the old model
    shutil.copyfile(tiny_model / "model.safetensors", weights)
    assert peer.call(Trigger, "reload_model", Trigger.Request()).success
    peer.until_reported(lambda report: not report.status.model_error)
    peer.complete(cloud(street(), stamp_ns=stamp_ns + 2))
    assert node.poll() is None


def test_full_disk_ends_the_recording_but_not_the_node(node, peer, street, cloud, tmp_path):
    peer.until_connected()
    typestore = get_typestore(Stores.ROS2_JAZZY)
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/velodyne_points", "sensor_msgs/msg/PointCloud2", typestore=typestore)
        for index in range(20):
            stamp_ns = 2 * 10**18 + 3 * 10**16 + index
            writer.write(topic, stamp_ns, serialize_message(cloud(street(), stamp_ns=stamp_ns)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(done, total):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # no file may grow beyond it, as on a full disk

    for storage in ("mcap", "sqlite3"):
        try:
            refused = pytest.raises(ReplayError, match=rf"{tmp_path / storage}: the completions cannot be recorded")
            with refused, peer.not_publishing():
                replay(tmp_path / "bag", tmp_path / storage, rate=0, storage=storage, on_progress=fill_the_disk)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    peer.until_connected()
    peer.complete(cloud(street(), stamp_ns=2 * 10**18 + 4 * 10**16))
    assert node.poll() is None
