"""Temporal mode: the previous completion as the prior of the next one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lidar_completion.completer import Completion
from lidar_completion.temporal import TemporalMemory, recall, remember
from lidar_completion_ros.motion.twist import Twist


@dataclass(frozen=True)
class TemporalPrior:
    """The previous completion, moved into the frame of the current sweep."""

    points: np.ndarray | None = None  # (P, 3) float32 in the sensor frame; None: complete without a prior
    status: str = "off"  # as in SweepLabel.temporal
    T_fixed_sensor: np.ndarray | None = None  # (4, 4) sensor pose to remember with the completion; None: forget it


class TemporalMode:
    """The previous completion. The sensor's pose is integrated from the twist, assumed constant between sweeps."""

    def __init__(self) -> None:
        self._temporal_memory: TemporalMemory | None = None

    def prior(self, twist: Twist | None, stamp_s: float, takes_prior: bool) -> TemporalPrior:
        """The prior for a sweep at `stamp_s`; takes_prior: whether the model's sampler supports it."""
        if twist is None:
            return TemporalPrior(status="no motion")
        if not takes_prior:
            return TemporalPrior(status="not supported by the model's sampler")
        memory = self._temporal_memory
        if memory is None:
            return TemporalPrior(status="started", T_fixed_sensor=np.eye(4))
        T_fixed_sensor = memory.T_fixed_sensor @ twist.integrated(stamp_s - memory.stamp_s)
        points, reset_reason = recall(memory, T_fixed_sensor, stamp_s)
        return TemporalPrior(points, reset_reason or "used", T_fixed_sensor)

    def remember(self, completion: Completion, prior: TemporalPrior, stamp_s: float) -> None:
        """Keep a completion for the next sweep."""
        pose = prior.T_fixed_sensor
        self._temporal_memory = None if pose is None else remember(completion, pose, stamp_s)

    def clear(self) -> None:
        self._temporal_memory = None
