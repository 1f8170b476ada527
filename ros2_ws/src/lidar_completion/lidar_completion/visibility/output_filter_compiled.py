"""All rules of the output filter in one pass over the points, on CPUs. The plain implementation is in output_filter.py.

Directions are computed with polynomials that the compiler vectorises. Where their error could change a result, the point
is marked UNDECIDED and the caller decides with exact directions.
"""

from typing import NamedTuple

import numpy as np

from lidar_completion.sparse.compiled import compiled, compiled_sums, in_parallel
from lidar_completion.sparse.rows_cpu import shares_of

# Codes in the order of output_filter.REASONS: a point that several rules remove counts for the first.
KEPT, FREE_SPACE, BELOW_GROUND, EGO_BOX, LOW_CONFIDENCE = np.arange(5, dtype=np.uint8)
UNDECIDED = np.uint8(255)
CHUNK = 256  # points whose directions are held at once; they stay in the first-level cache
ANGLE_ERROR_RAD = 7e-6  # more than ten times the error of the polynomials and of the rounding of bins
RANGE_ERROR = np.float32(2e-6)  # relative, of a distance that was summed in another order


class RuleArrays(NamedTuple):
    """The rules in the order in which the loop takes them. The defaults disable each rule."""

    # Free space: the free distance in each direction (rows, columns) in metres; see free_space.ClearSpace
    clear: np.ndarray = np.zeros((0, 0), np.float32)
    lowest: np.float32 = np.float32(0)  # elevation in radians where the first row begins
    columns_per_radian: np.float32 = np.float32(1)
    radians_per_row: np.float32 = np.float32(1)
    bin_error: np.float32 = np.float32(0)  # of a direction, in bins
    margin_m: np.float32 = np.float32(0)
    # Points near the downsampled sweep are not in free space: the sweep in columns, see neighbours_compiled.Columns
    scan: np.ndarray = np.zeros((0, 3), np.float32)
    first: np.ndarray = np.zeros((0, 1), np.int32)
    corner: np.ndarray = np.zeros(2, np.float32)
    width: np.float32 = np.float32(1)
    near_m: np.float32 = np.float32(0)
    # Ground: lowest height (X, Y) around each cell in metres, inf where unknown; see ground.Floor
    floor: np.ndarray = np.zeros((0, 0), np.float32)
    floor_corner: np.ndarray = np.zeros(2, np.float32)
    cell_m: np.float32 = np.float32(1)
    tolerance_m: np.float32 = np.float32(0)
    ego_box_m: np.ndarray = np.zeros(0, np.float32)  # (6,) minimum, then maximum
    min_confidence: np.float32 = np.float32(0)


def reasons(points: np.ndarray, confidence: np.ndarray, rules: RuleArrays) -> np.ndarray:
    """Why each of points (N, 3) float32 is removed, (N,) uint8: KEPT, a reason, or UNDECIDED; confidence (N,) float32."""
    out = np.empty(len(points), np.uint8)
    in_parallel(_reasons, [(points, confidence, *rules, out, *share) for share in shares_of(len(points))])
    return out


@compiled
def _reasons(  # type: ignore[no-untyped-def]
    points, confidence, clear, lowest, across, up, bin_error, margin, scan, first_of, corner, width, near,
    floor, floor_corner, cell, tolerance, box, min_confidence, out, begin, end,
):  # fmt: skip
    xyz, directions, codes = (
        np.empty((3, CHUNK), np.float32),
        np.empty((3, CHUNK), np.float32),
        np.empty(CHUNK, np.uint8),
    )
    for first in range(begin, end, CHUNK):
        chunk, trust, found = points[first:end][:CHUNK], confidence[first:end][:CHUNK], out[first:end][:CHUNK]
        x, y, z = xyz[0, : len(chunk)], xyz[1, : len(chunk)], xyz[2, : len(chunk)]
        for i in range(len(chunk)):
            x[i], y[i], z[i] = chunk[i, 0], chunk[i, 1], chunk[i, 2]
        # the rules in reverse order: the first one that removes a point writes last
        for i in range(len(chunk)):
            found[i] = LOW_CONFIDENCE if trust[i] < min_confidence else KEPT
        if len(box):
            for i in range(len(chunk)):
                inside = box[0] <= x[i] <= box[3] and box[1] <= y[i] <= box[4] and box[2] <= z[i] <= box[5]
                found[i] = EGO_BOX if inside else found[i]
        if len(floor):
            _mark_below_ground(x, y, z, floor, floor_corner, cell, tolerance, found)
        if len(clear):
            distance, column, row = directions[0], directions[1], directions[2]
            _directions(x, y, z, lowest, across, np.float32(1) / up, distance, column, row)
            _look_up(clear, distance, column, row, margin, bin_error, codes[: len(chunk)])
            for i in range(len(chunk)):
                code = codes[i]
                if code == UNDECIDED:
                    code = _in_all_bins(clear, distance[i], column[i], row[i], margin, bin_error)
                if code != KEPT and not _near_scan(x[i], y[i], z[i], scan, first_of, corner, width, near):
                    found[i] = code


@compiled
def _mark_below_ground(x, y, z, floor, corner, cell, tolerance, found):  # type: ignore[no-untyped-def]
    across, along = np.float32(floor.shape[0]), np.float32(floor.shape[1])
    for i in range(len(x)):
        own_x, own_y = np.floor((x[i] - corner[0]) / cell), np.floor((y[i] - corner[1]) / cell)
        if (own_x >= 0) & (own_x < across) & (own_y >= 0) & (own_y < along):
            here = floor[np.int32(own_x), np.int32(own_y)]
            if (z[i] < here - tolerance) & (here < np.float32(np.inf)):
                found[i] = BELOW_GROUND


@compiled_sums
def _arctan(x):  # type: ignore[no-untyped-def]
    """Arc tangent of 0 to 1, within 2e-8 in exact arithmetic (Abramowitz and Stegun, 4.4.49)."""
    s = x * x
    series = np.float32(0.0028662257)
    series = series * s - np.float32(0.0161657367)
    series = series * s + np.float32(0.0429096138)
    series = series * s - np.float32(0.0752896400)
    series = series * s + np.float32(0.1065626393)
    series = series * s - np.float32(0.1420889944)
    series = series * s + np.float32(0.1999355085)
    series = series * s - np.float32(0.3333314528)
    return x + x * s * series


@compiled_sums
def _directions(x, y, z, lowest, across, per_row, distance, column, row):  # type: ignore[no-untyped-def]
    """Distance in metres and place in the image in bins, of points given by axis (n,)."""
    half, whole, tiny, zero = np.float32(np.pi / 2), np.float32(np.pi), np.float32(1e-30), np.float32(0)
    for i in range(len(x)):
        flat = x[i] * x[i] + y[i] * y[i]
        distance[i] = np.sqrt(flat + z[i] * z[i])
        flat = np.sqrt(flat)
        ax, ay, az = abs(x[i]), abs(y[i]), abs(z[i])
        turn = _arctan(min(ax, ay) / (max(ax, ay) + tiny))
        turn = half - turn if ay > ax else turn
        turn = whole - turn if x[i] < zero else turn
        turn = -turn if y[i] < zero else turn
        rise = _arctan(min(az, flat) / (max(az, flat) + tiny))
        rise = half - rise if az > flat else rise
        rise = -rise if z[i] < zero else rise
        column[i] = (turn + whole) * across
        row[i] = (rise - lowest) * per_row


@compiled
def _look_up(clear, distance, column, row, margin, bin_error, codes):  # type: ignore[no-untyped-def]
    """FREE_SPACE, KEPT, or UNDECIDED where the error of direction or distance matters; without branches."""
    rows, columns, one = np.int32(clear.shape[0]), np.int32(clear.shape[1]), np.float32(1)
    for i in range(len(codes)):
        low, left = np.floor(row[i]), np.floor(column[i])
        r, c = np.int32(low), np.int32(left)
        inside = (r >= 0) & (r < rows)
        limit = clear[min(max(r, np.int32(0)), rows - 1), min(max(c, np.int32(0)), columns - 1)] - margin
        up, across = row[i] - low, column[i] - left
        unsure = (min(up, across) < bin_error) | (max(up, across) > one - bin_error)
        unsure |= inside & (abs(distance[i] - limit) <= RANGE_ERROR * distance[i])
        codes[i] = UNDECIDED if unsure else (FREE_SPACE if inside & (distance[i] < limit) else KEPT)


@compiled
def _in_all_bins(clear, distance, column, row, margin, bin_error):  # type: ignore[no-untyped-def]
    """FREE_SPACE or KEPT if that holds for all bins in which the direction may lie, else UNDECIDED.

    Columns wrap around: behind the sensor atan2 is -pi or pi, depending on the sign of a zero.
    """
    low, high = np.int32(np.floor(row - bin_error)), np.int32(np.floor(row + bin_error))
    left, right = np.int32(np.floor(column - bin_error)), np.int32(np.floor(column + bin_error))
    before = bins = 0
    for r in range(low, high + 1):
        for c in range(left, right + 1):
            bins += 1
            if 0 <= r < clear.shape[0]:
                limit = clear[r, c % clear.shape[1]] - margin
                if abs(distance - limit) <= RANGE_ERROR * distance:
                    return UNDECIDED
                before += distance < limit
    if before == 0:
        return KEPT
    return FREE_SPACE if before == bins else UNDECIDED


@compiled
def _near_scan(x, y, z, scan, first_of, corner, width, near):  # type: ignore[no-untyped-def]
    """Whether a point of the scan is nearer than `near`; as neighbours_compiled.any_within."""
    across, along = first_of.shape[0], first_of.shape[1] - 1
    rings = int(np.ceil(near / width))
    own_x, own_y = int(np.floor((x - corner[0]) / width)), int(np.floor((y - corner[1]) / width))
    low, high = max(own_y - rings, 0), min(own_y + rings, along - 1)
    if low > high:
        return False
    for ix in range(max(own_x - rings, 0), min(own_x + rings, across - 1) + 1):
        for k in range(first_of[ix, low], first_of[ix, high + 1]):  # columns with the same ix are contiguous
            dx, dy, dz = scan[k, 0] - x, scan[k, 1] - y, scan[k, 2] - z
            if dx * dx + dy * dy + dz * dz < near * near:
                return True
    return False
