"""Messages of the node: the output it builds, and agreement with ROS's own reader."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from lidar_completion import point_clouds
from lidar_completion.point_clouds import NUMPY_TYPES, Field, output_layout
from lidar_completion_ros.point_cloud_messages import LAYOUT, cloud_message, completion_message, decode, stamp_ns

NEEDS_ROS = "needs sensor_msgs_py of a ROS installation; it is not on PyPI"


@st.composite
def layouts(draw):
    """Scalar fields in any order with gaps, as (fields, point_step)."""
    names = draw(st.permutations(["x", "y", "z", *draw(st.sets(st.sampled_from(["intensity", "ring", "t"])))]))
    fields, offset = [], draw(st.integers(0, 5))
    for name in names:
        datatype = draw(st.sampled_from([7, 8] if name in "xyz" else sorted(NUMPY_TYPES)))
        fields.append(Field(name, offset, datatype))
        offset += np.dtype(NUMPY_TYPES[datatype]).itemsize + draw(st.integers(0, 3))
    return fields, offset + draw(st.integers(0, 4))


@settings(max_examples=100, deadline=None)
@given(layouts())
def test_field_layout_agrees_with_sensor_msgs_py(layout):
    oracle = pytest.importorskip("sensor_msgs_py.point_cloud2", reason=NEEDS_ROS)
    fields, point_step = layout
    messages = [PointField(**field._asdict()) for field in fields]
    assert oracle.dtype_from_fields(messages, point_step) == point_clouds.dtype_from_fields(fields, point_step)


def test_field_layout_of_ros_is_used_where_it_is_installed():
    oracle = pytest.importorskip("sensor_msgs_py.point_cloud2", reason=NEEDS_ROS)
    assert LAYOUT is oracle.dtype_from_fields


@settings(max_examples=60, deadline=None)
@given(layouts(), st.integers(0, 4), st.booleans(), st.randoms(use_true_random=False))
def test_points_agree_with_sensor_msgs_py(layout, count, bigendian, random):
    oracle = pytest.importorskip("sensor_msgs_py.point_cloud2", reason=NEEDS_ROS)
    fields, point_step = layout
    message = PointCloud2(height=1, width=count, point_step=point_step, row_step=count * point_step)
    message.is_bigendian, message.data = bigendian, bytes(random.randbytes(count * point_step))
    message.fields = [PointField(**field._asdict()) for field in fields]
    # A copy, as the oracle swaps the bytes of a big-endian message in place.
    expected = oracle.read_points(copy.deepcopy(message), field_names=["x", "y", "z"])
    with np.errstate(over="ignore", invalid="ignore"):
        columns = [expected[axis].astype(np.float32) for axis in "xyz"]
    np.testing.assert_array_equal(decode(message).points, np.stack(columns, axis=-1).reshape(-1, 3))


def test_completion_message():
    points = np.arange(12, dtype=np.float32).reshape(4, 3)
    columns = {
        "intensity": np.array([5, 6, 0, 0], np.float32),
        "provenance": np.array([0, 0, 1, 1], np.uint8),
        "confidence": np.array([1, 1, 0.25, 0.5], np.float32),
    }
    header = Header(frame_id="lidar")
    message = completion_message(header, points, columns)
    rows = np.frombuffer(message.data, output_layout())
    assert message.header == header
    assert (message.point_step, message.row_step, message.height, message.width) == (24, 96, 1, 4)
    assert message.is_dense
    np.testing.assert_array_equal(decode(message).points, points)
    for name, column in columns.items():
        np.testing.assert_array_equal(rows[name], column)


def test_cloud_with_nan_is_not_dense(cloud):
    assert cloud(np.ones((2, 3), np.float32)).is_dense
    assert not cloud(np.array([[np.nan, 0, 0]], np.float32)).is_dense


@pytest.mark.parametrize("nanoseconds", [0, 10**18 + 5, -(10**9)])
def test_stamps_may_be_negative(nanoseconds):
    header = Header()
    header.stamp.sec, header.stamp.nanosec = divmod(nanoseconds, 10**9)
    assert stamp_ns(header) == nanoseconds


def test_cloud_message_describes_its_layout():
    layout = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("ring", "<u2")])
    buffer, points = point_clouds.allocate_points(2, layout)
    points["x"] = [1, 2]
    message = cloud_message(Header(), buffer, layout)
    assert [(each.name, each.offset, each.datatype) for each in message.fields] == [
        ("x", 0, 7),
        ("y", 4, 7),
        ("z", 8, 7),
        ("ring", 12, 4),
    ]
    np.testing.assert_array_equal(decode(message).points[:, 0], [1, 2])
