"""Bird's-eye pictures of scenes, drawn straight into pixels: fast enough to make one for every scene and row."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

BACKGROUND = (16, 18, 24)
TRUTH = (58, 64, 78)
MEASURED = (236, 238, 242)
# From right (teal) over doubtful (yellow) to wrong (red), by distance to the truth in metres.
ERROR_STOPS_M = (0.0, 0.1, 0.2, 0.5, 1.0)
ERROR_COLOURS = ((38, 166, 154), (102, 199, 132), (250, 214, 90), (240, 128, 60), (214, 48, 49))


def birds_eye(
    truth: np.ndarray,
    points: np.ndarray,
    errors_m: np.ndarray | None = None,
    *,
    half_extent_m: float = 50.0,
    pixels: int = 440,
) -> bytes:
    """PNG of points (N, 3) over the truth (M, 3), x up and y left, both in the sensor frame.

    errors_m (N,): distance to the truth, as colour; without it the points are white. The worst point of a pixel shows.
    """
    image = np.empty((pixels, pixels, 3), np.uint8)
    image[:] = BACKGROUND
    row, column, _ = _pixels(truth, half_extent_m, pixels)
    image[row, column] = TRUTH
    row, column, inside = _pixels(points, half_extent_m, pixels)
    if errors_m is None:
        image[row, column] = MEASURED
    else:
        worst_last = np.argsort(errors_m[inside], kind="stable")
        image[row[worst_last], column[worst_last]] = error_colours(errors_m[inside][worst_last])
    buffer = io.BytesIO()
    Image.fromarray(image).quantize(64).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def error_colours(errors_m: np.ndarray) -> np.ndarray:
    """Colours (N, 3) uint8 of distances (N,) in metres."""
    channels = [np.interp(errors_m, ERROR_STOPS_M, channel) for channel in zip(*ERROR_COLOURS, strict=True)]
    return np.stack(channels, axis=1).astype(np.uint8)


def _pixels(points: np.ndarray, half_extent_m: float, pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scale = pixels / (2 * half_extent_m)
    row = np.floor((half_extent_m - points[:, 0]) * scale).astype(np.int64)
    column = np.floor((half_extent_m - points[:, 1]) * scale).astype(np.int64)
    inside = (row >= 0) & (row < pixels) & (column >= 0) & (column < pixels)
    return row[inside], column[inside], inside
