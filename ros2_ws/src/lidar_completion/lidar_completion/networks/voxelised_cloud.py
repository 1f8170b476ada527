"""Points as the networks see them: voxels with features."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lidar_completion.sparse import points_cpu
from lidar_completion.sparse.coordinates import voxel_mean, voxelise
from lidar_completion.sparse.kernel_map import VoxelPyramid

LOCAL_FEATURES = 10  # columns of VoxelisedCloud.from_points_and_scan
RAY_FEATURES = 3  # further columns of visibility.ClearSpace.ray_features


@dataclass(frozen=True)
class VoxelisedCloud:
    """A cloud on the networks' grid: its voxels at several strides, their features, and the voxel of each point."""

    pyramid: VoxelPyramid
    features: Tensor  # (V, F) float32: mean xyz of each voxel's points in metres; or those of from_points_and_scan
    point_row: Tensor  # (N,) int64: the voxel of each point
    point_offset: Tensor  # (N, 3) float32: point minus its voxel's mean (with local features: centre), in voxels

    @classmethod
    def from_points(cls, points: Tensor, voxel_size_m: float, batch: Tensor | None = None) -> "VoxelisedCloud":
        """The published input for points (N, 3) float32 metres; batch (N,) int64: the scan that each point belongs to."""
        voxels, row = voxelise(points, voxel_size_m, batch)
        features = voxel_mean(points, row, len(voxels))
        return cls(VoxelPyramid.build(voxels), features, row, (points - features[row]) / voxel_size_m)

    @classmethod
    def from_points_and_scan(
        cls,
        points: Tensor,
        scan: Tensor,
        voxel_size_m: float,
        depth: int = 4,
        ray_features: Callable[[Tensor], Tensor] | None = None,
    ) -> "VoxelisedCloud":
        """Local features of the voxels of points (N, 3) and of the scan (S, 3) that they complete; float32 metres.

        Not in the paper. The position of a surface within its voxel is a matter of centimetres, which a network can
        hardly infer from absolute means of up to 50 m; where the scan measured the surface, its points are more precise
        than the mean of the noised ones. Columns: mean offset of the points from the centre in half voxels (3), the same for
        the scan (3, zero if it has no point), log of the number of points, 1 if the scan has points, height in units of 3 m,
        horizontal range in units of 25 m; then those of ray_features at the voxels' centres, if given. depth: number of
        coarser levels.
        """
        voxels, row = voxelise(torch.cat([points, scan]), voxel_size_m)
        row, scan_row = row.split([len(points), len(scan)])
        centre = voxels.coordinates[:, 1:].to(points.dtype) * voxel_size_m
        offset, mean, count = _offsets_of(points, row, centre, voxel_size_m)
        _, scan_mean, scan_count = _offsets_of(scan, scan_row, centre, voxel_size_m)
        height, horizontal = centre[:, 2:] / 3.0, centre[:, :2].norm(dim=1, keepdim=True) / 25.0
        columns = [2 * mean, 2 * scan_mean, count.log1p() / 2, scan_count.clamp(max=1), height, horizontal]
        if ray_features is not None:
            columns.append(ray_features(centre))
        return cls(VoxelPyramid.build(voxels, depth), torch.cat(columns, dim=1), row, offset)


def _offsets_of(points: Tensor, row: Tensor, centre: Tensor, size_m: float) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets (N, 3) of points from their voxels' centres (V, 3), in voxels; their mean (V, 3); and the number of points (V, 1).

    The mean is zero if a voxel has no point.
    """
    if points_cpu.usable(points, centre):
        offset, total, number = points_cpu.offset_sums(points, row, centre, size_m)
    else:
        offset, total, number = offset_sums_plain(points, row, centre, size_m)
    return offset, total / number.clamp(min=1).unsqueeze(1), number.unsqueeze(1)


def offset_sums_plain(points: Tensor, row: Tensor, centre: Tensor, size_m: float) -> tuple[Tensor, Tensor, Tensor]:
    """The plain implementation of points_cpu.offset_sums, for any device and with gradients."""
    offset = (points - centre.index_select(0, row)) / size_m
    number = torch.bincount(row, minlength=len(centre)).to(points.dtype)
    return offset, torch.zeros_like(centre).index_add_(0, row, offset), number
