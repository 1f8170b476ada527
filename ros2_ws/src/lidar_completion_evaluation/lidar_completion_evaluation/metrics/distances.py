"""Distance metrics: Chamfer distance, precision, recall, F-score and quantiles, all computed from the nearest distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from lidar_completion_evaluation.metrics.clouds import MetricError, cloud

PUBLISHED_F_THRESHOLDS_M = np.linspace(0.05, 0.1, 100)


@dataclass(frozen=True)
class NearestDistances:
    """Unsquared nearest distances in both directions, metres.

    prediction_to_truth (N,): for each predicted point the distance to the nearest true point (accuracy).
    truth_to_prediction (M,): for each true point the distance to the nearest predicted point (completeness).
    """

    prediction_to_truth: np.ndarray
    truth_to_prediction: np.ndarray

    @property
    def chamfer(self) -> float:
        """CD as published: the mean of the two mean (unsquared) nearest distances, metres."""
        return (self.mean_to_truth + self.mean_to_prediction) / 2

    @property
    def squared_chamfer(self) -> float:
        """The mean of the two mean *squared* nearest distances, square metres."""
        return float(np.square(self.prediction_to_truth).mean() + np.square(self.truth_to_prediction).mean()) / 2

    def clamped_chamfer(self, limit_m: float = 1.0) -> float:
        """CD with every distance clamped to limit_m, which bounds the weight of surfaces that were never visible."""
        to_truth = np.minimum(self.prediction_to_truth, limit_m).mean()
        return float(to_truth + np.minimum(self.truth_to_prediction, limit_m).mean()) / 2

    @cached_property
    def mean_to_truth(self) -> float:
        """Mean distance prediction -> truth, metres. The published tables call this RMSE."""
        return float(self.prediction_to_truth.mean())

    @cached_property
    def mean_to_prediction(self) -> float:
        """Mean distance truth -> prediction, metres."""
        return float(self.truth_to_prediction.mean())

    @property
    def root_mean_square_to_truth(self) -> float:
        """Root of the mean squared distance prediction -> truth, metres. Not the published "RMSE"."""
        return float(np.sqrt(np.square(self.prediction_to_truth).mean()))

    def precision(self, threshold_m: float) -> float:
        """Share of predicted points closer than the threshold to the truth, in [0, 1] (strict <)."""
        return float((self.prediction_to_truth < threshold_m).mean())

    def recall(self, threshold_m: float) -> float:
        """Share of true points closer than the threshold to the prediction, in [0, 1] (strict <)."""
        return float((self.truth_to_prediction < threshold_m).mean())

    def f_score(self, threshold_m: float) -> float:
        """Harmonic mean of precision and recall, in [0, 1]; 0 where both are 0."""
        return _harmonic(self.precision(threshold_m), self.recall(threshold_m))

    def quantiles_to_truth(self, shares: Sequence[float] = (0.5, 0.9, 0.95, 0.99)) -> dict[float, float]:
        """Quantiles of the prediction -> truth distances: {share: metres}."""
        return {share: float(np.quantile(self.prediction_to_truth, share)) for share in shares}

    def ghost_rate(self, beyond_m: float = 0.5) -> float:
        """Share of predicted points at least beyond_m from any true point, in [0, 1]."""
        return float((self.prediction_to_truth >= beyond_m).mean())

    def where(self, prediction: np.ndarray | None = None, truth: np.ndarray | None = None) -> NearestDistances:
        """The distances of the points selected by boolean masks (N,) and (M,); neighbours may be unselected points."""
        kept = NearestDistances(
            self.prediction_to_truth if prediction is None else self.prediction_to_truth[prediction],
            self.truth_to_prediction if truth is None else self.truth_to_prediction[truth],
        )
        for name, distances in (("prediction", kept.prediction_to_truth), ("truth", kept.truth_to_prediction)):
            if not len(distances):
                raise MetricError(
                    f"{name}: expected points inside the chosen region, found none; evaluate a larger region"
                )
        return kept


def nearest_distances(prediction: ArrayLike, truth: ArrayLike, *, workers: int = -1) -> NearestDistances:
    """Nearest distances in both directions between (N, 3) and (M, 3), metres; workers: threads, -1 for all cores."""
    prediction, truth = cloud(prediction, "prediction"), cloud(truth, "truth")
    to_truth, _ = search_tree(truth).query(prediction, workers=workers)
    to_prediction, _ = search_tree(prediction).query(truth, workers=workers)
    return NearestDistances(to_truth, to_prediction)


def search_tree(points: np.ndarray) -> cKDTree:
    """A tree with the same answers as scipy's default, whose balanced, compact nodes take six times as long far from the points."""
    return cKDTree(points, balanced_tree=False, compact_nodes=False)


def chamfer_distance(prediction: ArrayLike, truth: ArrayLike) -> float:
    """CD as published: mean of the two mean unsquared nearest distances, metres.

    The published tables evaluate the completed points without the measured points.
    """
    return nearest_distances(prediction, truth).chamfer


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1] per threshold (K,) in metres."""

    thresholds_m: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f_score: np.ndarray


def precision_recall_curve(distances: NearestDistances, thresholds_m: Sequence[float] | np.ndarray) -> PrecisionRecall:
    """Precision, recall and F-score at each threshold (strict <); thresholds in ascending order, metres."""
    thresholds = np.asarray(thresholds_m, dtype=np.float64)
    if thresholds.ndim != 1 or not len(thresholds) or thresholds[0] <= 0 or (np.diff(thresholds) <= 0).any():
        raise MetricError(
            f"thresholds_m: expected positive ascending metres, found {thresholds_m}; pass for instance [0.1, 0.2]"
        )
    precision = _share_below(distances.prediction_to_truth, thresholds)
    recall = _share_below(distances.truth_to_prediction, thresholds)
    both = precision + recall
    f_score = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
    return PrecisionRecall(thresholds, precision, recall, f_score)


def precision_recall_f_as_published(distances: NearestDistances) -> tuple[float, float, float]:
    """Areas under the three curves over thresholds 0.05 … 0.1 m as percentages (Simpson, normalised by the width)."""
    from scipy.integrate import simpson  # takes half a second

    curve = precision_recall_curve(distances, PUBLISHED_F_THRESHOLDS_M)
    width = curve.thresholds_m[-1] - curve.thresholds_m[0]
    areas = [simpson(values, x=curve.thresholds_m) for values in (curve.precision, curve.recall, curve.f_score)]
    precision, recall, f_score = (float(100 * area / width) for area in areas)
    return precision, recall, f_score


def _share_below(distances: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    below = np.searchsorted(thresholds, distances, side="right")  # thresholds[below:] exceed the distance
    return np.cumsum(np.bincount(below, minlength=len(thresholds) + 1))[: len(thresholds)] / len(distances)


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0
