"""The nearest point of a thinned sweep to each of many completed points, as far as a metre or so.

A spinning sensor's surroundings are flat, so the search looks into columns of a horizontal grid, ring by ring around the
query, and a column holds a handful of points.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse import points_cpu
from lidar_completion.sparse.compiled import compiled, even_cuts, in_parallel

COLUMN_M = 0.3
MAX_COLUMNS = 1 << 21  # a reference that reaches farther gets wider columns
PAIRS = 1 << 27  # distances held at once by the plain search


def nearest_points(points: Tensor, reference: Tensor, at_most_m: float) -> tuple[Tensor, Tensor]:
    """Distance (N,) float32 from points (N, 3) to the nearest of reference (M, 3), and its row (N,) int64.

    Exact below at_most_m; where nothing is nearer, the distance is at_most_m and the row -1. All in metres.
    """
    if points.device.type != "cpu":
        return nearest_points_plain(points, reference, at_most_m)
    distance, row = np.full(len(points), at_most_m, np.float32), np.full(len(points), -1, np.int64)
    reachable = _in_columns(_search_columns, points, reference, at_most_m, distance, row)
    found = torch.from_numpy(row)
    if len(reachable):
        found = torch.where(found < 0, found, reachable[found.clamp(min=0)])
    return torch.from_numpy(distance), found


def any_nearer(points: Tensor, reference: Tensor, than_m: float) -> Tensor:
    """Whether points (N, 3) have one of reference (M, 3) nearer than than_m, (N,) bool: nearest_points(...)[1] >= 0."""
    if points.device.type != "cpu":
        return nearest_points_plain(points, reference, than_m)[1] >= 0
    near = np.zeros(len(points), np.bool_)
    _in_columns(_look_into_columns, points, reference, than_m, near)
    return torch.from_numpy(near)


def _in_columns(search: Any, points: Tensor, reference: Tensor, at_most_m: float, *found: np.ndarray) -> Tensor:
    """Let a compiled search fill `found`, arrays (N,), on all threads; returns the rows of reference that it looked at."""
    reachable = _reachable(points, reference, at_most_m)
    if len(reachable):
        queries, columns = points.float().contiguous().numpy(), _columns(reference[reachable].float().numpy())
        shares = even_cuts(np.arange(len(queries) + 1))
        limit = np.float32(at_most_m)
        in_parallel(search, [(queries[a:b], *columns, limit, *(each[a:b] for each in found)) for a, b in shares])
    return reachable


def _reachable(points: Tensor, reference: Tensor, at_most_m: float) -> Tensor:
    """Rows of reference (M, 3) that can be near enough: columns over a stray return at 1e5 m would be so wide that one
    holds everything."""
    if not len(points) or not len(reference):
        return torch.zeros(0, dtype=torch.int64)
    low, high = points_cpu.bounds(points.float())
    low, high = low - at_most_m, high + at_most_m
    return ((reference >= low) & (reference <= high)).all(dim=1).nonzero().squeeze(1)


def nearest_points_plain(points: Tensor, reference: Tensor, at_most_m: float) -> tuple[Tensor, Tensor]:
    """The twin of the search in columns, over all pairs, for any device."""
    if not len(points) or not len(reference):
        return torch.full_like(points[:, 0], at_most_m), torch.full_like(points[:, 0], -1, dtype=torch.int64)
    found = [
        torch.cdist(some, reference, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        for some in points.split(max(1, PAIRS // max(1, len(reference))))
    ]
    distance, row = (torch.cat(each) for each in zip(*found, strict=True))
    near = distance < at_most_m
    return torch.where(near, distance, at_most_m), torch.where(near, row, -1)


def _columns(reference: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.float32]:
    """Points sorted by column, their rows in the reference, first point of every column (X, Y + 1), corner (2,), width."""
    corner = reference[:, :2].min(axis=0)
    extent = reference[:, :2].max(axis=0) - corner
    width = max(COLUMN_M, float(np.sqrt(extent[0] * extent[1] / MAX_COLUMNS)), float(extent.max()) / MAX_COLUMNS)
    cell = ((reference[:, :2] - corner) / np.float32(width)).astype(np.int64)
    shape = cell.max(axis=0) + 1
    column = cell[:, 0] * shape[1] + cell[:, 1]
    rows, first = _sort_by_column(column, int(shape[0] * shape[1]))
    return (
        reference[rows],
        rows,
        np.lib.stride_tricks.sliding_window_view(first, shape[1] + 1)[:: shape[1]],
        corner,
        np.float32(width),
    )


@compiled
def _sort_by_column(column, count):  # type: ignore[no-untyped-def]
    """The order (M,) that sorts points by column, as they come within one, and where each column begins, (count + 1,)."""
    first, rows = np.zeros(count + 1, np.int32), np.empty(len(column), np.int64)
    for each in column:
        first[each + 1] += 1
    for each in range(count):
        first[each + 1] += first[each]
    place = first.copy()
    for i in range(len(column)):
        rows[place[column[i]]] = i
        place[column[i]] += 1
    return rows, first


@compiled
def _search_columns(queries, reference, rows, first, corner, width, at_most, distance, row):  # type: ignore[no-untyped-def]
    across, along = first.shape[0], first.shape[1] - 1
    rings = int(np.ceil(at_most / width))
    for i in range(len(queries)):
        x, y, z = queries[i, 0], queries[i, 1], queries[i, 2]
        own_x, own_y = int(np.floor((x - corner[0]) / width)), int(np.floor((y - corner[1]) / width))
        best, found = at_most * at_most, -1
        for ring in range(1, rings + 1):
            # the first look takes in the query's own column and the ring around it, every further one a ring
            for ix in range(max(own_x - ring, 0), min(own_x + ring, across - 1) + 1):
                whole = ring == 1 or abs(ix - own_x) == ring
                for side in range(1 if whole else 2):
                    low = own_y + ring if side == 1 else own_y - ring
                    high = own_y - ring if side == 0 and not whole else own_y + ring
                    low, high = max(low, 0), min(high, along - 1)
                    if low > high:
                        continue
                    for k in range(first[ix, low], first[ix, high + 1]):
                        dx, dy, dz = reference[k, 0] - x, reference[k, 1] - y, reference[k, 2] - z
                        squared = dx * dx + dy * dy + dz * dz
                        if squared < best:
                            best, found = squared, k
            if best <= (ring * width) ** 2:
                break
        distance[i] = np.sqrt(best)
        row[i] = rows[found] if found >= 0 else -1


@compiled
def _look_into_columns(queries, reference, rows, first, corner, width, than, near):  # type: ignore[no-untyped-def]
    across, along = first.shape[0], first.shape[1] - 1
    rings = int(np.ceil(than / width))
    for i in range(len(queries)):
        x, y, z = queries[i, 0], queries[i, 1], queries[i, 2]
        own_x, own_y = int(np.floor((x - corner[0]) / width)), int(np.floor((y - corner[1]) / width))
        low, high = max(own_y - rings, 0), min(own_y + rings, along - 1)
        for ix in range(max(own_x - rings, 0), min(own_x + rings, across - 1) + 1):
            if low > high or near[i]:
                break
            for k in range(first[ix, low], first[ix, high + 1]):  # columns of one ix lie one after the other
                dx, dy, dz = reference[k, 0] - x, reference[k, 1] - y, reference[k, 2] - z
                if dx * dx + dy * dy + dz * dz < than * than:
                    near[i] = True
                    break
