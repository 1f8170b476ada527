"""Finds points on moving objects without labels: other sweeps of the drive measure surfaces behind their position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import minimum_filter

from lidar_completion_evaluation.drives.drive import Drive, transform


@dataclass(frozen=True)
class VisibilityRules:
    """When another sweep counts as seeing through a point. offsets: of the other sweeps, in sweeps."""

    offsets: tuple[int, ...] = (-30, -20, -15, -10, -7, -5, -3, 3, 5, 7, 10, 15, 20, 30)
    pixel_deg: float = 0.5
    elevation_limits_deg: tuple[float, float] = (-32.0, 24.0)
    min_range_m: float = 3.5  # closer returns are the vehicle itself
    max_range_m: float = 50.0  # beyond, pixels are too coarse
    margin_m: float = 0.3
    margin_share: float = 0.03  # share of the range that is added to the margin
    min_witnesses: int = 2


class VisibilityCheck:
    """Compares the points of a drive's sweeps with range images of its other sweeps; a bounded number of images is cached."""

    def __init__(self, drive: Drive, rules: VisibilityRules | None = None, read: Callable | None = None) -> None:
        self._poses = drive.T_map_sensor
        self._rules = rules or VisibilityRules()
        read = read or drive.read
        self._image = lru_cache(maxsize=2 * max(map(abs, self._rules.offsets)) + 2)(
            lambda index: nearest_range_image(read(index).points, self._rules)
        )

    def static(self, index: int, points: np.ndarray) -> np.ndarray:
        """Which points (N, 3) of this sweep are static, (N,) bool: not seen through, or confirmed by at least as many sweeps."""
        seen_through = np.zeros(len(points), np.int16)
        confirmed = np.zeros(len(points), np.int16)
        for other in (index + offset for offset in self._rules.offsets):
            if 0 <= other < len(self._poses):
                T_other_this = np.linalg.inv(self._poses[other]) @ self._poses[index]
                through, same = compare_with_image(self._image(other), transform(T_other_this, points), self._rules)
                seen_through += through
                confirmed += same
        return ~((seen_through >= self._rules.min_witnesses) & (seen_through > confirmed))


def nearest_range_image(points: np.ndarray, rules: VisibilityRules) -> tuple[np.ndarray, np.ndarray]:
    """Two range images (elevation rows, azimuth columns), float32 metres, inf without a return.

    The nearest return of each pixel, and the nearest of its 3x3 neighbourhood, which closes edges and thin objects.
    """
    distance, row, column, inside = _pixels(points[np.isfinite(points).all(axis=1)], rules)
    inside &= distance > rules.min_range_m
    image = np.full(_image_shape(rules), np.inf, np.float32)
    np.minimum.at(image, (row[inside], column[inside]), distance[inside])
    return image, minimum_filter(image, size=3, mode=("nearest", "wrap"))


def compare_with_image(
    images: tuple[np.ndarray, np.ndarray], points: np.ndarray, rules: VisibilityRules
) -> tuple[np.ndarray, np.ndarray]:
    """For points (N, 3) in the frame of a range image: which of them it sees through, and which it confirms; (N,) bool."""
    image, neighbourhood = images
    distance, row, column, inside = _pixels(points, rules)
    inside &= (distance < rules.max_range_m) & (distance > rules.min_range_m)
    here, near = np.full(len(points), np.inf), np.full(len(points), np.inf)
    here[inside], near[inside] = image[row[inside], column[inside]], neighbourhood[row[inside], column[inside]]
    margin = rules.margin_m + rules.margin_share * distance
    measured = np.isfinite(here)
    through = measured & (near > distance + margin)
    same = inside & np.isfinite(near) & (np.abs(near - distance) <= margin)
    return through, same


def _pixels(points: np.ndarray, rules: VisibilityRules) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    distance = np.linalg.norm(points, axis=1)
    rows, columns = _image_shape(rules)
    elevation = np.degrees(np.arcsin(np.clip(points[:, 2] / np.maximum(distance, 1e-9), -1, 1)))
    azimuth = np.degrees(np.arctan2(points[:, 1], points[:, 0])) % 360.0
    row = np.floor((elevation - rules.elevation_limits_deg[0]) / rules.pixel_deg).astype(np.int64)
    column = np.floor(azimuth / rules.pixel_deg).astype(np.int64) % columns
    return distance, row, column, (row >= 0) & (row < rows)


def _image_shape(rules: VisibilityRules) -> tuple[int, int]:
    low, high = rules.elevation_limits_deg
    return round((high - low) / rules.pixel_deg), round(360.0 / rules.pixel_deg)
