"""Evaluation of a replay: latency of every sweep, and quality of the recorded completions if the bag has poses.

    bag -> replay -> sweeps.csv, diagnostics.csv, completions -> evaluate_scene -> quality.csv

Sweeps are processed one at a time; only the few that the report shows stay in memory. report.py makes the HTML page.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lidar_completion_evaluation.baselines import BASELINES
from lidar_completion_evaluation.drives.bag import BagSweeps
from lidar_completion_evaluation.drives.drive import DriveError
from lidar_completion_evaluation.drives.open import DriveOptions, open_drive
from lidar_completion_evaluation.evaluate_scene import Comparison, compare, compare_baselines
from lidar_completion_evaluation.metrics import MetricError, share_of
from lidar_completion_evaluation.protocols import DEFAULT
from lidar_completion_evaluation.replay.files import DiagnosticsFile, QualityFile, write_sweeps
from lidar_completion_evaluation.replay.recorded import RecordedCompletion, check_frame, recorded_completions
from lidar_completion_evaluation.replay.replay import replay
from lidar_completion_evaluation.replay.result import EvaluatedSweep, ReplayError, ReplayResult
from lidar_completion_evaluation.scenes import DriveScenes, Scene
from lidar_completion_evaluation.truth.ground_truth_map import build_map, write_surface
from lidar_completion_evaluation.truth.rules import DRIVE_RULES

ROWS = ("completion", *BASELINES)
NEAR_M = 0.2  # threshold of precision, recall and F-score
OnStage = Callable[[str, int, int], None]  # (stage, done, total)


@dataclass(frozen=True)
class Truth:
    """What completions are compared with: the map of the bag with these poses, or a known surface in their frame."""

    poses: str | Path | None = None  # pose file, or "auto" to estimate the poses
    odometry_topic: str | None = None  # odometry topic of the bag, instead of poses
    surface: Callable[[], Any] | None = None  # returns (M, 3) float64 metres

    @property
    def known(self) -> bool:
        """Whether there are poses, without which nothing is compared."""
        return bool(self.poses or self.odometry_topic)


class BagScenes:
    """The sweeps of a bag, by stamp, each with its truth. Builds the map of the bag in `folder`."""

    def __init__(self, bag: Path, folder: Path, topic: str, truth: Truth) -> None:
        options = DriveOptions(truth.poses, topic, truth.odometry_topic, pose_cache=folder / "poses_auto.txt")
        drive = open_drive(bag, options, check=truth.surface is None)
        file = folder / "map.npz"
        if truth.surface is not None:
            write_surface(truth.surface(), file, drive)
        else:
            build_map(drive, file, DRIVE_RULES)
        self._scenes = DriveScenes(drive, file, DRIVE_RULES, every=1)
        self._index = {int(name): index for index, name in enumerate(drive.names)}

    def scene(self, stamp_ns: int) -> Scene | None:
        """The scene of a sweep; None if the bag has no sweep with this stamp."""
        index = self._index.get(stamp_ns)
        return None if index is None else self._scenes.load(index)


@dataclass(frozen=True)
class ShownSweep:
    """A sweep that the report shows with pictures; scene and compared are None without poses."""

    number: int
    why: str
    completion: RecordedCompletion
    scene: Scene | None
    compared: Comparison | None
    rows: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Evaluation:
    """What the report shows. `folder` has the CSV files with all figures."""

    bag: Path
    rate: float
    folder: Path
    result: ReplayResult
    every: int
    shown: list[ShownSweep]
    quality: list[EvaluatedSweep] = field(default_factory=list)
    scenes: BagScenes | None = None  # None without poses
    protocol: str = DEFAULT.name


def evaluate_replay(
    bag: Path,
    folder: Path,
    *,
    truth: Truth | None = None,
    output: Path | None = None,
    every: int = 5,
    show: int = 3,
    rate: float = 1.0,
    topic: str | None = None,
    on_progress: OnStage = lambda stage, done, total: None,
    **replay_options: Any,
) -> Evaluation:
    """Play `bag` through the node, evaluate the completion of every n-th sweep, and write the figures to the new `folder`.

    truth: without poses only latency, drops and diagnostics are evaluated. The map is built before the replay, so wrong
    poses fail early and no map building competes with the node for the CPU.
    output: bag for all completions; by default only the evaluated ones are recorded, in `folder`.
    show: how many of the worst and of the slowest sweeps the report shows. replay_options: see `replay`.
    Raises BagError and ReplayError.
    """
    if folder.exists():
        raise ReplayError(f"{folder}: exists already; choose another folder for the report, or remove it")
    topic = BagSweeps(bag, topic).topic
    scenes = _open_scenes(bag, folder, topic, truth) if truth and truth.known else None
    folder.mkdir(parents=True, exist_ok=True)
    with DiagnosticsFile(folder) as diagnostics:
        result = replay(
            bag,
            output or folder / "completions",
            topic=topic,
            rate=rate,
            record_every=1 if output else every,
            on_diagnostic=diagnostics.write,
            on_progress=lambda done, total: on_progress("played", done, total),
            **replay_options,
        )
    write_sweeps(folder, result)
    if scenes is not None:
        check_frame(bag, result)
    quality, shown = _evaluate_completions(result, scenes, folder, every, show, on_progress)
    return Evaluation(bag, rate, folder, result, every, shown, quality, scenes)


def _open_scenes(bag: Path, folder: Path, topic: str, truth: Truth) -> BagScenes:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return BagScenes(bag, folder, topic, truth)
    except DriveError as error:
        if not any(folder.iterdir()):
            folder.rmdir()
        raise ReplayError(str(error)) from error


def _evaluate_completions(
    result: ReplayResult, scenes: BagScenes | None, folder: Path, every: int, show: int, on_progress: OnStage
) -> tuple[list[EvaluatedSweep], list[ShownSweep]]:
    """Evaluate every n-th sweep into quality.csv and select the sweeps to show, holding only those in memory."""
    numbers = {sweep.stamp_ns: number for number, sweep in enumerate(result.sweeps)}
    chosen = _SweepsToShow(result, every, show)
    quality: list[EvaluatedSweep] = []
    wanted = range(0, len(result.sweeps), every)
    with QualityFile(folder) as file:
        for completion in recorded_completions(result):
            number = numbers[completion.stamp_ns]
            if number not in wanted:
                continue
            scene = scenes.scene(completion.stamp_ns) if scenes else None
            compared, rows = _evaluate_completion(scene, completion)
            if rows:
                quality.append(EvaluatedSweep(number, result.sweeps[number].sent_s, rows))
                file.write(quality[-1])
            chosen.add(ShownSweep(number, "", completion, scene, compared, rows))
            on_progress("evaluated" if scenes else "read", wanted.index(number) + 1, len(wanted))
    return quality, chosen.shown()


def _evaluate_completion(
    scene: Scene | None, completion: RecordedCompletion
) -> tuple[Comparison | None, dict[str, dict[str, float]]]:
    """Figures of the completion and the baselines; nothing if there is no truth to compare with."""
    if scene is None:
        return None, {}
    try:
        compared = compare(scene, completion.completed)
    except MetricError:
        return None, {}
    rows = {"completion": compared, **compare_baselines(scene)}
    figures = {name: {"cd": row.distances.chamfer, "f": row.distances.f_score(NEAR_M)} for name, row in rows.items()}
    figures["completion"] |= {
        "precision": compared.distances.precision(NEAR_M),
        "recall": compared.distances.recall(NEAR_M),
        "violations": share_of(compared.violating(scene), "violations"),
    }
    return compared, figures


class _SweepsToShow:
    """Keeps the `count` worst and the `count` slowest of the evaluated sweeps."""

    def __init__(self, result: ReplayResult, every: int, count: int) -> None:
        self._sweeps, self._count = result.sweeps, count
        answered = [n for n in range(0, len(result.sweeps), every) if result.sweeps[n].latency_s is not None]
        self._slow_numbers = set(heapq.nlargest(count, answered, key=self._latency_ms))
        self._slow: list[ShownSweep] = []
        self._worst: list[tuple[float, int, ShownSweep]] = []

    def add(self, sweep: ShownSweep) -> None:
        """Keep the sweep if it is among the slowest, or among the worst so far."""
        if sweep.number in self._slow_numbers:
            self._slow.append(replace(sweep, why=f"latency {self._latency_ms(sweep.number):.0f} ms"))
            return
        if sweep.rows:
            badness = sweep.rows["completion"]["cd"]
            why = f"Chamfer distance {badness:.3f} m"
        else:
            badness = 1.0 - sweep.completion.mean_confidence
            why = f"mean confidence {sweep.completion.mean_confidence:.2f}"
        heapq.heappush(self._worst, (badness, sweep.number, replace(sweep, why=why)))
        if len(self._worst) > self._count:
            heapq.heappop(self._worst)

    def shown(self) -> list[ShownSweep]:
        """The worst sweeps, worst first, then the slowest, slowest first."""
        worst = [sweep for _, _, sweep in sorted(self._worst, key=lambda item: -item[0])]
        return [*worst, *sorted(self._slow, key=lambda sweep: -self._latency_ms(sweep.number))]

    def _latency_ms(self, number: int) -> float:
        return self._sweeps[number].latency_ms
