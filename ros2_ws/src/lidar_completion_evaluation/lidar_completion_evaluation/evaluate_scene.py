"""Every figure of one completed scene, as plain numbers that JSON can hold.

Figures of the completed points alone, as published, stand beside those with the measured points passed through; figures
over everything stand beside those over the space that was observed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lidar_completion_evaluation import metrics
from lidar_completion_evaluation.metrics import MetricError, NearestDistances
from lidar_completion_evaluation.scenes import Scene

THRESHOLDS_M = (0.1, 0.2, 0.5)


@dataclass(frozen=True)
class JudgeRules:
    """What is judged beyond the distances; metres."""

    violation_beyond_m: float = 0.2  # a point in free space this near to a surface is noise, not a contradiction
    range_edges_m: tuple[float, ...] = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0)
    height_edges_m: tuple[float, ...] = (-4.0, -1.4, -0.9, 0.1, 1.1, 4.4)  # of the sensor, 1.7 m above the road
    band_threshold_m: float = 0.2
    curve_m: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0)
    clamp_m: float = 1.0  # of the clamped CD: farther than this is a miss, whatever the distance
    published_emd: bool = True
    transport: bool = False  # true W1: half a minute and more a scene
    brief: bool = (
        False  # neither voxel grids in three dimensions nor the figures with the measured points: half the time
    )


def judge(
    scene: Scene, completed: np.ndarray, rules: JudgeRules | None = None, distances: NearestDistances | None = None
) -> dict[str, Any]:
    """Figures of one scene: {"completed": {...}, "with_measured": {...}}; completed (N, 3) without the measured points.

    Brief rules leave "with_measured" empty.
    Raises MetricError where there is nothing to judge.
    """
    rules = rules or JudgeRules()
    distances = distances or metrics.nearest_distances(completed, scene.truth)
    of_completed = figures(scene, completed, distances, rules)
    if rules.brief:
        return {"completed": of_completed, "with_measured": {}}
    both, distances_both = _with_measured(scene, completed, distances)
    # The published EMD is for comparing with tables, and these judge the completed points alone.
    rules_both = replace(rules, published_emd=False, transport=False)
    return {
        "completed": of_completed,
        "with_measured": figures(scene, both, distances_both, rules_both),
    }


def figures(scene: Scene, points: np.ndarray, distances: NearestDistances, rules: JudgeRules) -> dict[str, Any]:
    """All figures of points (N, 3) against the scene's truth."""
    return (
        {"points": len(points)}
        | _distance_figures(distances, rules)
        | _published_figures(points, scene.truth, distances, rules)
        | _observed_figures(scene, points, distances, rules)
        | _places(points, scene.truth, distances, rules)
    )


def _distance_figures(distances: NearestDistances, rules: JudgeRules) -> dict[str, Any]:
    result: dict[str, Any] = {
        "cd": distances.chamfer,
        "cd_clamped": distances.clamped_chamfer(rules.clamp_m),
        "cd_squared": distances.squared_chamfer,
        "to_truth": distances.mean_to_truth,
        "to_prediction": distances.mean_to_prediction,
        "rms_to_truth": distances.root_mean_square_to_truth,
        "ghost_rate": distances.ghost_rate(0.5),
    }
    for threshold in THRESHOLDS_M:
        result[f"precision_{threshold}"] = distances.precision(threshold)
        result[f"recall_{threshold}"] = distances.recall(threshold)
        result[f"f_{threshold}"] = distances.f_score(threshold)
    return result | {f"q{100 * share:g}": value for share, value in distances.quantiles_to_truth().items()}


def _published_figures(
    points: np.ndarray, truth: np.ndarray, distances: NearestDistances, rules: JudgeRules
) -> dict[str, Any]:
    precision, recall, f_score = metrics.precision_recall_f_as_published(distances)
    result: dict[str, Any] = {
        "jsd_bev": metrics.jensen_shannon_birds_eye(points, truth),
        "rmse_as_published": distances.mean_to_truth,
        "precision_as_published": precision,
        "recall_as_published": recall,
        "f_as_published": f_score,
    }
    if not rules.brief:
        result |= {f"iou_{voxel}": metrics.voxel_iou(points, truth, voxel) for voxel in metrics.PUBLISHED_IOU_VOXELS_M}
        result["jsd_3d"] = metrics.jensen_shannon_3d(points, truth)
    if rules.published_emd:
        result["emd_as_published"] = _or_none(lambda: metrics.emd_as_published(points, truth))
    if rules.transport:
        transport = metrics.wasserstein_1(points, truth)
        result |= {"w1": transport.value, "w1_lower": transport.lower, "w1_discretisation": transport.discretisation_m}
    return result


def _observed_figures(
    scene: Scene, points: np.ndarray, distances: NearestDistances, rules: JudgeRules
) -> dict[str, Any]:
    """Completions in unknown space neither rewarded nor punished; and those that contradict what was seen."""
    known = scene.observed.observed(points)
    violating = scene.observed.free(points) & (distances.prediction_to_truth >= rules.violation_beyond_m)
    result: dict[str, Any] = {
        "observed_share": metrics.share_of(known, "observed"),
        "violations": metrics.share_of(violating, "violations"),
    }
    if not known.any():
        return result | {"cd_observed": None, "precision_observed_0.2": None, "f_observed_0.2": None}
    judged = distances.where(prediction=known)
    return result | {
        "cd_observed": judged.chamfer,
        "precision_observed_0.2": judged.precision(0.2),
        "f_observed_0.2": judged.f_score(0.2),
        "ghost_rate_observed": judged.ghost_rate(0.5),
    }


def _places(points: np.ndarray, truth: np.ndarray, distances: NearestDistances, rules: JudgeRules) -> dict[str, Any]:
    by_range = metrics.by_range(points, truth, distances, rules.range_edges_m, rules.band_threshold_m)
    by_height = metrics.by_height(points, truth, distances, rules.height_edges_m, rules.band_threshold_m)
    curve = metrics.precision_recall_curve(distances, rules.curve_m)
    return {
        "by_range": [asdict(band) for band in by_range],
        "by_height": [asdict(band) for band in by_height],
        "curve": {"m": list(rules.curve_m), "precision": curve.precision.tolist(), "recall": curve.recall.tolist()},
    }


def _with_measured(
    scene: Scene, completed: np.ndarray, distances: NearestDistances
) -> tuple[np.ndarray, NearestDistances]:
    """Completed and measured points as one cloud; its distances follow from those of the two parts."""
    sweep = scene.sweep_distances
    return np.concatenate([completed, scene.sweep]), NearestDistances(
        np.concatenate([distances.prediction_to_truth, sweep.prediction_to_truth]),
        np.minimum(distances.truth_to_prediction, sweep.truth_to_prediction),
    )


def _or_none(figure) -> float | None:
    try:
        return figure()
    except MetricError:  # more voxels than the published evaluation takes: it leaves the scene out, so do we
        return None
