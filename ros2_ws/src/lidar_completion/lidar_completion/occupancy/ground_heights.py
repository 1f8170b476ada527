"""The height of the ground under each cell of a grid."""

from types import ModuleType

import numpy as np

GROUND_CELL_M = 2.0
MAX_SLOPE = 0.2  # rise per metre; returns from a roof alone are not taken for the ground
STEPS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def ground_heights(
    measured: np.ndarray, corner: np.ndarray, resolution_m: float, cells: int, loops: ModuleType
) -> np.ndarray:
    """Height (cells, cells) float64 of the ground from measured points (M, 3); corner and resolution as in Geometry.

    The third-lowest return of each 2 m cell, as single returns may be reflections from below the ground; lowered to
    what a slope of MAX_SLOPE allows from all other cells; cells without returns get the height of the nearest one with.
    """
    from scipy.ndimage import distance_transform_edt  # here, because without a subscriber the node makes no grid

    count = int(np.ceil(cells * resolution_m / GROUND_CELL_M))
    known = within_slope(loops.third_lowest(measured, corner, GROUND_CELL_M, count), MAX_SLOPE * GROUND_CELL_M)
    if not np.isfinite(known).any():
        return np.full((cells, cells), np.inf)  # nothing is an obstacle or free above an unknown ground
    y, x = distance_transform_edt(~np.isfinite(known), return_distances=False, return_indices=True)
    coarse = np.minimum(((np.arange(cells) + 0.5) * resolution_m / GROUND_CELL_M).astype(np.int64), count - 1)
    return np.ascontiguousarray(known[y, x][coarse[:, None], coarse[None, :]])


def within_slope(heights: np.ndarray, rise: float) -> np.ndarray:
    """Heights (Y, X), inf where unknown, lowered so that no known cell lies more than `rise` per cell above another one."""
    unknown, lowered = ~np.isfinite(heights), heights
    while True:
        padded = np.pad(lowered, 1, constant_values=np.inf)
        around = [
            padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx] + rise * np.hypot(dy, dx)
            for dy, dx in STEPS
        ]
        lower = np.minimum(lowered, np.minimum.reduce(around))
        if np.array_equal(lower, lowered):
            return np.where(unknown, np.inf, lowered)
        lowered = lower
