"""The per-point head of the networks. The compiled loop for CPUs is in heads_cpu.py."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lidar_completion.sparse import heads_cpu, points_cpu


def point_estimates(
    hidden: Tensor, row: Tensor, offset: Tensor, by_offset: Tensor, last: Tensor, bias: Tensor, estimates: int
) -> tuple[Tensor, Tensor]:
    """leaky_relu(hidden[row] + offset @ by_offset.T, 0.1) @ last.T + bias for each point.

    The first 3 * estimates outputs are returned as (N, estimates, 3), the others as (N, outputs - 3 * estimates).

    hidden (V, H): the first layer applied to each voxel's features, with its bias; row (N,) int64: each point's voxel;
    offset (N, 3): the point in the voxel; by_offset (H, 3): the first layer's weights of it; last (outputs, H); bias (outputs,).
    """
    if _compiled(hidden, offset, by_offset, last, bias):
        return heads_cpu.point_estimates(hidden, row, offset, by_offset, last, bias, estimates)
    return point_estimates_plain(hidden, row, offset, by_offset, last, bias, estimates)


def point_estimates_plain(
    hidden: Tensor, row: Tensor, offset: Tensor, by_offset: Tensor, last: Tensor, bias: Tensor, estimates: int
) -> tuple[Tensor, Tensor]:
    """The plain implementation, for any device and with gradients."""
    outputs = point_outputs_plain(hidden, row, offset, by_offset, last, bias)
    first, rest = torch.tensor_split(outputs, [3 * estimates], dim=1)
    return first.unflatten(1, (estimates, 3)), rest


def point_outputs(hidden: Tensor, row: Tensor, offset: Tensor, by_offset: Tensor, last: Tensor, bias: Tensor) -> Tensor:
    """The outputs (N, outputs) of each point; arguments as in point_estimates."""
    if _compiled(hidden, offset, by_offset, last, bias):
        return heads_cpu.point_outputs(hidden, row, offset, by_offset, last, bias)
    return point_outputs_plain(hidden, row, offset, by_offset, last, bias)


def point_outputs_plain(
    hidden: Tensor, row: Tensor, offset: Tensor, by_offset: Tensor, last: Tensor, bias: Tensor
) -> Tensor:
    """The plain implementation, for any device and with gradients."""
    activated = F.leaky_relu(hidden.index_select(0, row) + offset @ by_offset.T, 0.1)
    outputs: Tensor = F.linear(activated, last, bias)
    return outputs


def _compiled(hidden: Tensor, offset: Tensor, by_offset: Tensor, last: Tensor, bias: Tensor) -> bool:
    return len(last) <= heads_cpu.MAX_OUTPUTS and points_cpu.usable(hidden, offset, by_offset, last, bias)
