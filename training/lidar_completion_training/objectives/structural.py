"""ScoreLiDAR's structural terms: the scene as a whole, and landmarks with the distances between them.

ScoreLiDAR pairs the rows of sample and truth, which are in no common order; here a truth point's partner is the sample
point nearest to it. Landmarks are the truth points of highest curvature, as published.
"""

import torch
from torch import Tensor

from lidar_completion_training.objectives.chamfer import nearest_rows, some_rows

CANDIDATES = 1500  # random truth points, of which a third become landmarks, as published (of 18,000 there)
NEIGHBOURS = 30  # that a curvature is taken from (published: 180 of 18,000)


def scene_term(completed: Tensor, truth: Tensor, queries: int, generator: torch.Generator) -> Tensor:
    """Mean squared distance in square metres between random truth points and their partners."""
    some = truth[some_rows(len(truth), queries, generator)]
    return (completed[nearest_rows(some, completed)] - some).square().sum(dim=1).mean()


def landmark_term(completed: Tensor, truth: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared difference between the landmarks' distances to each other and those of their partners."""
    marks = landmarks(truth, generator)
    partners = completed[nearest_rows(marks, completed)]
    apart = torch.triu_indices(len(marks), len(marks), offset=1, device=truth.device)
    wanted = (marks[apart[0]] - marks[apart[1]]).norm(dim=1)
    found = (partners[apart[0]] - partners[apart[1]]).square().sum(dim=1).add(1e-12).sqrt()  # partners may coincide
    return (found - wanted).square().mean()


@torch.no_grad()
def landmarks(truth: Tensor, generator: torch.Generator) -> Tensor:
    """Truth points (L, 3) of highest curvature, the smallest share of variance in any direction, among random ones."""
    some = truth[torch.randperm(len(truth), generator=generator, device=truth.device)[:CANDIDATES]]
    apart = torch.cdist(some, some)
    neighbours = some[apart.topk(min(NEIGHBOURS, len(some)), largest=False).indices]  # (C, k, 3)
    centred = neighbours - neighbours.mean(dim=1, keepdim=True)
    variances = torch.linalg.eigvalsh(centred.transpose(1, 2) @ centred)  # rising
    curvature = variances[:, 0] / variances.sum(dim=1).clamp(min=1e-12)
    return some[curvature.topk(max(2, len(some) // 3)).indices]
