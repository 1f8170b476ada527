"""Exact nearest neighbours by a voxel grid in PyTorch operators, for GPUs. The plain implementations are over all pairs:
neighbours.nearest_within_plain, and there without a limit.

All points nearer than the width of a cell lie in the query's cell or its 26 neighbours. Queries that find nothing so near are
repeated with cells twice as wide, until few are left: those are compared with all points.
"""

from itertools import pairwise

import torch
from torch import Tensor

CELL_M = 0.3
PAIRS = 1 << 25  # distances held at once
FEW_PAIRS = 1 << 22  # so many pairs are compared without a grid


def nearest_within(queries: Tensor, reference: Tensor, max_distance_m: float) -> tuple[Tensor, Tensor]:
    """As neighbours.nearest_within: distance (N,) and row (N,) int64; of equally near points the smallest row."""
    squared, row = _nearest(queries.float(), reference.float(), max_distance_m)
    near = squared < max_distance_m**2
    return torch.where(near, squared.sqrt(), max_distance_m), torch.where(near, row, -1)


def nearest_rows(queries: Tensor, reference: Tensor, cell_m: float = CELL_M) -> Tensor:
    """Row (N,) int64 of the point of reference (M, 3), M > 0, nearest to each query (N, 3), at any distance.

    cell_m: width of the first cells; best a few times the distance between neighbouring points.
    """
    return _nearest(queries.float(), reference.float(), float("inf"), cell_m)[1]


def _nearest(queries: Tensor, reference: Tensor, reach_m: float, cell_m: float = CELL_M) -> tuple[Tensor, Tensor]:
    """Squared distance (N,) and row (N,) of the nearest point, right if it is nearer than reach_m; infinity and -1 without any."""
    squared = torch.full_like(queries[:, 0], torch.inf)
    row = torch.full_like(queries[:, 0], -1, dtype=torch.int64)
    cell_m, left = min(cell_m, reach_m), torch.arange(len(queries), device=queries.device)
    while len(left) and len(reference):
        open_queries = queries[left]
        if few := len(left) * len(reference) <= FEW_PAIRS:
            squared[left], row[left] = _of_all_pairs(open_queries, reference)
        else:
            squared[left], row[left] = Grid(reference, cell_m).nearest(open_queries)
        if few or cell_m >= reach_m:
            break
        left = left[squared[left] > cell_m**2]
        cell_m = min(2 * cell_m, reach_m)
    return squared, row


class Grid:
    """Points (M, 3) sorted by cell, z fastest: the three cells of a column around a query are contiguous."""

    def __init__(self, points: Tensor, cell_m: float) -> None:
        self.cell_m, self.low = cell_m, points.amin(dim=0)
        cells = ((points - self.low) / cell_m).long()
        self.shape = cells.amax(dim=0) + 1
        self.keys, self.rows = self._keys(cells).sort(stable=True)
        self.points = points[self.rows]

    def nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distance (N,) and row (N,) of the nearest point in the 27 cells around each query; infinity and -1 if they are empty."""
        first, counts = self._ranges(queries)
        ends = counts.sum(dim=1).cumsum(0)
        cuts = [0]
        while cuts[-1] < len(queries):  # each chunk has at most PAIRS pairs, or one query
            begun = ends[cuts[-1] - 1] if cuts[-1] else ends.new_zeros(())
            cut = int(torch.searchsorted(ends, begun + PAIRS, right=True))
            cuts.append(max(cut, cuts[-1] + 1))
        parts = [self._of_chunk(queries[a:b], first[a:b], counts[a:b]) for a, b in pairwise(cuts)]
        squared, row = (torch.cat(each) for each in zip(*parts, strict=True))
        return squared, row

    def _keys(self, cells: Tensor) -> Tensor:
        return (cells[..., 0] * self.shape[1] + cells[..., 1]) * self.shape[2] + cells[..., 2]

    def _ranges(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """First sorted point (N, 9) and number of points (N, 9) of the nine columns around each query."""
        cell = torch.minimum(((queries - self.low) / self.cell_m).floor().clamp(-2, 2**40).long(), self.shape + 1)
        step = torch.arange(-1, 2, device=queries.device)
        offsets = torch.cartesian_prod(step, step)  # (9, 2)
        xy = cell[:, None, :2] + offsets
        inside = ((xy >= 0) & (xy < self.shape[:2])).all(dim=2)
        bottom, top = (cell[:, 2] - 1).clamp(min=0), torch.minimum(cell[:, 2] + 1, self.shape[2] - 1)
        inside &= (bottom <= top)[:, None]
        first, last = (
            torch.searchsorted(
                self.keys, self._keys(torch.cat([xy, z[:, None, None].expand(-1, 9, 1)], dim=2)), right=right
            )
            for z, right in ((bottom, False), (top, True))
        )
        return first, torch.where(inside, last - first, 0)

    def _of_chunk(self, queries: Tensor, first: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        flat = counts.flatten()
        column = torch.repeat_interleave(flat)
        place = (
            torch.arange(len(column), device=queries.device) - (flat.cumsum(0) - flat)[column] + first.flatten()[column]
        )
        query = column // counts.shape[1]
        apart = (self.points[place] - queries[query]).square()
        distance = apart[:, 0] + apart[:, 1] + apart[:, 2]
        squared = torch.full_like(queries[:, 0], torch.inf).scatter_reduce_(0, query, distance, "amin")
        best = (distance == squared[query]).nonzero().squeeze(1)
        none = len(self.points)
        row = first.new_full((len(queries),), none)
        row.scatter_reduce_(0, query[best], self.rows[place[best]], "amin")
        return squared, torch.where(row == none, -1, row)


def _of_all_pairs(queries: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    squared = torch.zeros(len(queries), len(reference), device=queries.device)
    for axis in range(3):
        squared += (queries[:, None, axis] - reference[None, :, axis]).square()
    nearest, row = squared.min(dim=1)
    return nearest, row
