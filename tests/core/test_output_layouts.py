"""Layouts of the published cloud: fields of the sweep that are passed on, and Autoware's PointXYZIRC."""

import numpy as np
import pytest

from lidar_completion.output_layouts import XYZIRC, laid_out, sweep_columns
from lidar_completion.point_clouds import Field, encode, fields_of


class Cloud:
    """A PointCloud2 around a structured array."""

    def __init__(self, points, fields=None, big_endian=False):
        self.height, self.width = 1, len(points)
        self.fields = fields or fields_of(points.dtype.newbyteorder("<"))
        self.is_bigendian = big_endian
        self.point_step = points.dtype.itemsize
        self.row_step = self.point_step * self.width
        self.data = points.tobytes()


def own_columns(count):
    return {
        "intensity": np.linspace(-5, 300, count).astype(np.float32),
        "provenance": np.repeat(np.uint8([0, 1]), (2, count - 2)),
        "confidence": np.ones(count, np.float32),
    }


@pytest.mark.parametrize("order", ["<", ">"])
def test_columns_keep_type_and_value_in_any_byte_order(order):
    kinds = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("channel", "u2"), ("time_stamp", "u4"), ("return_type", "u1")]
    points = np.zeros(4, np.dtype([(name, order + kind) for name, kind in kinds]))
    points["channel"], points["time_stamp"] = [1, 2, 300, 4], [5, 6, 7, 4_000_000_000]
    found = sweep_columns(Cloud(points, big_endian=order == ">"), np.array([1, 3]))
    assert found.keys() == {"channel", "time_stamp", "return_type"}
    assert (found["channel"].dtype, found["time_stamp"].dtype) == (np.uint16, np.uint32)
    assert (found["channel"].tolist(), found["time_stamp"].tolist()) == ([2, 4], [6, 4_000_000_000])


def test_malformed_field_is_not_passed_on():
    points = np.zeros(3, np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("ring", "<u2")]))
    fields = [*fields_of(points.dtype)[:3], Field("ring", 13, 4)]
    assert sweep_columns(Cloud(points, fields), np.arange(3)) == {}


def test_passed_on_fields_are_aligned_and_zero_for_completed_points():
    sweep = {"ring": np.uint16([7, 8]), "timestamp": np.float64([1.7e9, 1.7e9 + 0.1]), "intensity": np.uint8([1, 2])}
    dtype, columns = laid_out("pass_through", ("confidence",), own_columns(5), sweep)
    assert dtype.names == ("x", "y", "z", "confidence", "ring", "timestamp")
    assert dtype.fields["timestamp"][1] % 8 == 0
    points = np.frombuffer(encode(np.zeros((5, 3), np.float32), columns, dtype), dtype)
    assert points["ring"].tolist() == [7, 8, 0, 0, 0]
    assert points["timestamp"].tolist() == [1.7e9, 1.7e9 + 0.1, 0, 0, 0]


def test_xyzirc_rounds_intensity_to_a_byte():
    dtype, columns = laid_out("xyzirc", (), own_columns(5), {"line": np.uint8([3, 4]), "return_type": np.uint8([1, 2])})
    assert dtype is XYZIRC
    assert dtype.itemsize == 16
    assert columns["intensity"].tolist() == [0, 71, 148, 224, 255]
    assert columns["channel"].tolist() == [3, 4, 0, 0, 0]
    assert columns["return_type"].tolist() == [1, 2, 0, 0, 0]
