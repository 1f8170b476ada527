"""The per-point head on CPUs, compiled: one pass over the points without gathered intermediates. The plain implementation is in heads.py."""

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lidar_completion.sparse.compiled import compiled_sums, even_cuts, in_parallel

OUTPUTS_AT_ONCE = 4  # sums of this many outputs are taken together


def point_estimates(
    hidden: Tensor, row: Tensor, offset: Tensor, by_offset: Tensor, last: Tensor, bias: Tensor, estimates: int
) -> tuple[Tensor, Tensor]:
    """As heads.point_estimates_plain; float32 on the CPU, without gradients."""
    first, rest = torch.empty(len(row), estimates, 3), torch.empty(len(row), len(last) - 3 * estimates)
    padding = -len(last) % OUTPUTS_AT_ONCE
    weights, biases = F.pad(last.detach(), (0, 0, 0, padding)), F.pad(bias.detach(), (0, padding))
    arrays = [each.detach().contiguous().numpy() for each in (hidden, row, offset, by_offset.T, weights, biases)]
    out = (first.view(len(row), 3 * estimates).numpy(), rest.numpy())
    loop = _loop(hidden.shape[1], len(biases))
    in_parallel(loop, [(*arrays, *out, *share) for share in even_cuts(np.arange(len(row) + 1))])
    return first, rest


@cache
def _loop(width: int, outputs: int):  # type: ignore[no-untyped-def]
    """The loop for one shape of head: sizes that are known when it is compiled keep its arrays in registers."""

    @compiled_sums
    def loop(hidden, row, offset, by_offset, last, bias, first, rest, begin, end):  # type: ignore[no-untyped-def]
        leak, split = np.float32(0.1), first.shape[1]
        activated, output = np.empty(width, np.float32), np.empty(outputs, np.float32)
        for i in range(begin, end):
            voxel = hidden[row[i]]
            x, y, z = offset[i, 0], offset[i, 1], offset[i, 2]
            for h in range(width):
                value = voxel[h] + x * by_offset[0, h] + y * by_offset[1, h] + z * by_offset[2, h]
                activated[h] = max(value, leak * value)
            for o in range(0, outputs, OUTPUTS_AT_ONCE):
                a = b = c = d = np.float32(0)
                for h in range(width):
                    a += activated[h] * last[o, h]
                    b += activated[h] * last[o + 1, h]
                    c += activated[h] * last[o + 2, h]
                    d += activated[h] * last[o + 3, h]
                output[o], output[o + 1], output[o + 2], output[o + 3] = a, b, c, d
            for o in range(split):
                first[i, o] = output[o] + bias[o]
            for o in range(rest.shape[1]):
                rest[i, o] = output[split + o] + bias[split + o]

    return loop
