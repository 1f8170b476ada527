"""Temporal mode: the completion of one sweep becomes a prior for the next, so that fewer denoising steps are needed.

The completer keeps no state between sweeps; the caller keeps a TemporalMemory:

    prior, reason = recall(memory, T_fixed_sensor, stamp_s)
    completion = completer.complete(points, prior=prior)
    memory = remember(completion, T_fixed_sensor, stamp_s)

T_fixed_sensor (4, 4) is the sensor's pose in metres, in a frame that does not jump (odometry).
"""

from dataclasses import dataclass

import numpy as np

from lidar_completion.completer import Completion


@dataclass(frozen=True)
class TemporalRules:
    """Which completed points are remembered, and up to which gap, step and turn between two sweeps they are used."""

    min_confidence: float = 0.4  # of points that are kept
    max_gap_s: float = 0.5
    max_step_m: float = 5.0
    max_turn_deg: float = 30.0


@dataclass(frozen=True)
class TemporalMemory:
    """Completed points (P, 3) float32 in the sensor frame of their sweep; pose (4, 4) and stamp of that sweep."""

    points: np.ndarray
    T_fixed_sensor: np.ndarray
    stamp_s: float


def remember(
    completion: Completion, T_fixed_sensor: np.ndarray, stamp_s: float, rules: TemporalRules | None = None
) -> TemporalMemory:
    """What the caller keeps for the next sweep: the confident completed points, in float32, with pose and stamp."""
    rules = rules or TemporalRules()
    confidence = completion.confidence[len(completion.measured_rows) :]
    return TemporalMemory(
        completion.completed_points[confidence >= rules.min_confidence], _pose(T_fixed_sensor), stamp_s
    )


def recall(
    memory: TemporalMemory | None, T_fixed_sensor: np.ndarray, stamp_s: float, rules: TemporalRules | None = None
) -> tuple[np.ndarray | None, str]:
    """The remembered points (P, 3) float32 in the current sensor frame, or None and the reason ("" if there is no memory)."""
    rules = rules or TemporalRules()
    if memory is None:
        return None, ""
    T_now_then = np.linalg.inv(_pose(T_fixed_sensor)) @ memory.T_fixed_sensor
    if reason := _jump(T_now_then, stamp_s - memory.stamp_s, rules):
        return None, reason
    moved = memory.points @ T_now_then[:3, :3].T.astype(np.float32) + T_now_then[:3, 3].astype(np.float32)
    return moved, ""


def _jump(T_now_then: np.ndarray, seconds: float, rules: TemporalRules) -> str:
    from scipy.spatial.transform import Rotation  # here, because only the temporal mode needs it

    if seconds <= 0:
        return f"time went back by {-seconds:.3f} s"
    if seconds > rules.max_gap_s:
        return f"no sweep for {seconds:.1f} s, more than {rules.max_gap_s:g}"
    if (step := float(np.linalg.norm(T_now_then[:3, 3]))) > rules.max_step_m:
        return f"the pose jumped by {step:.1f} m, more than {rules.max_step_m:g}"
    turn = float(np.degrees(Rotation.from_matrix(T_now_then[:3, :3]).magnitude()))
    if turn > rules.max_turn_deg:
        return f"the pose turned by {turn:.0f} degrees, more than {rules.max_turn_deg:g}"
    return ""


def _pose(T_fixed_sensor: np.ndarray) -> np.ndarray:
    pose = np.asarray(T_fixed_sensor, np.float64)
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise ValueError(f"T_fixed_sensor has shape {pose.shape}, expected a finite pose (4, 4)")
    return pose
