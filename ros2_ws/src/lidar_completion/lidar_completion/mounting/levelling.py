"""Rotates a sweep so that the ground is level before the network, and the completion back."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from lidar_completion.completer import Completion
from lidar_completion.visibility.output_filter import inside_box


@dataclass(frozen=True)
class Levelling:
    """A rotation about the origin of the sensor."""

    R_level_sensor: np.ndarray  # (3, 3) float64

    def level(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) float32 from the sensor frame to the level frame, computed in float64."""
        levelled: np.ndarray = (points.astype(np.float64) @ self.R_level_sensor.T).astype(np.float32)
        return levelled

    def restore(
        self, completion: Completion, measured: np.ndarray, ego_box_m: tuple[float, ...] | None = None
    ) -> Completion:
        """The completion of a levelled sweep in the sensor frame.

        measured (N, 3): the sweep in the sensor frame, from which the measured points are taken bit for bit. ego_box_m: a box in
        the sensor frame; completed points in it are removed here, because the completer works in the level frame.
        """
        n = len(completion.measured_rows)
        points = (completion.points.astype(np.float64) @ self.R_level_sensor).astype(np.float32)
        points[:n] = measured[completion.measured_rows]
        restored = dataclasses.replace(completion, points=points)
        return restored if ego_box_m is None else _without_ego_box(restored, ego_box_m)


def level_rotation(up: np.ndarray) -> np.ndarray:
    """The smallest rotation (3, 3) that turns the unit vector up (3,) into the z axis; about x if up points down."""
    x, y, z = up
    if z < -1.0 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    # Rodrigues' formula for the axis up x z
    return np.array(
        [
            [1.0 - x * x / (1.0 + z), -x * y / (1.0 + z), -x],
            [-x * y / (1.0 + z), 1.0 - y * y / (1.0 + z), -y],
            [x, y, z],
        ]
    )


def _without_ego_box(completion: Completion, box_m: tuple[float, ...]) -> Completion:
    inside = inside_box(torch.from_numpy(completion.points), box_m).numpy()
    inside[: len(completion.measured_rows)] = False
    kept = ~inside
    removed = {**completion.removed, "ego_box": completion.removed.get("ego_box", 0) + int(inside.sum())}
    intensity = None if completion.intensity is None else completion.intensity[kept]
    return dataclasses.replace(
        completion,
        points=completion.points[kept],
        provenance=completion.provenance[kept],
        confidence=completion.confidence[kept],
        intensity=intensity,
        removed=removed,
    )
