"""Evaluates one completed scene: all figures as plain numbers, ready for JSON.

Every figure is computed for the completed points only, as published, and for completed and measured points together. To add
a metric, write a function in metrics/ and call it in one of the functions below; to show it in tables, add it to
summary.FIGURES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lidar_completion_evaluation import metrics
from lidar_completion_evaluation.baselines import BASELINES
from lidar_completion_evaluation.metrics import MetricError, NearestDistances
from lidar_completion_evaluation.protocols import DEFAULT, Protocol
from lidar_completion_evaluation.scenes import Scene

THRESHOLDS_M = (0.1, 0.2, 0.5)


@dataclass(frozen=True)
class SceneSettings:
    """What is computed for a scene."""

    protocol: Protocol = DEFAULT
    violation_beyond_m: float = 0.2  # points in free space that are closer to the truth than this count as noise
    range_edges_m: tuple[float, ...] = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0)
    # z in the sensor frame; the road is near -1.7
    height_edges_m: tuple[float, ...] = (-4.0, -1.4, -0.9, 0.1, 1.1, 4.4)
    gap_edges_m: tuple[float, ...] = (0.0, 0.2, 0.5, 1.0, 2.0)
    missing_beyond_m: float = 1.0  # truth farther than this from every measured point is missing from the sweep
    near_sensor_m: float = 6.0  # horizontal range of the blind disc and its surroundings
    band_threshold_m: float = 0.2
    curve_m: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0)
    clamp_m: float = 1.0  # limit of the clamped CD
    published_emd: bool = True
    transport: bool = False  # W1: half a minute or more per scene
    brief: bool = False  # no 3-D voxel grids and no figures with the measured points, which halves the time


@dataclass(frozen=True)
class Comparison:
    """The completed points (N, 3) that are compared with the truth of a scene, and the distances between both."""

    points: np.ndarray
    distances: NearestDistances

    def violating(self, scene: Scene, beyond_m: float = SceneSettings.violation_beyond_m) -> np.ndarray:
        """Which points lie in free space, at least beyond_m from the truth; (N,) bool."""
        return scene.observed.free(self.points) & (self.distances.prediction_to_truth >= beyond_m)


@dataclass(frozen=True)
class SceneResult:
    """The evaluation of one completion; sensor frame, metres."""

    figures: dict[str, dict[str, Any]]  # {"completed": {...}, "with_measured": {...}}; the latter is empty if brief
    points: np.ndarray  # (N, 3) the completed points that were compared with the truth
    errors_m: np.ndarray  # (N,) their distances to the truth

    @property
    def completed(self) -> dict[str, Any]:
        """The figures of the completed points only."""
        return self.figures["completed"]


def evaluate_scene(scene: Scene, completed: np.ndarray, settings: SceneSettings | None = None) -> SceneResult:
    """Compare completed points (N, 3) float32, without the measured ones, with the truth of the scene.

    Raises MetricError if there is nothing to compare, for instance no point within the limits of the truth.
    """
    settings = settings or SceneSettings()
    compared = compare(scene, completed, settings.protocol)
    figures = {"completed": scene_figures(scene, compared, settings), "with_measured": {}}
    if not settings.brief:
        # the published tables evaluate only the completed points
        reduced = replace(settings, published_emd=False, transport=False)
        figures["with_measured"] = scene_figures(scene, _with_measured(scene, compared), reduced)
    return SceneResult(figures, compared.points, compared.distances.prediction_to_truth)


def compare(scene: Scene, completed: np.ndarray, protocol: Protocol = DEFAULT) -> Comparison:
    """Completed points (N, 3) float32 compared with the truth of the scene; raises MetricError if none can be compared."""
    points = protocol.select(completed, scene.rules)
    return Comparison(points, metrics.nearest_distances(points, scene.truth))


def compare_baselines(scene: Scene, seed: int = 0) -> dict[str, Comparison]:
    """Every baseline's completion of the scene compared with its truth, by name."""
    return {name: compare(scene, complete(scene.sweep, seed)) for name, complete in BASELINES.items()}


def scene_figures(scene: Scene, compared: Comparison, settings: SceneSettings) -> dict[str, Any]:
    """All figures of points compared with the scene's truth."""
    points, distances = compared.points, compared.distances
    return (
        {"points": len(points)}
        | _distance_figures(distances, settings)
        | _published_figures(points, scene.truth, distances, settings)
        | _observed_figures(scene, compared, settings)
        | _missing_figures(scene, distances, settings)
        | _band_figures(points, scene.truth, distances, settings)
    )


def _distance_figures(distances: NearestDistances, settings: SceneSettings) -> dict[str, Any]:
    result: dict[str, Any] = {
        "cd": distances.chamfer,
        "cd_clamped": distances.clamped_chamfer(settings.clamp_m),
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
    points: np.ndarray, truth: np.ndarray, distances: NearestDistances, settings: SceneSettings
) -> dict[str, Any]:
    precision, recall, f_score = metrics.precision_recall_f_as_published(distances)
    result: dict[str, Any] = {
        "jsd_bev": metrics.jensen_shannon_birds_eye(points, truth),
        "rmse_as_published": distances.mean_to_truth,
        "precision_as_published": precision,
        "recall_as_published": recall,
        "f_as_published": f_score,
    }
    if not settings.brief:
        for voxel in metrics.PUBLISHED_IOU_VOXELS_M:
            result[f"iou_{voxel}"] = metrics.voxel_iou(points, truth, voxel)
            result[f"iou_as_published_{voxel}"] = metrics.voxel_iou_as_published(points, truth, voxel)
        result["jsd_3d"] = metrics.jensen_shannon_3d(points, truth)
    if settings.published_emd:
        result["emd_as_published"] = _or_none(lambda: metrics.emd_as_published(points, truth))
    if settings.transport:
        transport = metrics.wasserstein_1(points, truth)
        result |= {"w1": transport.value, "w1_lower": transport.lower, "w1_discretisation": transport.discretisation_m}
    return result


def _observed_figures(scene: Scene, compared: Comparison, settings: SceneSettings) -> dict[str, Any]:
    """Figures restricted to observed space, and the share of points that contradict it."""
    points = compared.points
    known = scene.observed.observed(points)
    result: dict[str, Any] = {
        "observed_share": metrics.share_of(known, "observed"),
        "violations": metrics.share_of(compared.violating(scene, settings.violation_beyond_m), "violations"),
    }
    if not settings.brief:
        result["iou_observed"] = _or_none(lambda: metrics.observed_iou(points, scene.truth, scene.observed.observed))
    if not known.any():
        return result | {"cd_observed": None, "precision_observed_0.2": None, "f_observed_0.2": None}
    observed = compared.distances.where(prediction=known)
    return result | {
        "cd_observed": observed.chamfer,
        "precision_observed_0.2": observed.precision(0.2),
        "f_observed_0.2": observed.f_score(0.2),
        "ghost_rate_observed": observed.ghost_rate(0.5),
    }


def _missing_figures(scene: Scene, distances: NearestDistances, settings: SceneSettings) -> dict[str, Any]:
    """Distances to the prediction from truth that is missing in the sweep."""
    to_sweep, to_prediction = scene.sweep_distances.truth_to_prediction, distances.truth_to_prediction
    missing = to_sweep > settings.missing_beyond_m
    near = np.hypot(scene.truth[:, 0], scene.truth[:, 1]) < settings.near_sensor_m
    return {
        "missing_share": metrics.share_of(missing, "missing"),
        "missing_to_prediction": float(to_prediction[missing].mean()) if missing.any() else None,
        "near_to_prediction": float(to_prediction[near].mean()) if near.any() else None,
        "by_gap": [asdict(band) for band in metrics.by_gap(to_sweep, to_prediction, settings.gap_edges_m)],
    }


def _band_figures(
    points: np.ndarray, truth: np.ndarray, distances: NearestDistances, settings: SceneSettings
) -> dict[str, Any]:
    by_range = metrics.by_range(points, truth, distances, settings.range_edges_m, settings.band_threshold_m)
    by_height = metrics.by_height(points, truth, distances, settings.height_edges_m, settings.band_threshold_m)
    curve = metrics.precision_recall_curve(distances, settings.curve_m)
    return {
        "by_range": [asdict(band) for band in by_range],
        "by_height": [asdict(band) for band in by_height],
        "curve": {"m": list(settings.curve_m), "precision": curve.precision.tolist(), "recall": curve.recall.tolist()},
    }


def _with_measured(scene: Scene, completed: Comparison) -> Comparison:
    """Completed and measured points as one cloud, whose distances follow from those of the two parts."""
    sweep, distances = scene.sweep_distances, completed.distances
    both = NearestDistances(
        np.concatenate([distances.prediction_to_truth, sweep.prediction_to_truth]),
        np.minimum(distances.truth_to_prediction, sweep.truth_to_prediction),
    )
    return Comparison(np.concatenate([completed.points, scene.sweep]), both)


def _or_none(figure: Callable[[], float]) -> float | None:
    try:
        return figure()
    except MetricError:  # too many voxels (the published evaluation skips those), or no truth in front of the sensor
        return None
