"""The node with `target_frame: odom` on a moving vehicle. Transforms come from a stand-in for tf2_ros (fixtures/tf_stand_in.py)."""

import numpy as np
import pytest
import tf_stand_in
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import OccupancyGrid
from scipy.spatial.transform import Rotation

from lidar_completion.point_clouds import decode
from lidar_completion_ros.motion import frames

START_NS = 10**18
T_base_sensor = np.array([1.0, 0.0, 1.8])  # upright


def transform(parent: str, child: str, stamp_ns: int, translation, yaw: float = 0.0) -> TransformStamped:
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.header.stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = map(float, translation)
    q.x, q.y, q.z, q.w = map(float, Rotation.from_euler("z", yaw).as_quat())
    return message


@pytest.fixture
def buffer(monkeypatch) -> tf_stand_in.Buffer:
    """The transforms that the node has heard."""
    made = tf_stand_in.Buffer()
    monkeypatch.setattr(tf_stand_in, "Buffer", lambda: made)
    monkeypatch.setattr(frames, "_tf2_ros", lambda: tf_stand_in)
    return made


@pytest.fixture
def vehicle(peer, buffer):
    """Publishes odom -> base_link for a second, 10 m/s ahead from (100, 50) at a yaw of 90°, and base_link -> velodyne."""
    publisher = peer.node.create_publisher(TransformStamped, tf_stand_in.TOPIC, tf_stand_in.QOS)
    publisher.publish(transform("base_link", "velodyne", START_NS, T_base_sensor))

    def drive(seconds):
        for second in seconds:
            stamp_ns = START_NS + round(second * 1e9)
            publisher.publish(transform("odom", "base_link", stamp_ns, (100, 50 + 10 * second, 0), np.pi / 2))

    drive((0.0, 1.0))
    return drive


def in_odom(points: np.ndarray, seconds: float) -> np.ndarray:
    """Points of the sensor in odom: the vehicle's x points along y of odom."""
    x, y, z = (points + T_base_sensor).T
    return np.stack([100 - y, 50 + 10 * seconds + x, z], axis=1)


@pytest.fixture
def complete(start_node, peer, buffer, vehicle):
    """Starts a node that knows the vehicle's transforms; publishes a sweep and returns its completion in odom."""
    start_node(target_frame="odom", transforms="tf", occupancy_resolution_m=0.5)
    peer.until(lambda: sum(map(len, buffer.transforms.values())) == 3)

    def complete_one(sweep):
        peer.sweeps.publish(sweep)
        wanted = (sweep.header.stamp, "odom")
        peer.until(lambda: any((each.header.stamp, each.header.frame_id) == wanted for each in peer.completions))
        return peer.completions[-1]

    return complete_one


@pytest.mark.parametrize("seconds", [0.25, 0.75])
def test_completion_is_in_odom_where_the_vehicle_was_at_the_stamp(complete, street, cloud, seconds):
    sweep = cloud(street(), stamp_ns=START_NS + round(seconds * 1e9))
    completion = complete(sweep)
    out, measured = decode(completion).points, decode(sweep).points
    assert completion.header.stamp == sweep.header.stamp
    np.testing.assert_allclose(out[: len(measured)], in_odom(measured, seconds), rtol=0, atol=1e-4)
    centre = out[len(measured) :].mean(axis=0) - in_odom(np.zeros((1, 3)), seconds)[0]
    assert np.hypot(*centre[:2]) < 20  # completed points are around the sensor, too


def test_occupancy_keeps_its_cells_in_odom(complete, peer, street, cloud):
    grids = peer.listen(OccupancyGrid, "/lidar_completion/occupancy")
    for seconds in (0.2, 0.9):
        seen = len(grids)
        complete(cloud(street(), stamp_ns=START_NS + round(seconds * 1e9)))
        peer.until(lambda seen=seen: len(grids) > seen)
        assert grids[-1].header.frame_id == "odom"
        corner = np.array([grids[-1].info.origin.position.x, grids[-1].info.origin.position.y])
        np.testing.assert_allclose(corner / 0.5, np.round(corner / 0.5), rtol=0, atol=1e-6)
        middle = corner + 0.25 * np.array([grids[-1].info.width, grids[-1].info.height])
        assert np.abs(middle - in_odom(np.zeros((1, 3)), seconds)[0, :2]).max() < 1.0


def test_sweep_without_a_transform_at_its_stamp_is_refused(complete, peer, street, cloud, vehicle, buffer):
    late = cloud(street(), stamp_ns=START_NS + 3 * 10**9)
    peer.sweeps.publish(late)
    peer.until(lambda: peer.counts.refused == 1)
    peer.until(lambda: "no transform" in peer.reports[-1].message)
    vehicle((2.0, 4.0))
    peer.until(lambda: len(buffer.transforms["base_link"]) == 4)
    out = decode(complete(late)).points
    np.testing.assert_allclose(out[: len(street())], in_odom(street(), 3.0), rtol=0, atol=1e-4)
