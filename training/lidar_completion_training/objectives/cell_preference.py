"""Ranks two completions of a sweep in each cell of the ground plane (recipe entry distillation.preference_cell_m).

Not in the paper, which ranks whole scenes. A scene yields one preference, and it is nearly always the same sample of the
pair that wins; its cells yield hundreds. The metrics in CELL_METRICS have no gradient and could not be losses themselves.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lidar_completion.visibility import ClearSpace
from lidar_completion_training.objectives.chamfer import CLEAR_MARGIN_M, NEAR_M, clamped_distance
from lidar_completion_training.objectives.step import Step

WRONG_M = 0.5  # a point farther than this from every surface is wrong
VOXEL_M = 0.2  # voxel size of the intersection over union


class CellRanking(NamedTuple):
    """For each point of both completions: 1 in a cell that its completion wins, -1 in one that it loses, 0 in a tie."""

    first: Tensor  # (N,) int8
    second: Tensor  # (M,) int8


class _Cells(NamedTuple):
    """The cell of each point of a completion and of the ground truth."""

    points: Tensor  # (N, 3)
    truth: Tensor  # (T, 3)
    of_points: Tensor  # (N,) int64
    of_truth: Tensor  # (T,) int64
    total: int
    clear_space: ClearSpace | None

    def share(self, of: Tensor, marked: Tensor) -> Tensor:
        """Share (total,) of marked points in each cell; NaN in empty cells. of (K,): cell of each point; marked (K,) bool."""
        return torch.bincount(of[marked], minlength=self.total) / torch.bincount(of, minlength=self.total)


@torch.no_grad()
def rank_cells(first: Tensor, second: Tensor, step: Step, cell_m: float, metric: str) -> CellRanking:
    """Compare two completions (N, 3) and (M, 3) in square cells of cell_m by CELL_METRICS[metric]; the lower cost wins.

    A cell is a tie if the costs are equal or if one of the completions has no points in it.
    """
    truth = step.sweep.truth
    clouds = [first.detach(), second.detach(), truth]
    square = torch.floor(torch.cat(clouds)[:, :2] / cell_m)
    cells, cell = square.unique(dim=0, return_inverse=True)
    of_first, of_second, of_truth = cell.split([len(cloud) for cloud in clouds])
    costs = [
        CELL_METRICS[metric](_Cells(points, truth, of_points, of_truth, len(cells), step.sweep.clear_space))
        for points, of_points in ((clouds[0], of_first), (clouds[1], of_second))
    ]
    outcome = torch.sign(costs[1] - costs[0]).nan_to_num(0.0).to(torch.int8)
    return CellRanking(outcome[of_first], -outcome[of_second])


def wrong(cells: _Cells) -> Tensor:
    """Share of points that are farther than WRONG_M from every surface or in observed free space."""
    distance = clamped_distance(cells.points, cells.truth, 2 * WRONG_M)
    marked = distance > WRONG_M
    if cells.clear_space is not None:
        clear = cells.clear_space.in_direction_of(cells.points)
        marked |= (clear - CLEAR_MARGIN_M > cells.points.norm(dim=1)) & (distance > NEAR_M)
    return cells.share(cells.of_points, marked)


def f_score(cells: _Cells) -> Tensor:
    """Minus the F-score at NEAR_M; 0 where the ground truth is empty or nothing is near it."""
    reach = 2 * NEAR_M
    precision = cells.share(cells.of_points, clamped_distance(cells.points, cells.truth, reach) < NEAR_M)
    recall = cells.share(cells.of_truth, clamped_distance(cells.truth, cells.points, reach) < NEAR_M).nan_to_num(0.0)
    score = 2 * precision * recall / (precision + recall)
    return torch.where(precision + recall > 0, -score, torch.where(precision.isnan(), precision, 0.0))


def intersection_over_union(cells: _Cells) -> Tensor:
    """Minus the intersection over union of occupied voxels of VOXEL_M, each counted in the cell of one of its points."""
    voxels = torch.floor(torch.cat([cells.points, cells.truth]) / VOXEL_M)
    _, voxel = voxels.unique(dim=0, return_inverse=True)
    size, number = int(voxel.max()) + 1, len(cells.points)
    of_voxel = voxel.new_zeros(size).scatter_(0, voxel, torch.cat([cells.of_points, cells.of_truth]))
    completed, real = (torch.zeros(size, dtype=torch.bool, device=voxel.device) for _ in range(2))
    completed[voxel[:number]], real[voxel[number:]] = True, True
    cost = -cells.share(of_voxel, completed & real)
    empty = torch.bincount(cells.of_points, minlength=cells.total) == 0
    return torch.where(empty, torch.nan, cost)


CELL_METRICS: dict[str, Callable[[_Cells], Tensor]] = {
    "wrong": wrong,
    "f_score": f_score,
    "iou": intersection_over_union,
}
