"""Latency budget: the cost of a sweep is learned while the node runs, and the workload is chosen to fit the budget.

    measured stages -> StageCost (fixed + per unit, per stage) -> predicted 99th percentile of each workload -> choice

No ROS and no clock: times are arguments, so that tests can simulate hours in seconds.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from lidar_completion_ros.scheduling.stage_cost import StageCost
from lidar_completion_ros.scheduling.workload import WorkLimits, Workload, units_of_work, workloads

TARGET = 0.95  # share of the budget that is planned for; the rest absorbs what the cost model does not capture
HEADROOM = 1.1  # factor by which a larger workload must fit before it is taken
LARGE_HEADROOM = 1.5  # with this much headroom MIN_PATIENCE suffices: the machine has become faster
MIN_PATIENCE = 3  # consecutive sweeps with headroom before a larger workload is taken
MAX_PATIENCE = 60
TRIAL = 10  # sweeps: an increase that is reverted sooner doubles the patience
RECENT = 3  # newest sweeps, from which the machine's current speed is estimated
WINDOW = 32  # sweeps from which the prediction error is estimated
SPEED_CHANGE = 1.5  # standard deviations by which the newest sweeps must differ to count as a change of speed
Z99 = 2.6  # standard deviations to the 99th percentile, rounded up
MIN_SPREAD = 0.02  # lower bound of the relative standard deviation of the prediction error
UNTRIED = 1.3  # factor on predictions before the first real sweep
LOAD_ENDED = 5  # consecutive sweeps faster than the FASTER_THAN quantile of those before: a load has ended
FASTER_THAN = 0.25  # quantile of the earlier sweeps in the window
MIN_ERRORS = 10  # with fewer known errors, the missing ones are assumed to be INITIAL_SPREAD
INITIAL_SPREAD = 0.1
MISS_PENALTY = 0.05  # increase of the safety margin after a missed deadline
LATE_SHARE = 0.006  # share of late sweeps at which the safety margin is in equilibrium; below the target of 1 %
MAX_CAUTION = 1.0
MAX_CONSECUTIVE_SHEDS = 1  # the sweep after a shed one arrives fresh


@dataclass(frozen=True)
class Measurement:
    """What a sweep cost."""

    points: int
    workload: Workload
    seconds: float
    missed: bool  # took longer than the budget


class Deadline:
    """Chooses the workload of each sweep so that 99 of 100 sweeps finish within the budget.

    The workload is reduced at once and as far as needed. It is increased only after several consecutive sweeps with
    headroom, and the wait doubles each time an increase has to be reverted, so that it does not oscillate.
    """

    def __init__(self, limits: WorkLimits) -> None:
        self._costs = {stage: StageCost() for stage in units_of_work(1, Workload(1, 1))}
        self._window: deque[Measurement] = deque(maxlen=WINDOW)
        self._errors: deque[float] = deque(maxlen=WINDOW)  # log(measured / predicted)
        self._caution = 0.0
        self._warm = False
        self._tried = False
        self._consecutive_sheds = 0
        self.set_limits(limits)

    def set_limits(self, limits: WorkLimits) -> None:
        """Adopt a new budget or maximum workload; the learned cost is kept."""
        self.budget_s = limits.budget_s
        self.workloads = workloads(limits.max)
        self._level: int | None = None  # index into workloads
        self._sweeps_with_headroom = 0
        self._wanted_level = len(self.workloads)
        self._patience = MIN_PATIENCE
        self._since_increase = TRIAL

    # ---- prediction ----

    def predicted_s(self, points: int, workload: Workload) -> float:
        """Expected seconds of a sweep with this many points at the machine's current speed."""
        return self._slowdown() * self._learned_s(points, workload)

    def predicted_p99_s(self, points: int, workload: Workload) -> float:
        """Seconds within which 99 of 100 such sweeps are expected to finish."""
        return self._margin() * self._learned_s(points, workload)

    def _margin(self) -> float:
        """Factor from the learned cost of a sweep to the 99th percentile of its seconds; the same for every workload."""
        untried = 1.0 if self._tried else UNTRIED
        return self._slowdown() * math.exp(Z99 * self._spread()) * (1.0 + self._caution) * untried

    def _learned_s(self, points: int, workload: Workload) -> float:
        return sum(self._costs[stage].seconds(units) for stage, units in units_of_work(points, workload).items())

    def _slowdown(self) -> float:
        """Ratio of the newest sweeps to the learned cost: their median, or the newest sweep if it missed its deadline.

        1 if the ratio is within the usual scatter; slow drift is tracked by the learned cost.
        """
        recent = list(self._window)[-RECENT:]  # one copy: the diagnostics call this from another thread
        if not recent:
            return 1.0
        ratios = self._ratios(recent)
        now = statistics.median(ratios)
        if recent[-1].missed:
            now = max(now, ratios[-1])
        return 1.0 if abs(math.log(now)) < SPEED_CHANGE * self._spread() else now

    def _spread(self) -> float:
        """Relative standard deviation of the prediction error, estimated from the median to be robust to outliers."""
        errors = [1.4826 * abs(each) for each in list(self._errors)]
        return max(MIN_SPREAD, statistics.median(errors + [INITIAL_SPREAD] * (MIN_ERRORS - len(errors))))

    def _ratios(self, sweeps: list[Measurement]) -> list[float]:
        """Measured seconds relative to the learned cost."""
        return [each.seconds / self._learned_s(each.points, each.workload) for each in sweeps]

    # ---- learning ----

    def warmed_up(self, points: int, workload: Workload, stages_s: Mapping[str, float]) -> None:
        """Learn from a synthetic warm-up sweep; real sweeps may differ, so predictions stay conservative."""
        for stage, units in units_of_work(points, workload).items():
            self._costs[stage].learn(units, stages_s.get(stage, 0.0))
        self._warm = True

    def observe(self, points: int, workload: Workload, stages_s: Mapping[str, float], latency_s: float) -> None:
        """Learn from a completed sweep: seconds of its stages, and from its arrival to its publication."""
        seconds = sum(stages_s.values())
        missed = latency_s > self.budget_s
        self._update_caution(missed)
        if self._tried:
            self._errors.append(math.log(max(seconds, 1e-6) / max(self.predicted_s(points, workload), 1e-6)))
        self.warmed_up(points, workload, stages_s)
        self._window.append(Measurement(points, workload, max(seconds, 1e-6), missed))
        self._tried = True
        self._detect_end_of_load()

    def _detect_end_of_load(self) -> None:
        """After a load on the machine has ended, drop the scatter and speed that were measured under it.

        Otherwise the margin would stay wide until new sweeps have filled the window.
        """
        ratios = self._ratios(list(self._window))
        before, newest = ratios[:-LOAD_ENDED], ratios[-LOAD_ENDED:]
        if len(before) < MIN_ERRORS or max(newest) >= _quantile(before, FASTER_THAN):
            return
        now = statistics.median(newest)
        self._errors = deque((math.log(each / now) for each in newest), maxlen=WINDOW)
        self._window = deque(list(self._window)[-LOAD_ENDED:], maxlen=WINDOW)
        for cost in self._costs.values():
            cost.scale(now)
        self._sweeps_with_headroom, self._wanted_level = MIN_PATIENCE - 1, len(self.workloads)

    def _update_caution(self, missed: bool) -> None:
        """Track the 99th percentile itself: the safety margin is in equilibrium when LATE_SHARE of the sweeps are late."""
        at_minimum = self._level == 0
        change = MISS_PENALTY if missed and not at_minimum else -MISS_PENALTY * LATE_SHARE
        self._caution = min(max(self._caution + change, 0.0), MAX_CAUTION)

    # ---- choice ----

    def choose(self, points: int) -> Workload:
        """The workload for a sweep of this many points."""
        if not self._warm:
            self._level = 0
            return self.workloads[0]
        target = TARGET * self.budget_s
        margin = self._margin()
        cost = [margin * self._learned_s(points, each) for each in self.workloads]
        fitting = _largest_within(cost, target)
        if self._level is None:
            self._level = fitting
        elif cost[self._level] > self.budget_s:
            self._decrease(min(fitting, self._level))
        else:
            self._increase_with_headroom(
                _largest_within(cost, target / HEADROOM), _largest_within(cost, target / LARGE_HEADROOM)
            )
        return self.workloads[self._level]

    def _decrease(self, level: int) -> None:
        if self._since_increase < TRIAL:
            self._patience = min(2 * self._patience, MAX_PATIENCE)
        self._level, self._sweeps_with_headroom, self._since_increase = level, 0, TRIAL

    def _increase_with_headroom(self, fits: int, fits_easily: int) -> None:
        assert self._level is not None
        self._since_increase += 1
        if self._since_increase == 10 * TRIAL:
            self._patience = max(MIN_PATIENCE, self._patience // 2)
        if fits <= self._level:
            self._sweeps_with_headroom = 0
            return
        self._wanted_level = min(self._wanted_level, fits) if self._sweeps_with_headroom else fits
        self._sweeps_with_headroom += 1
        if self._sweeps_with_headroom >= (MIN_PATIENCE if fits_easily > self._level else self._patience):
            self._level, self._sweeps_with_headroom, self._since_increase = self._wanted_level, 0, 0

    def can_be_met(self, points: int) -> bool:
        """Whether the minimum workload is expected to fit the budget."""
        return not self._tried or self.predicted_p99_s(points, self.workloads[0]) <= self.budget_s

    def should_shed(self, points: int, age_s: float) -> bool:
        """Whether a sweep that waited `age_s` is too old: it would miss a deadline that a fresh one would meet."""
        workload = self.workloads[self._level or 0]
        needed_s = self.predicted_s(points, workload)
        stale = self._tried and needed_s <= self.budget_s < age_s + needed_s
        if not stale or self._consecutive_sheds >= MAX_CONSECUTIVE_SHEDS:
            self._consecutive_sheds = 0
            return False
        self._consecutive_sheds += 1
        return True

    def values(self) -> dict[str, str]:
        """For the diagnostics: the current workload and the learned cost of each stage."""
        level = self._level
        values = {
            "workload level": "" if level is None else f"{level + 1} of {len(self.workloads)}",
            "slowdown": f"{self._slowdown():.2f}",
            "p99 margin": f"{math.exp(Z99 * self._spread()) * (1.0 + self._caution):.2f}",
        }
        for stage, cost in self._costs.items():
            values[f"cost {stage}"] = f"{cost.fixed_s * 1e3:.1f} ms + {cost.per_unit_s * 1e9:.3g} ns per unit"
        return values


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * len(values))]


def _largest_within(cost: list[float], limit: float) -> int:
    """The last level up to which all costs are within the limit; 0 if there is none."""
    level = 0
    while level + 1 < len(cost) and cost[level + 1] <= limit:
        level += 1
    return level
