"""Calibrates a model's confidence on held-out synthetic scenes: the probability that a completed point is near a surface.

    lidar-completion calibrate models/edge

A network that predicts confidence (Architecture.point_confidence) is only checked; for others a table is fitted first, on
scenes that the check does not use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import isotonic_regression
from tqdm import tqdm

from lidar_completion.completer import SceneCompleter
from lidar_completion.crop import crop_range, remove_invalid
from lidar_completion.downsample import downsample
from lidar_completion.model.card import ModelCard, save_card
from lidar_completion.neighbours import nearest_within
from lidar_completion.visibility.confidence import MAX_SCAN_DISTANCE_M, calibrated_confidence, knots
from lidar_completion_evaluation.metrics import nearest_distances
from lidar_completion_synthetic import test_pair

NEAR_M = 0.2  # "within 0.2 m of a surface"
RING_M = 5.0
DISTANCE_M = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6, MAX_SCAN_DISTANCE_M)
FIRST_SCENE = 10_000  # none of these scenes is used by the evaluation
FIRST_HELD_OUT_SCENE = 20_000
BINS = 10


@dataclass(frozen=True)
class CompletedPoints:
    """Completed points of one scene.

    points (N, 3) float32; to_scan (N,) metres to the downsampled sweep; near (N,) bool: within NEAR_M of the truth;
    predicted (N,): the confidence that the completer gave them.
    """

    points: torch.Tensor
    to_scan: torch.Tensor
    near: np.ndarray
    predicted: np.ndarray

    def confidence(self, table: dict[str, list]) -> np.ndarray:
        """The confidence of each point according to the table, (N,) float32."""
        return calibrated_confidence(self.points, self.to_scan, table).numpy()


@dataclass(frozen=True)
class Reliability:
    """Per occupied bin of confidence: mean confidence, share of points near a surface, share of all points."""

    confidence: np.ndarray  # (B,)
    near: np.ndarray  # (B,)
    weight: np.ndarray  # (B,)

    @property
    def expected_calibration_error(self) -> float:
        """Mean of |confidence - share near| over the points."""
        return float((np.abs(self.confidence - self.near) * self.weight).sum())

    def __str__(self) -> str:
        rows = [
            f"{c:10.3f} {n:10.3f} {w:10.3f}" for c, n, w in zip(self.confidence, self.near, self.weight, strict=True)
        ]
        title = f"{'confidence':>10} {'near':>10} {'of points':>10}"
        return "\n".join([title, *rows, f"expected calibration error {self.expected_calibration_error:.3f}"])


def calibrate(model: Path, scenes: int) -> ModelCard:
    """Fit the table on `scenes` synthetic scenes, check the confidence on half as many others, and write both to the card.

    A network that predicts confidence (Architecture.point_confidence) gets no table.
    """
    completer = SceneCompleter.load(model)
    by_network = completer.card.architecture.point_confidence
    range_m = completer.card.pipeline.max_range_m
    table = {} if by_network else fit_table(_scenes(completer, FIRST_SCENE, scenes), range_m)
    held_out = list(_scenes(completer, FIRST_HELD_OUT_SCENE, max(1, scenes // 2)))
    confidence = [scene.predicted if by_network else scene.confidence(table) for scene in held_out]
    found = reliability(np.concatenate(confidence), np.concatenate([scene.near for scene in held_out]))
    print(found)
    figures = {
        "scenes": len(held_out),
        "expected_calibration_error": round(found.expected_calibration_error, 4),
        **{name: np.round(getattr(found, name), 4).tolist() for name in ("confidence", "near", "weight")},
    }
    metrics = {**completer.card.metrics, "confidence_on_held_back_scenes": figures}
    card = dataclasses.replace(completer.card, confidence=table, metrics=metrics)
    save_card(model, card)
    return card


def completed_points(completer: SceneCompleter, sweep: np.ndarray, truth: np.ndarray, seed: int = 0) -> CompletedPoints:
    """The completed points of one sweep (N, 3), compared with the truth (M, 3), both in the sensor frame."""
    completion = completer.complete(sweep, seed=seed)
    points = torch.from_numpy(completion.completed_points)
    settings = completer.card.pipeline
    measured = crop_range(remove_invalid(torch.from_numpy(sweep)), settings.min_range_m, settings.max_range_m)
    to_scan, _ = nearest_within(points, downsample(measured, settings), MAX_SCAN_DISTANCE_M)
    near = nearest_distances(points.numpy(), truth).prediction_to_truth < NEAR_M
    return CompletedPoints(points, to_scan, near, completion.confidence[len(completion.measured_rows) :])


def fit_table(scenes: Iterator[CompletedPoints], max_range_m: float) -> dict[str, list]:
    """The bilinear table of probabilities, by least squares, non-increasing with distance from the scan."""
    ranges = np.append(np.arange(RING_M, max_range_m, RING_M), max_range_m).tolist()
    shape = (len(ranges), len(DISTANCE_M))
    products, hits = np.zeros((shape[0] * shape[1],) * 2), np.zeros(shape[0] * shape[1])
    for scene in scenes:
        weights = _bilinear(scene, ranges)
        products += (weights.T @ weights).toarray()
        hits += weights.T @ scene.near
    # knots with few points are regularised towards the overall share
    mass = products.sum(axis=1)
    around = (hits + 10 * hits.sum() / mass.sum()) / (mass + 10)
    table = np.linalg.solve(products + np.eye(len(hits)), hits + around).reshape(shape).clip(0.0, 1.0)
    for ring, weight in zip(table, mass.reshape(shape), strict=True):
        ring[:] = isotonic_regression(ring, weights=weight + 1, increasing=False).x
    return {"range_m": ranges, "distance_m": list(DISTANCE_M), "probability": np.round(table, 4).tolist()}


def _bilinear(scene: CompletedPoints, ranges: list[float]) -> sparse.csr_matrix:
    """Bilinear weight (N, R * D) of every knot of the table for every point."""
    ring, share = (each.numpy() for each in knots(scene.points.norm(dim=1), ranges))
    step, part = (each.numpy() for each in knots(scene.to_scan, DISTANCE_M))
    columns, weights = [], []
    for outer, along in ((ring - 1, 1 - share), (ring, share)):
        for farther, across in ((step - 1, 1 - part), (step, part)):
            columns.append(outer * len(DISTANCE_M) + farther)
            weights.append(along * across)
    rows = np.tile(np.arange(len(ring)), 4)
    shape = (len(ring), len(ranges) * len(DISTANCE_M))
    return sparse.csr_matrix((np.concatenate(weights).astype(np.float64), (rows, np.concatenate(columns))), shape)


def reliability(confidence: np.ndarray, near: np.ndarray) -> Reliability:
    """Reliability of confidences (N,) in [0, 1], given which points (N,) bool are near a surface, in ten equal bins."""
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count = np.bincount(number, minlength=BINS)
    some = count > 0
    mean, share = (np.bincount(number, values, BINS)[some] / count[some] for values in (confidence, near.astype(float)))
    return Reliability(mean, share, count[some] / len(confidence))


def draw_reliability(curves: dict[str, Reliability], path: Path) -> None:
    """Draw a reliability diagram with one curve per name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, label="perfect")
    for name, curve in curves.items():
        label = f"{name} (error {curve.expected_calibration_error:.3f})"
        axes.plot(curve.confidence, curve.near, marker="o", label=label)
    axes.set(xlabel="confidence", ylabel="share within 0.2 m of a surface", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    figure.legend(loc="outside lower center", fontsize="small")
    figure.savefig(path, dpi=120)


def _scenes(completer: SceneCompleter, first: int, count: int) -> Iterator[CompletedPoints]:
    for index in tqdm(range(first, first + count), unit="scene"):
        pair = test_pair(index)
        yield completed_points(completer, pair.sweep, pair.truth, index)
