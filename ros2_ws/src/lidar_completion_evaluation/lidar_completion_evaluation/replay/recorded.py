"""The recorded completions of a replay, read back one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import PointCloud2

from lidar_completion.point_clouds import OUTPUT_FIELDS, output_layout
from lidar_completion.visibility import COMPLETED, MEASURED
from lidar_completion_evaluation.drives.bag import BagSweeps, header_stamp_ns
from lidar_completion_evaluation.replay.result import ReplayError, ReplayResult


@dataclass(frozen=True)
class RecordedCompletion:
    """One recorded completion; sensor frame, metres."""

    stamp_ns: int
    measured: np.ndarray  # (N, 3) float32
    completed: np.ndarray  # (M, 3) float32
    confidence: np.ndarray  # (M,) float32, of the completed points

    @property
    def mean_confidence(self) -> float:
        """Mean confidence of the completed points; 0 if there are none."""
        return float(self.confidence.mean()) if len(self.confidence) else 0.0


def recorded_completions(result: ReplayResult) -> Iterator[RecordedCompletion]:
    """The recorded completions in order. Raises ReplayError if the node was configured to omit a field."""
    if not result.completed:
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
        yield _decode(header_stamp_ns(data), np.frombuffer(message.data, dtype=layout))


def _decode(stamp_ns: int, points: np.ndarray) -> RecordedCompletion:
    xyz = np.stack([points[axis] for axis in "xyz"], axis=1)
    completed = points["provenance"] == COMPLETED
    measured = points["provenance"] == MEASURED
    return RecordedCompletion(stamp_ns, xyz[measured], xyz[completed], points["confidence"][completed])


def check_frame(bag: Path, result: ReplayResult) -> None:
    """Raise ReplayError if completions are not in the frame of the sweeps, in which the truth is."""
    if not result.completed:
        return
    clouds = BagSweeps(bag, result.input_topic), BagSweeps(result.completions, result.output_topic)
    sweep, completion = (deserialize_message(next(iter(each))[1], PointCloud2).header.frame_id for each in clouds)
    if sweep != completion:
        raise ReplayError(
            f"{result.output_topic}: expected completions in the frame of the sweeps, {sweep!r}, found {completion!r}; "
            "evaluate with an empty target_frame, or without poses"
        )
