"""The networks of the public checkpoints, tensor for tensor: ConditionEncoder, Denoiser, Refiner.

Names and shapes of the tensors are those of the LiDiff, ScoreLiDAR and Distillation-DPO checkpoints, so a module's path is its
name in the file. A network sees voxels and their features; it knows nothing of the diffusion process.
"""

from lidar_completion.networks.architecture import CHANNELS, STAGE_LEVEL, Architecture
from lidar_completion.networks.encoder import Condition, ConditionEncoder
from lidar_completion.networks.folding import fold_batch_norm
from lidar_completion.networks.unet import Denoiser, Refiner, refined_points, timestep_embedding
from lidar_completion.networks.voxelised_cloud import VoxelisedCloud

NETWORKS = {"encoder": ConditionEncoder, "denoiser": Denoiser, "refiner": Refiner}

__all__ = [
    "CHANNELS",
    "NETWORKS",
    "STAGE_LEVEL",
    "Architecture",
    "Condition",
    "ConditionEncoder",
    "Denoiser",
    "Refiner",
    "VoxelisedCloud",
    "fold_batch_norm",
    "refined_points",
    "timestep_embedding",
]
