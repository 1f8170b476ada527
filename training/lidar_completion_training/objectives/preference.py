"""Ranks two completions of a sweep by a metric (Table 6)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lidar_completion_evaluation import metrics
from lidar_completion_evaluation.metrics import NearestDistances
from lidar_completion_training.configuration import check_choice
from lidar_completion_training.objectives.chamfer import nearest_rows, random_points
from lidar_completion_training.objectives.step import Step

F_SCORE_M = 0.2
TRANSPORT_VOXEL_M = 2.0  # exact transport at 0.5 m takes half a minute per sample
TRANSPORT_PAIRS = 2_000_000

OF_DISTANCES: dict[str, Callable[[NearestDistances, float], float]] = {
    "cd": lambda distances, clamp_m: distances.chamfer,
    "clamped_cd": lambda distances, clamp_m: _clamped(distances, clamp_m).chamfer,
    "f_score": lambda distances, clamp_m: -distances.f_score(F_SCORE_M),
}
OF_CLOUDS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "jsd": metrics.jensen_shannon_birds_eye,
    "jsd_3d": metrics.jensen_shannon_3d,
    "w1": lambda completed, truth: (
        metrics.wasserstein_1(completed, truth, voxel_size_m=TRANSPORT_VOXEL_M, max_pairs=TRANSPORT_PAIRS).value
    ),
}
METRICS = (*OF_DISTANCES, *OF_CLOUDS)


class Ranking(NamedTuple):
    """Which of two completions is the winner (0 or 1), and the costs of winner and loser."""

    winner: int
    winner_cost: float
    loser_cost: float


class Preference:
    """Prefers the completion with the lower cost; the first if both are equal."""

    def __init__(self, metric: str, metric_points: int, entry: str) -> None:
        """metric_points: random points per direction for distance metrics, 0: all; entry: recipe section, for errors."""
        check_choice(f"{entry}.metric", metric, METRICS)
        self.metric, self.metric_points = metric, metric_points

    def rank(self, first: Tensor, second: Tensor, step: Step) -> Ranking:
        """Compare two completions (N, 3) of the step's sweep, both at the same random points."""
        seed = step.seed()
        costs = [self.cost(points, step.seeded(seed)) for points in (first, second)]
        winner = 0 if costs[0] <= costs[1] else 1
        return Ranking(winner, costs[winner], costs[1 - winner])

    @torch.no_grad()
    def cost(self, completed: Tensor, step: Step) -> float:
        """The metric of a completion (N, 3) against the step's ground truth; lower is better."""
        truth = step.sweep.truth
        if self.metric in OF_DISTANCES:
            distances = nearest_distances(completed.detach(), truth, self.metric_points, step.generator)
            return OF_DISTANCES[self.metric](distances, step.recipe.direct.clamp_m)
        return OF_CLOUDS[self.metric](completed.detach().cpu().numpy(), truth.cpu().numpy())


def nearest_distances(completed: Tensor, truth: Tensor, queries: int, generator: torch.Generator) -> NearestDistances:
    """Nearest distances from random points of each cloud to the other cloud; from all points if queries is 0."""
    some, seen = random_points(completed, queries, generator), random_points(truth, queries, generator)
    to_truth = (some - truth[nearest_rows(some, truth)]).norm(dim=1)
    to_completed = (seen - completed[nearest_rows(seen, completed)]).norm(dim=1)
    return NearestDistances(to_truth.cpu().numpy(), to_completed.cpu().numpy())


def _clamped(distances: NearestDistances, clamp_m: float) -> NearestDistances:
    return NearestDistances(
        np.minimum(distances.prediction_to_truth, clamp_m), np.minimum(distances.truth_to_prediction, clamp_m)
    )
