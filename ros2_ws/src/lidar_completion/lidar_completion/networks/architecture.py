"""The shape of the networks."""

from dataclasses import dataclass

from torch import Tensor

from lidar_completion.errors import ModelError
from lidar_completion.networks.voxelised_cloud import LOCAL_FEATURES, VoxelisedCloud
from lidar_completion.settings import at_least, check_bounds

MIN_CHANNELS = 4  # with fewer the timestep embedding has no frequencies
CHANNELS = (32, 32, 64, 128, 256, 256, 128, 96, 96)
STAGES = ("stage1", "stage2", "stage3", "stage4", "up1", "up2", "up3", "up4")
# The level whose voxels a stage's input has; up1..up4 start at the level where stage4..stage1 end.
STAGE_LEVEL = {"stage1": 0, "stage2": 1, "stage3": 2, "stage4": 3, "up1": 4, "up2": 3, "up3": 2, "up4": 1}


@dataclass(frozen=True)
class Architecture:
    """Everything that determines the shapes of the tensors. The defaults are the published network."""

    width: float = at_least(0.0, 1.0)  # factor on CHANNELS, truncated
    voxel_size_m: float = at_least(1e-3, 0.05)  # of the networks' grid
    head_width: int = at_least(1, 20)  # hidden width of the per-point head
    # The entries below are not in the paper
    point_offsets: bool = (
        False  # the head also gets each point's offset within its voxel, so that points of a voxel can differ
    )
    own_channels: tuple[int, ...] = ()  # nine channel counts instead of width * CHANNELS
    local_features: bool = False  # voxel features as in VoxelisedCloud.from_points_and_scan
    point_confidence: bool = False  # a fourth output per point: the logit of ending within 0.2 m of a surface

    def __post_init__(self) -> None:
        if self.own_channels and len(self.own_channels) != len(CHANNELS):
            raise ModelError(f"own_channels has {len(self.own_channels)} entries, expected {len(CHANNELS)} or none")
        check_bounds(self, "architecture")
        if min(self.channels) < MIN_CHANNELS:
            raise ModelError(
                f"architecture.width {self.width} and own_channels {self.own_channels} make layers of "
                f"{min(self.channels)} channels; expected at least {MIN_CHANNELS}"
            )

    @property
    def channels(self) -> tuple[int, ...]:
        """Nine channel counts: stem, four encoder stages, four decoder stages."""
        return self.own_channels or tuple(int(c * self.width) for c in CHANNELS)

    @property
    def inputs(self) -> int:
        """Features per voxel."""
        return LOCAL_FEATURES if self.local_features else 3

    @property
    def outputs(self) -> int:
        """Columns of the denoiser's output: the noise, and the logit if there is one."""
        return 4 if self.point_confidence else 3

    def cloud(self, points: Tensor, scan: Tensor) -> VoxelisedCloud:
        """Points (N, 3) as this architecture's input; scan (S, 3): the downsampled sweep that they complete."""
        if self.local_features:
            return VoxelisedCloud.from_points_and_scan(points, scan, self.voxel_size_m)
        return VoxelisedCloud.from_points(points, self.voxel_size_m)
