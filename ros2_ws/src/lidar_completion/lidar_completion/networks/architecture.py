"""The shape of the networks."""

from collections.abc import Callable
from dataclasses import dataclass, fields

from torch import Tensor

from lidar_completion.errors import ModelError
from lidar_completion.networks.voxelised_cloud import LOCAL_FEATURES, RAY_FEATURES, VoxelisedCloud
from lidar_completion.settings import between, check_bounds

MAX_CHANNELS = 4096
MAX_BLOCKS = 16  # per stage
MIN_CHANNELS = 4  # with fewer, the timestep embedding has no frequencies
CHANNELS = (32, 32, 64, 128, 256, 256, 128, 96, 96)
STAGES = ("stage1", "stage2", "stage3", "stage4", "up1", "up2", "up3", "up4")
# Level of the voxels at the input of each stage; up1..up4 start at the level where stage4..stage1 end.
STAGE_LEVEL = {"stage1": 0, "stage2": 1, "stage3": 2, "stage4": 3, "up1": 4, "up2": 3, "up3": 2, "up4": 1}

UNION_ONLY = ("ray_features", "offsets_per_point", "blocks", "stem_layers", "skips")


@dataclass(frozen=True)
class Architecture:
    """Everything that determines the shapes of the tensors. The defaults are the published network."""

    width: float = between(0.0, 16.0, 1.0)  # factor on CHANNELS, truncated
    voxel_size_m: float = between(1e-3, 100.0, 0.05)  # voxel size of the networks' grid
    head_width: int = between(1, 4096, 20)  # hidden width of the per-point head
    # The entries below are not in the paper
    point_offsets: bool = False  # the head also gets a point's offset in its voxel, so points of one voxel can differ
    own_channels: tuple[int, ...] = ()  # channel counts instead of width * CHANNELS
    local_features: bool = False  # voxel features as in VoxelisedCloud.from_points_and_scan
    point_confidence: bool = False  # a fourth output per point: the logit of lying within 0.2 m of a surface
    # "encoder": published encoder, denoiser with gates; "union": one U-Net over start points and scan (networks/union.py)
    conditioning: str = "encoder"
    # The entries below need conditioning "union"
    ray_features: bool = False  # each voxel also gets the free space seen in its direction (visibility.ClearSpace)
    offsets_per_point: int = between(1, 64, 1)  # clean estimates per start point
    blocks: tuple[int, ...] = ()  # residual blocks per stage, encoder stages first; () means two each
    stem_layers: int = between(1, 16, 2)  # convolutions of the stem
    skips: str = "concatenated"  # or "added", which halves the work of a decoder stage's first convolution

    def __post_init__(self) -> None:
        check_bounds(self, "architecture")
        if self.conditioning == "union":
            self._check_union()
        elif self.conditioning == "encoder":
            self._check_published()
        else:
            raise ModelError(f"architecture.conditioning is {self.conditioning!r}; expected 'encoder' or 'union'")
        if min(self.channels) < MIN_CHANNELS:
            raise ModelError(
                f"architecture.width {self.width} and own_channels {self.own_channels} make layers of "
                f"{min(self.channels)} channels; expected at least {MIN_CHANNELS}"
            )
        if max(self.channels) > MAX_CHANNELS or max(self.blocks, default=0) > MAX_BLOCKS:
            raise ModelError(
                f"architecture has layers of {max(self.channels)} channels and blocks {self.blocks}; expected at most "
                f"{MAX_CHANNELS} channels, and {MAX_BLOCKS} blocks per stage"
            )

    def _check_published(self) -> None:
        changed = [f.name for f in fields(self) if f.name in UNION_ONLY and getattr(self, f.name) != f.default]
        if changed:
            raise ModelError(f"architecture.{changed[0]} needs architecture.conditioning 'union'")
        if len(self.channels) != len(CHANNELS):
            raise ModelError(f"own_channels has {len(self.own_channels)} entries, expected {len(CHANNELS)} or none")

    def _check_union(self) -> None:
        if not self.local_features:
            raise ModelError("architecture.conditioning 'union' needs local_features, which describe the scan")
        stages = len(self.channels) - 1
        if stages not in (4, 6, 8):
            raise ModelError(f"own_channels has {stages + 1} entries, expected 5, 7 or 9 (for 3, 4 or 5 levels)")
        if self.blocks and (len(self.blocks) != stages or min(self.blocks) < 1):
            raise ModelError(f"architecture.blocks is {self.blocks}, expected {stages} numbers of at least 1, or none")
        if self.skips not in ("concatenated", "added"):
            raise ModelError(f"architecture.skips is {self.skips!r}; expected 'concatenated' or 'added'")
        if self.skips == "added" and self.channels != self.channels[::-1]:
            raise ModelError(f"architecture.skips 'added' needs symmetric own_channels, found {self.channels}")

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks that completion needs."""
        return ("denoiser",) if self.conditioning == "union" else ("encoder", "denoiser")

    @property
    def channels(self) -> tuple[int, ...]:
        """Channel counts of stem, encoder stages and decoder stages; nine in the published network."""
        return self.own_channels or tuple(int(c * self.width) for c in CHANNELS)

    @property
    def inputs(self) -> int:
        """Features per voxel."""
        return (LOCAL_FEATURES if self.local_features else 3) + (RAY_FEATURES if self.ray_features else 0)

    @property
    def outputs(self) -> int:
        """Outputs per estimate of a point: three coordinates, and the logit if there is one."""
        return 4 if self.point_confidence else 3

    def cloud(
        self, points: Tensor, scan: Tensor, ray_features: Callable[[Tensor], Tensor] | None = None
    ) -> VoxelisedCloud:
        """Points (N, 3) as this architecture's input; scan (S, 3): the downsampled sweep that they complete.

        ray_features: ClearSpace.ray_features of the sweep, if the architecture has them.
        """
        if self.ray_features and ray_features is None:
            raise ValueError("this architecture has ray_features; pass ClearSpace.ray_features of the sweep")
        if self.local_features:
            rays = ray_features if self.ray_features else None
            return VoxelisedCloud.from_points_and_scan(points, scan, self.voxel_size_m, len(self.channels) // 2, rays)
        return VoxelisedCloud.from_points(points, self.voxel_size_m)
