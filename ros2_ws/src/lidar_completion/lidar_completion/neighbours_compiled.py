"""Nearest neighbours within a limited distance on CPUs, compiled. The plain implementation is in neighbours.py.

LiDAR scenes are wide and flat, so the reference is sorted into columns of a horizontal grid, each holding a few points.
A query searches its own column and then the rings of columns around it.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse import points_cpu
from lidar_completion.sparse.compiled import compiled, equal_cuts, in_parallel

COLUMN_M = 0.3
MAX_COLUMNS = 1 << 21  # a larger grid gets wider columns
Box = tuple[Tensor, Tensor]  # smallest and largest coordinates (3,) of some points


def nearest_within(queries: Tensor, reference: Tensor, max_distance_m: float) -> tuple[Tensor, Tensor]:
    """As neighbours.nearest_within, on the CPU."""
    distance, row = np.full(len(queries), max_distance_m, np.float32), np.full(len(queries), -1, np.int64)
    reachable = _in_columns(_search_columns, queries, reference, max_distance_m, distance, row)
    found = torch.from_numpy(row)
    if len(reachable):
        found = torch.where(found < 0, found, reachable[found.clamp(min=0)])
    return torch.from_numpy(distance), found


def any_within(queries: Tensor, reference: Tensor, max_distance_m: float) -> Tensor:
    """As neighbours.any_within, on the CPU."""
    near = np.zeros(len(queries), np.bool_)
    _in_columns(_look_into_columns, queries, reference, max_distance_m, near)
    return torch.from_numpy(near)


def _in_columns(search: Any, queries: Tensor, reference: Tensor, max_distance_m: float, *results: np.ndarray) -> Tensor:
    """Let a compiled search fill the results, arrays (N,), on all threads; returns the rows of reference that it used."""
    reachable = _reachable(queries, reference, max_distance_m)
    if len(reachable):
        points, columns = queries.float().contiguous().numpy(), _columns(reference[reachable].float().numpy())
        shares = equal_cuts(len(points))
        limit = np.float32(max_distance_m)
        in_parallel(search, [(points[a:b], *columns, limit, *(each[a:b] for each in results)) for a, b in shares])
    return reachable


def _reachable(queries: Tensor, reference: Tensor, max_distance_m: float) -> Tensor:
    """Rows of reference (M, 3) that can be nearer than max_distance_m to one of the queries (N, 3)."""
    if not len(queries) or not len(reference):
        return torch.zeros(0, dtype=torch.int64)
    return _rows_around(points_cpu.bounds(queries.float()), reference, max_distance_m)


def _rows_around(box: Box, reference: Tensor, max_distance_m: float) -> Tensor:
    """Rows of reference (M, 3) inside a box that is grown by max_distance_m.

    A grid that reached out to a stray return at 1e5 m would have columns so wide that one holds everything.
    """
    low, high = box[0] - max_distance_m, box[1] + max_distance_m
    return ((reference >= low) & (reference <= high)).all(dim=1).nonzero().squeeze(1)


class Columns(NamedTuple):
    """Points sorted by column of a horizontal grid."""

    points: np.ndarray  # (M, 3)
    rows: np.ndarray  # (M,) of the points in the reference
    first: np.ndarray  # (X, Y + 1): first point of each column; the last entry of a line is the end of its columns
    corner: np.ndarray  # (2,) metres
    width: np.float32  # metres


def near_columns(box: Box, reference: Tensor, max_distance_m: float) -> Columns | None:
    """Columns of the points of reference (M, 3) within max_distance_m of a box around the queries; None if there is none."""
    reachable = _rows_around(box, reference, max_distance_m)
    return _columns(reference[reachable].float().numpy()) if len(reachable) else None


def _columns(reference: np.ndarray) -> Columns:
    corner, highest = (bound[:2].numpy() for bound in points_cpu.bounds(torch.from_numpy(reference)))
    extent = highest - corner
    width = max(COLUMN_M, float(np.sqrt(extent[0] * extent[1] / MAX_COLUMNS)), float(extent.max()) / MAX_COLUMNS)
    shape = (extent / np.float32(width)).astype(np.int64) + 1
    column = _column_of(reference, corner, np.float32(width), shape[1])
    rows, first = _sort_by_column(column, int(shape[0] * shape[1]))
    windows = np.lib.stride_tricks.sliding_window_view(first, shape[1] + 1)[:: shape[1]]
    return Columns(reference[rows], rows, windows, corner, np.float32(width))


@compiled
def _column_of(reference, corner, width, along):  # type: ignore[no-untyped-def]
    column = np.empty(len(reference), np.int64)
    for i in range(len(reference)):
        x, y = (reference[i, 0] - corner[0]) / width, (reference[i, 1] - corner[1]) / width
        column[i] = np.int64(x) * along + np.int64(y)
    return column


@compiled
def _sort_by_column(column, count):  # type: ignore[no-untyped-def]
    """The stable order (M,) that sorts points by column, and where each column begins, (count + 1,)."""
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
            # the first pass covers the query's own column and the ring around it, each further pass one ring
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
            for k in range(first[ix, low], first[ix, high + 1]):  # columns with the same ix are contiguous
                dx, dy, dz = reference[k, 0] - x, reference[k, 1] - y, reference[k, 2] - z
                if dx * dx + dy * dy + dz * dz < than * than:
                    near[i] = True
                    break
