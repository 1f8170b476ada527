"""The amount of work done for a sweep, and its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass

REPLICATION_RATIO = 0.85  # replication of a workload relative to that of the next larger one


@dataclass(frozen=True, order=True)
class Workload:
    """Denoising steps and start points per voxel of the downsampled sweep."""

    steps: int
    replication: int


@dataclass(frozen=True)
class WorkLimits:
    """The largest workload and the time a sweep may take, as the parameters set them."""

    max: Workload
    budget_s: float = 0.0  # from arrival to publication; 0: no budget, every sweep gets `max`


def workloads(largest: Workload) -> list[Workload]:
    """All workloads up to `largest` in ascending order: replication up to its maximum with one step, then more steps."""
    replications = [largest.replication]
    while replications[-1] > 1:
        replications.append(min(replications[-1] - 1, math.ceil(replications[-1] * REPLICATION_RATIO)))
    return [Workload(1, each) for each in reversed(replications)] + [
        Workload(steps, largest.replication) for steps in range(2, largest.steps + 1)
    ]


def units_of_work(points: int, workload: Workload) -> dict[str, float]:
    """What the cost of each stage is proportional to: input points, start points, or start points times steps."""
    starts = points * workload.replication
    return {"preprocess": points, "denoise": workload.steps * starts, "postprocess": starts, "messages": starts}
