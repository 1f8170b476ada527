"""PointCloud2 to arrays and back: the one converter of the node, the bag replay and the tests.

It reads any layout (field order, padding, unaligned points, float32 or float64, either byte order, organised clouds)
or refuses the message with a `MessageError` that names the fault. It never guesses.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

NUMPY_TYPES = {
    PointField.INT8: "i1",
    PointField.UINT8: "u1",
    PointField.INT16: "i2",
    PointField.UINT16: "u2",
    PointField.INT32: "i4",
    PointField.UINT32: "u4",
    PointField.FLOAT32: "f4",
    PointField.FLOAT64: "f8",
}
POINT_FIELD_TYPES = {name: datatype for datatype, name in NUMPY_TYPES.items()}
FLOAT_TYPES = (PointField.FLOAT32, PointField.FLOAT64)

TIME_FIELDS = ("time", "t", "timestamp", "time_stamp", "offset_time", "point_time_offset")  # as drivers name it
LONGEST_SWEEP_S = 1.0
LONGEST_DETAIL = 500  # characters: a message may have any number of fields with names of any length

OUTPUT_FIELDS = {"intensity": np.float32, "provenance": np.uint8, "confidence": np.float32}


class MessageError(ValueError):
    """A PointCloud2 that cannot be read. `fault` is the short name under which diagnostics count it."""

    def __init__(self, fault: str, detail: str) -> None:
        super().__init__(f"{fault}: {detail[:LONGEST_DETAIL]}")
        self.fault = fault


@dataclass(frozen=True)
class Sweep:
    """What the completion needs of one PointCloud2. Row i of each array is point i of the message, row by row."""

    points: np.ndarray  # (N, 3) float32, metres, frame of the message; may hold NaN; a view of the message if possible
    intensity: np.ndarray | None  # (N,) float32 in the sensor's own unit, None where the message has no such field


def read_sweep(message: PointCloud2, max_points: int | None = None) -> Sweep:
    """Read x, y, z and, where present, intensity. Raises `MessageError` for everything that cannot be read right."""
    fields = _fields_by_name(message)
    axes = [_readable_field(message, fields, name, FLOAT_TYPES) for name in "xyz"]
    intensity = _readable_field(message, fields, "intensity", tuple(NUMPY_TYPES)) if "intensity" in fields else None
    _check_size(message, max_points)
    return Sweep(
        points=_columns(message, axes),
        intensity=None if intensity is None else _float32(_column(message, intensity)).reshape(-1),
    )


def point_times(message: PointCloud2) -> np.ndarray | None:
    """Seconds (N,) float64 of each point after the header's stamp, for a message that `read_sweep` accepts.

    Integers are nanoseconds (Ouster, Livox, Autoware), floating-point numbers are seconds (Velodyne, Hesai) or, where they are too
    large for that, nanoseconds; times since 1970 are told by their size. None where the message has no such field, or
    where what it holds cannot be the times of a sweep: more than a second long, or more than a second off the stamp.
    """
    fields = {field.name: field for field in message.fields}
    name = next((each for each in TIME_FIELDS if each in fields), None)
    if name is None:
        return None
    try:
        field = _readable_field(message, fields, name, tuple(NUMPY_TYPES))
    except MessageError:
        return None
    raw = _column(message, field).reshape(-1)
    stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
    first = raw[np.isfinite(raw)][:1] if raw.dtype.kind == "f" else raw[:1]
    if not len(first):
        return None
    nanoseconds = raw.dtype.kind in "iu" or abs(float(first[0])) > 1e15
    if abs(float(first[0])) > (1e15 if nanoseconds else 1e6):  # since 1970; subtracted in float64's full precision
        raw = raw.astype(np.float64) - (stamp_ns if nanoseconds else stamp_ns / 1e9)
    times = raw.astype(np.float64) * (1e-9 if nanoseconds else 1.0)
    inside = np.isfinite(times)
    if not inside.any() or np.abs(times[inside]).max() > LONGEST_SWEEP_S or np.ptp(times[inside]) > LONGEST_SWEEP_S:
        return None
    times[~inside] = 0.0
    return times


def completion_message(
    header: Header,
    points: np.ndarray,
    *,
    intensity: np.ndarray,
    provenance: np.ndarray,
    confidence: np.ndarray,
    output_fields: Sequence[str] = tuple(OUTPUT_FIELDS),
) -> PointCloud2:
    """Build the node's output: x, y, z float32, then those of intensity, provenance, confidence that are asked for.

    points (M, 3) float32 metres; intensity, confidence (M,) float32; provenance (M,) uint8. With all fields the layout
    is x, y, z, intensity at 0, 4, 8, 12, provenance at 16, confidence at 20, point_step 24.
    """
    buffer, cloud = allocate_points(len(points), output_layout(output_fields))
    for axis, name in enumerate("xyz"):
        cloud[name] = points[:, axis]
    columns = {"intensity": intensity, "provenance": provenance, "confidence": confidence}
    for name in output_fields:
        cloud[name] = columns[name]
    return cloud_message(header, buffer, cloud.dtype)


def output_layout(output_fields: Sequence[str]) -> np.dtype:
    """The structured dtype of one output point; every field lies at a multiple of its own size, as C would put it."""
    xyz: list[tuple[str, Any]] = [(name, np.float32) for name in "xyz"]
    return np.dtype(xyz + [(name, kind) for name, kind in OUTPUT_FIELDS.items() if name in output_fields], align=True)


def allocate_points(count: int, layout: np.dtype) -> tuple[array.array, np.ndarray]:
    """Zeroed memory for `count` points, as what rclpy takes without a copy and as the numpy view to fill it through."""
    buffer = array.array("B", bytes(count * layout.itemsize))
    return buffer, np.frombuffer(buffer, dtype=layout)


def cloud_message(header: Header, buffer: array.array, layout: np.dtype) -> PointCloud2:
    """An unorganised PointCloud2 over `buffer`, which holds points of the structured dtype `layout`, one by one."""
    count = len(buffer) // layout.itemsize
    message = PointCloud2(header=header, height=1, width=count, is_dense=False, is_bigendian=sys.byteorder == "big")
    message.point_step, message.row_step = layout.itemsize, layout.itemsize * count
    message.fields = [_point_field(layout, name) for name in layout.names or ()]
    message.data = buffer
    return message


def _point_field(layout: np.dtype, name: str) -> PointField:
    kind, offset = layout.fields[name][:2]  # type: ignore[index]
    return PointField(name=name, offset=offset, datatype=POINT_FIELD_TYPES[kind.str[1:]], count=1)


def _fields_by_name(message: PointCloud2) -> dict[str, PointField]:
    fields: dict[str, PointField] = {}
    for field in message.fields:
        if field.name in fields:
            raise MessageError("duplicate field", f"two fields are named {field.name!r}; expected each name once")
        fields[field.name] = field
    return fields


def _readable_field(message: PointCloud2, fields: dict[str, PointField], name: str, types: Sequence[int]) -> PointField:
    """The named field, if its type is one of `types` and every point holds it whole."""
    if name not in fields:
        found = ", ".join(map(repr, fields)) or "none"
        raise MessageError(f"no {name} field", f"expected fields x, y and z, found {found}")
    field = fields[name]
    if field.datatype not in types:
        expected = ", ".join(_type_name(datatype) for datatype in types)
        raise MessageError(
            f"type of field {name}", f"field {name!r} has type {_type_name(field.datatype)}; expected {expected}"
        )
    if field.count != 1:
        raise MessageError(f"count of field {name}", f"field {name!r} has count {field.count}; expected 1")
    if message.point_step == 0:
        raise MessageError("point_step 0", "a point has no bytes; expected the distance from one point to the next")
    end = field.offset + np.dtype(NUMPY_TYPES[field.datatype]).itemsize
    if end > message.point_step:
        raise MessageError(
            f"offset of field {name}",
            f"field {name!r} ends at byte {end} of a point, but point_step is {message.point_step}",
        )
    return field


def _type_name(datatype: int) -> str:
    return np.dtype(NUMPY_TYPES[datatype]).name if datatype in NUMPY_TYPES else f"{datatype} (not a PointField type)"


def _check_size(message: PointCloud2, max_points: int | None) -> None:
    count = message.width * message.height
    if max_points is not None and count > max_points:
        raise MessageError(
            "too many points",
            f"{message.width} x {message.height} = {count} points; the parameter max_input_points allows {max_points}",
        )
    if message.row_step < message.width * message.point_step:
        raise MessageError(
            "row_step too small",
            f"row_step is {message.row_step}, but {message.width} points of {message.point_step} bytes need "
            f"{message.width * message.point_step}",
        )
    if len(message.data) < message.row_step * message.height:
        raise MessageError(
            "data too short",
            f"found {len(message.data)} bytes; expected row_step x height = {message.row_step * message.height}",
        )


def _column(message: PointCloud2, field: PointField) -> np.ndarray:
    """(height, width) view of one field in the message's own type and byte order. The sizes are checked already."""
    kind = np.dtype(NUMPY_TYPES[field.datatype]).newbyteorder(">" if message.is_bigendian else "<")
    return _view(message, kind, field.offset, (message.height, message.width), (message.row_step, message.point_step))


def _columns(message: PointCloud2, axes: Sequence[PointField]) -> np.ndarray:
    """(N, 3) float32: a view of the message's data where x, y, z lie side by side, a packed copy elsewhere."""
    x, y, z = axes
    native = message.is_bigendian == (sys.byteorder == "big")
    float32 = all(axis.datatype == PointField.FLOAT32 for axis in axes)
    adjacent = y.offset == x.offset + 4 and z.offset == x.offset + 8
    rows_follow = message.height == 1 or message.row_step == message.width * message.point_step
    # Torch takes only strides that are a multiple of the float's size, and a misaligned float traps on some processors.
    if native and float32 and adjacent and rows_follow and message.point_step % 4 == 0:
        count = message.width * message.height
        view = _view(message, np.dtype(np.float32), x.offset, (count, 3), (message.point_step, 4))
        if view.flags.aligned:
            return view
    packed = np.empty((message.height, message.width, 3), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # a float64 beyond float32 becomes inf: no measured point
        for axis, field in enumerate(axes):
            packed[..., axis] = _column(message, field)
    return packed.reshape(-1, 3)


def _view(
    message: PointCloud2, kind: np.dtype, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> np.ndarray:
    if 0 in shape:
        return np.empty(shape, kind)
    return np.ndarray(shape, kind, buffer=memoryview(message.data), offset=offset, strides=strides)


def _float32(column: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return column.astype(np.float32)
