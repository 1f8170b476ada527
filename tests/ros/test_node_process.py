"""The node as its users run it: a process of its own, real sweeps and real rubbish over DDS."""

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.serialization import serialize_message
from sensor_msgs.msg import PointField

from lidar_completion.point_cloud_files import read_points
from lidar_completion_ros.point_cloud_messages import read_sweep

# Best effort loses sweeps on a machine that is busy otherwise; what is sent here has to arrive.
RELIABLE = {"qos_overrides./velodyne_points.subscription.reliability": "reliable"}


@pytest.fixture(scope="module")
def node(node_process, tiny_model):
    """One node for all tests of this file that leave it alive."""
    with node_process(model=tiny_model, **RELIABLE) as process:
        yield process


@pytest.fixture
def vehicle(node, peer):
    """A peer that the node sees, and that sees the node."""
    peer.until_connected()
    return peer


def columns(message):
    """The output's provenance and confidence, read at the offsets of the contract."""
    cloud = np.frombuffer(message.data, np.uint8).reshape(-1, message.point_step)
    return cloud[:, 16], cloud[:, 20:24].copy().view(np.float32)[:, 0]


def assert_completes(sweep, completion):
    """Stamp and frame are kept, every finite measured point passes through bit by bit, and the labels are right."""
    measured, out = read_sweep(sweep), read_sweep(completion)
    finite = np.isfinite(measured.points).all(axis=1)
    provenance, confidence = columns(completion)
    assert completion.header == sweep.header
    assert (completion.point_step, completion.height) == (24, 1)
    np.testing.assert_array_equal(out.points[provenance == 0], measured.points[finite])
    np.testing.assert_array_equal(out.intensity[provenance == 0], measured.intensity[finite])
    assert (provenance == 1).sum() > 0
    assert set(np.unique(provenance)) == {0, 1}
    assert np.isfinite(out.points).all()
    assert (confidence[provenance == 0] == 1).all()
    assert ((confidence >= 0) & (confidence <= 1)).all()


def test_every_completion_belongs_to_its_sweep(vehicle, street, cloud):
    for index in range(4):
        points = street(seed=index)
        points[::50] = np.nan
        sweep = cloud(points, stamp_ns=10**18 + index * 10**8, frame=f"velodyne_{index}")
        assert_completes(sweep, vehicle.complete(sweep))


def test_real_sweeps_are_completed(vehicle, cloud, shared):
    drive = sorted((shared / "data" / "sequences" / "91" / "velodyne").glob("*.bin"))[:2]
    assert drive
    for index, path in enumerate(drive):
        sweep = cloud(read_points(path).points, stamp_ns=1_200_000_000 * 10**9 + index)
        assert_completes(sweep, vehicle.complete(sweep))


def test_the_newest_sweep_wins(vehicle, street, cloud):
    """Of a burst, the last sweep is completed, in its turn, and most of those before are not."""
    first_ns = 1_300_000_000 * 10**9
    burst = [cloud(street(), stamp_ns=first_ns + index) for index in range(20)]
    for sweep in burst:
        vehicle.sweeps.publish(sweep)
    vehicle.until(lambda: any(each.header == burst[-1].header for each in vehicle.completions))
    stamps = [each.header.stamp.nanosec for each in vehicle.completions]
    assert stamps == sorted(set(stamps))
    assert len(stamps) < len(burst)


def set_message(**changes):
    def change(message):
        for name, value in changes.items():
            setattr(message, name, value)

    return change


def all_nan(message):
    message.data = np.full(len(message.data) // 4, np.nan, np.float32).tobytes()


def x_as_uint8(message):
    message.fields[0].datatype = PointField.UINT8


def five_million_points(message):
    message.width, message.row_step = 5_000_000, 5_000_000 * message.point_step
    message.data = bytes(message.row_step)


RUBBISH = {
    "nothing to complete: empty": (set_message(width=0, row_step=0, data=b""), "none of 0 points"),
    "nothing to complete: all NaN": (all_nan, "points is finite"),
    "no x field": (lambda message: setattr(message, "fields", message.fields[1:]), "no x field"),
    "point_step 0": (set_message(point_step=0, row_step=0), "point_step 0"),
    "data too short": (lambda message: setattr(message, "data", message.data[:-1]), "data too short"),
    "type of field x": (x_as_uint8, "type of field x"),
    "too many points": (five_million_points, "too many points"),
}


@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_is_diagnosed_and_the_next_good_sweep_is_completed(name, vehicle, node, street, cloud):
    spoil, told = RUBBISH[name]
    rubbish = cloud(street(), stamp_ns=1_400_000_000 * 10**9)
    spoil(rubbish)
    vehicle.sweeps.publish(rubbish)
    status = vehicle.until_diagnosed(lambda status: status.level == DiagnosticStatus.ERROR)
    assert told in status.message
    counts = {pair.key: pair.value for pair in status.values}
    assert int(counts[f"refused: {name.split(':')[0]}"]) > 0
    good = cloud(street(), stamp_ns=1_400_000_000 * 10**9 + 1)
    assert_completes(good, vehicle.complete(good))
    vehicle.until_diagnosed(lambda status: status.level == DiagnosticStatus.OK)
    assert node.poll() is None


@pytest.mark.parametrize("size", [4, 30, 3000])
def test_bytes_that_are_no_message_do_no_harm(size, vehicle, node, street, cloud):
    """The middleware drops what it cannot deserialise before the node sees it: no diagnostic, and no crash."""
    vehicle.sweeps.publish(serialize_message(cloud(street()))[:size])
    good = cloud(street(), stamp_ns=1_500_000_000 * 10**9 + size)
    assert_completes(good, vehicle.complete(good))
    assert node.poll() is None


def test_a_stamp_that_goes_backwards_is_diagnosed_and_the_sweep_is_completed(vehicle, street, cloud):
    vehicle.complete(cloud(street(), stamp_ns=1_600_000_000 * 10**9))
    seen = len(vehicle.diagnostics)
    for stamp_ns in (1_600_000_000 * 10**9 - 3600 * 10**9, -(10**9)):
        early = cloud(street(), stamp_ns=stamp_ns)
        assert_completes(early, vehicle.complete(early))
    vehicle.until(lambda: any("stamp went backwards" in status.message for status in vehicle.diagnostics[seen:]))
