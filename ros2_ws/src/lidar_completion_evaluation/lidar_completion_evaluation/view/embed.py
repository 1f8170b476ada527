"""One sweep as a self-contained HTML fragment: a rotatable view with a confidence slider that works offline."""

from __future__ import annotations

import base64
import gzip
import json
from importlib.resources import files

import numpy as np
from jinja2 import Environment

from lidar_completion_evaluation.pictures import BACKGROUND, ERROR_STOPS_M, confidence_colours, error_colours
from lidar_completion_evaluation.truth.rules import cell_keys
from lidar_completion_evaluation.view.camera import PRESETS

MAX_POINTS = 80_000
MAX_BYTES = 1_500_000
STEP_M = 0.005  # int16 holds +-163 m
POINT_SIZE_M = 0.12
FINEST_VOXEL_M = 0.05
MAX_DISTANCE_M = ERROR_STOPS_M[-1]


def embedded_view(
    measured: np.ndarray,
    completed: np.ndarray,
    confidence: np.ndarray,
    *,
    distance_m: np.ndarray | None = None,
    max_points: int = MAX_POINTS,
    height_px: int = 560,
) -> str:
    """HTML fragment that shows a sweep in 3-D: measured points (N, 3) white, completed points (M, 3) by confidence (M,).

    Sensor frame, metres; points beyond 160 m are left out. distance_m (M,): distance of each completed point to the ground
    truth, NaN where unknown; adds a second colouring. More than max_points points are thinned to one per voxel, and the view
    says so. The fragment is at most 1.5 MB and loads no other files. Raises ValueError for arrays of different lengths.
    """
    lengths = {len(completed), len(confidence), len(completed if distance_m is None else distance_m)}
    if len(lengths) > 1:
        raise ValueError(
            f"expected one confidence and distance per completed point, found the lengths {sorted(lengths)}"
        )
    rows = [_visible(measured), _visible(completed)]
    total = sum(map(len, rows))
    measured_rows, completed_rows = _thinned([measured, completed], rows, max_points)
    completed_rows = completed_rows[np.argsort(-confidence[completed_rows], kind="stable")]
    points = np.concatenate([measured[measured_rows], completed[completed_rows]])
    data = {
        "positions": _base64(np.rint(points / STEP_M).astype("<i2")),
        "confidence": _base64(_byte(confidence[completed_rows])),
        "distance": None if distance_m is None else _base64(_byte(distance_m[completed_rows] / MAX_DISTANCE_M)),
        "confidencePalette": _base64(confidence_colours(np.linspace(0, 1, 256))),
        "distancePalette": _base64(error_colours(np.linspace(0, MAX_DISTANCE_M, 256))),
        "measured": len(measured_rows),
        "completed": len(completed_rows),
        "thinned": f"{len(points):,} of {total:,} points drawn" if len(points) < total else "",
        "step": STEP_M,
        "pointSize": POINT_SIZE_M,
        "maxDistance": MAX_DISTANCE_M,
        "presets": PRESETS,
    }
    return _fragment(data, height_px)


def _fragment(data: dict, height_px: int) -> str:
    assets = files("lidar_completion_evaluation") / "view" / "assets"
    html, script = ((assets / name).read_text() for name in ("embedded_view.html.j2", "embedded_view.js"))
    library = gzip.decompress((assets / "three.min.js.gz").read_bytes()).decode()
    fragment = (
        Environment(autoescape=False)
        .from_string(html)
        .render(
            background=BACKGROUND,
            presets=list(PRESETS),
            has_distance=data["distance"] is not None,
            height_px=height_px,
            library=library,
            script=script[script.index("function ") :],
            data=json.dumps(data),
        )
    )
    if len(fragment) > MAX_BYTES:
        raise ValueError(f"expected a view of at most {MAX_BYTES:,} bytes, found {len(fragment):,}; lower max_points")
    return fragment


def _visible(points: np.ndarray) -> np.ndarray:
    """Rows of finite points that int16 can hold."""
    with np.errstate(invalid="ignore"):
        return np.flatnonzero((np.abs(points) < STEP_M * 32_000).all(axis=1))


def _thinned(clouds: list[np.ndarray], rows: list[np.ndarray], max_points: int) -> list[np.ndarray]:
    """At most max_points of these rows in total: one per cloud and voxel, for the smallest voxel size that suffices."""
    random = np.random.default_rng(0)
    rows = [random.permutation(each) for each in rows]
    voxel_m = FINEST_VOXEL_M
    while sum(map(len, rows)) > max_points:
        rows = [each[_first_rows(cloud[each], voxel_m)] for cloud, each in zip(clouds, rows, strict=True)]
        voxel_m *= 1.2
    return rows


def _first_rows(points: np.ndarray, voxel_m: float) -> np.ndarray:
    return np.unique(cell_keys(points, voxel_m), return_index=True)[1]


def _byte(values: np.ndarray) -> np.ndarray:
    """[0, 1] as uint8; values outside are clipped, NaN becomes 255."""
    return np.rint(255 * np.clip(np.nan_to_num(values, nan=1.0), 0, 1)).astype(np.uint8)


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
