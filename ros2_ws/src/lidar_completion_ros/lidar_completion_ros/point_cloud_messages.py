"""PointCloud2 messages of the node: decodes the input and builds the output.

The decoder itself is lidar_completion.point_clouds. The dtype of the fields comes from sensor_msgs_py if it is installed.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from lidar_completion import point_clouds
from lidar_completion.completer import Completion
from lidar_completion.output_layouts import laid_out, sweep_columns
from lidar_completion.point_clouds import OUTPUT_FIELDS, DtypeFromFields, encode, fields_of

try:
    from sensor_msgs_py.point_cloud2 import dtype_from_fields as _ros_dtype_from_fields
except ImportError:  # not among the wheels on PyPI
    LAYOUT: DtypeFromFields = point_clouds.dtype_from_fields
else:
    LAYOUT = _ros_dtype_from_fields

decode = partial(point_clouds.decode, layout=LAYOUT)
passed_on_columns = partial(sweep_columns, layout=LAYOUT)


def point_times(message: PointCloud2) -> np.ndarray | None:
    """Seconds (N,) float64 from the header's stamp to each point; None if the message has no usable times."""
    return point_clouds.point_times(message, stamp_ns(message.header), layout=LAYOUT)


def stamp_ns(header: Header) -> int:
    """Nanoseconds of a header's stamp. rclpy's Time raises for negative stamps, which faulty drivers do send."""
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)


def completion_columns(completion: Completion) -> dict[str, np.ndarray]:
    """The fields of a completion besides x, y, z: intensity (0 if the sweep had none), provenance, confidence."""
    intensity = completion.intensity
    return {
        "intensity": np.zeros(len(completion.points), np.float32) if intensity is None else intensity,
        "provenance": completion.provenance,
        "confidence": completion.confidence,
    }


def completion_message(
    header: Header,
    points: np.ndarray,
    columns: Mapping[str, np.ndarray],
    output_fields: Sequence[str] = tuple(OUTPUT_FIELDS),
    output_layout: str = "fields",
    sweep: Mapping[str, np.ndarray] | None = None,
) -> PointCloud2:
    """The node's output: points (M, 3) float32 metres in the header's frame, and the columns named in output_fields.

    columns (M,): intensity and confidence float32, provenance uint8. output_layout: see output_layouts.laid_out; sweep (n,):
    the columns of the first n points that it passes on.
    """
    layout, wanted = laid_out(output_layout, output_fields, columns, sweep or {})
    return cloud_message(header, encode(points, wanted, layout), layout)


def cloud_message(header: Header, buffer: array.array, layout: np.dtype) -> PointCloud2:
    """An unorganised PointCloud2 around `buffer`, which holds points of the structured dtype `layout`."""
    count = len(buffer) // layout.itemsize
    points = np.frombuffer(buffer, layout)
    message = PointCloud2(header=header, height=1, width=count, is_bigendian=sys.byteorder == "big")
    message.is_dense = all(bool(np.isfinite(points[axis]).all()) for axis in "xyz")
    message.point_step, message.row_step = layout.itemsize, layout.itemsize * count
    message.fields = [PointField(**field._asdict()) for field in fields_of(layout)]
    message.data = buffer
    return message
