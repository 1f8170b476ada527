"""Exact nearest-voxel tables: for every voxel, the row of the condition voxel nearest to it.

Nearest by squared distance of the strided coordinates; of equally near ones the lexicographically smallest (x, y, z).
"""

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from lidar_completion.sparse.coordinates import Voxels

# Moving a query by -(2^-20, 2^-28, 2^-36) voxels adds 2 * shift . p to every squared distance: less than the 1 that
# separates two different integers, and ordered as (x, y, z) is, so a nearest search of real numbers breaks ties as we
# want. float64 carries this exactly as long as the nearest voxel is closer than SHIFT_LIMIT.
SHIFT = np.array([2.0**-20, 2.0**-28, 2.0**-36])
SHIFT_LIMIT = 700
CHUNK = 1 << 24  # distances held at once by the plain search


def nearest_rows(queries: Voxels, condition: Voxels) -> Tensor:
    """Row (V,) int64 in `condition` of the voxel nearest to each query voxel, within the same batch item."""
    if len(condition) == 1:
        return torch.zeros(len(queries), dtype=torch.int64, device=queries.keys.device)
    search = _nearest_tree if queries.keys.device.type == "cpu" else nearest_rows_plain
    return _per_item(search, queries.coordinates, condition.coordinates)


def nearest_rows_plain(queries: Tensor, condition: Tensor) -> Tensor:
    """Brute force over all pairs: queries (V, 3), condition (C, 3), sorted, -> rows (V,) int64. The twin of the tree search."""
    condition = condition.to(torch.int64)
    chunks = []
    for chunk in queries.to(torch.int64).split(max(1, CHUNK // len(condition))):
        squared = (chunk[:, None] - condition[None]).square_().sum(dim=2)
        chunks.append(
            (squared * len(condition) + torch.arange(len(condition), device=condition.device)).amin(1) % len(condition)
        )
    return torch.cat(chunks) if chunks else queries.new_empty(0, dtype=torch.int64)


def _nearest_tree(queries: Tensor, condition: Tensor) -> Tensor:
    centres = condition.numpy().astype(np.float64)
    tree = cKDTree(centres, leafsize=8, balanced_tree=False, compact_nodes=True)
    distance, rows = tree.query(queries.numpy() - SHIFT, workers=torch.get_num_threads())
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
    for item in range(items):  # both are sorted by batch item, so the pieces lie one after the other
        start = int((condition[:, 0] < item).sum())
        mine = condition[condition[:, 0] == item, 1:]
        if not len(mine):
            raise ValueError(f"batch item {item} has voxels but no condition voxels")
        rows.append(search(queries[queries[:, 0] == item, 1:], mine) + start)
    return torch.cat(rows)
