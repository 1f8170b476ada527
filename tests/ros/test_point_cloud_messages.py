"""The converter: any layout is read as an independent reader (struct) reads it, everything else is refused by name."""

import copy
import struct
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from lidar_completion_ros.point_cloud_messages import (
    MessageError,
    allocate_points,
    cloud_message,
    completion_message,
    output_layout,
    point_times,
    read_sweep,
)

FORMATS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 8: "d"}
BOUNDS = {
    1: (-128, 127),
    2: (0, 255),
    3: (-(2**15), 2**15 - 1),
    4: (0, 2**16 - 1),
    5: (-(2**31), 2**31 - 1),
    6: (0, 2**32 - 1),
}


def values_of(datatype):
    if datatype in BOUNDS:
        return st.integers(*BOUNDS[datatype])
    return st.floats(width=32, allow_nan=True)


@dataclass
class Written:
    """A message, written field by field with struct, and what was written."""

    message: PointCloud2
    values: dict[str, list] = field(default_factory=dict)


@st.composite
def messages(draw):
    height, width = draw(st.integers(1, 4)), draw(st.integers(0, 5))
    types = {name: draw(st.sampled_from([7, 8])) for name in "xyz"}
    if draw(st.booleans()):
        types["intensity"] = draw(st.sampled_from(sorted(FORMATS)))
    types |= {f"extra{index}": draw(st.sampled_from(sorted(FORMATS))) for index in range(draw(st.integers(0, 2)))}
    order, offset, fields = ">" if draw(st.booleans()) else "<", 0, []
    for name in draw(st.permutations(sorted(types))):
        offset += draw(st.integers(0, 3))
        fields.append(PointField(name=name, offset=offset, datatype=types[name], count=1))
        offset += struct.calcsize(FORMATS[types[name]])
    point_step = offset + draw(st.integers(0, 5))
    row_step = width * point_step + draw(st.integers(0, 9))
    data = bytearray(draw(st.binary(min_size=row_step * height, max_size=row_step * height)))
    values = {name: [] for name in types}
    for row in range(height):
        for column in range(width):
            for each in fields:
                value = draw(values_of(each.datatype))
                place = row * row_step + column * point_step + each.offset
                struct.pack_into(order + FORMATS[each.datatype], data, place, value)
                values[each.name].append(value)
    message = PointCloud2(
        height=height, width=width, fields=fields, is_bigendian=order == ">", point_step=point_step, row_step=row_step
    )
    message.data = bytes(data)
    return Written(message, values)


@settings(max_examples=150, deadline=None)
@given(messages())
def test_any_layout_is_read_as_it_was_written(written):
    sweep = read_sweep(written.message)
    expected = np.array([written.values[name] for name in "xyz"], np.float64).T.reshape(-1, 3)
    np.testing.assert_array_equal(sweep.points, expected.astype(np.float32))
    assert sweep.points.dtype == np.float32
    if "intensity" in written.values:
        np.testing.assert_array_equal(
            sweep.intensity, np.array(written.values["intensity"], np.float64).astype(np.float32)
        )
    else:
        assert sweep.intensity is None


@settings(max_examples=60, deadline=None)
@given(messages())
def test_the_oracle_of_ros_reads_the_same(written):
    oracle = pytest.importorskip("sensor_msgs_py.point_cloud2", reason="needs sensor_msgs_py, which no wheel provides")
    message = written.message
    if message.row_step != message.width * message.point_step:
        return  # the oracle does not read padded rows
    points = read_sweep(message).points
    # A copy: the oracle swaps the bytes of a big-endian message in place.
    cloud = oracle.read_points(copy.deepcopy(message), field_names=["x", "y", "z"])
    expected = np.stack([cloud[name].astype(np.float32) for name in "xyz"], axis=-1).reshape(-1, 3)
    np.testing.assert_array_equal(points, expected)


def test_a_velodyne_message_is_read(cloud):
    """PointXYZIRT of the Velodyne driver: 22-byte points, none of them aligned."""
    layout = np.dtype(
        {"names": ["x", "y", "z", "intensity", "ring", "time"], "formats": ["<f4"] * 4 + ["<u2", "<f4"],
         "offsets": [0, 4, 8, 12, 16, 18], "itemsize": 22}
    )  # fmt: skip
    buffer, points = allocate_points(3, layout)
    points["x"], points["z"], points["intensity"] = [1, 2, 3], [-1, -2, -3], [7, 8, 9]
    sweep = read_sweep(cloud_message(Header(), buffer, layout))
    np.testing.assert_array_equal(sweep.points, [[1, 0, -1], [2, 0, -2], [3, 0, -3]])
    np.testing.assert_array_equal(sweep.intensity, [7, 8, 9])


def test_a_plain_cloud_is_not_copied(cloud):
    message = cloud(np.ones((4, 3), np.float32))
    points = read_sweep(message).points
    assert np.shares_memory(points, np.frombuffer(message.data, np.uint8))


def test_float64_beyond_float32_becomes_infinite():
    layout = np.dtype([(name, "<f8") for name in "xyz"])
    buffer, points = allocate_points(1, layout)
    points["x"] = 1e300
    assert np.isinf(read_sweep(cloud_message(Header(), buffer, layout)).points[0, 0])


def set_field(field_name, **changes):
    def change(message):
        for each in message.fields:
            if each.name == field_name:
                for attribute, value in changes.items():
                    setattr(each, attribute, value)

    return change


def set_message(**changes):
    def change(message):
        for attribute, value in changes.items():
            setattr(message, attribute, value)

    return change


def remove_field(name):
    return lambda message: setattr(message, "fields", [each for each in message.fields if each.name != name])


REFUSALS = {
    "no x field": remove_field("x"),
    "no z field": remove_field("z"),
    "point_step 0": set_message(point_step=0),
    "type of field x": set_field("x", datatype=PointField.UINT8),
    "type of field y": set_field("y", datatype=99),
    "type of field intensity": set_field("intensity", datatype=0),
    "count of field z": set_field("z", count=3),
    "offset of field x": set_field("x", offset=13),
    "offset of field intensity": set_field("intensity", offset=2**32 - 1),
    "duplicate field": set_field("intensity", name="x"),
    "row_step too small": set_message(row_step=79),
    "data too short": set_message(data=b"\0" * 79),
    "too many points": set_message(width=2**32 - 1, height=2**32 - 1),
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_what_cannot_be_read_is_refused_by_name(fault, cloud):
    message = cloud(np.ones((5, 3), np.float32))
    REFUSALS[fault](message)
    with pytest.raises(MessageError, match=fault) as refusal:
        read_sweep(message, max_points=100)
    assert refusal.value.fault == fault


def test_an_empty_cloud_has_no_points(cloud):
    assert read_sweep(cloud(np.empty((0, 3), np.float32))).points.shape == (0, 3)


def test_output_has_the_layout_of_the_contract():
    layout = output_layout(["intensity", "provenance", "confidence"])
    offsets = {name: layout.fields[name][1] for name in layout.names}
    assert offsets == {"x": 0, "y": 4, "z": 8, "intensity": 12, "provenance": 16, "confidence": 20}
    assert layout.itemsize == 24


@pytest.mark.parametrize(
    "fields", [(), ("confidence",), ("provenance", "intensity"), ("intensity", "provenance", "confidence")]
)
def test_output_carries_the_fields_that_are_asked_for(fields):
    points = np.arange(12, dtype=np.float32).reshape(4, 3)
    columns = {
        "intensity": np.array([5, 6, 0, 0], np.float32),
        "provenance": np.array([0, 0, 1, 1], np.uint8),
        "confidence": np.array([1, 1, 0.25, 0.5], np.float32),
    }
    header = Header(frame_id="lidar")
    message = completion_message(header, points, **columns, output_fields=fields)
    assert message.header == header
    assert {each.name for each in message.fields} == {"x", "y", "z", *fields}
    np.testing.assert_array_equal(read_sweep(message).points, points)
    for each in message.fields[3:]:
        kind = np.uint8 if each.name == "provenance" else np.float32
        column = np.ndarray(4, kind, buffer=message.data, offset=each.offset, strides=(message.point_step,))
        np.testing.assert_array_equal(column, columns[each.name])


STAMP_NS = 1_700_000_000 * 10**9 + 250_000_000
OFFSETS = np.array([0.0, 0.025, 0.0999])


def timed(name, kind, values, stamp_ns=STAMP_NS):
    """A message of points with a time field of a driver."""
    layout = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), (name, kind)])
    buffer, points = allocate_points(len(values), layout)
    points[name] = values
    header = Header()
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 10**9)
    return cloud_message(header, buffer, layout)


@pytest.mark.parametrize(
    ("name", "kind", "values"),
    [
        ("time", "<f4", OFFSETS),  # Velodyne
        ("time", "<f4", OFFSETS - 0.1),  # Velodyne, stamped at the end of the sweep
        ("t", "<u4", OFFSETS * 1e9),  # Ouster
        ("time_stamp", "<u4", OFFSETS * 1e9),  # Autoware
        ("timestamp", "<f8", OFFSETS + STAMP_NS / 1e9),  # Hesai, RoboSense
        ("timestamp", "<f8", OFFSETS * 1e9 + STAMP_NS),  # Livox
    ],
)
def test_the_times_of_points_are_read_as_each_driver_writes_them(name, kind, values):
    expected = OFFSETS - 0.1 if values[0] == -0.1 else OFFSETS
    np.testing.assert_allclose(point_times(timed(name, kind, values)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind", "values"),
    [
        ("ring", "<u2", [0, 1, 2]),  # no times
        ("time", "<f4", [0.0, 0.05, 7.0]),  # too long for a sweep
        ("timestamp", "<f8", OFFSETS + STAMP_NS / 1e9 + 3600),  # another clock
        ("time", "<f4", [np.nan] * 3),
        ("t", "<u4", []),
    ],
)
def test_what_cannot_be_the_times_of_a_sweep_is_none(name, kind, values):
    assert point_times(timed(name, kind, values)) is None
