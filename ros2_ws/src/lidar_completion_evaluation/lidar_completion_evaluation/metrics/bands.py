"""Quality by place: rings of range, bands of height, and distance from the nearest measured point."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lidar_completion_evaluation.metrics.clouds import MetricError, cloud
from lidar_completion_evaluation.metrics.distances import NearestDistances


@dataclass(frozen=True)
class Band:
    """Quality within one band of range or height [lower, upper) in metres.

    A share or distance is None (never NaN) if the band has no points.
    """

    lower_m: float
    upper_m: float
    predicted: int
    true: int
    accuracy: float | None  # share of the band's predicted points within the threshold of the truth
    completeness: float | None  # share of the band's true points within the threshold of the prediction
    mean_to_truth_m: float | None
    mean_to_prediction_m: float | None


def by_range(
    prediction: ArrayLike,
    truth: ArrayLike,
    distances: NearestDistances,
    edges_m: Sequence[float],
    threshold_m: float = 0.2,
) -> list[Band]:
    """Accuracy and completeness per ring of horizontal range from the sensor; edges ascending, metres."""
    of_prediction, of_truth = (
        np.hypot(points[:, 0], points[:, 1]) for points in (cloud(prediction, "prediction"), cloud(truth, "truth"))
    )
    return _bands(of_prediction, of_truth, distances, edges_m, threshold_m)


def by_height(
    prediction: ArrayLike,
    truth: ArrayLike,
    distances: NearestDistances,
    edges_m: Sequence[float],
    threshold_m: float = 0.2,
) -> list[Band]:
    """Accuracy and completeness per band of z in the sensor frame; edges ascending, metres."""
    of_prediction, of_truth = (points[:, 2] for points in (cloud(prediction, "prediction"), cloud(truth, "truth")))
    return _bands(of_prediction, of_truth, distances, edges_m, threshold_m)


@dataclass(frozen=True)
class GapBand:
    """Ground truth whose distance to the nearest measured point is in [lower, upper) metres; upper None: no limit."""

    lower_m: float
    upper_m: float | None
    true: int
    mean_to_prediction_m: float | None  # None without such truth


def by_gap(truth_to_sweep: np.ndarray, truth_to_prediction: np.ndarray, edges_m: Sequence[float]) -> list[GapBand]:
    """Mean distance (M,) from the truth to the prediction, by the truth's distance (M,) to the sweep.

    Replicated measured points can only cover the first bands. The last band has no upper limit.
    """
    bands = []
    for lower, upper in itertools.zip_longest(edges_m, edges_m[1:]):
        distances = truth_to_prediction[
            (truth_to_sweep >= lower) & (truth_to_sweep < (np.inf if upper is None else upper))
        ]
        bands.append(GapBand(float(lower), upper, len(distances), _mean_or_none(distances)))
    return bands


def _bands(
    of_prediction: np.ndarray,
    of_truth: np.ndarray,
    distances: NearestDistances,
    edges_m: Sequence[float],
    threshold_m: float,
) -> list[Band]:
    if len(edges_m) < 2 or not (np.diff(edges_m) > 0).all():
        raise MetricError(
            f"edges_m: expected ascending metres, found {list(edges_m)}; pass for instance [0, 10, 25, 50]"
        )
    bands = []
    for lower, upper in itertools.pairwise(edges_m):
        to_truth = distances.prediction_to_truth[(of_prediction >= lower) & (of_prediction < upper)]
        to_prediction = distances.truth_to_prediction[(of_truth >= lower) & (of_truth < upper)]
        bands.append(
            Band(
                float(lower),
                float(upper),
                len(to_truth),
                len(to_prediction),
                _mean_or_none(to_truth < threshold_m),
                _mean_or_none(to_prediction < threshold_m),
                _mean_or_none(to_truth),
                _mean_or_none(to_prediction),
            )
        )
    return bands


def _mean_or_none(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
