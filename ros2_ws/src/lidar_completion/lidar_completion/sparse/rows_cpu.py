"""Rows of a cloud on CPUs, compiled: the rows that have a code, and the values in given rows.

The plain implementations are (codes == code).nonzero() and Tensor.index_select.
"""

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, equal_cuts, in_parallel

BLOCK = 4096  # codes that are counted together


def rows_with(code: int | np.uint8, codes: np.ndarray) -> Tensor:
    """Rows (n,) int64 where codes (N,) uint8 equals `code`."""
    shares = equal_cuts(len(codes))
    counts = in_parallel(_count, [(codes, np.uint8(code), *share) for share in shares])
    rows, ends = np.empty(sum(counts), np.int64), np.cumsum([0, *counts])
    in_parallel(
        _fill_rows, [(codes, np.uint8(code), rows, ends[i], ends[i + 1], share[0]) for i, share in enumerate(shares)]
    )
    return torch.from_numpy(rows)


@compiled
def _count(codes, code, first, last):  # type: ignore[no-untyped-def]
    total = 0
    for start in range(first, last, BLOCK):
        count = np.int32(0)  # narrow, and over a short loop: this is vectorised
        for each in codes[start : min(start + BLOCK, last)]:
            count += np.int32(each == code)
        total += int(count)
    return total


@compiled
def _fill_rows(codes, code, rows, place, end, first):  # type: ignore[no-untyped-def]
    i = first
    while place < end:  # always written: a branch would often be mispredicted
        rows[place] = i
        place += codes[i] == code
        i += 1
