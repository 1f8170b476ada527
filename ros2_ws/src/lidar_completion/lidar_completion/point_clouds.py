"""PointCloud2 layouts without ROS: the bytes of a message to arrays and back.

This is the one decoder of the node, the bag reader and the tools. It takes any object with the attributes of a
sensor_msgs/PointCloud2, whether rclpy or rosbags made it, in any layout: field order, padding, unaligned points, float32
or float64, either byte order, organised clouds. A message that cannot be decoded is refused with a `PointCloudError` that
names the fault.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

# sensor_msgs/PointField.datatype -> NumPy type
NUMPY_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
DATATYPES = {name: datatype for datatype, name in NUMPY_TYPES.items()}
FLOAT_DATATYPES = (DATATYPES["f4"], DATATYPES["f8"])

# Names of the per-point time: Velodyne, Ouster, Hesai and RoboSense, Autoware, Livox, Applanix
TIME_FIELDS = ("time", "t", "timestamp", "time_stamp", "offset_time", "point_time_offset")
MAX_SWEEP_S = 1.0  # longer spans of per-point times are not those of one sweep

# Fields of a completed cloud after x, y, z, in this order
OUTPUT_FIELDS = {"intensity": np.float32, "provenance": np.uint8, "confidence": np.float32}

MAX_DETAIL = 500  # characters of an error message; a malformed message may have field names of any length


class PointCloudError(ValueError):
    """A point cloud that cannot be decoded. `fault` is the short name under which diagnostics count it."""

    def __init__(self, fault: str, detail: str) -> None:
        super().__init__(f"{fault}: {detail[:MAX_DETAIL]}")
        self.fault = fault


class Field(NamedTuple):
    """One field of a point, with the attributes of a sensor_msgs/PointField."""

    name: str
    offset: int  # bytes from the start of the point
    datatype: int  # key of NUMPY_TYPES
    count: int = 1  # type: ignore[assignment]  # PointField's name; hides tuple.count


class PointCloud(Protocol):
    """The attributes of a sensor_msgs/PointCloud2 that the decoder reads."""

    height: int
    width: int
    fields: Any  # sequence of objects with the attributes of `Field`
    is_bigendian: bool
    point_step: int  # bytes from one point to the next
    row_step: int  # bytes from one row to the next
    data: Any  # buffer of bytes


DtypeFromFields = Callable[[Sequence[Any], int], np.dtype]  # (fields, point_step) -> structured dtype of a point


@dataclass(frozen=True)
class DecodedCloud:
    """The decoded fields. Row i of each array is point i of the message, row by row."""

    points: np.ndarray  # (N, 3) float32, metres, frame of the message; may hold NaN; a view of the message if possible
    intensity: np.ndarray | None  # (N,) float32 in the sensor's own unit, None if the message has no such field


def dtype_from_fields(fields: Sequence[Any], point_step: int) -> np.dtype:
    """Structured little-endian dtype of a point with these scalar fields.

    The equivalent of sensor_msgs_py.point_cloud2.dtype_from_fields for places where ROS is not installed.
    """
    return np.dtype(
        {
            "names": [field.name for field in fields],
            "formats": ["<" + NUMPY_TYPES[field.datatype] for field in fields],
            "offsets": [field.offset for field in fields],
            "itemsize": point_step,
        }
    )


def decode(
    cloud: PointCloud, *, max_points: int | None = None, layout: DtypeFromFields = dtype_from_fields
) -> DecodedCloud:
    """Decode x, y, z and, where present, intensity. Raises `PointCloudError` if the message is malformed.

    max_points: clouds with more points are refused. layout: makes the dtype of a point from its fields; a ROS node passes
    that of sensor_msgs_py.
    """
    fields = _fields_by_name(cloud)
    wanted = [_checked_field(cloud, fields, axis, FLOAT_DATATYPES) for axis in "xyz"]
    if "intensity" in fields:
        wanted.append(_checked_field(cloud, fields, "intensity", tuple(NUMPY_TYPES)))
    _check_size(cloud, max_points)
    decoded = _columns(cloud, wanted, layout)
    intensity = decoded.get("intensity")
    return DecodedCloud(
        points=_xyz_view(cloud, wanted) if _xyz_is_packed(cloud, wanted) else _stacked(decoded),
        intensity=None if intensity is None else _float32(intensity).reshape(-1),
    )


def scalar_fields(cloud: PointCloud, *, layout: DtypeFromFields = dtype_from_fields) -> dict[str, np.ndarray]:
    """Every scalar field (N,) by name, in the message's own types. Raises `PointCloudError` if the message is malformed."""
    fields = _fields_by_name(cloud)
    scalars = [name for name, field in fields.items() if field.datatype in NUMPY_TYPES and field.count == 1]
    checked = [_checked_field(cloud, fields, name, tuple(NUMPY_TYPES)) for name in scalars]
    _check_size(cloud, None)
    return {name: column.reshape(-1) for name, column in _columns(cloud, checked, layout).items()}


def time_column(cloud: PointCloud, *, layout: DtypeFromFields = dtype_from_fields) -> np.ndarray | None:
    """Per-point times (N,) as the driver wrote them, of a cloud that `decode` accepts; None if it has none."""
    return next(iter(first_column(cloud, TIME_FIELDS, layout=layout).values()), None)


def first_column(
    cloud: PointCloud, names: Sequence[str], *, layout: DtypeFromFields = dtype_from_fields
) -> dict[str, np.ndarray]:
    """The first of the named fields that a cloud has, (N,) in its own type and byte order, by name; of a cloud that `decode`
    accepts. Empty if it has none of them, or if the first one is malformed."""
    fields = {field.name: field for field in cloud.fields}
    name = next((each for each in names if each in fields), None)
    if name is None:
        return {}
    try:
        field = _checked_field(cloud, fields, name, tuple(NUMPY_TYPES))
    except PointCloudError:
        return {}
    return {name: _columns(cloud, [field], layout)[name].reshape(-1)}


def point_times(cloud: PointCloud, stamp_ns: int, *, layout: DtypeFromFields = dtype_from_fields) -> np.ndarray | None:
    """Seconds (N,) float64 from the header's stamp to each point, of a cloud that `decode` accepts.

    Integers are nanoseconds (Ouster, Livox, Autoware). Floating-point values are seconds (Velodyne, Hesai) or, if they are
    too large for that, nanoseconds. Times since 1970 are recognised by their magnitude. None if the message has no times, or
    if they cannot be those of one sweep: a span of more than a second, or more than a second from the stamp.
    """
    raw = time_column(cloud, layout=layout)
    if raw is None:
        return None
    finite = raw[np.isfinite(raw)]
    if not len(finite):
        return None
    first = abs(float(finite[0]))
    nanoseconds = raw.dtype.kind in "iu" or first > 1e15
    times = raw.astype(np.float64)
    if first > (1e15 if nanoseconds else 1e6):  # since 1970: subtracted before the conversion to keep the precision
        times -= stamp_ns if nanoseconds else stamp_ns / 1e9
    times *= 1e-9 if nanoseconds else 1.0
    valid = np.isfinite(times)
    if np.abs(times[valid]).max() > MAX_SWEEP_S or np.ptp(times[valid]) > MAX_SWEEP_S:
        return None
    times[~valid] = 0.0
    return times


def returns(points: np.ndarray) -> np.ndarray:
    """Mask (N,) of the points (N, 3) that are returns of the sensor; drivers encode a missing one as NaN or (0, 0, 0)."""
    return np.isfinite(points).all(axis=1) & (points != 0).any(axis=1)


def output_layout(output_fields: Sequence[str] = tuple(OUTPUT_FIELDS)) -> np.dtype:
    """Structured dtype of a completed point; each field is aligned to its own size, as in C.

    With all fields: x, y, z, intensity at 0, 4, 8, 12, provenance at 16, confidence at 20, 24 bytes.
    """
    xyz: list[tuple[str, Any]] = [(name, np.float32) for name in "xyz"]
    return np.dtype(xyz + [(name, kind) for name, kind in OUTPUT_FIELDS.items() if name in output_fields], align=True)


def allocate_points(count: int, layout: np.dtype) -> tuple[array.array, np.ndarray]:
    """Zeroed memory for `count` points: the buffer, which rclpy takes without a copy, and a NumPy view of it to fill."""
    buffer = array.array("B", bytes(count * layout.itemsize))
    return buffer, np.frombuffer(buffer, dtype=layout)


def encode(points: np.ndarray, columns: Mapping[str, np.ndarray], layout: np.dtype) -> array.array:
    """The bytes of a cloud: points (N, 3) and further columns (N,), for the fields of `layout`."""
    buffer, cloud = allocate_points(len(points), layout)
    for axis, name in enumerate("xyz"):
        cloud[name] = points[:, axis]
    for name in (layout.names or ())[3:]:
        cloud[name] = columns[name]
    return buffer


def fields_of(layout: np.dtype) -> list[Field]:
    """The fields that describe a structured dtype, the inverse of `dtype_from_fields`."""
    offsets = {name: layout.fields[name] for name in layout.names or ()}  # type: ignore[index]
    return [Field(name, offset, DATATYPES[kind.str[1:]]) for name, (kind, offset, *_) in offsets.items()]


def _fields_by_name(cloud: PointCloud) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for field in cloud.fields:
        if field.name in fields:
            raise PointCloudError("duplicate field", f"two fields are named {field.name!r}; expected each name once")
        fields[field.name] = field
    return fields


def _checked_field(cloud: PointCloud, fields: Mapping[str, Any], name: str, datatypes: Sequence[int]) -> Field:
    """The named field, if it is a scalar of one of `datatypes` and lies within the point."""
    if name not in fields:
        found = ", ".join(map(repr, fields)) or "none"
        raise PointCloudError(f"no {name} field", f"expected fields x, y and z, found {found}")
    field = Field(name, fields[name].offset, fields[name].datatype, fields[name].count)
    if field.datatype not in datatypes:
        expected = ", ".join(_type_name(datatype) for datatype in datatypes)
        raise PointCloudError(
            f"type of field {name}", f"field {name!r} has type {_type_name(field.datatype)}; expected {expected}"
        )
    if field.count != 1:
        raise PointCloudError(f"count of field {name}", f"field {name!r} has count {field.count}; expected 1")
    if cloud.point_step == 0:
        raise PointCloudError("point_step 0", "point_step is 0; expected the bytes from one point to the next")
    end = field.offset + np.dtype(NUMPY_TYPES[field.datatype]).itemsize
    if end > cloud.point_step:
        raise PointCloudError(
            f"offset of field {name}",
            f"field {name!r} ends at byte {end} of a point, but point_step is {cloud.point_step}",
        )
    return field


def _type_name(datatype: int) -> str:
    return np.dtype(NUMPY_TYPES[datatype]).name if datatype in NUMPY_TYPES else f"{datatype} (not a PointField type)"


def _check_size(cloud: PointCloud, max_points: int | None) -> None:
    count = cloud.width * cloud.height
    if max_points is not None and count > max_points:
        raise PointCloudError(
            "too many points",
            f"{cloud.width} x {cloud.height} = {count} points; the parameter max_input_points allows {max_points}",
        )
    if cloud.row_step < cloud.width * cloud.point_step:
        raise PointCloudError(
            "row_step too small",
            f"row_step is {cloud.row_step}, but {cloud.width} points of {cloud.point_step} bytes need "
            f"{cloud.width * cloud.point_step}",
        )
    if len(cloud.data) < cloud.row_step * cloud.height:
        raise PointCloudError(
            "data too short",
            f"found {len(cloud.data)} bytes; expected row_step x height = {cloud.row_step * cloud.height}",
        )


def _columns(cloud: PointCloud, fields: Sequence[Field], layout: DtypeFromFields) -> dict[str, np.ndarray]:
    """(height, width) view of each field in the message's own type and byte order. The sizes are checked already."""
    shape = (cloud.height, cloud.width)
    if 0 in shape:
        return {field.name: np.empty(shape, NUMPY_TYPES[field.datatype]) for field in fields}
    dtype = layout(fields, cloud.point_step).newbyteorder(">" if cloud.is_bigendian else "<")
    points = np.ndarray(shape, dtype, buffer=memoryview(cloud.data), strides=(cloud.row_step, cloud.point_step))
    return {field.name: points[field.name] for field in fields}


def _xyz_is_packed(cloud: PointCloud, fields: Sequence[Field]) -> bool:
    """Whether x, y, z are adjacent aligned native float32, so that a view of them is a valid (N, 3) array for torch."""
    x, y, z = fields[:3]
    native = cloud.is_bigendian == (sys.byteorder == "big")
    float32 = all(axis.datatype == DATATYPES["f4"] for axis in (x, y, z))
    adjacent = y.offset == x.offset + 4 and z.offset == x.offset + 8
    one_stride = cloud.height == 1 or cloud.row_step == cloud.width * cloud.point_step
    aligned = cloud.point_step % 4 == 0 and x.offset % 4 == 0
    return native and float32 and adjacent and one_stride and aligned and cloud.width * cloud.height > 0


def _xyz_view(cloud: PointCloud, fields: Sequence[Field]) -> np.ndarray:
    count, start = cloud.width * cloud.height, fields[0].offset
    view = np.ndarray((count, 3), np.float32, memoryview(cloud.data), start, (cloud.point_step, 4))
    return view if view.flags.aligned else view.copy()


def _stacked(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.stack([_float32(columns[axis]) for axis in "xyz"], axis=-1).reshape(-1, 3)


def _float32(column: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # a float64 beyond float32 becomes inf, which is no return
        return column.astype(np.float32)
