"""What a replay returns: one record per sweep, the node's diagnostics, and the counts of the whole run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lidar_completion_ros.status import NodeReport


class ReplayError(RuntimeError):
    """The node could not be started or stopped answering, or the replay cannot be evaluated as requested."""


@dataclass(frozen=True)
class SweepReplay:
    """One published sweep and the node's answer."""

    stamp_ns: int  # of the header
    bag_time_ns: int
    points_in: int
    sent_s: float = 0.0  # since the first sweep was published
    points_out: int | None = None  # None: no completion came back
    latency_s: float | None = None  # from publishing the sweep to receiving its completion
    steps: int | None = None  # denoising steps, as the node reports them in its label of the sweep
    replication: int | None = None

    @property
    def latency_ms(self) -> float:
        """Latency in milliseconds; NaN without a completion."""
        return float("nan") if self.latency_s is None else self.latency_s * 1e3


@dataclass(frozen=True)
class Diagnostic:
    """One diagnostic of the node during a replay."""

    at_s: float  # since the first sweep was published
    report: NodeReport


@dataclass(frozen=True)
class ReplayResult:
    """The result of a replay. `completions` is a bag; its messages keep the bag time of their sweeps."""

    sweeps: list[SweepReplay]
    completions: Path
    input_topic: str
    output_topic: str
    duration_s: float  # from the first sweep to the last answer
    node: NodeReport  # the node's last diagnostic
    dropped: int  # replaced by a newer sweep while they waited in the node
    refused: int  # the node could not decode or complete them

    @property
    def completed(self) -> int:
        """Number of sweeps with a completion."""
        return sum(sweep.latency_s is not None for sweep in self.sweeps)

    @property
    def lost(self) -> int:
        """Sweeps or completions that DDS lost."""
        return max(0, len(self.sweeps) - self.completed - self.dropped - self.refused)

    @property
    def rate_hz(self) -> float:
        """Completions per second."""
        return self.completed / self.duration_s if self.duration_s > 0 else 0.0

    def latency_ms(self, percentile: float) -> float:
        """Percentile of the latencies; NaN without any completion."""
        latencies = [sweep.latency_ms for sweep in self.sweeps if sweep.latency_s is not None]
        return float(np.percentile(latencies, percentile)) if latencies else float("nan")


@dataclass(frozen=True)
class EvaluatedSweep:
    """Figures of one sweep: rows[row] has "cd" in metres and "f"; the completion's also precision, recall, violations."""

    number: int  # in the bag, from 0
    sent_s: float
    rows: dict[str, dict[str, float]]
