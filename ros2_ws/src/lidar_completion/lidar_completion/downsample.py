"""Downsampling of a sweep: one measured point per voxel, or farthest point sampling.

Clouds are (N, 3) float32 metres, on any device. The compiled loops for CPUs are in downsample_compiled.py and
farthest_compiled.py.
"""

import torch
from torch import Tensor

from lidar_completion import downsample_compiled, farthest_compiled
from lidar_completion.model.card import Pipeline
from lidar_completion.sparse.coordinates import pack, quantise

TIE = 1e-12  # squared distances that differ by less than this factor are equal: rounding of the sums must not decide


def downsample_rows(points: Tensor, pipeline: Pipeline) -> Tensor:
    """Rows (S,) int64 of the cropped sweep (N, 3) that the pipeline's downsampling keeps."""
    if pipeline.downsampling == "farthest":
        return farthest_point_rows(points, pipeline.farthest_points)
    return voxel_rows(points, pipeline.downsample_voxel_m)


def downsample(points: Tensor, pipeline: Pipeline) -> Tensor:
    """The scan (S, 3): the points of a cropped sweep (N, 3) that the pipeline's downsampling keeps."""
    return points[downsample_rows(points, pipeline)]


def voxel_downsample(points: Tensor, voxel_size_m: float) -> Tensor:
    """One point per voxel, sorted by voxel (x, then y, then z); the result does not depend on the input's order.

    The point is the measured one nearest to the centroid of the voxel's points; on ties the lexicographically smallest.
    """
    return points[voxel_rows(points, voxel_size_m)]


def voxel_rows(points: Tensor, voxel_size_m: float) -> Tensor:
    """Rows (V,) int64 of the points that voxel_downsample keeps."""
    if not len(points):
        return torch.zeros(0, dtype=torch.int64, device=points.device)
    if points.device.type == "cpu":
        return downsample_compiled.voxel_rows(points, voxel_size_m, TIE)
    return voxel_rows_plain(points, pack(quantise(points, voxel_size_m)))


def voxel_rows_plain(points: Tensor, keys: Tensor) -> Tensor:
    """The plain implementation, for any device: rows (V,) int64 of the point nearest to each voxel's centroid.

    keys (N,) int64: the voxel of each point.
    """
    keys, order = keys.sort(stable=True)
    changes = torch.ones_like(keys, dtype=torch.bool)
    changes[1:] = keys[1:] != keys[:-1]
    starts = changes.nonzero().squeeze(1)
    counts = torch.diff(starts, append=starts.new_tensor([len(points)]))
    # float64, so that the order of the sum does not decide between two points
    centroids = torch.segment_reduce(points[order].double(), "sum", lengths=counts, unsafe=True) / counts.unsqueeze(1)
    return order[_nearest_in_group(points[order], centroids, counts, starts)]


def _nearest_in_group(points: Tensor, centroids: Tensor, counts: Tensor, starts: Tensor) -> Tensor:
    group = torch.repeat_interleave(counts)
    distance = (points - centroids[group]).square().sum(dim=1)
    smallest = torch.full_like(centroids[:, 0], torch.inf).scatter_reduce_(0, group, distance, "amin")
    candidates = (distance <= smallest[group] * (1.0 + TIE)).nonzero().squeeze(1)
    group = group[candidates]
    if len(candidates) > len(starts):  # ties: sort the candidates of a group lexicographically
        for axis in (2, 1, 0):
            by_axis = points[candidates, axis].argsort(stable=True)
            candidates, group = candidates[by_axis], group[by_axis]
        by_group = group.argsort(stable=True)
        candidates, group = candidates[by_group], group[by_group]
    first = torch.ones_like(group, dtype=torch.bool)
    first[1:] = group[1:] != group[:-1]
    return candidates[first]


def farthest_point_rows(points: Tensor, count: int, start: int = 0) -> Tensor:
    """Rows (count,) int64 of farthest point sampling, or all rows if there are no more than `count`."""
    if count >= len(points):
        return torch.arange(len(points), device=points.device)
    if points.device.type == "cpu" and points.dtype == torch.float32:
        return farthest_compiled.farthest_point_rows(points, count, start)
    return farthest_point_rows_plain(points, count, start)


def farthest_point_rows_plain(points: Tensor, count: int, start: int = 0) -> Tensor:
    """The plain implementation, for any device, of count < N points: O(N * count), seconds at published sizes."""
    chosen = torch.empty(count, dtype=torch.int64, device=points.device)
    distance = torch.full_like(points[:, 0], torch.inf)
    row = torch.as_tensor(start, device=points.device)
    for i in range(count):
        chosen[i] = row
        distance = torch.minimum(distance, (points - points[row]).square().sum(dim=1))
        row = distance.argmax()
    return chosen


def every_nth_rows(count: int, limit: int, device: torch.device | None = None) -> Tensor:
    """Rows (min(count, limit),) int64 at equal spacing. Points in voxel order are thinned evenly in space."""
    if count <= limit:
        return torch.arange(count, device=device)
    return torch.arange(limit, device=device) * count // limit
