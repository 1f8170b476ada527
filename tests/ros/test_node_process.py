"""The node in a process of its own: real sweeps and malformed messages over DDS."""

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import PointField

from lidar_completion.point_cloud_files import read_points
from lidar_completion.point_clouds import decode, returns

# Best effort loses sweeps on a busy machine; here every sweep has to arrive.
RELIABLE = {"qos_overrides./velodyne_points.subscription.reliability": "reliable"}


@pytest.fixture(scope="module")
def node(node_process, tiny_model):
    """One node for all tests of this file."""
    with node_process(model=tiny_model, sweep_timeout_s=60.0, **RELIABLE) as process:
        yield process


@pytest.fixture
def vehicle(node, peer):
    """A peer that is connected with the node."""
    peer.until_connected()
    return peer


def columns(message):
    """The output's provenance and confidence, read at the offsets of the contract."""
    cloud = np.frombuffer(message.data, np.uint8).reshape(-1, message.point_step)
    return cloud[:, 16], cloud[:, 20:24].copy().view(np.float32)[:, 0]


def assert_completes(sweep, completion):
    """Stamp and frame are kept, measured points pass through bit by bit, and provenance and confidence are consistent."""
    measured, out = decode(sweep), decode(completion)
    valid = returns(measured.points)
    provenance, confidence = columns(completion)
    assert completion.header == sweep.header
    assert (completion.point_step, completion.height) == (24, 1)
    np.testing.assert_array_equal(out.points[provenance == 0], measured.points[valid])
    np.testing.assert_array_equal(out.intensity[provenance == 0], measured.intensity[valid])
    assert (provenance == 1).sum() > 0
    assert set(np.unique(provenance)) == {0, 1}
    assert np.isfinite(out.points).all()
    assert (confidence[provenance == 0] == 1).all()
    assert ((confidence >= 0) & (confidence <= 1)).all()


def test_completions_match_their_sweeps(vehicle, street, cloud):
    for index in range(4):
        points = street(seed=index)
        points[::50] = np.nan
        sweep = cloud(points, stamp_ns=10**18 + index * 10**8, frame=f"velodyne_{index}")
        assert_completes(sweep, vehicle.complete(sweep))


def test_completes_real_sweeps(vehicle, cloud, shared):
    drive = sorted((shared / "data" / "sequences" / "91" / "velodyne").glob("*.bin"))[:2]
    assert drive
    for index, path in enumerate(drive):
        sweep = cloud(read_points(path).points, stamp_ns=1_200_000_000 * 10**9 + index)
        assert_completes(sweep, vehicle.complete(sweep))


def test_the_newest_sweep_wins(vehicle, street, cloud):
    """The last sweep of a burst is completed, in order, and most of those before are dropped."""
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


MALFORMED = {
    "nothing to complete: empty": (set_message(width=0, row_step=0, data=b""), "none of"),
    "nothing to complete: all NaN": (all_nan, "none of"),
    "no x field": (lambda message: setattr(message, "fields", message.fields[1:]), "no x field"),
    "point_step 0": (set_message(point_step=0, row_step=0), "point_step 0"),
    "data too short": (lambda message: setattr(message, "data", message.data[:-1]), "data too short"),
    "type of field x": (x_as_uint8, "type of field x"),
    "too many points": (five_million_points, "too many points"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_sweep_is_reported_and_the_next_one_completed(name, vehicle, node, street, cloud):
    mutate, reason = MALFORMED[name]
    malformed = cloud(street(), stamp_ns=1_400_000_000 * 10**9)
    mutate(malformed)
    vehicle.sweeps.publish(malformed)
    report = vehicle.until_reported(lambda report: report.level == 2)
    assert reason in report.message
    assert report.counts.faults[name.split(":")[0]] > 0
    good = cloud(street(), stamp_ns=1_400_000_000 * 10**9 + 1)
    assert_completes(good, vehicle.complete(good))
    vehicle.until_reported(lambda report: report.level == 0)
    assert node.poll() is None


@pytest.mark.parametrize("size", [4, 30, 3000])
def test_invalid_bytes_are_dropped_by_the_middleware(size, vehicle, node, street, cloud):
    """The middleware drops what it cannot deserialise before the node receives it: no diagnostic and no crash."""
    vehicle.sweeps.publish(serialize_message(cloud(street()))[:size])
    good = cloud(street(), stamp_ns=1_500_000_000 * 10**9 + size)
    assert_completes(good, vehicle.complete(good))
    assert node.poll() is None


def test_backward_stamp_is_reported_and_the_sweep_completed(vehicle, street, cloud):
    vehicle.complete(cloud(street(), stamp_ns=1_600_000_000 * 10**9))
    seen = len(vehicle.reports)
    for stamp_ns in (1_600_000_000 * 10**9 - 3600 * 10**9, -(10**9)):
        early = cloud(street(), stamp_ns=stamp_ns)
        assert_completes(early, vehicle.complete(early))
    vehicle.until(lambda: any("stamp went backwards" in report.message for report in vehicle.reports[seen:]))
