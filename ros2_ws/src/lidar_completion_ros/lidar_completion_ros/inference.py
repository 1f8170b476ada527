"""A loaded model at work: how much work a sweep gets, what it costs, and what happens when memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lidar_completion.completer import Completion, SceneCompleter
from lidar_completion.errors import SweepError
from lidar_completion_ros.deadline import Choice, Deadline
from lidar_completion_ros.memory import MemoryLimit, is_out_of_memory

Load = Callable[[], SceneCompleter]
SWEEPS_ON_CPU = 100  # that are completed there before the device is tried again


@dataclass(frozen=True)
class Wish:
    """The work that the parameters ask for, and the time it may take."""

    most: Choice
    budget_s: float  # 0: no budget, always `most`


class Inference:
    """One model, the cost of its stages and the memory it needs. For the inference thread alone, except `values` and `forget`.

    Holds nothing of a sweep when it is done.
    """

    def __init__(self, completer: SceneCompleter, load_on_cpu: Load | None = None) -> None:
        """load_on_cpu: gives the same model on the CPU, for when the device's memory does not hold the least work."""
        self.completer = completer
        self.trouble = ""  # what memory does not hold, empty when all work fits
        self._load_on_cpu = load_on_cpu
        self._on_cpu: SceneCompleter | None = None
        self._sweeps_left_on_cpu = 0
        self._memory = MemoryLimit()
        self._deadline: Deadline | None = None
        self._forget = False

    def wish(self, steps: int, replication: int, budget_ms: float) -> Wish:
        """What the parameters ask for; 0 leaves steps and replication to the model card."""
        settings = self.completer.card.pipeline
        return Wish(Choice(steps or settings.steps, replication or settings.replication), budget_ms / 1e3)

    @property
    def device(self) -> torch.device:
        return self._in_use.device

    @property
    def _in_use(self) -> SceneCompleter:
        return self._on_cpu if self._on_cpu is not None and self._sweeps_left_on_cpu else self.completer

    # ---- before a sweep ----

    def warm_up(self, wish: Wish, options: Mapping[str, Any]) -> None:
        """Complete made-up sweeps, so that the first real one pays for nothing and its cost is known roughly.

        Raises SweepError where the range limits leave nothing of them.
        """
        self._adopt(wish)
        choices = [wish.most]
        if self._deadline is not None:  # the most comes last: what it allocated is what the others need
            choices = [Choice(1, max(1, wish.most.replication // 4)), Choice(1, wish.most.replication), wish.most]
        points = _warm_up_sweep()
        for choice in choices:
            completion, done = self._complete(points, choice, options)
            if self._deadline is not None:
                self._deadline.warmed_up(len(points), done, _stages(completion))

    def sheds(self, wish: Wish, points: int, age_s: float) -> bool:
        """Whether a sweep that waited `age_s` is too old to be begun, because a fresh one would be in time."""
        self._adopt(wish)
        return self._deadline is not None and self._deadline.shed(points, age_s)

    # ---- a sweep ----

    def complete(self, points: np.ndarray, wish: Wish, options: Mapping[str, Any]) -> tuple[Completion, Choice]:
        """Complete points (N, 3) with as much of the wished work as budget and memory allow; the work that was done.

        options: further arguments of `SceneCompleter.complete`.
        """
        self._adopt(wish)
        choice = wish.most if self._deadline is None else self._deadline.choose(len(points))
        completion, done = self._complete(points, choice, options)
        self._fitted(len(points), choice)
        return completion, done

    def answered(self, points: int, done: Choice, completion: Completion, work_s: float, latency_s: float) -> None:
        """Learn from an answer: `work_s` from the begin of the work to the publication, `latency_s` from the arrival."""
        if self._deadline is None:
            return
        stages = _stages(completion)
        stages["messages"] = max(0.0, work_s - completion.timings["total"])
        self._deadline.observe(points, done, stages, latency_s)

    def can_be_met(self, points: int) -> bool:
        return self._deadline is None or self._deadline.can_be_met(points)

    def forget(self) -> None:
        """Forget what was learnt about cost and memory, before the next sweep. From any thread."""
        self._forget = True

    def values(self) -> dict[str, str]:
        """What the diagnostics show."""
        deadline = self._deadline
        memory = {"memory": self.trouble or "all work fits"}
        return memory if deadline is None else memory | deadline.values()

    def _adopt(self, wish: Wish) -> None:
        if self._forget:
            self._forget, self._deadline, self._memory = False, None, MemoryLimit()
            self.trouble, self._sweeps_left_on_cpu = "", 0
        deadline = self._deadline
        limits = (wish.budget_s, wish.most.steps, wish.most.replication)
        if not wish.budget_s:
            self._deadline = None
        elif deadline is None:
            self._deadline = Deadline(*limits)
        elif (deadline.budget_s, deadline.choices[-1]) != (wish.budget_s, wish.most):
            deadline.set_limits(*limits)

    def _complete(self, points: np.ndarray, wanted: Choice, options: Mapping[str, Any]) -> tuple[Completion, Choice]:
        on_cpu = self._sweeps_left_on_cpu > 0  # where the device's limit does not count
        choice: Choice | None = wanted if on_cpu else self._memory.limited(len(points), wanted)
        while choice is not None:
            try:
                completion = self._in_use.complete(
                    points, steps=choice.steps, replication=choice.replication, **options
                )
                return completion, choice
            except Exception as error:
                if isinstance(error, SweepError) or not is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0]
            choice = self._less(len(points), wanted, choice, reason)  # outside, where the failed work is let go
        raise MemoryError(self.trouble)

    def _less(self, points: int, wanted: Choice, failed: Choice, reason: str) -> Choice | None:
        self._free_memory()
        less = self._memory.exhausted(points, failed)
        if less is None and self._load_on_cpu is not None and not self._sweeps_left_on_cpu:
            self._on_cpu = self._on_cpu or self._load_on_cpu()
            self._sweeps_left_on_cpu = SWEEPS_ON_CPU
            less = Choice(failed.steps, wanted.replication)
        work = "no work at all fits" if less is None else f"replication {less.replication} of {wanted.replication}"
        self.trouble = f"out of memory: {work} on {self.device} ({reason})"
        return less

    def _fitted(self, points: int, wanted: Choice) -> None:
        if self._sweeps_left_on_cpu:
            self._sweeps_left_on_cpu -= 1
            return
        self._memory.fitted(points, wanted)
        if self._memory.most_starts is None:
            self.trouble = ""

    def _free_memory(self) -> None:
        gc.collect()
        if self.completer.device.type == "cuda":
            torch.cuda.empty_cache()


def _stages(completion: Completion) -> dict[str, float]:
    return {stage: seconds for stage, seconds in completion.timings.items() if stage != "total"}


def _warm_up_sweep() -> np.ndarray:
    """(N, 3) float32: 32 rings on a flat ground 1.8 m below the sensor and a wall around it at 20 m."""
    azimuth, elevation = np.meshgrid(np.linspace(-np.pi, np.pi, 512), np.radians(np.linspace(-25.0, 3.0, 32)))
    horizontal = np.minimum(20.0, 1.8 / np.maximum(np.tan(-elevation), 1e-3))
    rays = (horizontal * np.cos(azimuth), horizontal * np.sin(azimuth), horizontal * np.tan(elevation))
    return np.stack(rays, axis=-1).reshape(-1, 3).astype(np.float32)
