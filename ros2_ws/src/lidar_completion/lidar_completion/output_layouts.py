"""Layouts of the published cloud: our own fields, those with fields of the sweep, or Autoware's.

Fields of the sweep are passed on for measured points; completed points, which no laser has measured, have 0 in them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from lidar_completion.point_clouds import (
    OUTPUT_FIELDS,
    TIME_FIELDS,
    DtypeFromFields,
    PointCloud,
    dtype_from_fields,
    first_column,
    output_layout,
)

LAYOUTS = ("fields", "pass_through", "xyzirc")
RING_FIELDS = ("ring", "channel", "line")  # Velodyne, Ouster, Hesai and RoboSense; Autoware; Livox
RETURN_FIELDS = ("return_type",)
# autoware::point_types::PointXYZIRC, 16 bytes. return_type 0 is INVALID there: that of completed points
XYZIRC = np.dtype([*((name, "<f4") for name in "xyz"), ("intensity", "u1"), ("return_type", "u1"), ("channel", "<u2")])

Columns = dict[str, np.ndarray]


def sweep_columns(
    cloud: PointCloud, rows: np.ndarray, *, layout: DtypeFromFields = dtype_from_fields
) -> dict[str, np.ndarray]:
    """Ring, time, return type and intensity of the points of these rows (n,), under the names and in the types of the sweep."""
    found: Columns = {}
    for names in (RING_FIELDS, TIME_FIELDS, RETURN_FIELDS, ("intensity",)):
        found |= first_column(cloud, names, layout=layout)
    return {name: column[rows].astype(column.dtype.newbyteorder("=")) for name, column in found.items()}


def laid_out(
    name: str, output_fields: Sequence[str], columns: Mapping[str, np.ndarray], sweep: Mapping[str, np.ndarray]
) -> tuple[np.dtype, Columns]:
    """The structured dtype of a point, and its columns (M,) besides x, y, z.

    name: one of LAYOUTS; columns (M,): those of OUTPUT_FIELDS; sweep (n,): sweep_columns of the first n points.
    """
    if name == "xyzirc":
        return XYZIRC, _xyzirc(columns, sweep)
    own = output_layout(output_fields)
    if name == "fields":
        return own, dict(columns)
    passed_on = {each: column for each, column in sweep.items() if each not in OUTPUT_FIELDS}
    described = [(each, own[each]) for each in own.names or ()]
    described += [(each, column.dtype) for each, column in passed_on.items()]
    count = len(columns["provenance"])
    return np.dtype(described, align=True), dict(columns) | {
        each: _padded(column, count) for each, column in passed_on.items()
    }


def _xyzirc(columns: Mapping[str, np.ndarray], sweep: Mapping[str, np.ndarray]) -> Columns:
    """Intensity is rounded to a byte; it is exact if the sweep's is one."""
    count = len(columns["intensity"])
    byte = np.iinfo(np.uint8)
    intensity = np.nan_to_num(np.rint(columns["intensity"])).clip(byte.min, byte.max).astype(np.uint8)
    ring = next((sweep[each] for each in RING_FIELDS if each in sweep), np.empty(0))
    returns = next((sweep[each] for each in RETURN_FIELDS if each in sweep), np.empty(0))
    return {
        "intensity": intensity,
        "return_type": _padded(returns, count).astype(np.uint8),
        "channel": _padded(ring, count).astype(np.uint16),
    }


def _padded(column: np.ndarray, count: int) -> np.ndarray:
    """The column (n,), then zeros up to `count` points."""
    padded = np.zeros(count, column.dtype)
    padded[: len(column)] = column[:count]
    return padded
