"""Which completed points are published: rules that remove points, and a count of what each removes.

The compiled loop for CPUs is in output_filter_compiled.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lidar_completion.crop import SceneLimits, scene_rows_plain
from lidar_completion.neighbours_compiled import Box, near_columns
from lidar_completion.sparse import points_cpu
from lidar_completion.sparse.rows_cpu import rows_with
from lidar_completion.visibility import output_filter_compiled
from lidar_completion.visibility.free_space import (
    ClearSpace,
    FreeSpaceRules,
    before_clear_plain,
    bins_per_radian,
    clear_space_for,
    in_free_space,
)
from lidar_completion.visibility.ground import GROUND_CELL_M, below_ground, floor_compiled
from lidar_completion.visibility.output_filter_compiled import RuleArrays


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


REASONS = ("outside", "free_space", "below_ground", "ego_box", "low_confidence")


def trusted_rows(
    points: Tensor,
    scan: Tensor,
    confidence: Tensor,
    measured: Tensor,
    rules: TrustRules,
    clear_space: ClearSpace | None = None,
    limits: SceneLimits | None = None,
) -> tuple[Tensor, dict[str, int]]:
    """Rows (K,) int64 of the completed points (N, 3) that are kept, and the number removed by each rule.

    A point that several rules remove counts for the first. scan (S, 3): the downsampled sweep; confidence (N,); measured (M, 3):
    all returns; clear_space: that of the returns, if it is known; limits: of the scene, unless the points were cropped to them.
    """
    if not points_cpu.usable(points, scan, confidence, measured):
        return trusted_rows_plain(points, scan, confidence, measured, rules, clear_space, limits)
    space = None if rules.free_space is None else clear_space_for(measured, rules.free_space, clear_space)
    arrays = _rule_arrays(points, scan, measured, rules, space, limits)
    found = _reasons(points.contiguous(), confidence.contiguous(), arrays, space)
    removed = {reason: int(np.count_nonzero(found == code)) for code, reason in enumerate(REASONS, start=1)}
    return rows_with(output_filter_compiled.KEPT, found), removed


def trusted_rows_plain(
    points: Tensor,
    scan: Tensor,
    confidence: Tensor,
    measured: Tensor,
    rules: TrustRules,
    clear_space: ClearSpace | None = None,
    limits: SceneLimits | None = None,
    box_of_points: Box | None = None,
) -> tuple[Tensor, dict[str, int]]:
    """The plain implementation, one rule after the other, for any device."""
    if limits is not None:
        inside = scene_rows_plain(points, limits)
        cropped = points[inside], scan, confidence[inside], measured
        rows, removed = trusted_rows_plain(*cropped, rules, clear_space, box_of_points=limits.box())
        return inside[rows], {**removed, "outside": len(points) - len(inside)}
    nothing = torch.zeros_like(points[:, 0], dtype=torch.bool)
    space, ground, box = rules.free_space, rules.below_ground_m, rules.ego_box_m
    by_reason = (
        nothing,
        nothing if space is None else in_free_space(points, measured, scan, space, clear_space),
        nothing if ground is None else below_ground(points, measured, ground, box_of_points),
        nothing if box is None else inside_box(points, box),
        confidence < rules.min_confidence,
    )
    gone, removed = nothing, {}
    for reason, found in zip(REASONS, by_reason, strict=True):
        removed[reason] = int((found & ~gone).sum())
        gone = gone | found
    return (~gone).nonzero().squeeze(1), removed


def _reasons(points: Tensor, confidence: Tensor, rules: RuleArrays, space: ClearSpace | None) -> np.ndarray:
    """Why each of points (N, 3) is removed, (N,) uint8: KEPT, or 1 + the index of the reason in REASONS."""
    found = output_filter_compiled.reasons(points.numpy(), confidence.numpy(), rules)
    rows = rows_with(output_filter_compiled.UNDECIDED, found)
    if space is not None and len(rows):
        points, confidence = points[rows], confidence[rows]
        free = before_clear_plain(points, space.distance, space.lowest, space.rules).numpy()
        # undecided points are not near the scan; those in free space are removed, the other rules apply to the rest
        rest = rules._replace(clear=RuleArrays().clear)
        others = output_filter_compiled.reasons(points.numpy(), confidence.numpy(), rest)
        found[rows.numpy()] = np.where(free, output_filter_compiled.FREE_SPACE, others)
    return found


def _rule_arrays(
    points: Tensor,
    scan: Tensor,
    measured: Tensor,
    rules: TrustRules,
    space: ClearSpace | None,
    limits: SceneLimits | None,
) -> RuleArrays:
    """The rules as the compiled loop takes them."""
    box = points_cpu.bounds(points) if limits is None else limits.box()
    arrays: dict[str, Any] = {"min_confidence": np.float32(rules.min_confidence)}
    if limits is not None:
        arrays["limits"] = limits.as_array()
    if space is not None:
        arrays |= _clear_arrays(space) | _scan_arrays(box, scan, space.rules.near_m)
    floor = None if rules.below_ground_m is None else floor_compiled(box, measured)
    if floor is not None and rules.below_ground_m is not None:
        arrays |= {"floor": floor[0].contiguous().numpy(), "floor_corner": floor[1].numpy()}
        arrays |= {"cell_m": np.float32(GROUND_CELL_M), "tolerance_m": np.float32(rules.below_ground_m)}
    if rules.ego_box_m is not None:
        arrays["ego_box_m"] = np.array(rules.ego_box_m, np.float32)
    return RuleArrays(**arrays)


def _clear_arrays(space: ClearSpace) -> dict[str, Any]:
    across, up = bins_per_radian(space)
    error = np.float32(output_filter_compiled.ANGLE_ERROR_RAD * max(float(across), 1 / float(up)))
    image = {"clear": space.distance.contiguous().numpy(), "lowest": np.float32(space.lowest)}
    bins = {"columns_per_radian": across, "radians_per_row": up, "bin_error": error}
    return {**image, **bins, "margin_m": np.float32(space.rules.margin_m)}


def _scan_arrays(box: Box, scan: Tensor, near_m: float) -> dict[str, Any]:
    columns = near_columns(box, scan, near_m)
    if columns is None:
        return {}
    grid = {"first": np.ascontiguousarray(columns.first), "corner": columns.corner, "width": columns.width}
    by_axis = np.full((3, len(columns.points) + output_filter_compiled.TOGETHER), np.inf, np.float32)
    by_axis[:, : len(columns.points)] = columns.points.T
    return {**grid, "scan": by_axis, "near_m": np.float32(near_m)}


def inside_box(points: Tensor, box_m: Sequence[float]) -> Tensor:
    """Which points (N, 3) lie in a box (minimum x, y, z, then maximum x, y, z), (N,) bool."""
    low, high = points.new_tensor(box_m).view(2, 3)
    return ((points >= low) & (points <= high)).all(dim=1)
