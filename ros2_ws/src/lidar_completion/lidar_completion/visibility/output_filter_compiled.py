"""All rules of the output filter in one pass over the points, on CPUs. The plain implementation is in output_filter.py.

The loop works on chunks of points, in short loops that the compiler vectorises: those that compute a point's place in a grid are
separate from those that read the grid. Directions are computed with polynomials. Where their error could change a result, the point
is marked UNDECIDED and the caller decides with exact directions.
"""

from typing import NamedTuple

import numpy as np

from lidar_completion.sparse.compiled import compiled, compiled_sums, equal_cuts, in_parallel

# Codes in the order of output_filter.REASONS: a point that several rules remove counts for the first.
KEPT, OUTSIDE, FREE_SPACE, BELOW_GROUND, EGO_BOX, LOW_CONFIDENCE = np.arange(6, dtype=np.uint8)
UNDECIDED = np.uint8(255)
TOGETHER = 8  # points of the scan that are compared with a completed point at once
CHUNK = 256  # points that are worked on at once; they stay in the first-level cache
ANGLE_ERROR_RAD = 7e-6  # more than ten times the error of the polynomials and of the rounding of bins
RANGE_ERROR = np.float32(2e-6)  # relative, of a distance that was summed in another order
INFINITY = np.float32(np.inf)


class RuleArrays(NamedTuple):
    """The rules in the order in which the loop takes them. The defaults disable each rule."""

    # Scene: (3,) squared range in metres, lowest and highest z; see crop.SceneLimits
    limits: np.ndarray = np.zeros(0, np.float32)
    # Free space: the free distance in each direction (rows, columns) in metres; see free_space.ClearSpace
    clear: np.ndarray = np.zeros((0, 0), np.float32)
    lowest: np.float32 = np.float32(0)  # elevation in radians where the first row begins
    columns_per_radian: np.float32 = np.float32(1)
    radians_per_row: np.float32 = np.float32(1)
    bin_error: np.float32 = np.float32(0)  # of a direction, in bins
    margin_m: np.float32 = np.float32(0)
    # Points near the downsampled sweep are not in free space: the sweep in columns, see neighbours_compiled.Columns
    scan: np.ndarray = np.zeros((3, 0), np.float32)  # by axis, followed by TOGETHER points at infinity
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
    in_parallel(_reasons, [(points, confidence, *rules, out, *share) for share in equal_cuts(len(points))])
    return out


@compiled
def _reasons(  # type: ignore[no-untyped-def]
    points, confidence, limits, clear, lowest, across, up, bin_error, margin, scan, first_of, corner, width, near,
    floor, floor_corner, cell, tolerance, box, min_confidence, out, begin, end,
):  # fmt: skip
    xyz, values, codes = np.empty((3, CHUNK), np.float32), np.empty((4, CHUNK), np.float32), np.empty(CHUNK, np.uint8)
    inside, place = np.empty(CHUNK, np.bool_), np.empty(CHUNK, np.int32)
    for first in range(begin, end, CHUNK):
        n = min(CHUNK, end - first)
        found, x, y, z = out[first : first + n], xyz[0, :n], xyz[1, :n], xyz[2, :n]
        _by_axis(points[first : first + n], limits, xyz, inside)  # type: ignore[call-arg]
        # the rules in reverse order: the first one that removes a point writes last
        _mark_unlikely(confidence[first : first + n], min_confidence, found)
        if len(box):
            _mark_in_box(x, y, z, box, found)
        if len(floor):
            _mark_below_ground(x, y, z, floor, floor_corner, cell, tolerance, place, values[3], found)
        if len(clear):
            distance, column, row = values[0, :n], values[1, :n], values[2, :n]
            _directions(x, y, z, lowest, across, np.float32(1) / up, distance, column, row)
            _look_up(clear, distance, column, row, margin, bin_error, place, values[3], codes)
            count = 0
            for i in range(n):  # always written: a branch would often be mispredicted
                place[count] = i
                count += codes[i] != KEPT
            for i in place[:count]:
                code = codes[i]
                if code == UNDECIDED:
                    code = _in_all_bins(clear, distance[i], column[i], row[i], margin, bin_error)
                if code != KEPT and not _near_scan(x[i], y[i], z[i], scan, first_of, corner, width, near):
                    found[i] = code
        for i in range(n):
            found[i] = found[i] if inside[i] else OUTSIDE


@compiled
def _by_axis(points, limits, xyz, inside):  # type: ignore[no-untyped-def]
    """The points (n, 3) by axis (3, n), and which of them are inside the limits (3,), or none; the others become zero."""
    n, zero = len(points), np.float32(0)
    x, y, z = xyz[0, :n], xyz[1, :n], xyz[2, :n]
    for i in range(n):
        x[i], y[i], z[i] = points[i, 0], points[i, 1], points[i, 2]
    if len(limits) == 0:
        inside[:] = True
        return
    squared_range, lowest, highest = limits[0], limits[1], limits[2]
    for i in range(n):
        within = (x[i] * x[i] + y[i] * y[i] + z[i] * z[i] < squared_range) & (z[i] > lowest) & (z[i] < highest)
        inside[i] = within
        x[i] = x[i] if within else zero
        y[i] = y[i] if within else zero
        z[i] = z[i] if within else zero


@compiled
def _mark_unlikely(confidence, minimum, found):  # type: ignore[no-untyped-def]
    for i in range(len(found)):
        found[i] = LOW_CONFIDENCE if confidence[i] < minimum else KEPT


@compiled
def _mark_in_box(x, y, z, box, found):  # type: ignore[no-untyped-def]
    for i in range(len(found)):
        inside = (box[0] <= x[i]) & (x[i] <= box[3]) & (box[1] <= y[i]) & (y[i] <= box[4])
        inside &= (box[2] <= z[i]) & (z[i] <= box[5])
        found[i] = EGO_BOX if inside else found[i]


@compiled
def _bin(value, count):  # type: ignore[no-untyped-def]
    """The bin 0 to count - 1 nearest to a place in bins; 0 for NaN."""
    value = value if value > np.float32(0) else np.float32(0)
    return np.int32(value if value < np.float32(count - 1) else np.float32(count - 1))


@compiled
def _mark_below_ground(x, y, z, floor, corner, cell, tolerance, place, here, found):  # type: ignore[no-untyped-def]
    rows, columns = np.int32(floor.shape[0]), np.int32(floor.shape[1])
    corner_x, corner_y, flat = corner[0], corner[1], floor.reshape(-1)
    for i in range(len(found)):
        place[i] = _bin((x[i] - corner_x) / cell, rows) * columns + _bin((y[i] - corner_y) / cell, columns)
    for i in range(len(found)):
        here[i] = flat[place[i]]
    for i in range(len(found)):
        own_x, own_y = (x[i] - corner_x) / cell, (y[i] - corner_y) / cell
        inside = (own_x >= 0) & (own_x < np.float32(rows)) & (own_y >= 0) & (own_y < np.float32(columns))
        below = inside & (z[i] < here[i] - tolerance) & (here[i] < INFINITY)
        found[i] = BELOW_GROUND if below else found[i]


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
def _look_up(clear, distance, column, row, margin, bin_error, place, limit, codes):  # type: ignore[no-untyped-def]
    """FREE_SPACE, KEPT, or UNDECIDED where the error of direction or distance matters."""
    rows, columns, one = np.int32(clear.shape[0]), np.int32(clear.shape[1]), np.float32(1)
    flat = clear.reshape(-1)
    for i in range(len(row)):
        place[i] = _bin(row[i], rows) * columns + _bin(column[i], columns)
    for i in range(len(row)):
        limit[i] = flat[place[i]]
    for i in range(len(row)):
        up, across, free = row[i] - np.floor(row[i]), column[i] - np.floor(column[i]), limit[i] - margin
        inside = (row[i] >= 0) & (row[i] < np.float32(rows))
        unsure = (min(up, across) < bin_error) | (max(up, across) > one - bin_error)
        unsure |= inside & (abs(distance[i] - free) <= RANGE_ERROR * distance[i])
        codes[i] = UNDECIDED if unsure else (FREE_SPACE if inside & (distance[i] < free) else KEPT)


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
    rings, xs, ys, zs = int(np.ceil(near / width)), scan[0], scan[1], scan[2]
    own_x, own_y = int(np.floor((x - corner[0]) / width)), int(np.floor((y - corner[1]) / width))
    low, high = max(own_y - rings, 0), min(own_y + rings, along - 1)
    if low > high:
        return False
    for step in range(2 * rings + 1):  # own column first: a near point is most likely there
        ix = own_x + (step + 1) // 2 if step % 2 else own_x - step // 2
        if ix < 0 or ix >= across:
            continue
        # columns with the same ix are contiguous; points of the next column do no harm
        for first in range(first_of[ix, low], first_of[ix, high + 1], TOGETHER):
            hit = False
            for k in range(first, first + TOGETHER):
                dx, dy, dz = xs[k] - x, ys[k] - y, zs[k] - z
                hit |= dx * dx + dy * dy + dz * dz < near * near
            if hit:
                return True
    return False
