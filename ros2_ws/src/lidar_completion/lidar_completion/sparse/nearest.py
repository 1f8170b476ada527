"""Exact nearest-voxel tables: for every voxel, the row of the condition voxel nearest to it.

Nearest by squared distance of the strided coordinates; ties go to the lexicographically smallest (x, y, z).
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse.compiled import loop_threads
from lidar_completion.sparse.coordinates import LIMIT, Voxels

# Shifting a query by -(2^-20, 2^-28, 2^-36) voxels adds 2 * shift . p to each squared distance. That is less than the 1 between
# two different integers and ordered like (x, y, z), so a nearest search on real numbers breaks ties as required. float64 is exact
# for this while the nearest voxel is closer than SHIFT_LIMIT.
SHIFT = np.array([2.0**-20, 2.0**-28, 2.0**-36])
SHIFT_LIMIT = 700
CHUNK = 1 << 24  # distances that the plain search holds at once
ITEM_SPACING = (
    8 * LIMIT
)  # along x between batch items: the nearest voxel of the same item is less than 2 sqrt(3) LIMIT away


def nearest_rows(queries: Voxels, condition: Voxels) -> Tensor:
    """Row (V,) int64 in `condition` of the voxel nearest to each query voxel, within the same batch item.

    On CPUs, a batch item without condition voxels raises ValueError. On GPUs the host does not wait to find out: its rows
    are -1, which gathers reject.
    """
    if len(condition) == 1:
        return torch.zeros(len(queries), dtype=torch.int64, device=queries.keys.device)
    if queries.keys.device.type != "cpu":
        return nearest_rows_together(queries, condition, _search_of(queries.keys.device))
    return _per_item(_nearest_tree, queries.coordinates, condition.coordinates)


Search = Callable[[Tensor, Tensor], Tensor]


def nearest_rows_together(queries: Voxels, condition: Voxels, search: Search) -> Tensor:
    """`nearest_rows` of all batch items in one search, without waiting for the device."""
    if not len(condition):
        raise ValueError("there are no condition voxels")
    q, p = (spread_items(voxels.coordinates) for voxels in (queries, condition))
    rows = search(q, p)
    mine = p[:, 0].index_select(0, rows) - q[:, 0]
    return torch.where(mine.abs() < ITEM_SPACING // 2, rows, -1)


def spread_items(coordinates: Tensor) -> Tensor:
    """Coordinates (V, 4) int32 -> (V, 3) int64 with batch items separated along x, so that they do not interact."""
    item, xyz = coordinates[:, 0].long(), coordinates[:, 1:].long()
    return torch.stack([item * ITEM_SPACING + xyz[:, 0], xyz[:, 1], xyz[:, 2]], dim=1)


def nearest_rows_plain(queries: Tensor, condition: Tensor) -> Tensor:
    """The plain implementation, over all pairs: queries (V, 3), condition (C, 3), sorted, -> rows (V,) int64."""
    condition = condition.to(torch.int64)
    row = torch.arange(len(condition), device=condition.device)
    chunks = []
    for chunk in queries.to(torch.int64).split(max(1, CHUNK // len(condition))):
        squared = sum((chunk[:, None, axis] - condition[None, :, axis]).square_() for axis in range(3))
        nearest = squared.amin(1, keepdim=True)
        chunks.append(torch.where(squared == nearest, row, len(row)).amin(1))
    return torch.cat(chunks) if chunks else queries.new_empty(0, dtype=torch.int64)


@cache
def _search_of(device: torch.device) -> Search:
    """The Triton search if it works on this device, else the plain one."""
    from lidar_completion.sparse.convolution import backend_of

    if backend_of(device) != "triton":
        return nearest_rows_plain
    from lidar_completion.sparse import nearest_triton

    return nearest_triton.nearest_rows


def _nearest_tree(queries: Tensor, condition: Tensor) -> Tensor:
    from scipy.spatial import cKDTree  # here, because networks without gates do not need it

    centres = condition.numpy().astype(np.float64)
    tree = cKDTree(centres, leafsize=8, balanced_tree=False, compact_nodes=True)
    distance, rows = tree.query(queries.numpy() - SHIFT, workers=loop_threads())
    rows = torch.from_numpy(rows.astype(np.int64))
    far = torch.from_numpy(distance > SHIFT_LIMIT).nonzero().squeeze(1)
    if len(far):
        rows[far] = nearest_rows_plain(queries[far], condition)
    return rows


def _per_item(search, queries: Tensor, condition: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    items = int(queries[:, 0].max()) + 1 if len(queries) else 0
    if items <= 1:
        return search(queries[:, 1:], condition[:, 1:])
    rows = []
    for item in range(items):  # both are sorted by batch item, so each item is contiguous
        start = int((condition[:, 0] < item).sum())
        mine = condition[condition[:, 0] == item, 1:]
        if not len(mine):
            raise ValueError(f"batch item {item} has voxels but no condition voxels")
        rows.append(search(queries[queries[:, 0] == item, 1:], mine) + start)
    return torch.cat(rows)
