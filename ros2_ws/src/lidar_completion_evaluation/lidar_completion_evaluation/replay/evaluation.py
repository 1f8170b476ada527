"""Evaluation of a replay: what the node did to every sweep of a bag, and how right its completions were.

    bag -> replay -> sweeps.csv, diagnostics.csv, completions -> judge -> quality.csv

One sweep after the other goes through memory; only the few that the report shows stay in it. Quality needs poses and the
training package, which holds the judge; without poses there is no more than latency, drops and diagnostics. What is made of it:
replay_report.
"""

from __future__ import annotations

import csv
import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import PointCloud2

from lidar_completion.visibility import COMPLETED, MEASURED
from lidar_completion_evaluation.replay.player import BagSweeps, Diagnostic, ReplayError, ReplayResult, replay
from lidar_completion_ros.point_cloud_messages import OUTPUT_FIELDS, output_layout

TRAINING = "pip install lidar_completion_training (in a checkout: pip install -e training)"
TOLD = ("steps used", "latency p95 ms", "sweeps in", "completions out", "sweeps dropped", "sweeps refused")


class Judgement(Protocol):
    """What a judge says of one completion; see lidar_completion_evaluation.replay.judge."""

    figures: dict[str, float]
    truth: np.ndarray
    errors_m: np.ndarray
    judged: np.ndarray


class Judge(Protocol):
    def judge(self, stamp_ns: int, completed: np.ndarray) -> Judgement | None: ...


@dataclass(frozen=True)
class Completion:
    """One recorded completion, sensor frame, metres."""

    stamp_ns: int
    measured: np.ndarray  # (N, 3) float32
    completed: np.ndarray  # (M, 3) float32
    confidence: np.ndarray  # (M,) float32


@dataclass(frozen=True)
class ShownSweep:
    """A sweep that the report shows with pictures."""

    number: int  # in the bag, from 0
    why: str
    completion: Completion
    judgement: Judgement | None


@dataclass(frozen=True)
class Evaluation:
    """All that the report shows. Figures of sweeps and diagnostics lie in the folder's CSV files."""

    bag: Path
    rate: float
    folder: Path
    result: ReplayResult
    judge_every: int
    shown: list[ShownSweep]
    quality: list[dict[str, float]] = field(default_factory=list)  # per judged sweep: number, sent_s and its figures


def evaluate_replay(
    bag: Path,
    folder: Path,
    *,
    poses: Path | None = None,
    odometry_topic: str | None = None,
    output: Path | None = None,
    judge_every: int = 5,
    show: int = 3,
    rate: float = 1.0,
    topic: str | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    **replay_options: Any,
) -> Evaluation:
    """Play `bag` through the node, judge every `judge_every`-th completion, figures into the new `folder`.

    poses: a TUM file; odometry_topic: of the bag; with either, completions are judged against the map that all sweeps of
    the bag make. output: bag of all completions; by default only those that are judged are recorded, in `folder`. show:
    how many of the worst and of the slowest sweeps have pictures. Raises BagError, ReplayError, and ImportError with the
    command that installs what is missing.
    """
    if folder.exists():
        raise ReplayError(f"{folder}: exists already; choose another folder for the report, or remove it")
    topic = BagSweeps(bag, topic).topic
    judge = open_judge(bag, folder, topic, poses, odometry_topic) if poses or odometry_topic else None
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "diagnostics.csv").open("w", newline="") as file:
        result = replay(
            bag,
            output or folder / "completions",
            topic=topic,
            rate=rate,
            record_every=1 if output else judge_every,
            told=_diagnostics_writer(file),
            progress=lambda done, total: progress("played", done, total),
            **replay_options,
        )
    _write_sweeps(folder / "sweeps.csv", result)
    if judge is not None:
        _refuse_another_frame(bag, result)
    quality, shown = _look_at_completions(result, judge, folder, judge_every, show, progress)
    return Evaluation(bag, rate, folder, result, judge_every, shown, quality)


def open_judge(bag: Path, folder: Path, topic: str, poses: Path | None, odometry_topic: str | None) -> Judge:
    """The training package's judge of this bag; it builds the map of the bag, so wrong poses are told before the replay."""
    try:
        from lidar_completion_evaluation.drives.drive import DriveError
        from lidar_completion_evaluation.replay.judge import DriveJudge
    except ImportError as error:
        raise ImportError(f"judging by poses needs the training package ({error}): {TRAINING}") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return DriveJudge(bag, folder, topic=topic, poses=poses, odometry_topic=odometry_topic)
    except DriveError as error:
        folder.rmdir() if not any(folder.iterdir()) else None
        raise ReplayError(str(error)) from error


# --- files of figures -------------------------------------------------------------------------------------------


def _diagnostics_writer(file: IO[str]) -> Callable[[Diagnostic], None]:
    writer = csv.writer(file)
    writer.writerow(["seconds", "level", "message", *TOLD])

    def write(told: Diagnostic) -> None:
        writer.writerow([f"{told.at_s:.3f}", told.level, told.message, *(told.values.get(name, "") for name in TOLD)])

    return write


def _write_sweeps(path: Path, result: ReplayResult) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["number", "stamp_ns", "sent_s", "points_in", "points_out", "latency_ms", "steps", "replication"]
        )
        for number, sweep in enumerate(result.sweeps):
            latency = "" if sweep.latency_s is None else f"{sweep.latency_s * 1e3:.1f}"
            writer.writerow(
                [
                    number,
                    sweep.stamp_ns,
                    f"{sweep.sent_s:.3f}",
                    sweep.points_in,
                    "" if sweep.points_out is None else sweep.points_out,
                    latency,
                    "" if sweep.steps is None else sweep.steps,
                    "" if sweep.replication is None else sweep.replication,
                ]
            )


# --- looking at completions -------------------------------------------------------------------------------------


def recorded_completions(result: ReplayResult) -> Iterator[Completion]:
    """The recorded completions, one by one. Raises ReplayError where the node was told to leave out a field."""
    if not any(sweep.latency_s is not None for sweep in result.sweeps):
        return
    layout = output_layout(tuple(OUTPUT_FIELDS))
    for _, data in BagSweeps(result.completions, result.output_topic):
        message = deserialize_message(data, PointCloud2)
        names = [each.name for each in message.fields]
        if message.point_step != layout.itemsize or names != list(layout.names or ()):
            raise ReplayError(
                f"{result.output_topic}: expected the fields {', '.join(layout.names or ())}, found {', '.join(names)}; "
                "evaluate a node with all output_fields"
            )
        yield _completion(message, np.frombuffer(message.data, dtype=layout))


def _refuse_another_frame(bag: Path, result: ReplayResult) -> None:
    """Truth is in the frame of the sweeps: completions that the node moved to another one cannot be judged by it."""
    if not result.completed:
        return
    clouds = BagSweeps(bag, result.input_topic), BagSweeps(result.completions, result.output_topic)
    sweep, completion = (deserialize_message(next(iter(each))[1], PointCloud2).header.frame_id for each in clouds)
    if sweep != completion:
        raise ReplayError(
            f"{result.output_topic}: expected completions in the frame of the sweeps, {sweep!r}, found {completion!r}; "
            "evaluate with an empty target_frame, or without poses"
        )


def _completion(message: PointCloud2, points: np.ndarray) -> Completion:
    xyz = np.stack([points[axis] for axis in "xyz"], axis=1)
    completed = points["provenance"] == COMPLETED
    return Completion(
        message.header.stamp.sec * 10**9 + message.header.stamp.nanosec,
        xyz[points["provenance"] == MEASURED],
        xyz[completed],
        points["confidence"][completed],
    )


def _look_at_completions(
    result: ReplayResult,
    judge: Judge | None,
    folder: Path,
    judge_every: int,
    show: int,
    progress: Callable[[str, int, int], None],
) -> tuple[list[dict[str, float]], list[ShownSweep]]:
    """Judge every `judge_every`-th sweep into quality.csv and choose the sweeps to show; holds those few clouds only."""
    numbers = {sweep.stamp_ns: number for number, sweep in enumerate(result.sweeps)}
    slowest = _slowest(result, judge_every, show)
    worst: list[tuple[float, int, ShownSweep]] = []
    shown: list[ShownSweep] = []
    quality: list[dict[str, float]] = []
    wanted = range(0, len(result.sweeps), judge_every)
    with (folder / "quality.csv").open("w", newline="") as file:
        for completion in recorded_completions(result):
            number = numbers[completion.stamp_ns]
            if number not in wanted:
                continue
            judgement = judge.judge(completion.stamp_ns, completion.completed) if judge else None
            if judgement is not None:
                row = {"number": number, "sent_s": result.sweeps[number].sent_s, **judgement.figures}
                _append(file, row, first=not quality)
                quality.append(row)
            if number in slowest:
                shown.append(ShownSweep(number, _why_slow(result, number), completion, judgement))
            else:
                _keep_worst(worst, show, ShownSweep(number, _why_bad(completion, judgement), completion, judgement))
            progress("judged" if judge else "looked at", wanted.index(number) + 1, len(wanted))
    by_badness = [sweep for _, _, sweep in sorted(worst, key=lambda item: -item[0])]
    by_latency = sorted(shown, key=lambda sweep: -(result.sweeps[sweep.number].latency_s or 0.0))
    return quality, [*by_badness, *by_latency]


def _slowest(result: ReplayResult, every: int, count: int) -> set[int]:
    answered = [n for n in range(0, len(result.sweeps), every) if result.sweeps[n].latency_s is not None]
    return set(heapq.nlargest(count, answered, key=lambda number: result.sweeps[number].latency_s or 0.0)[:count])


def _keep_worst(worst: list[tuple[float, int, ShownSweep]], count: int, sweep: ShownSweep) -> None:
    heapq.heappush(worst, (_badness(sweep), sweep.number, sweep))
    if len(worst) > count:
        heapq.heappop(worst)


def _badness(sweep: ShownSweep) -> float:
    if sweep.judgement is not None:
        return sweep.judgement.figures["completion cd"]
    return 1.0 - _mean_confidence(sweep.completion)


def _why_bad(completion: Completion, judgement: Judgement | None) -> str:
    if judgement is not None:
        return f"Chamfer distance {judgement.figures['completion cd']:.3f} m"
    return f"mean confidence {_mean_confidence(completion):.2f}"


def _why_slow(result: ReplayResult, number: int) -> str:
    return f"latency {(result.sweeps[number].latency_s or 0.0) * 1e3:.0f} ms"


def _mean_confidence(completion: Completion) -> float:
    return float(completion.confidence.mean()) if len(completion.confidence) else 0.0


def _append(file: IO[str], row: Mapping[str, float], first: bool) -> None:
    writer = csv.writer(file)
    if first:
        writer.writerow([name.replace(" ", "_") for name in row])
    writer.writerow([value if isinstance(value, int) else f"{value:.6g}" for value in row.values()])
    file.flush()


def read_diagnostics(folder: Path) -> Iterator[tuple[float, int, str, dict[str, str]]]:
    """(seconds, level, message, values) of every diagnostic of the replay, in order."""
    with (folder / "diagnostics.csv").open(newline="") as file:
        for row in itertools.islice(csv.reader(file), 1, None):
            yield float(row[0]), int(row[1]), row[2], dict(zip(TOLD, row[3:], strict=True))
