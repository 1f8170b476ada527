"""A loaded model in use: the workload of each sweep, its learned cost, and the reaction to memory exhaustion."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import torch

from lidar_completion.completer import Completion
from lidar_completion.errors import SweepError
from lidar_completion.model.card import ModelCard
from lidar_completion.mounting import SensorView
from lidar_completion.sparse.allocation import release_memory, unmap_start_up_code
from lidar_completion_ros.scheduling.deadline import Deadline
from lidar_completion_ros.scheduling.memory_limit import MemoryLimit, is_out_of_memory
from lidar_completion_ros.scheduling.workload import WorkLimits, Workload

SWEEPS_ON_CPU = 100  # sweeps completed on the CPU before the device is tried again


class Completer(Protocol):
    """The part of `SceneCompleter` that the node uses."""

    @property
    def card(self) -> ModelCard: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def backend(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def complete(self) -> Callable[..., Completion]: ...


class Inference:
    """One model, the cost of its stages and the memory it needs. It stores no data of individual sweeps.

    `set_limits`, `reset`, `values` and `can_meet_budget` may be called from any thread, the rest from the worker's.
    """

    def __init__(
        self,
        completer: Completer,
        limits: WorkLimits,
        load_on_cpu: Callable[[], Completer] | None = None,
        *,
        sweeps_on_cpu: int = SWEEPS_ON_CPU,
        memory_limit: Callable[[], MemoryLimit] = MemoryLimit,
    ) -> None:
        """load_on_cpu: loads the same model on the CPU, used if not even the minimum workload fits on the device."""
        self.completer = completer
        self.memory_error = ""  # empty: the full workload fits
        self._load_on_cpu = load_on_cpu
        self._on_cpu: Completer | None = None
        self._sweeps_on_cpu = sweeps_on_cpu
        self._sweeps_left_on_cpu = 0
        self._new_memory_limit = memory_limit
        self._memory_limit = memory_limit()
        self._reset_requested = False
        self._limits = self._requested_limits = limits
        self._deadline = Deadline(limits) if limits.budget_s else None

    @property
    def limits(self) -> WorkLimits:
        """The limits of the next sweep."""
        return self._requested_limits

    def set_limits(self, limits: WorkLimits) -> None:
        """Limits from the next sweep on."""
        self._requested_limits = limits

    def reset(self) -> None:
        """Forget the learned cost and memory limit before the next sweep."""
        self._reset_requested = True

    @property
    def device(self) -> torch.device:
        return self._active_completer.device

    @property
    def _active_completer(self) -> Completer:
        return self._on_cpu if self._on_cpu is not None and self._sweeps_left_on_cpu else self.completer

    # ---- before the first sweep ----

    def warm_up(self, options: Mapping[str, Any]) -> None:
        """Complete synthetic sweeps, so that compilation does not slow down the first real one and its cost is roughly known.

        With a budget three workloads are measured. The largest comes last: what it allocates suffices for the others.
        Afterwards the memory that only this needed is given back.
        """
        self._complete_synthetic_sweeps(options)
        unmap_start_up_code()
        release_memory()  # also what the last completion held

    def _complete_synthetic_sweeps(self, options: Mapping[str, Any]) -> None:
        self._adopt_requests()
        largest = self._limits.max
        measured = [largest]
        if self._deadline is not None:
            measured = [Workload(1, max(1, largest.replication // 4)), Workload(1, largest.replication), largest]
        points = _warm_up_sweep()
        options = {**options, "intensity": np.zeros(len(points), np.float32)}
        SensorView.of(points)  # of the mounting check
        with suppress(SweepError):  # the range limits may exclude every point
            for workload in measured:
                completion, done = self._complete(points, workload, options)
                if self._deadline is not None:
                    self._deadline.warmed_up(len(points), done, _stages(completion))

    # ---- each sweep ----

    def should_shed(self, points: int, age_s: float) -> bool:
        """Whether a sweep that waited `age_s` is too old to start, because a fresh one would meet the deadline."""
        self._adopt_requests()
        return self._deadline is not None and self._deadline.should_shed(points, age_s)

    def complete(self, points: np.ndarray, options: Mapping[str, Any]) -> tuple[Completion, Workload]:
        """Complete points (N, 3) with as much work as limits, budget and memory allow; returns the workload as well.

        options: further arguments of `SceneCompleter.complete`.
        """
        self._adopt_requests()
        wanted = self._limits.max if self._deadline is None else self._deadline.choose(len(points))
        completion, done = self._complete(points, wanted, options)
        self._sweep_fitted(len(points), wanted)
        return completion, done

    def observe(self, points: int, done: Workload, completion: Completion, work_s: float, latency_s: float) -> None:
        """Learn from a published sweep. work_s: from the start of the work to the publication; latency_s: from the arrival."""
        if self._deadline is None:
            return
        stages = _stages(completion)
        stages["messages"] = max(0.0, work_s - completion.timings["total"])
        self._deadline.observe(points, done, stages, latency_s)

    def can_meet_budget(self, points: int) -> bool:
        deadline = self._deadline
        return deadline is None or deadline.can_be_met(points)

    def values(self) -> dict[str, str]:
        """The learned costs, for the diagnostics."""
        deadline = self._deadline
        return {} if deadline is None else deadline.values()

    def _adopt_requests(self) -> None:
        """Apply what other threads requested, in the worker's thread and between two sweeps."""
        if self._reset_requested:
            self._reset_requested, self._deadline, self._memory_limit = False, None, self._new_memory_limit()
            self.memory_error, self._sweeps_left_on_cpu = "", 0
            self._deadline = Deadline(self._limits) if self._limits.budget_s else None
        limits = self._requested_limits
        if limits == self._limits:
            return
        self._limits = limits
        if not limits.budget_s:
            self._deadline = None
        elif self._deadline is None:
            self._deadline = Deadline(limits)
        else:
            self._deadline.set_limits(limits)

    # ---- memory ----

    def _complete(
        self, points: np.ndarray, wanted: Workload, options: Mapping[str, Any]
    ) -> tuple[Completion, Workload]:
        on_cpu = self._sweeps_left_on_cpu > 0  # the device's limit does not apply
        workload: Workload | None = wanted if on_cpu else self._memory_limit.limited(len(points), wanted)
        while workload is not None:
            try:
                completion = self._active_completer.complete(
                    points, steps=workload.steps, replication=workload.replication, **options
                )
                return completion, workload
            except Exception as error:
                if isinstance(error, SweepError) or not is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0]
            # Outside the except block, because the traceback keeps the tensors of the failed work alive.
            workload = self._smaller_workload(len(points), wanted, workload, reason)
        raise MemoryError(self.memory_error)

    def _smaller_workload(self, points: int, wanted: Workload, failed: Workload, reason: str) -> Workload | None:
        self._free_memory()
        smaller = self._memory_limit.exhausted(points, failed)
        if smaller is None and self._load_on_cpu is not None and not self._sweeps_left_on_cpu:
            self._on_cpu = self._on_cpu or self._load_on_cpu()
            self._sweeps_left_on_cpu = self._sweeps_on_cpu
            smaller = Workload(failed.steps, wanted.replication)
        work = "not even the minimum workload fits"
        if smaller is not None:
            work = f"replication {smaller.replication} of {wanted.replication}"
        self.memory_error = f"out of memory: {work} on {self.device} ({reason})"
        return smaller

    def _sweep_fitted(self, points: int, wanted: Workload) -> None:
        if self._sweeps_left_on_cpu:
            self._sweeps_left_on_cpu -= 1
            return
        self._memory_limit.fitted(points, wanted)
        if self._memory_limit.max_starts is None:
            self.memory_error = ""

    def _free_memory(self) -> None:
        gc.collect()
        if self.completer.device.type == "cuda":
            torch.cuda.empty_cache()


def _stages(completion: Completion) -> dict[str, float]:
    return {stage: seconds for stage, seconds in completion.timings.items() if stage != "total"}


def _warm_up_sweep() -> np.ndarray:
    """(N, 3) float32: 32 rings on flat ground 1.8 m below the sensor, surrounded by a wall at 20 m."""
    azimuth, elevation = np.meshgrid(np.linspace(-np.pi, np.pi, 512), np.radians(np.linspace(-25.0, 3.0, 32)))
    horizontal = np.minimum(20.0, 1.8 / np.maximum(np.tan(-elevation), 1e-3))
    rays = (horizontal * np.cos(azimuth), horizontal * np.sin(azimuth), horizontal * np.tan(elevation))
    return np.stack(rays, axis=-1).reshape(-1, 3).astype(np.float32)
