"""Judges completions that came from elsewhere, such as a node that a bag was played through, sweep by sweep, by stamp."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lidar_completion_evaluation.baselines import TRIVIAL
from lidar_completion_evaluation.drives.open import open_drive
from lidar_completion_evaluation.evaluate_scene import JudgeRules
from lidar_completion_evaluation.metrics import MetricError, NearestDistances, nearest_distances, share_of
from lidar_completion_evaluation.scenes import DriveScenes, Scene
from lidar_completion_evaluation.truth.ground_truth_map import DRIVE_RULES, build_map, in_window

F_THRESHOLD_M = 0.2
ROWS = ("completion", *TRIVIAL)


@dataclass(frozen=True)
class Judgement:
    """One completion against the map of its drive. Clouds in the sensor frame, metres."""

    figures: dict[str, float]  # "ROW cd" in metres and "ROW f" for each of `ROWS`; precision, recall, violations
    truth: np.ndarray  # (M, 3) float32
    errors_m: np.ndarray  # (N,) distance of every judged point to the truth
    judged: np.ndarray  # (N, 3) the completed points where the truth is known


class DriveJudge:
    """The sweeps of a bag by their stamps, each with its truth: the map that all sweeps of the bag make by their poses."""

    def __init__(
        self,
        bag: str | Path,
        work: str | Path,
        *,
        topic: str | None = None,
        poses: str | Path | None = None,
        odometry_topic: str | None = None,
        progress: bool = True,
    ) -> None:
        """Builds the map in the folder `work`. Poses: a TUM file, or an odometry topic of the bag.

        Raises DriveError where the poses do not fit the bag.
        """
        drive = open_drive(bag, topic=topic, poses=poses, odometry_topic=odometry_topic)
        truth = build_map(drive, Path(work) / "map.npz", DRIVE_RULES, progress=progress)
        self._scenes = DriveScenes(drive, truth, DRIVE_RULES, every=1)
        self._index = {int(name): index for index, name in enumerate(drive.names)}

    def judge(self, stamp_ns: int, completed: np.ndarray) -> Judgement | None:
        """Judge completed points (N, 3) without the measured ones, in the sensor frame of the sweep with this stamp.

        None where there is nothing to judge: no such sweep, or no point where the truth is known.
        """
        index = self._index.get(stamp_ns)
        if index is None:
            return None
        scene = self._scenes.load(index)
        judged = in_window(completed, DRIVE_RULES)
        try:
            distances = nearest_distances(judged, scene.truth)
        except MetricError:
            return None
        figures = _row("completion", distances) | _contradictions(scene, judged, distances)
        for name, complete in TRIVIAL.items():
            figures |= _row(name, nearest_distances(in_window(complete(scene.sweep, 0), DRIVE_RULES), scene.truth))
        return Judgement(figures, scene.truth, distances.prediction_to_truth, judged)


def _row(name: str, distances: NearestDistances) -> dict[str, float]:
    return {f"{name} cd": distances.chamfer, f"{name} f": distances.f_score(F_THRESHOLD_M)}


def _contradictions(scene: Scene, judged: np.ndarray, distances: NearestDistances) -> dict[str, float]:
    beyond = distances.prediction_to_truth >= JudgeRules().violation_beyond_m
    return {
        "precision": distances.precision(F_THRESHOLD_M),
        "recall": distances.recall(F_THRESHOLD_M),
        "violations": share_of(scene.observed.free(judged) & beyond, "violations"),
    }
