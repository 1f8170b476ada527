"""Differentiable Chamfer distances, the other loss terms computed from them, and nearest-neighbour search."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lidar_completion import neighbours_grid
from lidar_completion.neighbours import nearest_within
from lidar_completion.visibility import ClearSpace
from lidar_completion_evaluation.metrics.distances import search_tree
from lidar_completion_training.configuration import DirectRecipe
from lidar_completion_training.errors import DivergedError
from lidar_completion_training.known_space import KnownSpace

NEAR_M = 0.2  # confidence is the probability that a surface lies within this distance
CLEAR_MARGIN_M = 0.2  # the end of a ray, up to this far before the return, does not count as free space
MAX_DEPTH_M = 1.0  # depths in free space are clamped to this
PAIRS = 1 << 27  # most distances that nearest_rows_plain computes at once


def clamped_chamfer(
    prediction: Tensor,
    logit: Tensor | None,
    truth: Tensor,
    recipe: DirectRecipe,
    generator: torch.Generator,
    clear_space: ClearSpace | None = None,
    known: KnownSpace | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The loss, and values to log: mean clamped distances (m) from prediction (N, 3) to truth (M, 3) and from truth to prediction.

    Distances are computed at random points. They are clamped so that truth far from any scan point and stray predictions
    do not dominate the loss.

    logit (N,): adds the cross entropy of the confidence. clear_space: adds the depth in free space, if
    recipe.free_space_weight is set. known: space in which the truth is complete; predicted points outside it count only
    for the distance from truth to prediction.
    """
    rows, distance = sampled_distances(prediction, truth, recipe.queries, recipe.clamp_m, generator)
    if known is not None and bool((inside := known.contains(prediction.detach()[rows])).any()):
        rows, distance = rows[inside], distance[inside]
    accuracy = distance.mean()
    seen = truth[random_rows(len(truth), recipe.queries, generator)]
    covered = clamped_distance(seen, prediction, recipe.clamp_m)
    coverage = covered.mean()
    loss = accuracy + recipe.coverage_weight * coverage
    if recipe.near_weight:
        near = [each.clamp(max=recipe.near_m).mean() for each in (distance, covered)]
        loss = loss + recipe.near_weight * (near[0] + recipe.coverage_weight * near[1])
    numbers = {"accuracy_m": accuracy.item(), "coverage_m": coverage.item()}
    if logit is not None:
        entropy = confidence_loss(logit[rows], distance)
        loss, numbers["confidence_loss"] = loss + recipe.confidence_weight * entropy, entropy.item()
    if recipe.free_space_weight and clear_space is not None:
        depth = depth_in_clear_space(prediction[rows], distance, clear_space)
        loss, numbers["free_space_m"] = loss + recipe.free_space_weight * depth, depth.item()
    return loss, numbers


def squared_chamfer(prediction: Tensor, truth: Tensor, queries: int, generator: torch.Generator) -> Tensor:
    """Sum of the two mean squared nearest distances in square metres: the published loss of the refiner.

    queries: random points per direction; 0: all.
    """
    predicted = random_points(prediction, queries, generator)
    seen = random_points(truth, queries, generator)
    accuracy = (predicted - truth[nearest_rows(predicted, truth)]).square().sum(dim=1).mean()
    return accuracy + (prediction[nearest_rows(seen, prediction)] - seen).square().sum(dim=1).mean()


def sampled_distances(
    prediction: Tensor, truth: Tensor, queries: int, clamp_m: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random rows (queries,) of the prediction and the clamped distance of each to the truth in metres."""
    rows = random_rows(len(prediction), queries, generator)
    return rows, clamped_distance(prediction[rows], truth, clamp_m)


def clamped_distance(points: Tensor, reference: Tensor, clamp_m: float) -> Tensor:
    """Distance (N,) in metres from points (N, 3) to the nearest of reference (M, 3), at most clamp_m; differentiable in both.

    The search ends at clamp_m, beyond which the gradient is zero. DivergedError if a coordinate is not finite.
    """
    search = nearest_within if points.device.type == "cpu" else neighbours_grid.nearest_within
    with torch.no_grad():
        row = search(*finite(points, reference), clamp_m)[1]
    distance = (reference[row.clamp(min=0)] - points).norm(dim=1).clamp(max=clamp_m)
    return torch.where(row < 0, clamp_m, distance)


def depth_in_clear_space(points: Tensor, distance: Tensor, clear_space: ClearSpace) -> Tensor:
    """Mean depth in metres of points (N, 3) in observed free space; each depth is clamped to MAX_DEPTH_M.

    distance (N,): from each point to the truth; points within NEAR_M have depth 0. The gradient moves a point outwards
    along its ray.
    """
    clear = clear_space.in_direction_of(points.detach())
    depth = (clear - CLEAR_MARGIN_M - points.norm(dim=1)).clamp(0.0, MAX_DEPTH_M)
    return (depth * (distance.detach() > NEAR_M)).mean()


def confidence_loss(logit: Tensor, distance: Tensor) -> Tensor:
    """Cross entropy of confidence logits (Q,), given the distances (Q,) in metres to the nearest surface."""
    return F.binary_cross_entropy_with_logits(logit, (distance.detach() < NEAR_M).to(logit.dtype))


def random_rows(count: int, queries: int, generator: torch.Generator) -> Tensor:
    """Random rows (queries,) of `count`, with repetition."""
    return torch.randint(count, (queries,), generator=generator, device=generator.device)


def random_points(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` random points of (N, 3), with repetition; all of them if count is 0."""
    return points[random_rows(len(points), count, generator)] if count else points


@torch.no_grad()
def nearest_rows(points: Tensor, reference: Tensor, cell_m: float = neighbours_grid.CELL_M) -> Tensor:
    """Row (N,) int64 of the point of reference (M, 3) nearest to each of points (N, 3), at any distance.

    Uses a k-d tree on a CPU and a grid on a GPU. cell_m: initial cell width of the grid. DivergedError if a coordinate is
    not finite.
    """
    points, reference = finite(points, reference)
    if points.device.type == "cpu":
        tree = search_tree(reference.numpy())
        return torch.from_numpy(tree.query(points.numpy(), workers=torch.get_num_threads())[1])
    return neighbours_grid.nearest_rows(points, reference, cell_m)


def finite(points: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both clouds in float32 without gradient; DivergedError if a coordinate is not finite."""
    points, reference = points.detach().float(), reference.detach().float()
    if not bool(torch.isfinite(points).all() and torch.isfinite(reference).all()):
        raise DivergedError("a network predicted coordinates that are not finite")
    return points, reference


def nearest_rows_plain(points: Tensor, reference: Tensor) -> Tensor:
    """The plain implementation, over all pairs, for any device."""
    exact = "donot_use_mm_for_euclid_dist"  # the matrix product cancels badly for coordinates of 50 m
    chunks = points.split(max(1, PAIRS // len(reference)))
    return torch.cat([torch.cdist(chunk, reference, compute_mode=exact).argmin(dim=1) for chunk in chunks])
