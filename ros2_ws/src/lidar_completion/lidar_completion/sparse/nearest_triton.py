"""Exact nearest-voxel tables in Triton: brute force over the condition voxels that are near enough along x.

The plain implementation is nearest.nearest_rows_plain. Both sides are sorted by x, so a block of queries is a thin slab: it
starts with the condition voxels next to it, and then visits only those no farther along x than its worst distance so far.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_Q, BLOCK_P = 64, 32


def nearest_rows(queries: Tensor, condition: Tensor) -> Tensor:
    """queries (V, 3), condition (C, 3), both int64 and sorted -> rows (V,) int64; ties go to the first."""
    rows = torch.empty(len(queries), dtype=torch.int64, device=queries.device)
    if len(queries):
        q, p = (each.T.contiguous() for each in (queries, condition))  # x, y and z contiguous
        with torch.cuda.device_of(rows):  # Triton launches on the current device
            _nearest_block[(triton.cdiv(len(queries), BLOCK_Q),)](
                q, p, rows, len(queries), len(condition), BLOCK_Q=BLOCK_Q, BLOCK_P=BLOCK_P, num_warps=4
            )
    return rows


@triton.jit
def _nearest_block(  # type: ignore[no-untyped-def]
    queries,  # (3, V) int64
    condition,  # (3, C) int64
    rows,  # (V,) int64
    num_queries,
    num_condition,
    BLOCK_Q: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    u = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    u = tl.minimum(u, num_queries - 1)  # the last block repeats the last query and writes the same row again
    x, y, z = tl.load(queries + u), tl.load(queries + num_queries + u), tl.load(queries + 2 * num_queries + u)
    x_first, x_last = tl.min(x, axis=0), tl.max(x, axis=0)

    low = 0
    high = num_condition  # binary search for the first condition voxel at or after the block's smallest x
    while low < high:
        middle = (low + high) // 2
        beyond = tl.load(condition + middle) >= x_first
        high = tl.where(beyond, middle, high)
        low = tl.where(beyond, low, middle + 1)
    tiles = tl.cdiv(num_condition, BLOCK_P)
    home = tl.minimum(low, num_condition - 1) // BLOCK_P

    best = tl.full((BLOCK_Q,), 0x7FFFFFFFFFFFFFFF, tl.int64)
    best_row = tl.full((BLOCK_Q,), 0x7FFFFFFF, tl.int32)
    worst = tl.max(best, axis=0)
    for step in range(tiles):
        tile = (home + step) % tiles  # the tile next to the block first: most others are then too far away
        first = tile * BLOCK_P
        before = x_first - tl.load(condition + tl.minimum(first + BLOCK_P, num_condition) - 1)
        behind = tl.load(condition + first) - x_last
        gap = tl.maximum(tl.maximum(before, behind), 0)
        if gap * gap <= worst:
            row = first + tl.arange(0, BLOCK_P)
            here = row < num_condition
            dx = x[:, None] - tl.load(condition + row, mask=here, other=0)[None, :]
            dy = y[:, None] - tl.load(condition + num_condition + row, mask=here, other=0)[None, :]
            dz = z[:, None] - tl.load(condition + 2 * num_condition + row, mask=here, other=0)[None, :]
            squared = tl.where(here[None, :], dx * dx + dy * dy + dz * dz, 0x7FFFFFFFFFFFFFFF)
            nearest = tl.min(squared, axis=1)
            nearest_row = tl.min(tl.where(squared == nearest[:, None], row[None, :], 0x7FFFFFFF), axis=1)
            better = (nearest < best) | ((nearest == best) & (nearest_row < best_row))
            best = tl.where(better, nearest, best)
            best_row = tl.where(better, nearest_row, best_row)
            worst = tl.max(best, axis=0)
    tl.store(rows + u, best_row.to(tl.int64))
