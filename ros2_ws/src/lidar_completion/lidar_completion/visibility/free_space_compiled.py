"""Loops of the free-space filter on CPUs, compiled. The plain implementations are in free_space.py.

directions: distance in metres, azimuth and elevation in radians, (N,) float32 each. scales: columns per radian, radians per row.
"""

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, equal_cuts, in_parallel

PI = np.float32(np.pi)
Directions = tuple[Tensor, Tensor, Tensor]
Scales = tuple[np.float32, np.float32]


def fill_range_image(directions: Directions, lowest: float, scales: Scales, image: Tensor) -> None:
    """Set each bin of image (rows, columns) to its nearest return; bins without a return keep their value."""
    arrays = [each.numpy() for each in directions]
    _nearest_return(*arrays, np.float32(lowest), *scales, image.numpy())  # type: ignore[call-arg]


def before_clear(directions: Directions, clear: Tensor, lowest: float, scales: Scales, margin_m: float) -> Tensor:
    """As free_space.before_clear_plain, (N,) bool."""
    arrays, out = [each.numpy() for each in directions], np.empty(len(directions[0]), np.bool_)
    settings = (clear.numpy(), np.float32(lowest), *scales, np.float32(margin_m))
    shares = equal_cuts(len(out))
    in_parallel(_before_clear, [(*arrays, *settings, out, *share) for share in shares])
    return torch.from_numpy(out)


def clear_distance(image: Tensor, max_gap: int) -> Tensor:
    """As free_space.clear_distance_plain."""
    clear = np.zeros(tuple(image.shape), np.float32)
    _clear_distance(image.numpy(), max_gap, clear)
    return torch.from_numpy(clear)


@compiled
def _nearest_return(distance, azimuth, elevation, lowest, across, up, image):  # type: ignore[no-untyped-def]
    for i in range(len(distance)):
        row = np.int64(np.floor((elevation[i] - lowest) / up))
        column = min(max(np.int64((azimuth[i] + PI) * across), 0), image.shape[1] - 1)
        image[row, column] = min(image[row, column], distance[i])


@compiled
def _before_clear(distance, azimuth, elevation, clear, lowest, across, up, margin, out, first, last):  # type: ignore[no-untyped-def]
    rows, columns = clear.shape
    for i in range(first, last):
        row = np.int64(np.floor((elevation[i] - lowest) / up))
        out[i] = False
        if 0 <= row < rows:
            column = min(max(np.int64((azimuth[i] + PI) * across), 0), columns - 1)
            out[i] = distance[i] < clear[row, column] - margin


@compiled
def _clear_distance(image, max_gap, clear):  # type: ignore[no-untyped-def]
    rows, columns = image.shape
    far = 10 * max(rows, max_gap) + 10
    above = np.empty((rows, columns), np.int32)
    for row in range(rows - 1, -1, -1):
        for column in range(columns):
            if np.isfinite(image[row, column]):
                above[row, column] = row
            else:
                above[row, column] = above[row + 1, column] if row + 1 < rows else far
    below = np.full(columns, -far, np.int32)
    for row in range(rows):
        for column in range(columns):
            up = above[row, column]
            if up == row:
                below[column] = row
            down = below[column]
            if up - down <= max_gap:
                clear[row, column] = min(image[up, column], image[down, column])
            elif row - down <= 1:
                clear[row, column] = image[down, column]
            elif up - row <= 1:
                clear[row, column] = image[up, column]
