"""Bag replay: mcap and sqlite3 bags through a real node over DDS, and errors that name the bag."""

import itertools

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import String
from typer import Typer
from typer.testing import CliRunner

from lidar_completion.point_clouds import decode, returns
from lidar_completion_evaluation.drives.bag import BagError, BagSweeps, cloud_head
from lidar_completion_evaluation.replay.command import bag as bag_command
from lidar_completion_evaluation.replay.command import summary
from lidar_completion_evaluation.replay.player import player_session
from lidar_completion_evaluation.replay.replay import play, replay
from lidar_completion_evaluation.replay.result import ReplayError

FIRST_NS = 1_700_000_000 * 10**9
PERIOD_NS = 10**8
STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}


@pytest.fixture
def make_bag(tmp_path, street, cloud):
    """Writes a bag of small sweeps on the given topics, and a topic of strings."""

    def make(storage="mcap", topics=("/velodyne_points",), sweeps=3):
        path, typestore = tmp_path / f"street_{storage}", get_typestore(Stores.ROS2_JAZZY)
        with Writer(path, version=9, storage_plugin=STORAGES[storage]) as writer:
            chatter = writer.add_connection("/chatter", "std_msgs/msg/String", typestore=typestore)
            writer.write(chatter, FIRST_NS, serialize_message(String(data="hello")))
            for topic in topics:
                connection = writer.add_connection(topic, "sensor_msgs/msg/PointCloud2", typestore=typestore)
                for index in range(sweeps):
                    time_ns = FIRST_NS + index * PERIOD_NS
                    message = cloud(street(seed=index), stamp_ns=time_ns + 5)
                    writer.write(connection, time_ns, serialize_message(message))
        return path

    return make


def read_bag(path):
    with Reader(path) as reader:
        return [(time_ns, deserialize_message(data, PointCloud2)) for _, time_ns, data in reader.messages()]


def assert_same_sweeps(source, result):
    """One completion per sweep, with its bag time, header and points."""
    sweeps = [(time_ns, deserialize_message(cdr, PointCloud2)) for time_ns, cdr in BagSweeps(source, None)]
    completions = read_bag(result.completions)
    assert len(sweeps) == len(completions) == result.completed == len(result.sweeps)
    for (time_ns, sweep), (recorded_ns, completion) in zip(sweeps, completions, strict=True):
        assert recorded_ns == time_ns
        assert completion.header == sweep.header
        measured, out = decode(sweep).points, decode(completion).points
        finite = measured[returns(measured)]
        np.testing.assert_array_equal(out[: len(finite)], finite)
        assert len(out) > len(finite)


@pytest.mark.parametrize("storage", STORAGES)
def test_completes_and_records_every_sweep(storage, make_bag, no_running_node, tiny_model, tmp_path):
    source, played = make_bag(storage), []
    result = replay(
        source,
        tmp_path / "out",
        rate=0,
        model=tiny_model,
        storage=storage,
        on_progress=lambda *counts: played.append(counts),
    )
    assert_same_sweeps(source, result)
    assert (result.input_topic, result.output_topic) == ("/velodyne_points", "/velodyne_points/completed")
    assert (result.dropped, result.refused, result.lost) == (0, 0, 0)
    assert played == [(1, 3), (2, 3), (3, 3)]
    assert all(sweep.points_out > sweep.points_in for sweep in result.sweeps)
    assert 0 < result.latency_ms(50) <= result.latency_ms(100)
    assert result.node.status.model == "tiny"
    assert "3 on /velodyne_points/completed" in summary(result)


def test_uses_running_node(make_bag, node_process, peer, tiny_model, tmp_path):
    source = make_bag(topics=("/points_raw",))
    with node_process(model=tiny_model) as process:
        peer.until(lambda: peer.is_active)
        with pytest.raises(ReplayError, match="already running"):
            replay(source, tmp_path / "other", model=tiny_model)
        peer.until(lambda: peer.status.input_publishers == 1)
        with pytest.raises(ReplayError, match=r"another publisher(: /peer)?;"):
            replay(source, tmp_path / "mixed", rate=0)
        with peer.not_publishing():
            result = replay(source, tmp_path / "out", rate=0)
        assert_same_sweeps(source, result)
        assert process.poll() is None


def test_rejects_truncated_message(tmp_path):
    bag, typestore = tmp_path / "cut", get_typestore(Stores.ROS2_JAZZY)
    with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/velodyne_points", "sensor_msgs/msg/PointCloud2", typestore=typestore)
        writer.write(topic, FIRST_NS, b"\x00\x01\x00\x00" + bytes(10))
    with (
        player_session(None) as player,
        pytest.raises(BagError, match=r"message 1 of /velodyne_points is truncated: 14 b"),
    ):
        play(player, BagSweeps(bag, None), 0.0, None)


def test_reports_node_that_does_not_start(make_bag, no_running_node, tmp_path):
    with pytest.raises(ReplayError, match="exited with code 2"):
        replay(make_bag(), tmp_path / "out", model="/no/such/model")


def test_reads_head_of_cloud_without_decoding(cloud, street):
    for length in range(6):
        message = cloud(street(rings=1 + length), stamp_ns=FIRST_NS + length, frame="x" * length)
        assert cloud_head(serialize_message(message)) == (FIRST_NS + length, message.width)


def test_rejects_unknown_topic(make_bag):
    with pytest.raises(BagError, match=r"/other.*/chatter \(std_msgs/msg/String, 1\), /velodyne_points"):
        BagSweeps(make_bag(), "/other")


def test_several_topics_require_a_choice(make_bag):
    bag = make_bag(topics=("/front", "/rear"))
    with pytest.raises(BagError, match="--topic"):
        BagSweeps(bag, None)
    assert BagSweeps(bag, "/rear").count == 3


@pytest.mark.parametrize("storage", STORAGES)
def test_rejects_damaged_bag(storage, make_bag):
    bag = make_bag(storage)
    (file,) = itertools.chain(bag.glob("*.mcap"), bag.glob("*.db3"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BagError, match=str(bag)):
        list(BagSweeps(bag, None))


def test_rejects_what_is_not_a_bag(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(BagError, match=str(path)):
            BagSweeps(path, None)


def test_does_not_overwrite_output(make_bag, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(BagError, match="exists already"):
        replay(make_bag(), tmp_path / "out")


def test_command_reports_errors_in_one_line(tmp_path):
    app = Typer()
    app.command()(bag_command)
    result = CliRunner().invoke(app, [str(tmp_path / "missing")])
    assert result.exit_code == 2
    assert "missing: no such bag" in result.output
    assert "Traceback" not in result.output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["street_mcap", "street_sqlite3"])
def test_completes_real_bags(name, shared, tiny_model, tmp_path):
    source = shared / "data" / "bags" / name
    assert_same_sweeps(source, replay(source, tmp_path / "out", rate=0, model=tiny_model))
