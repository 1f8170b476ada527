"""Which of two completions is better: the metric that decides a pair's winner (Table 6)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lidar_completion_evaluation import metrics
from lidar_completion_evaluation.metrics import NearestDistances
from lidar_completion_training.configuration import RecipeError
from lidar_completion_training.objectives.chamfer import nearest_rows, some_rows

F_SCORE_M = 0.2
TRANSPORT_VOXEL_M = 2.0  # exact transport at 0.5 m takes half a minute a sample
TRANSPORT_PAIRS = 2_000_000

Distance = Callable[[NearestDistances, float], float]
OF_DISTANCES: dict[str, Distance] = {
    "cd": lambda distances, clamp_m: distances.chamfer,
    "clamped_cd": lambda distances, clamp_m: _clamped(distances, clamp_m).chamfer,
    "f_score": lambda distances, clamp_m: -distances.f_score(F_SCORE_M),
}
OF_CLOUDS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "jsd": metrics.jensen_shannon_birds_eye,
    "w1": lambda completed, truth: (
        metrics.wasserstein_1(completed, truth, voxel_size_m=TRANSPORT_VOXEL_M, max_pairs=TRANSPORT_PAIRS).value
    ),
}
METRICS = (*OF_DISTANCES, *OF_CLOUDS)


def checked_metric(metric: str, entry: str) -> str:
    """The metric's name; RecipeError where there is none of it."""
    if metric not in METRICS:
        raise RecipeError(f"{entry} is {metric!r}; it can be one of {', '.join(METRICS)}")
    return metric


@torch.no_grad()
def cost(
    metric: str, completed: Tensor, truth: Tensor, queries: int, clamp_m: float, generator: torch.Generator
) -> float:
    """How bad completed points (N, 3) are against the truth (M, 3): lower wins.

    queries: random points a direction for metrics of distances; 0 means all.
    """
    completed = completed.detach()
    if metric in OF_DISTANCES:
        return OF_DISTANCES[metric](distances_between(completed, truth, queries, generator), clamp_m)
    return OF_CLOUDS[metric](completed.cpu().numpy(), truth.cpu().numpy())


def distances_between(a: Tensor, b: Tensor, queries: int, generator: torch.Generator) -> NearestDistances:
    """Nearest distances of random points of each cloud to the other; all points where queries is 0."""
    some_a = a[some_rows(len(a), queries, generator)] if queries else a
    some_b = b[some_rows(len(b), queries, generator)] if queries else b
    to_b = (some_a - b[nearest_rows(some_a, b)]).norm(dim=1)
    to_a = (some_b - a[nearest_rows(some_b, a)]).norm(dim=1)
    return NearestDistances(to_b.cpu().numpy(), to_a.cpu().numpy())


def _clamped(distances: NearestDistances, clamp_m: float) -> NearestDistances:
    return NearestDistances(
        np.minimum(distances.prediction_to_truth, clamp_m), np.minimum(distances.truth_to_prediction, clamp_m)
    )
