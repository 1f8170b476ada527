"""Nearest neighbours of many points in a downsampled sweep, within a limited distance.

The compiled search for CPUs, over the columns of a horizontal grid, is in neighbours_compiled.py.
"""

import torch
from torch import Tensor

from lidar_completion import neighbours_compiled

PAIRS = 1 << 27  # distances that the plain search holds at once


def nearest_within(queries: Tensor, reference: Tensor, max_distance_m: float) -> tuple[Tensor, Tensor]:
    """Distance (N,) float32 from queries (N, 3) to the nearest point of reference (M, 3), and its row (N,) int64.

    Exact below max_distance_m. If no point is nearer, the distance is max_distance_m and the row -1. All in metres.
    """
    if queries.device.type == "cpu":
        return neighbours_compiled.nearest_within(queries, reference, max_distance_m)
    return nearest_within_plain(queries, reference, max_distance_m)


def any_within(queries: Tensor, reference: Tensor, max_distance_m: float) -> Tensor:
    """Which queries (N, 3) have a point of reference (M, 3) nearer than max_distance_m, (N,) bool."""
    if queries.device.type == "cpu":
        return neighbours_compiled.any_within(queries, reference, max_distance_m)
    return nearest_within_plain(queries, reference, max_distance_m)[1] >= 0


def nearest_within_plain(queries: Tensor, reference: Tensor, max_distance_m: float) -> tuple[Tensor, Tensor]:
    """The plain implementation, over all pairs, for any device."""
    if not len(queries) or not len(reference):
        return torch.full_like(queries[:, 0], max_distance_m), torch.full_like(queries[:, 0], -1, dtype=torch.int64)
    found = [
        torch.cdist(chunk, reference, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        for chunk in queries.split(max(1, PAIRS // max(1, len(reference))))
    ]
    distance, row = (torch.cat(each) for each in zip(*found, strict=True))
    near = distance < max_distance_m
    return torch.where(near, distance, max_distance_m), torch.where(near, row, -1)
