"""ScoreLiDAR's structural terms: the scene as a whole, and landmarks with the distances between them.

ScoreLiDAR pairs sample and ground truth by row, although their rows have no common order; here a truth point is paired
with its nearest sample point. Landmarks are the truth points of highest curvature, as published.
"""

import torch
from torch import Tensor

from lidar_completion_training.objectives.chamfer import nearest_rows, random_rows

CANDIDATES = 1500  # random truth points (published: 18,000); a third of them become landmarks, as published
NEIGHBOURS = 30  # points per curvature (published: 180 of 18,000)


def scene_term(completed: Tensor, truth: Tensor, queries: int, generator: torch.Generator) -> Tensor:
    """Mean squared distance in square metres from random truth points to their nearest sample points."""
    seen = truth[random_rows(len(truth), queries, generator)]
    return (completed[nearest_rows(seen, completed)] - seen).square().sum(dim=1).mean()


def landmark_term(completed: Tensor, truth: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared difference between distances of landmarks and those of their nearest sample points."""
    marks = landmarks(truth, generator)
    partners = completed[nearest_rows(marks, completed)]
    pairs = torch.triu_indices(len(marks), len(marks), offset=1, device=truth.device)
    expected = (marks[pairs[0]] - marks[pairs[1]]).norm(dim=1)
    found = (partners[pairs[0]] - partners[pairs[1]]).square().sum(dim=1).add(1e-12).sqrt()  # partners may coincide
    return (found - expected).square().mean()


@torch.no_grad()
def landmarks(truth: Tensor, generator: torch.Generator) -> Tensor:
    """The random truth points (L, 3) of highest curvature: the smallest principal component's share of the variance."""
    some = truth[torch.randperm(len(truth), generator=generator, device=truth.device)[:CANDIDATES]]
    apart = torch.cdist(some, some)
    neighbours = some[apart.topk(min(NEIGHBOURS, len(some)), largest=False).indices]  # (C, k, 3)
    centred = neighbours - neighbours.mean(dim=1, keepdim=True)
    variances = torch.linalg.eigvalsh(centred.transpose(1, 2) @ centred)  # ascending
    curvature = variances[:, 0] / variances.sum(dim=1).clamp(min=1e-12)
    return some[curvature.topk(max(2, len(some) // 3)).indices]
