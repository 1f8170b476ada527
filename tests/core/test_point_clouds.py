"""The PointCloud2 decoder: any layout is read as `struct` reads it, and malformed messages are refused with a reason."""

import struct
import sys
import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lidar_completion.point_clouds import (
    OUTPUT_FIELDS,
    Field,
    PointCloudError,
    allocate_points,
    decode,
    dtype_from_fields,
    encode,
    fields_of,
    output_layout,
    point_times,
    returns,
    time_column,
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
class Cloud:
    """The attributes of a sensor_msgs/PointCloud2."""

    fields: list
    height: int
    width: int
    point_step: int
    row_step: int
    data: bytes
    is_bigendian: bool = False


def cloud_of(buffer, layout):
    """An unorganised cloud around points of a structured dtype."""
    size = len(buffer)
    return Cloud(fields_of(layout), 1, size // layout.itemsize, layout.itemsize, size, buffer, sys.byteorder == "big")


def plain_cloud(points):
    """x, y, z, intensity float32."""
    layout = np.dtype([(name, "<f4") for name in ("x", "y", "z", "intensity")])
    return cloud_of(encode(points, {"intensity": np.arange(len(points))}, layout), layout)


@dataclass
class Written:
    """A cloud written field by field with struct, and the values."""

    message: Cloud
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
        fields.append(Field(name, offset, types[name]))
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
    return Written(Cloud(fields, height, width, point_step, row_step, bytes(data), order == ">"), values)


@settings(max_examples=150, deadline=None)
@given(messages())
def test_any_layout_is_decoded(written):
    sweep = decode(written.message)
    expected = np.array([written.values[name] for name in "xyz"], np.float64).T.reshape(-1, 3)
    np.testing.assert_array_equal(sweep.points, expected.astype(np.float32))
    assert sweep.points.dtype == np.float32
    if "intensity" in written.values:
        np.testing.assert_array_equal(
            sweep.intensity, np.array(written.values["intensity"], np.float64).astype(np.float32)
        )
    else:
        assert sweep.intensity is None


def test_velodyne_layout():
    """PointXYZIRT of the Velodyne driver: points of 22 bytes, none of them aligned."""
    layout = np.dtype(
        {"names": ["x", "y", "z", "intensity", "ring", "time"], "formats": ["<f4"] * 4 + ["<u2", "<f4"],
         "offsets": [0, 4, 8, 12, 16, 18], "itemsize": 22}
    )  # fmt: skip
    buffer, points = allocate_points(3, layout)
    points["x"], points["z"], points["intensity"] = [1, 2, 3], [-1, -2, -3], [7, 8, 9]
    sweep = decode(cloud_of(buffer, layout))
    np.testing.assert_array_equal(sweep.points, [[1, 0, -1], [2, 0, -2], [3, 0, -3]])
    np.testing.assert_array_equal(sweep.intensity, [7, 8, 9])


def test_plain_cloud_is_not_copied():
    cloud = plain_cloud(np.ones((4, 3), np.float32))
    assert np.shares_memory(decode(cloud).points, np.frombuffer(cloud.data, np.uint8))


def test_given_layout_function_is_used():
    """A node passes that of sensor_msgs_py."""
    asked = []

    def layout(fields, point_step):
        asked.append([field.name for field in fields])
        return dtype_from_fields(fields, point_step)

    decode(plain_cloud(np.ones((4, 3), np.float32)), layout=layout)
    assert asked == [["x", "y", "z", "intensity"]]


def test_fields_and_dtype_are_inverse():
    layout = np.dtype([("x", "<f4"), ("ring", "<u2"), ("t", "<u4"), ("stamp", "<f8")], align=True)
    assert dtype_from_fields(fields_of(layout), layout.itemsize) == layout


def test_float64_beyond_float32_becomes_infinite():
    layout = np.dtype([(name, "<f8") for name in "xyz"])
    buffer, points = allocate_points(1, layout)
    points["x"] = 1e300
    assert np.isinf(decode(cloud_of(buffer, layout)).points[0, 0])


def set_field(field_name, **changes):
    def change(cloud):
        cloud.fields = [each._replace(**changes) if each.name == field_name else each for each in cloud.fields]

    return change


def set_cloud(**changes):
    def change(cloud):
        for attribute, value in changes.items():
            setattr(cloud, attribute, value)

    return change


def remove_field(name):
    return lambda cloud: setattr(cloud, "fields", [each for each in cloud.fields if each.name != name])


REFUSALS = {
    "no x field": remove_field("x"),
    "no z field": remove_field("z"),
    "point_step 0": set_cloud(point_step=0),
    "type of field x": set_field("x", datatype=2),
    "type of field y": set_field("y", datatype=99),
    "type of field intensity": set_field("intensity", datatype=0),
    "count of field z": set_field("z", count=3),
    "offset of field x": set_field("x", offset=13),
    "offset of field intensity": set_field("intensity", offset=2**32 - 1),
    "duplicate field": set_field("intensity", name="x"),
    "row_step too small": set_cloud(row_step=79),
    "data too short": set_cloud(data=b"\0" * 79),
    "too many points": set_cloud(width=2**32 - 1, height=2**32 - 1),
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_malformed_cloud_is_refused_by_name(fault):
    cloud = plain_cloud(np.ones((5, 3), np.float32))
    REFUSALS[fault](cloud)
    with pytest.raises(PointCloudError, match=fault) as refusal:
        decode(cloud, max_points=100)
    assert refusal.value.fault == fault


def test_empty_cloud_has_no_points():
    assert decode(plain_cloud(np.empty((0, 3), np.float32))).points.shape == (0, 3)


def test_missing_returns_are_nan_infinite_or_the_origin():
    points = np.array([[1, 2, 3], [0, 0, 0], [np.nan, 0, 0], [0, np.inf, 0], [0, 0, 1e-6], [-0.0, 0, 0]], np.float32)
    assert returns(points).tolist() == [True, False, False, False, True, False]


def test_signalling_nans_of_damaged_clouds_give_no_warning():
    points = np.full((9, 3), 0x7F800001, np.uint32).view(np.float32)
    points[0] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert returns(points).tolist() == [True] + 8 * [False]


def test_output_layout_of_the_contract():
    layout = output_layout()
    offsets = {name: layout.fields[name][1] for name in layout.names}
    assert offsets == {"x": 0, "y": 4, "z": 8, "intensity": 12, "provenance": 16, "confidence": 20}
    assert layout.itemsize == 24


@pytest.mark.parametrize(
    "fields", [(), ("confidence",), ("provenance", "intensity"), ("intensity", "provenance", "confidence")]
)
def test_encoded_output_carries_the_requested_fields(fields):
    points = np.arange(12, dtype=np.float32).reshape(4, 3)
    columns = {
        "intensity": np.array([5, 6, 0, 0], np.float32),
        "provenance": np.array([0, 0, 1, 1], np.uint8),
        "confidence": np.array([1, 1, 0.25, 0.5], np.float32),
    }
    layout = output_layout(fields)
    cloud = cloud_of(encode(points, columns, layout), layout)
    assert [each.name for each in cloud.fields] == ["x", "y", "z", *(name for name in OUTPUT_FIELDS if name in fields)]
    np.testing.assert_array_equal(decode(cloud).points, points)
    for each in cloud.fields[3:]:
        kind = np.uint8 if each.name == "provenance" else np.float32
        column = np.ndarray(4, kind, buffer=cloud.data, offset=each.offset, strides=(cloud.point_step,))
        np.testing.assert_array_equal(column, columns[each.name])


STAMP_NS = 1_700_000_000 * 10**9 + 250_000_000
OFFSETS = np.array([0.0, 0.025, 0.0999])


def timed(name, kind, values):
    """A cloud with a driver's time field."""
    layout = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), (name, kind)])
    buffer, points = allocate_points(len(values), layout)
    points[name] = values
    return cloud_of(buffer, layout)


@pytest.mark.parametrize(
    ("name", "kind", "values"),
    [
        ("time", "<f4", OFFSETS),  # Velodyne
        ("time", "<f4", OFFSETS - 0.1),  # Velodyne with the stamp at the end of the sweep
        ("t", "<u4", OFFSETS * 1e9),  # Ouster
        ("time_stamp", "<u4", OFFSETS * 1e9),  # Autoware
        ("point_time_offset", "<f4", OFFSETS),
        ("offset_time", "<u4", OFFSETS * 1e9),  # Livox
        ("timestamp", "<f8", OFFSETS + STAMP_NS / 1e9),  # Hesai, RoboSense
        ("timestamp", "<f8", OFFSETS * 1e9 + STAMP_NS),  # Livox
    ],
)
def test_point_times_of_each_driver(name, kind, values):
    expected = OFFSETS - 0.1 if values[0] == -0.1 else OFFSETS
    np.testing.assert_allclose(point_times(timed(name, kind, values), STAMP_NS), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind", "values"),
    [
        ("ring", "<u2", [0, 1, 2]),  # no times
        ("time", "<f4", [0.0, 0.05, 7.0]),  # longer than a sweep
        ("timestamp", "<f8", OFFSETS + STAMP_NS / 1e9 + 3600),  # another clock
        ("time", "<f4", [np.nan] * 3),
        ("t", "<u4", []),
    ],
)
def test_implausible_point_times_are_ignored(name, kind, values):
    assert point_times(timed(name, kind, values), STAMP_NS) is None


def test_time_column_is_as_the_driver_wrote_it():
    values = (OFFSETS * 1e9).astype(np.uint32)
    np.testing.assert_array_equal(time_column(timed("t", "<u4", values)), values)
    assert time_column(timed("ring", "<u2", [0, 1, 2])) is None
