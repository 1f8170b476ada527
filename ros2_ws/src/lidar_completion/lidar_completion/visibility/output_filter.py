"""Which completed points are published: rules that remove points, and a count of what each removes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lidar_completion.visibility.free_space import ClearSpace, FreeSpaceRules, in_free_space
from lidar_completion.visibility.ground import below_ground


@dataclass(frozen=True)
class TrustRules:
    """Which completed points are removed; None disables a rule."""

    free_space: FreeSpaceRules | None = field(default_factory=FreeSpaceRules)
    below_ground_m: float | None = 0.2  # more than this below the lowest measured point around
    ego_box_m: tuple[float, ...] | None = (
        None  # the vehicle itself: minimum x, y, z, then maximum x, y, z, sensor frame
    )
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        box = self.ego_box_m
        if box is not None and (len(box) != 6 or any(low >= high for low, high in zip(box[:3], box[3:], strict=True))):
            raise ValueError(f"ego_box_m is {box!r}; expected minimum x, y, z, then maximum x, y, z")


def trusted_rows(
    points: Tensor,
    scan: Tensor,
    confidence: Tensor,
    measured: Tensor,
    rules: TrustRules,
    clear_space: ClearSpace | None = None,
) -> tuple[Tensor, dict[str, int]]:
    """Rows (K,) int64 of the completed points (N, 3) that are kept, and the number removed by each rule.

    A point that several rules remove counts for the first. scan (S, 3): the downsampled sweep; confidence (N,); measured (M, 3):
    all returns; clear_space: that of the returns, if it is known.
    """
    nothing = torch.zeros_like(points[:, 0], dtype=torch.bool)
    space, ground, box = rules.free_space, rules.below_ground_m, rules.ego_box_m
    reasons = {
        "free_space": nothing if space is None else in_free_space(points, measured, scan, space, clear_space),
        "below_ground": nothing if ground is None else below_ground(points, measured, ground),
        "ego_box": nothing if box is None else inside_box(points, box),
        "low_confidence": confidence < rules.min_confidence,
    }
    gone, removed = nothing, {}
    for reason, found in reasons.items():
        removed[reason] = int((found & ~gone).sum())
        gone = gone | found
    return (~gone).nonzero().squeeze(1), removed


def inside_box(points: Tensor, box_m: Sequence[float]) -> Tensor:
    """Which points (N, 3) lie in a box (minimum x, y, z, then maximum x, y, z), (N,) bool."""
    low, high = points.new_tensor(box_m).view(2, 3)
    return ((points >= low) & (points <= high)).all(dim=1)
