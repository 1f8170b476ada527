"""The layouts of common drivers, organised and not, with missing returns as each driver writes them, through the node."""

import array

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import PointCloud2, PointField

from lidar_completion.point_clouds import decode, dtype_from_fields, fields_of
from lidar_completion_ros.status import SweepLabel

ZERO, NAN = 0.0, np.nan
XYZ = [("x", "f4", 0), ("y", "f4", 4), ("z", "f4", 8)]
# fields (name, type, offset), bytes a point, rows of an organised cloud, missing returns, big-endian
DRIVERS = {
    "velodyne_pointcloud": ([*XYZ, ("intensity", "f4", 12), ("ring", "u2", 16), ("time", "f4", 18)], 22, 1, None, False),
    "velodyne_pointcloud, organised": (
        [*XYZ, ("intensity", "f4", 12), ("ring", "u2", 16), ("time", "f4", 18)], 22, 16, NAN, False,
    ),
    "ouster_ros": (
        [*XYZ, ("intensity", "f4", 16), ("t", "u4", 20), ("reflectivity", "u2", 24), ("ring", "u2", 26),
         ("ambient", "u2", 28), ("range", "u4", 32)], 48, 16, ZERO, False,
    ),
    "hesai_ros_driver": ([*XYZ, ("intensity", "f4", 12), ("ring", "u2", 16), ("timestamp", "f8", 18)], 26, 1, ZERO, False),
    "rslidar_sdk": ([*XYZ, ("intensity", "f4", 12), ("ring", "u2", 16), ("timestamp", "f8", 18)], 26, 16, NAN, False),
    "livox_ros_driver2": (
        [*XYZ, ("intensity", "f4", 12), ("tag", "u1", 16), ("line", "u1", 17), ("timestamp", "f8", 18)], 26, 1, ZERO, False,
    ),
    "autoware nebula": (
        [*XYZ, ("intensity", "u1", 12), ("return_type", "u1", 13), ("channel", "u2", 14), ("azimuth", "f4", 16),
         ("elevation", "f4", 20), ("distance", "f4", 24), ("time_stamp", "u4", 28)], 32, 1, None, False,
    ),
    "PCL, padded": ([*XYZ, ("intensity", "f4", 16)], 32, 16, "both", False),
    "float64, big-endian": (
        [("x", "f8", 0), ("y", "f8", 8), ("z", "f8", 16), ("intensity", "f4", 24)], 28, 1, NAN, True,
    ),
}  # fmt: skip
PASSED_ON = {"ring", "time", "t", "timestamp", "line", "return_type", "channel", "time_stamp"}


def message_of(points, header, fields, step, rows, missing, big_endian):
    """The message of a driver, and which points (N,) are returns."""
    names, kinds, offsets = zip(*fields, strict=True)
    order = ">" if big_endian else "<"
    layout = np.dtype(
        {"names": names, "formats": [order + kind for kind in kinds], "offsets": offsets, "itemsize": step}
    )
    written, kept = np.zeros(len(points), layout), np.ones(len(points), bool)
    for axis, name in enumerate("xyz"):
        written[name] = points[:, axis]
    for number, name in enumerate(names[3:]):
        written[name] = (np.arange(len(points)) + number) % 200
    if missing is not None:
        kept[::5] = False
        for start, value in ((0, NAN), (5, ZERO)) if missing == "both" else ((0, missing), (5, missing)):
            for name in "xyz":
                written[name][start::10] = value
    message = PointCloud2(header=header, height=rows, width=len(points) // rows, is_bigendian=big_endian)
    described = fields_of(layout.newbyteorder("<"))
    message.fields = [PointField(**each._asdict()) for each in described]
    message.point_step, message.row_step = step, step * message.width
    message.data = array.array("B", written.tobytes())
    return message, written, kept


@pytest.fixture(scope="module")
def sweep(street):
    return street()


def test_sweep_of_every_driver_is_completed(start_node, peer, cloud, sweep):
    """Measured points are bit-exact, missing returns are dropped and counted, ring, time and return type are passed on."""
    start_node(output_layout="pass_through", sweep_timeout_s=60.0)
    labels = peer.listen(DiagnosticArray, "/lidar_completion/debug/sweep")
    for number, (name, driver) in enumerate(DRIVERS.items()):
        header = cloud(sweep, stamp_ns=10**18 + number).header
        message, written, kept = message_of(sweep, header, *driver)
        completion = peer.complete(message)
        peer.until(lambda number=number: len(labels) > number)
        label = SweepLabel.from_status(labels[-1].status[0])
        assert (label.points_in, label.missing_returns) == (len(sweep), (~kept).sum()), name
        points = np.frombuffer(completion.data, dtype_from_fields(completion.fields, completion.point_step))
        measured = points[points["provenance"] == 0]
        assert decode(completion).points[: len(measured)].tobytes() == sweep[kept].tobytes(), name
        passed_on = PASSED_ON & set(written.dtype.names)
        assert set(points.dtype.names) == {"x", "y", "z", "intensity", "provenance", "confidence"} | passed_on, name
        for field in passed_on:
            np.testing.assert_array_equal(measured[field], written[field][kept], name)
        assert len(points) > len(measured), name
