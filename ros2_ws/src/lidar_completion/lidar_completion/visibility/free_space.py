"""The free-space filter: completed points that lie between the sensor and what it measured.

The sweep is turned into a range image. It gives the distance up to which the sensor saw free space in each direction. The compiled
loops for CPUs are in free_space_compiled.py.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lidar_completion.neighbours import any_within
from lidar_completion.sparse import points_cpu
from lidar_completion.visibility import free_space_compiled

NEAR_DEPTH_M, FAR_DEPTH_M = 1.0, 8.0  # units of the two distances in ClearSpace.ray_features


@dataclass(frozen=True)
class FreeSpaceRules:
    """When a ray shows that a completed point lies in free space.

    The defaults suit spinning LiDARs with 0.1 to 0.4 degrees between firings. Where rings are farther apart than
    max_gap_deg, the space between them counts as unobserved, and points there are kept. Figures: docs/visibility.md.
    """

    margin_m: float = 0.3  # the last part of a ray is not treated as free: range noise, beam footprint
    near_m: float = 0.25  # points this near to the downsampled sweep lie on a measured surface and are kept
    azimuth_deg: float = 0.2  # width of a column; a column uses the nearest return of itself and both neighbours
    elevation_deg: float = 0.1  # height of a row; a ray covers its own row and one above and below (beam divergence)
    max_gap_deg: float = 0.6  # between two rays at most this far apart, space up to the nearer return was observed


@dataclass(frozen=True)
class ClearSpace:
    """The distance up to which each direction was observed to be free. Used by the free-space filter and for ray features."""

    distance: Tensor  # (rows, columns) metres; 0 in directions without a ray
    lowest: float  # elevation in radians where the first row begins
    rules: FreeSpaceRules

    @classmethod
    def from_returns(cls, measured: Tensor, rules: FreeSpaceRules | None = None) -> "ClearSpace":
        """From returns (M, 3) in the sensor frame, M > 0."""
        rules = rules or FreeSpaceRules()
        return cls(*clear_image(measured, rules), rules)

    def ray_features(self, points: Tensor) -> Tensor:
        """(N, 3) for points (N, 3): 1 where the direction was seen, and the distance from the point to the end of free space.

        The distance is given twice, in units of NEAR_DEPTH_M and of FAR_DEPTH_M, each clamped to [-1, 1]; it is positive in
        free space, and 0 in directions that were not seen.
        """
        clear = self.in_direction_of(points)
        seen = clear > 0
        depth = torch.where(seen, clear - points.norm(dim=1), 0.0)
        near, far = ((depth / unit).clamp(-1, 1) for unit in (NEAR_DEPTH_M, FAR_DEPTH_M))
        return torch.stack([seen.to(points.dtype), near, far], dim=1)

    def hides(self, points: Tensor) -> Tensor:
        """Which points (N, 3) lie behind what the sensor measured in their direction, or at most rules.margin_m before it, (N,) bool."""
        clear = self.in_direction_of(points)
        return (clear > 0) & (points.norm(dim=1) >= clear - self.rules.margin_m)

    def in_direction_of(self, points: Tensor) -> Tensor:
        """The distance (N,) in metres up to which the directions of points (N, 3) were observed to be free; 0 without a ray."""
        rows, columns = self.distance.shape
        _, azimuth, elevation = polar(points)
        column, row = _bins(azimuth, elevation, self.lowest, columns, self.rules)
        clear = self.distance.reshape(-1)[row.clamp(0, rows - 1) * columns + column]
        return torch.where((row >= 0) & (row < rows) & torch.isfinite(clear), clear, 0.0)


def in_free_space(
    points: Tensor, measured: Tensor, scan: Tensor, rules: FreeSpaceRules, clear_space: ClearSpace | None = None
) -> Tensor:
    """Which completed points (N, 3) lie in free space and not near a measured surface, (N,) bool.

    measured (M, 3): all returns; scan (S, 3): the downsampled sweep; clear_space: see before_returns.
    """
    free = before_returns(points, measured, rules, clear_space)
    candidates = free.nonzero().squeeze(1)
    near_surface = any_within(points.index_select(0, candidates), scan, rules.near_m)
    return free.index_copy_(0, candidates, ~near_surface)


def before_returns(
    points: Tensor, measured: Tensor, rules: FreeSpaceRules | None = None, clear_space: ClearSpace | None = None
) -> Tensor:
    """Which completed points (N, 3) lie nearer to the sensor than what it measured in their direction, (N,) bool.

    measured (M, 3): returns. Both are finite, in the sensor frame in metres, in any order. A direction without a return
    gives no information: it may be sky, glass or a black car. clear_space: that of these returns, if it is known; it is used
    if it was computed with these rules.
    """
    rules = rules or FreeSpaceRules()
    if not len(points) or not len(measured):
        return torch.zeros_like(points[:, 0], dtype=torch.bool)
    clear_space = clear_space_for(measured, rules, clear_space)
    assert clear_space is not None
    clear, lowest = clear_space.distance, clear_space.lowest
    if not points_cpu.usable(points):
        return before_clear_plain(points, clear, lowest, rules)
    return free_space_compiled.before_clear(
        polar(points), clear, lowest, _scales(clear.shape[1], rules), rules.margin_m
    )


def clear_space_for(measured: Tensor, rules: FreeSpaceRules, known: ClearSpace | None) -> ClearSpace | None:
    """`known` if it has these rules, otherwise the clear space of returns (M, 3); None if there are no returns."""
    if not len(measured):
        return None
    return known if known is not None and known.rules == rules else ClearSpace.from_returns(measured, rules)


def bins_per_radian(clear_space: ClearSpace) -> tuple[np.float32, np.float32]:
    """Columns per radian, and radians per row."""
    return _scales(clear_space.distance.shape[1], clear_space.rules)


def clear_image(measured: Tensor, rules: FreeSpaceRules) -> tuple[Tensor, float]:
    """The free distance in each direction (rows, columns) in metres, from returns (M, 3), and the elevation in radians at
    which its first row begins."""
    distance, azimuth, elevation = polar(measured)
    lowest = float(elevation.min())
    columns = round(360.0 / rules.azimuth_deg)
    rows = int(_bins(azimuth[:1], elevation.max()[None], lowest, columns, rules)[1]) + 1
    image = torch.full((rows, columns), torch.inf, device=measured.device)
    if points_cpu.usable(distance):
        free_space_compiled.fill_range_image((distance, azimuth, elevation), lowest, _scales(columns, rules), image)
    else:
        column, row = _bins(azimuth, elevation, lowest, columns, rules)
        image.view(-1).scatter_reduce_(0, row * columns + column, distance, "amin")
    return clear_distance(image, round(rules.max_gap_deg / rules.elevation_deg)), lowest


def clear_distance(image: Tensor, max_gap: int) -> Tensor:
    """The free distance in each direction of a range image (rows, columns), metres; 0 without a ray.

    image: nearest return of each bin, inf if there is none; rows by rising elevation, columns once around. A bin gets the
    smaller of the returns above and below it if these are at most `max_gap` rows apart, else a return at most one row away.
    """
    nearer = torch.minimum(image, torch.minimum(image.roll(1, 1), image.roll(-1, 1)))
    if image.device.type == "cpu":
        return free_space_compiled.clear_distance(nearer, max_gap)
    return clear_distance_plain(nearer, max_gap)


def clear_distance_plain(image: Tensor, max_gap: int) -> Tensor:
    """The plain implementation, for any device."""
    rows, far = len(image), 10 * max(len(image), max_gap) + 10
    here = torch.arange(rows, device=image.device)[:, None]
    hit = torch.isfinite(image)
    below = torch.where(hit, here, -far).cummax(0).values
    above = torch.where(hit, here, far).flip(0).cummin(0).values.flip(0)
    range_below, range_above = (image.gather(0, each.clamp(0, rows - 1)) for each in (below, above))
    clear = torch.zeros_like(image)
    clear = torch.where(above - here <= 1, range_above, clear)
    clear = torch.where(here - below <= 1, range_below, clear)
    return torch.where(above - below <= max_gap, torch.minimum(range_below, range_above), clear)


def before_clear_plain(points: Tensor, clear: Tensor, lowest: float, rules: FreeSpaceRules) -> Tensor:
    """The plain implementation, for any device: which points (N, 3) lie before `clear` (rows, columns), (N,) bool."""
    rows, columns = clear.shape
    distance, azimuth, elevation = polar(points)
    column, row = _bins(azimuth, elevation, lowest, columns, rules)
    inside = (row >= 0) & (row < rows)
    seen = clear.reshape(-1)[row.clamp_(0, rows - 1) * columns + column]
    return inside & (distance < seen - rules.margin_m)


def polar(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distance in metres, azimuth and elevation in radians of points (N, 3), each (N,)."""
    x, y, z = points_cpu.by_axis(points.float())  # contiguous axes use the processor's vector instructions
    flat = torch.hypot(x, y)
    return torch.hypot(flat, z), torch.atan2(y, x), torch.atan2(z, flat)


def _scales(columns: int, rules: FreeSpaceRules) -> tuple[np.float32, np.float32]:
    """Columns per radian, and radians per row."""
    return np.float32(columns / (2 * np.pi)), np.float32(np.radians(rules.elevation_deg))


def _bins(
    azimuth: Tensor, elevation: Tensor, lowest: float, columns: int, rules: FreeSpaceRules
) -> tuple[Tensor, Tensor]:
    """Column and row (N,) int64 of directions; rows may lie outside the image."""
    across, up = map(float, _scales(columns, rules))
    column = ((azimuth + float(free_space_compiled.PI)) * across).long().clamp_(0, columns - 1)
    row = ((elevation - lowest) / up).floor().long()
    return column, row
