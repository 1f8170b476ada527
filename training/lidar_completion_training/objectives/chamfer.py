"""Chamfer distances with gradient, and the nearest points that they and other terms need."""

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from lidar_completion_training.configuration import DirectRecipe

NEAR_M = 0.2  # confidence is the probability of lying this near to a surface
CHUNK = 1 << 27  # distances held at once on a GPU


def clamped_coverage(prediction: Tensor, truth: Tensor, recipe: DirectRecipe, generator: torch.Generator) -> Tensor:
    """Mean clamped distance truth -> prediction in metres, over random points of the truth."""
    some = some_rows(len(truth), recipe.queries, generator)
    nearest = nearest_rows(truth[some], prediction)
    return (prediction[nearest] - truth[some]).norm(dim=1).clamp(max=recipe.clamp_m).mean()


def distances(prediction: Tensor, truth: Tensor, queries: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random rows (queries,) of the prediction and the distance of each to the truth in metres."""
    some = some_rows(len(prediction), queries, generator)
    return some, (prediction[some] - truth[nearest_rows(prediction[some], truth)]).norm(dim=1)


def direct_loss(
    prediction: Tensor, logit: Tensor | None, truth: Tensor, recipe: DirectRecipe, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Mean distances prediction -> truth and truth -> prediction in metres, each clamped, over random points of each; and
    the cross entropy of the points' own judgement, logit (N,), where there is one. Numbers to log beside it.

    The clamp keeps truth that no scan point is near to (or a stray prediction) from outweighing all else.
    """
    some, distance = distances(prediction, truth, recipe.queries, generator)
    accuracy = distance.clamp(max=recipe.clamp_m).mean()
    coverage = clamped_coverage(prediction, truth, recipe, generator)
    loss, numbers = (
        accuracy + recipe.coverage_weight * coverage,
        {"accuracy_m": accuracy.item(), "coverage_m": coverage.item()},
    )
    if logit is not None:
        judged = judgement(logit[some], distance)
        loss, numbers["judgement"] = loss + recipe.confidence_weight * judged, judged.item()
    return loss, numbers


def judgement(logit: Tensor, distance: Tensor) -> Tensor:
    """Cross entropy of points' logits (Q,) of lying near a surface, given how far (Q,) they are from it in metres."""
    return F.binary_cross_entropy_with_logits(logit, (distance.detach() < NEAR_M).to(logit.dtype))


def squared_chamfer(prediction: Tensor, truth: Tensor, queries: int, generator: torch.Generator) -> Tensor:
    """Sum of the two mean squared nearest distances in square metres, as the refiner's loss is published.

    queries: random points a direction; 0 means all.
    """
    mine = some_points(prediction, queries, generator)
    theirs = some_points(truth, queries, generator)
    accuracy = (mine - truth[nearest_rows(mine, truth)]).square().sum(dim=1).mean()
    return accuracy + (prediction[nearest_rows(theirs, prediction)] - theirs).square().sum(dim=1).mean()


def some_rows(count: int, queries: int, generator: torch.Generator) -> Tensor:
    """Random rows (queries,) of `count`, with repetition."""
    return torch.randint(count, (queries,), generator=generator, device=generator.device)


def some_points(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` random points of (N, 3), with repetition; all of them where count is 0."""
    return points[some_rows(len(points), count, generator)] if count else points


@torch.no_grad()
def nearest_rows(queries: Tensor, reference: Tensor) -> Tensor:
    """Row (Q,) int64 of the point of reference (N, 3) nearest to each query (Q, 3), at any distance."""
    queries, points = queries.detach().float(), reference.detach().float()
    if points.device.type == "cpu":
        tree = cKDTree(points.numpy(), balanced_tree=False, compact_nodes=False)
        return torch.from_numpy(tree.query(queries.numpy(), workers=torch.get_num_threads())[1])
    exact = "donot_use_mm_for_euclid_dist"  # the products of a matrix multiplication cancel at 50 m
    chunks = queries.split(max(1, CHUNK // len(points)))
    return torch.cat([torch.cdist(chunk, points, compute_mode=exact).argmin(dim=1) for chunk in chunks])
