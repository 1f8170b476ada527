"""The condition encoder."""

from dataclasses import dataclass

from torch import Tensor, nn

from lidar_completion.networks.architecture import Architecture
from lidar_completion.networks.blocks import EncoderStage, Stem
from lidar_completion.networks.voxelised_cloud import VoxelisedCloud
from lidar_completion.sparse import search_cpu
from lidar_completion.sparse.coordinates import BITS, Voxels
from lidar_completion.sparse.kernel_map import VoxelPyramid
from lidar_completion.sparse.nearest import nearest_rows


@dataclass(frozen=True)
class Condition:
    """The encoder's output for a scan: voxels at stride 16 and their features (C, c4)."""

    voxels: Voxels
    features: Tensor

    def nearest_tables(self, pyramid: VoxelPyramid) -> list[Tensor]:
        """For each of the five levels, the condition row (V_level,) nearest to each voxel. The eight gates share them."""
        keys = [level.keys for level in pyramid.levels]
        one_scan = (
            keys[0].device.type == "cpu" and len(keys[0]) > 0 and max(keys[0][-1], self.voxels.keys[-1]) < 1 << 54
        )
        if one_scan and len(self.voxels) > 1:
            return search_cpu.nearest_tables(keys, pyramid.parents, self.voxels.keys, pyramid.levels[-1].stride, BITS)
        return [nearest_rows(level, self.voxels) for level in pyramid.levels]


class ConditionEncoder(nn.Module):
    """Encodes a scan into features at stride 16."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        c = architecture.channels
        self.stem = Stem(architecture.inputs, c[0])
        for i in range(4):
            setattr(self, f"stage{i + 1}", EncoderStage(c[i], c[i + 1]))

    def forward(self, scan: VoxelisedCloud) -> Condition:
        pyramid = scan.pyramid
        features = self.stem(scan.features, pyramid.neighbours(0))
        for level in range(4):
            features = getattr(self, f"stage{level + 1}")(features, pyramid, level)
        return Condition(pyramid.levels[4], features)
