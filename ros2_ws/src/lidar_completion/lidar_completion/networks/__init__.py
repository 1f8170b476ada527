"""The networks: ConditionEncoder, Denoiser and Refiner of the public checkpoints; UnionDenoiser and UnionRefiner are not in the paper.

Names and shapes of the published networks' tensors are those of the LiDiff, ScoreLiDAR and Distillation-DPO checkpoints, so a
module's path is its name in the file. A network sees voxels and their features; it does not depend on the diffusion process.
"""

from torch import nn

from lidar_completion.networks.architecture import CHANNELS, STAGE_LEVEL, Architecture
from lidar_completion.networks.encoder import Condition, ConditionEncoder
from lidar_completion.networks.folding import fold_batch_norm
from lidar_completion.networks.unet import Denoiser, Refiner, moved_points, refined_points, timestep_embedding
from lidar_completion.networks.union import UnionDenoiser, UnionRefiner
from lidar_completion.networks.voxelised_cloud import RAY_FEATURES, VoxelisedCloud

NETWORKS = {"encoder": ConditionEncoder, "denoiser": Denoiser, "refiner": Refiner}
UNION_NETWORKS = {"denoiser": UnionDenoiser, "refiner": UnionRefiner}


def new_network(name: str, architecture: Architecture) -> nn.Module:
    """A network with random weights; name: a key of NETWORKS."""
    kinds = UNION_NETWORKS if architecture.conditioning == "union" else NETWORKS
    return kinds[name](architecture)


__all__ = [
    "CHANNELS",
    "NETWORKS",
    "RAY_FEATURES",
    "STAGE_LEVEL",
    "Architecture",
    "Condition",
    "ConditionEncoder",
    "Denoiser",
    "Refiner",
    "UnionDenoiser",
    "UnionRefiner",
    "VoxelisedCloud",
    "fold_batch_norm",
    "moved_points",
    "new_network",
    "refined_points",
    "timestep_embedding",
]
