"""What happens to a sweep before and after the networks: points in, points out.

Every function takes and returns float32 tensors (N, 3) in metres in the sensor frame, on any device, and keeps the
input's order unless it says otherwise.
"""

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse import points_cpu
from lidar_completion.sparse.compiled import compiled
from lidar_completion.sparse.coordinates import BITS, pack, quantise, voxel_keys

TIE = 1e-12  # relative: squared distances this close are equal, so that the order of a sum cannot decide between two points


def finite_rows(points: Tensor) -> Tensor:
    """Rows (n,) int64 of the points whose three coordinates are finite."""
    return torch.isfinite(points).all(dim=1).nonzero().squeeze(1)


def remove_invalid(points: Tensor) -> Tensor:
    """The points without NaN and infinity."""
    return points[finite_rows(points)]


def crop_range(points: Tensor, min_range_m: float, max_range_m: float) -> Tensor:
    """The points with min_range_m < distance from the sensor < max_range_m."""
    return points[range_rows(points, min_range_m, max_range_m)]


def range_rows(points: Tensor, min_range_m: float, max_range_m: float) -> Tensor:
    """Rows (n,) int64 of the points that crop_range keeps."""
    squared = points.square().sum(dim=1)
    return ((squared > min_range_m**2) & (squared < max_range_m**2)).nonzero().squeeze(1)


def voxel_downsample(points: Tensor, voxel_size_m: float, reduce: str = "nearest") -> Tensor:
    """One point a voxel, sorted by voxel (x, then y, then z); the result does not depend on the input's order.

    reduce="mean": the centroid of the voxel's points. reduce="nearest": the measured point nearest to that centroid
    (of equally near ones the lexicographically smallest), so that no coordinate is invented.
    """
    if reduce not in ("mean", "nearest"):
        raise ValueError(f"reduce is 'mean' or 'nearest', not {reduce!r}")
    if not len(points):
        return points
    if reduce == "nearest":
        return points[voxel_rows(points, voxel_size_m)]
    if points.device.type == "cpu":
        return torch.from_numpy(_one_per_voxel(*_by_voxel(points, voxel_size_m), False)[0])
    return one_per_voxel_plain(points, pack(quantise(points, voxel_size_m)), False)


def voxel_rows(points: Tensor, voxel_size_m: float) -> Tensor:
    """Rows (V,) int64 of the points that voxel_downsample keeps with reduce="nearest"."""
    if not len(points):
        return torch.zeros(0, dtype=torch.int64, device=points.device)
    if points.device.type == "cpu":
        return torch.from_numpy(_one_per_voxel(*_by_voxel(points, voxel_size_m), True)[1])
    return voxel_rows_plain(points, pack(quantise(points, voxel_size_m)))


def _by_voxel(points: Tensor, voxel_size_m: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (N, 3) float32 on the CPU, their voxels' keys, and the order (N,) that sorts these."""
    keys = voxel_keys(points, voxel_size_m)
    order = points_cpu.sorted_order(keys, BITS)
    order = keys.argsort(stable=True) if order is None else order
    return points.detach().float().numpy(), keys.numpy(), order.numpy()


@compiled
def _one_per_voxel(points, keys, order, nearest):  # type: ignore[no-untyped-def]
    out, rows = np.empty_like(points), np.empty(len(order), np.int64)
    count = first = 0
    while first < len(order):
        last = first
        x = y = z = 0.0
        while last < len(order) and keys[order[last]] == keys[order[first]]:
            x, y, z = x + points[order[last], 0], y + points[order[last], 1], z + points[order[last], 2]
            last += 1
        n = last - first
        x, y, z = x / n, y / n, z / n
        if nearest:
            smallest = np.inf
            for i in range(first, last):
                p = points[order[i]]
                smallest = min(smallest, (p[0] - x) ** 2 + (p[1] - y) ** 2 + (p[2] - z) ** 2)
            limit, found = smallest * (1.0 + TIE), False
            best = points[order[first]]
            for i in range(first, last):
                p = points[order[i]]
                near = (p[0] - x) ** 2 + (p[1] - y) ** 2 + (p[2] - z) ** 2 <= limit
                if near and (not found or (p[0], p[1], p[2]) < (best[0], best[1], best[2])):
                    best, found, rows[count] = p, True, order[i]
            out[count] = best
        else:
            out[count, 0], out[count, 1], out[count, 2] = x, y, z
        count += 1
        first = last
    return out[:count].copy(), rows[:count].copy()


def one_per_voxel_plain(points: Tensor, keys: Tensor, nearest: bool) -> Tensor:
    """The twin of the loop on CPUs, for any device: the nearest point to each voxel's centroid, or that centroid."""
    if nearest:
        return points[voxel_rows_plain(points, keys)]
    _, centroids, _, _ = _centroids(points, keys)
    return centroids.to(points.dtype)


def voxel_rows_plain(points: Tensor, keys: Tensor) -> Tensor:
    """Rows (V,) int64 of the nearest point to each voxel's centroid."""
    order, centroids, counts, starts = _centroids(points, keys)
    return order[_nearest_in_group(points[order], centroids, counts, starts)]


def _centroids(points: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows by voxel (N,), each voxel's centroid (V, 3), its number of points and its first of these rows (V,)."""
    keys, order = keys.sort(stable=True)
    changes = torch.ones_like(keys, dtype=torch.bool)
    changes[1:] = keys[1:] != keys[:-1]
    starts = changes.nonzero().squeeze(1)
    counts = torch.diff(starts, append=starts.new_tensor([len(points)]))
    # in float64, so that the order of the sum cannot decide between two points
    centroids = torch.segment_reduce(points[order].double(), "sum", lengths=counts, unsafe=True) / counts.unsqueeze(1)
    return order, centroids, counts, starts


def _nearest_in_group(points: Tensor, centroids: Tensor, counts: Tensor, starts: Tensor) -> Tensor:
    group = torch.repeat_interleave(counts)
    distance = (points - centroids[group]).square().sum(dim=1)
    smallest = torch.full_like(centroids[:, 0], torch.inf).scatter_reduce_(0, group, distance, "amin")
    candidates = (distance <= smallest[group] * (1.0 + TIE)).nonzero().squeeze(1)
    group = group[candidates]
    if len(candidates) > len(starts):  # ties: of a group's candidates take the lexicographically smallest point
        for axis in (2, 1, 0):
            by_axis = points[candidates, axis].argsort(stable=True)
            candidates, group = candidates[by_axis], group[by_axis]
        by_group = group.argsort(stable=True)
        candidates, group = candidates[by_group], group[by_group]
    first = torch.ones_like(group, dtype=torch.bool)
    first[1:] = group[1:] != group[:-1]
    return candidates[first]


def farthest_point_rows(points: Tensor, count: int, start: int = 0) -> Tensor:
    """Rows (count,) int64 of points each the farthest from those before it; all of them where there are no more.

    O(N * count): only for comparing with published numbers.
    """
    if count >= len(points):
        return torch.arange(len(points), device=points.device)
    chosen = torch.empty(count, dtype=torch.int64, device=points.device)
    distance = torch.full_like(points[:, 0], torch.inf)
    row = torch.as_tensor(start, device=points.device)
    for i in range(count):
        chosen[i] = row
        distance = torch.minimum(distance, (points - points[row]).square().sum(dim=1))
        row = distance.argmax()
    return chosen


def replicate(points: Tensor, copies: int) -> Tensor:
    """Every point `copies` times, (N * copies, 3), the whole cloud after itself (the order of the reference)."""
    return points.repeat(copies, 1)


def post_crop(completed: Tensor, sweep: Tensor, max_range_m: float) -> Tensor:
    """Which completed points (N, 3) stay, (N,) bool: finite, inside the range, and between mean - 2 std and max of the
    sweep's heights (the reference's rule)."""
    height = sweep[:, 2]
    lowest = height.mean() - 2.0 * height.std(correction=0)
    z = completed[:, 2]
    inside = completed.square().sum(dim=1) < max_range_m**2
    return inside & (z > lowest) & (z < height.max())
