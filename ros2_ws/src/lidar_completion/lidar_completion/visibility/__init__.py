"""What the sensor measured and what was imagined: which completed points the sweep refutes, and how far to trust the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lidar_completion.nearest_points import any_nearer
from lidar_completion.sparse import points_cpu
from lidar_completion.sparse.compiled import compiled, even_cuts, in_parallel

MEASURED, COMPLETED = 0, 1
REACH_M = 0.9  # a completed point farther than this from every point of the thinned sweep is far: how far makes no odds


# ---------------------------------------------------------------------------------------------------------------------
# Free space


@dataclass(frozen=True)
class FreeSpaceRules:
    """When a ray refutes a completed point: how near in angle it has to pass, and how far beyond it has to go.

    The defaults suit spinning sensors with 0.1 to 0.4 degrees between firings; where rings are farther apart than
    max_gap_deg, the space between them is not seen, and what is completed there stays. Measured in docs/visibility.md.
    """

    margin_m: float = 0.3  # a ray says nothing about its last stretch: range noise, footprint of the beam
    near_m: float = 0.25  # a completed point this near to a point of the thinned sweep lies on a measured surface
    azimuth_deg: float = 0.2  # width of a column; a column takes the nearest return of itself and both neighbours
    elevation_deg: float = 0.1  # height of a row, and how far above and below itself a ray speaks: its divergence
    max_gap_deg: float = 0.6  # between two rays no farther apart than this, what is before the nearer one was seen


def refuted(points: Tensor, measured: Tensor, rules: FreeSpaceRules | None = None) -> Tensor:
    """Which completed points (N, 3) lie before what the sensor measured (M, 3) in their direction, (N,) bool.

    Both in the sensor frame, metres, in any order, finite. A direction without a return refutes nothing: it may be sky, glass
    or a black car. Whether a point lies near a measured surface is the caller's question (near_m).
    """
    rules = rules or FreeSpaceRules()
    if not len(points) or not len(measured):
        return torch.zeros_like(points[:, 0], dtype=torch.bool)
    clear, lowest = _clear_image(measured, rules)
    if not points_cpu.usable(points):
        return before_clear_plain(points, clear, lowest, rules)
    directions, out = [each.numpy() for each in _polar(points)], np.empty(len(points), np.bool_)
    image = clear.numpy()
    settings = (np.float32(lowest), *_scales(clear.shape[1], rules), np.float32(rules.margin_m))
    in_parallel(
        _before_clear,
        [(*directions, image, *settings, out, *share) for share in even_cuts(np.arange(len(points) + 1))],
    )
    return torch.from_numpy(out)


def _clear_image(measured: Tensor, rules: FreeSpaceRules) -> tuple[Tensor, float]:
    """clear_distance (rows, columns) of the returns (M, 3), and the elevation in radians where its first row begins."""
    distance, azimuth, elevation = _polar(measured)
    lowest = float(elevation.min())
    columns = round(360.0 / rules.azimuth_deg)
    rows = int(_bins(azimuth[:1], elevation.max()[None], lowest, columns, rules)[1]) + 1
    image = torch.full((rows, columns), torch.inf, device=measured.device)
    if points_cpu.usable(distance):
        directions = [each.numpy() for each in (distance, azimuth, elevation)]
        _nearest_return(*directions, np.float32(lowest), *_scales(columns, rules), image.numpy())  # type: ignore[call-arg]
    else:
        column, row = _bins(azimuth, elevation, lowest, columns, rules)
        image.view(-1).scatter_reduce_(0, row * columns + column, distance, "amin")
    return clear_distance(image, round(rules.max_gap_deg / rules.elevation_deg)), lowest


@compiled
def _nearest_return(distance, azimuth, elevation, lowest, across, up, image):  # type: ignore[no-untyped-def]
    for i in range(len(distance)):
        row = np.int64(np.floor((elevation[i] - lowest) / up))
        column = min(max(np.int64((azimuth[i] + PI) * across), 0), image.shape[1] - 1)
        image[row, column] = min(image[row, column], distance[i])


def before_clear_plain(points: Tensor, clear: Tensor, lowest: float, rules: FreeSpaceRules) -> Tensor:
    """The twin of the loop on CPUs, for any device: which points (N, 3) lie before `clear` (rows, columns), (N,) bool."""
    rows, columns = clear.shape
    distance, azimuth, elevation = _polar(points)
    column, row = _bins(azimuth, elevation, lowest, columns, rules)
    inside = (row >= 0) & (row < rows)
    seen = clear.reshape(-1)[row.clamp_(0, rows - 1) * columns + column]
    return inside & (distance < seen - rules.margin_m)


@compiled
def _before_clear(distance, azimuth, elevation, clear, lowest, across, up, margin, out, first, last):  # type: ignore[no-untyped-def]
    rows, columns = clear.shape
    for i in range(first, last):
        row = np.int64(np.floor((elevation[i] - lowest) / up))
        out[i] = False
        if 0 <= row < rows:
            column = min(max(np.int64((azimuth[i] + PI) * across), 0), columns - 1)
            out[i] = distance[i] < clear[row, column] - margin


def _refuted_and_far(points: Tensor, scan: Tensor, measured: Tensor, rules: FreeSpaceRules) -> Tensor:
    """The refuted points that lie on no measured surface, (N,) bool."""
    gone = refuted(points, measured, rules)
    candidates = gone.nonzero().squeeze(1)
    return gone.index_copy_(0, candidates, ~any_nearer(points.index_select(0, candidates), scan, rules.near_m))


def clear_distance(image: Tensor, max_gap: int) -> Tensor:
    """How far every direction of a range image (rows, columns) was seen to be clear, metres; 0 where no ray went.

    image: nearest return of each bin, inf where there is none; rows by rising elevation, columns once around. A bin takes the nearer of
    the returns above and below it where these are at most `max_gap` rows apart, else one that is at most a row away.
    """
    nearer = torch.minimum(image, torch.minimum(image.roll(1, 1), image.roll(-1, 1)))
    if image.device.type == "cpu":
        clear = np.zeros(tuple(image.shape), np.float32)
        _clear_distance(nearer.numpy(), max_gap, clear)
        return torch.from_numpy(clear)
    return clear_distance_plain(nearer, max_gap)


def clear_distance_plain(image: Tensor, max_gap: int) -> Tensor:
    """The twin of the loop on CPUs, for any device."""
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


def _polar(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distance in metres, azimuth and elevation in radians of points (N, 3), each (N,)."""
    x, y, z = points_cpu.by_axis(points.float())  # side by side they go through the processor's vectors
    flat = torch.hypot(x, y)
    return torch.hypot(flat, z), torch.atan2(y, x), torch.atan2(z, flat)


PI = np.float32(np.pi)


def _scales(columns: int, rules: FreeSpaceRules) -> tuple[np.float32, np.float32]:
    """Columns a radian, and radians a row."""
    return np.float32(columns / (2 * np.pi)), np.float32(np.radians(rules.elevation_deg))


def _bins(
    azimuth: Tensor, elevation: Tensor, lowest: float, columns: int, rules: FreeSpaceRules
) -> tuple[Tensor, Tensor]:
    """Column and row (N,) int64 of directions; rows may lie outside of the image."""
    across, up = map(float, _scales(columns, rules))
    column = ((azimuth + float(PI)) * across).long().clamp_(0, columns - 1)
    row = ((elevation - lowest) / up).floor().long()
    return column, row


# ---------------------------------------------------------------------------------------------------------------------
# Ground and the vehicle itself

GROUND_CELL_M = 2.0


def below_ground(points: Tensor, measured: Tensor, tolerance_m: float) -> Tensor:
    """Which completed points (N, 3) lie more than tolerance_m below the lowest measured point around them, (N,) bool.

    Around: in the same 2 m cell or its eight neighbours, so that slopes and kerbs stay; where nothing was measured, nothing is said.
    """
    if not points_cpu.usable(points, measured):
        floor = floor_plain(points, measured)
        return _nothing(points) if floor is None else below_floor_plain(points, *floor, tolerance_m)
    floor = _floor(points, measured)
    if floor is None:
        return _nothing(points)
    out = np.empty(len(points), np.bool_)
    arrays = [each.contiguous().numpy() for each in (points, *floor)]
    settings = (np.float32(GROUND_CELL_M), np.float32(tolerance_m))
    in_parallel(_below_floor, [(*arrays, *settings, out, *share) for share in even_cuts(np.arange(len(points) + 1))])
    return torch.from_numpy(out)


def _nothing(points: Tensor) -> Tensor:
    return torch.zeros_like(points[:, 0], dtype=torch.bool)


def floor_plain(points: Tensor, measured: Tensor) -> tuple[Tensor, Tensor] | None:
    """The twin of the loops on CPUs, for any device: the lowest measured height around every cell (X, Y), metres, inf where
    there is none, and x and y (2,) where the cells begin; None where nothing was measured around the completed points."""
    if not len(points) or not len(measured):
        return None
    # Only what was measured around the completed points: a stray return at 1e5 m would make a grid of gigabytes.
    low, high = points[:, :2].amin(0) - 2 * GROUND_CELL_M, points[:, :2].amax(0) + 2 * GROUND_CELL_M
    measured = measured[((measured[:, :2] >= low) & (measured[:, :2] <= high)).all(dim=1)]
    if not len(measured):
        return None
    corner = measured[:, :2].amin(0) - GROUND_CELL_M
    cell = ((measured[:, :2] - corner) / GROUND_CELL_M).long()
    width, height = (cell.amax(0) + 2).tolist()
    lowest = torch.full((width * height,), torch.inf, device=points.device)
    lowest.scatter_reduce_(0, cell[:, 0] * height + cell[:, 1], measured[:, 2].float(), "amin")
    return _lowest_around(lowest.view(width, height)), corner


def _lowest_around(lowest: Tensor) -> Tensor:
    return -functional.max_pool2d(-lowest[None, None], 3, stride=1, padding=1)[0, 0]


def _floor(points: Tensor, measured: Tensor) -> tuple[Tensor, Tensor] | None:
    if not len(points) or not len(measured):
        return None
    returns, margin, cell = measured.contiguous().numpy(), np.float32(2 * GROUND_CELL_M), np.float32(GROUND_CELL_M)
    low, high = (each[:2].numpy() for each in points_cpu.bounds(points))
    first, last = _bounds_within(returns, low - margin, high + margin)
    if first[0] > last[0]:
        return None
    corner = first - cell
    width, height = (((last - corner) / cell).astype(np.int64) + 2).tolist()
    lowest = torch.full((width, height), torch.inf)
    _lowest_returns(returns, low - margin, high + margin, corner, cell, lowest.numpy())
    return _lowest_around(lowest), torch.from_numpy(corner)


@compiled
def _bounds_within(points, low, high):  # type: ignore[no-untyped-def]
    """Smallest and largest x and y of the points between the corners `low` and `high`."""
    first, last = np.full(2, np.float32(np.inf)), np.full(2, np.float32(-np.inf))
    for p in points:
        if low[0] <= p[0] <= high[0] and low[1] <= p[1] <= high[1]:
            for axis in range(2):
                first[axis], last[axis] = min(first[axis], p[axis]), max(last[axis], p[axis])
    return first, last


@compiled
def _lowest_returns(points, low, high, corner, cell, lowest):  # type: ignore[no-untyped-def]
    for p in points:
        if low[0] <= p[0] <= high[0] and low[1] <= p[1] <= high[1]:
            x, y = np.int64((p[0] - corner[0]) / cell), np.int64((p[1] - corner[1]) / cell)
            lowest[x, y] = min(lowest[x, y], p[2])


def below_floor_plain(points: Tensor, floor: Tensor, corner: Tensor, tolerance_m: float) -> Tensor:
    """The twin of the loop on CPUs, for any device: which points (N, 3) lie below their cell of `floor` (X, Y), (N,) bool.

    floor: metres, inf where nothing was measured; corner (2,): x and y where it begins.
    """
    width, height = floor.shape
    mine = ((points[:, :2] - corner) / GROUND_CELL_M).floor().long()
    inside = ((mine >= 0) & (mine < torch.tensor([width, height], device=points.device))).all(dim=1)
    here = floor[mine[:, 0].clamp(0, width - 1), mine[:, 1].clamp(0, height - 1)]
    return inside & torch.isfinite(here) & (points[:, 2] < here - tolerance_m)


@compiled
def _below_floor(points, floor, corner, cell, tolerance, out, first, last):  # type: ignore[no-untyped-def]
    width, height = floor.shape
    for i in range(first, last):
        x, y = np.floor((points[i, 0] - corner[0]) / cell), np.floor((points[i, 1] - corner[1]) / cell)
        out[i] = False
        if 0 <= x < width and 0 <= y < height:
            here = floor[np.int64(x), np.int64(y)]
            out[i] = np.isfinite(here) and points[i, 2] < here - tolerance


def inside_box(points: Tensor, box_m: Sequence[float]) -> Tensor:
    """Which points (N, 3) lie in the box (x, y, z of its lowest corner, then of its highest), (N,) bool."""
    low, high = points.new_tensor(box_m).view(2, 3)
    return ((points >= low) & (points <= high)).all(dim=1)


# ---------------------------------------------------------------------------------------------------------------------
# What goes


@dataclass(frozen=True)
class TrustRules:
    """Which completed points are taken out again; None switches a rule off."""

    free_space: FreeSpaceRules | None = field(default_factory=FreeSpaceRules)
    below_ground_m: float | None = 0.2  # below the lowest measured point around by more than this
    ego_box_m: tuple[float, ...] | None = None  # the vehicle itself: x, y, z of two corners in the sensor frame
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        box = self.ego_box_m
        if box is not None and (len(box) != 6 or any(low >= high for low, high in zip(box[:3], box[3:], strict=True))):
            raise ValueError(f"ego_box_m is {box!r}; expected x, y, z of the lowest corner, then of the highest")


def untrusted(
    points: Tensor, scan: Tensor, confidence: Tensor, measured: Tensor, rules: TrustRules
) -> tuple[Tensor, dict[str, int]]:
    """Rows (K,) int64 of the completed points (N, 3) that stay, and how many went, each counted under its first reason.

    scan (S, 3): the thinned sweep; confidence (N,); measured (M, 3): all returns.
    """
    nothing = torch.zeros_like(points[:, 0], dtype=torch.bool)
    space, ground, box = rules.free_space, rules.below_ground_m, rules.ego_box_m
    reasons = {
        "free_space": nothing if space is None else _refuted_and_far(points, scan, measured, space),
        "below_ground": nothing if ground is None else below_ground(points, measured, ground),
        "ego_box": nothing if box is None else inside_box(points, box),
        "low_confidence": confidence < rules.min_confidence,
    }
    gone, removed = nothing, {}
    for reason, found in reasons.items():
        removed[reason] = int((found & ~gone).sum())
        gone = gone | found
    return (~gone).nonzero().squeeze(1), removed


# ---------------------------------------------------------------------------------------------------------------------
# Confidence


def calibrated_confidence(points: Tensor, to_scan: Tensor, calibration: Mapping[str, list]) -> Tensor:
    """Probability (N,) float32 that a completed point (N, 3) lies within 0.2 m of a surface.

    to_scan (N,): distance to the nearest point of the thinned sweep, metres. calibration: `range_m` (R,), `distance_m` (D,)
    and `probability` (R, D), the share found on held-back scenes, linear between the knots; without `distance_m`, probability (R,) by range alone.
    An uncalibrated model (no table) says 0.5: it does not know.
    """
    if not calibration:
        return torch.full_like(points[:, 0], 0.5)
    table = points.new_tensor(calibration["probability"])
    ring, share = knots(points.norm(dim=1), calibration["range_m"])
    if "distance_m" not in calibration:
        return torch.lerp(table[ring - 1], table[ring], share)
    step, part = knots(to_scan, calibration["distance_m"])
    width, table = table.shape[1], table.reshape(-1)
    corner = ring * width + step
    inner = torch.lerp(table[corner - width - 1], table[corner - width], part)
    return torch.lerp(inner, torch.lerp(table[corner - 1], table[corner], part), share)


def knots(values: Tensor, at: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Of values (N,): the knot after each, 1 to len(at) - 1, and how far it is on the way there from the one before, in [0, 1]."""
    places = values.new_tensor(at)
    values = values.clamp(float(places[0]), float(places[-1]))
    after = torch.searchsorted(places, values).clamp_(1, len(places) - 1)
    before = places[after - 1]
    return after, (values - before) / (places[after] - before)


# ---------------------------------------------------------------------------------------------------------------------
# Fewer points


def evenly(count: int, at_most: int, device: torch.device | None = None) -> Tensor:
    """Rows (min(count, at_most),) int64 of an even choice; completed points lie copy after copy in voxel order, so it is even in space."""
    if count <= at_most:
        return torch.arange(count, device=device)
    return torch.arange(at_most, device=device) * count // at_most
