"""Keeping the deadline: what a sweep costs is learnt while the node runs, and the work is chosen to fit the budget.

    measured stages -> StageCost (fixed + per unit, per stage) -> predicted 99th percentile of every choice -> choice

Pure: no ROS, no clock. The times come in as numbers, so that tests simulate hours in seconds.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

TARGET = 0.95  # of the budget: the rest is for what no model of the cost foresees
COARSENESS = 0.85  # replication of a choice, relative to that of the next better one
ROOM = 1.1  # a better choice must fit this much more than just so
LARGE_ROOM = 1.5  # with which a better choice is not on trial any more: the load has ended
PATIENCE = 3  # sweeps in a row with room before a better choice is taken
LONGEST_PATIENCE = 60
TRIAL = 10  # sweeps: a better choice that is given up sooner was a mistake, and the next one waits longer
RECENT = 3  # sweeps that tell how slow the machine is now
WINDOW = 32  # sweeps that tell how far predictions are off
CHANGED = 1.5  # standard deviations that the newest sweeps must lie off, to be a change and no noise
Z99 = 2.6  # standard deviations up to the 99th percentile, and a little
LEAST_SPREAD = 0.02  # relative standard deviation that is assumed at least
UNTRIED = 1.3  # factor on the predictions of a node that has not completed a real sweep yet
ENDED = 5  # sweeps in a row, each faster than nearly all of the window before: a load has ended
FASTER_THAN = 0.25  # quantile of the window before
YOUNG = 10  # errors; where fewer are known, the others are taken to be as large as FRESH_SPREAD
FRESH_SPREAD = 0.1
MISS = 0.05  # by how much a missed deadline raises the caution
LATE_SHARE = 0.006  # of the sweeps, at which the caution settles: below the 1 % that is promised
MOST_CAUTION = 1.0
LONGEST_SHED = 1  # sweeps in a row that are shed for their age: the next one comes fresh


@dataclass(frozen=True, order=True)
class Choice:
    """The work that is put into a sweep."""

    steps: int
    replication: int


def choices(most_steps: int, most_replication: int) -> list[Choice]:
    """Every choice from the cheapest to the best: replication up to its most with one step, then more steps."""
    copies = [most_replication]
    while copies[-1] > 1:
        copies.append(min(copies[-1] - 1, math.ceil(copies[-1] * COARSENESS)))
    return [Choice(1, each) for each in reversed(copies)] + [
        Choice(steps, most_replication) for steps in range(2, most_steps + 1)
    ]


def units_of_work(points: int, choice: Choice) -> dict[str, float]:
    """What the cost of each stage grows with: points in, start points, start points of all steps."""
    starts = points * choice.replication
    return {"preprocess": points, "denoise": choice.steps * starts, "postprocess": starts, "messages": starts}


class StageCost:
    """Seconds of one stage = fixed + per_unit * units; both drift, and are followed by a Kalman filter of two weights."""

    DRIFT = 0.03  # relative change of a weight from sweep to sweep
    NOISE = 0.15  # relative error of a measurement
    UNSURE = 0.5  # relative standard deviation of a weight at most
    SURPRISE = 0.5  # relative error beyond which a measurement is an outlier, and counts no more than this
    LEAST_SHARE = 0.05  # of either weight in a stage's seconds: more work never looks free, and less work not free

    def __init__(self) -> None:
        self.fixed_s = 0.0
        self.per_unit_s = 0.0
        self._variance = (0.0, 0.0, 0.0)  # fixed, both, per unit

    def seconds(self, units: float) -> float:
        return self.fixed_s + self.per_unit_s * units

    def learn(self, units: float, seconds: float) -> None:
        """Take in that `units` of work took `seconds`."""
        units, seconds = max(units, 1.0), max(seconds, 1e-6)
        if not self.seconds(units):
            self.fixed_s, self.per_unit_s = 0.3 * seconds, 0.7 * seconds / units
            self.scale(1.0)
            return
        self._drift()
        predicted = self.seconds(units)
        limit = self.SURPRISE * predicted
        error = min(max(seconds - predicted, -limit), limit)
        ff, fu, uu = self._variance
        to_fixed, to_unit = ff + fu * units, fu + uu * units
        scatter = to_fixed + to_unit * units + (self.NOISE * predicted) ** 2
        self.fixed_s += to_fixed / scatter * error
        self.per_unit_s += to_unit / scatter * error
        self._variance = (
            ff - to_fixed * to_fixed / scatter,
            fu - to_fixed * to_unit / scatter,
            uu - to_unit * to_unit / scatter,
        )
        self._keep_positive(units)

    def scale(self, factor: float) -> None:
        """The machine is another one now: everything takes `factor` times as long, and the weights are unsure again."""
        self.fixed_s, self.per_unit_s = factor * self.fixed_s, factor * self.per_unit_s
        self._variance = ((self.UNSURE * self.fixed_s) ** 2, 0.0, (self.UNSURE * self.per_unit_s) ** 2)

    def _drift(self) -> None:
        ff, fu, uu = self._variance
        ff = min(ff + (self.DRIFT * self.fixed_s) ** 2, (self.UNSURE * self.fixed_s) ** 2)
        uu = min(uu + (self.DRIFT * self.per_unit_s) ** 2, (self.UNSURE * self.per_unit_s) ** 2)
        most = 0.98 * math.sqrt(max(ff, 0.0) * max(uu, 0.0))  # a covariance stays one when its diagonal is limited
        self._variance = (ff, min(max(fu, -most), most), uu)

    def _keep_positive(self, units: float) -> None:
        total = max(self.seconds(units), 1e-6)
        self.fixed_s = max(self.fixed_s, self.LEAST_SHARE * total)
        self.per_unit_s = max(self.per_unit_s, self.LEAST_SHARE * total / units)


@dataclass(frozen=True)
class Measured:
    """What a sweep cost."""

    points: int
    choice: Choice
    seconds: float
    missed: bool  # it took longer than the budget


class Deadline:
    """Chooses steps and replication of every sweep, so that 99 of 100 are answered inside the budget.

    Falls at once, as far as it must. Rises only when a better choice has had room for several sweeps in a row, and waits
    longer each time when that turns out to be a mistake; so it does not swing.
    """

    def __init__(self, budget_s: float, most_steps: int, most_replication: int) -> None:
        self._costs = {stage: StageCost() for stage in units_of_work(1, Choice(1, 1))}
        self._window: deque[Measured] = deque(maxlen=WINDOW)
        self._errors: deque[float] = deque(maxlen=WINDOW)  # logarithm of measured / predicted
        self._caution = 0.0
        self._warm = False
        self._tried = False
        self._shed_in_a_row = 0
        self.set_limits(budget_s, most_steps, most_replication)

    def set_limits(self, budget_s: float, most_steps: int, most_replication: int) -> None:
        """Take a new budget or new limits of the work; what was learnt about the cost stays."""
        self.budget_s = budget_s
        self.choices = choices(most_steps, most_replication)
        self._level: int | None = None
        self._calm = 0
        self._wanted = len(self.choices)
        self._patience = PATIENCE
        self._since_rise = TRIAL

    # ---- what a sweep will cost ----

    def predicted_s(self, points: int, choice: Choice) -> float:
        """Seconds that a sweep of so many points is expected to take, as fast as the machine is now."""
        return self._slowness() * self._usual_s(points, choice)

    def predicted_p99_s(self, points: int, choice: Choice) -> float:
        """Seconds within which 99 of 100 such sweeps are expected to be done."""
        untried = 1.0 if self._tried else UNTRIED
        return self.predicted_s(points, choice) * math.exp(Z99 * self._spread()) * (1.0 + self._caution) * untried

    def _usual_s(self, points: int, choice: Choice) -> float:
        return sum(self._costs[stage].seconds(units) for stage, units in units_of_work(points, choice).items())

    def _slowness(self) -> float:
        """How much longer the newest sweeps took than the learnt costs say: their median, or the newest if it missed.

        1 where that is within the usual scatter: a slow drift is left to the costs.
        """
        recent = list(self._window)[-RECENT:]  # at once: the diagnostics ask from another thread
        if not recent:
            return 1.0
        ratios = self._ratios(recent)
        now = statistics.median(ratios)
        if recent[-1].missed:
            now = max(now, ratios[-1])
        return 1.0 if abs(math.log(now)) < CHANGED * self._spread() else now

    def _spread(self) -> float:
        """Relative standard deviation of the predictions' errors; from the median, so that an outlier does not count."""
        errors = [1.4826 * abs(each) for each in list(self._errors)]
        return max(LEAST_SPREAD, statistics.median(errors + [FRESH_SPREAD] * (YOUNG - len(errors))))

    def _ratios(self, sweeps: list[Measured]) -> list[float]:
        """Measured seconds relative to what the learnt costs say now."""
        return [each.seconds / self._usual_s(each.points, each.choice) for each in sweeps]

    # ---- learning ----

    def warmed_up(self, points: int, choice: Choice, stages_s: Mapping[str, float]) -> None:
        """Learn from a made-up sweep: better than knowing nothing, and not to be trusted."""
        for stage, units in units_of_work(points, choice).items():
            self._costs[stage].learn(units, stages_s.get(stage, 0.0))
        self._warm = True

    def observe(self, points: int, choice: Choice, stages_s: Mapping[str, float], latency_s: float) -> None:
        """Learn from a completed sweep: seconds of its stages, and from its arrival to its answer."""
        seconds = sum(stages_s.values())
        missed = latency_s > self.budget_s
        self._heed(missed)
        if self._tried:
            self._errors.append(math.log(max(seconds, 1e-6) / max(self.predicted_s(points, choice), 1e-6)))
        self.warmed_up(points, choice, stages_s)
        self._window.append(Measured(points, choice, max(seconds, 1e-6), missed))
        self._tried = True
        self._forget_a_load_that_has_ended()

    def _forget_a_load_that_has_ended(self) -> None:
        """Scatter and speed of a loaded machine say nothing about the machine without the load.

        Without this the window would keep the margin wide for as many sweeps as it holds.
        """
        ratios = self._ratios(list(self._window))
        before, newest = ratios[:-ENDED], ratios[-ENDED:]
        if len(before) < YOUNG or max(newest) >= _quantile(before, FASTER_THAN):
            return
        now = statistics.median(newest)
        self._errors = deque((math.log(each / now) for each in newest), maxlen=WINDOW)
        self._window = deque(list(self._window)[-ENDED:], maxlen=WINDOW)
        for cost in self._costs.values():
            cost.scale(now)
        self._calm, self._wanted = PATIENCE - 1, len(self.choices)

    def _heed(self, missed: bool) -> None:
        """Follow the 99th percentile itself: the caution stands still where LATE_SHARE of the sweeps are late."""
        at_floor = self._level == 0
        change = MISS if missed and not at_floor else -MISS * LATE_SHARE
        self._caution = min(max(self._caution + change, 0.0), MOST_CAUTION)

    # ---- choosing ----

    def choose(self, points: int) -> Choice:
        """The work for a sweep of so many points."""
        if not self._warm:
            self._level = 0
            return self.choices[0]
        target = TARGET * self.budget_s
        cost = [self.predicted_p99_s(points, each) for each in self.choices]
        fitting = _last(cost, target)
        if self._level is None:
            self._level = fitting
        elif cost[self._level] > self.budget_s:
            self._fall(min(fitting, self._level))
        else:
            self._rise_when_calm(_last(cost, target / ROOM), _last(cost, target / LARGE_ROOM))
        return self.choices[self._level]

    def _fall(self, level: int) -> None:
        if self._since_rise < TRIAL:
            self._patience = min(2 * self._patience, LONGEST_PATIENCE)
        self._level, self._calm, self._since_rise = level, 0, TRIAL

    def _rise_when_calm(self, roomy: int, very_roomy: int) -> None:
        assert self._level is not None
        self._since_rise += 1
        if self._since_rise == 10 * TRIAL:
            self._patience = max(PATIENCE, self._patience // 2)
        if roomy <= self._level:
            self._calm = 0
            return
        self._wanted = min(self._wanted, roomy) if self._calm else roomy
        self._calm += 1
        if self._calm >= (PATIENCE if very_roomy > self._level else self._patience):
            self._level, self._calm, self._since_rise = self._wanted, 0, 0

    def can_be_met(self, points: int) -> bool:
        """Whether the cheapest choice is expected to fit the budget."""
        return not self._tried or self.predicted_p99_s(points, self.choices[0]) <= self.budget_s

    def shed(self, points: int, age_s: float) -> bool:
        """Whether a sweep that waited `age_s` is too old to be begun: it would miss a deadline that a fresh one keeps."""
        choice = self.choices[self._level or 0]
        needed_s = self.predicted_s(points, choice)
        stale = self._tried and needed_s <= self.budget_s < age_s + needed_s
        if not stale or self._shed_in_a_row >= LONGEST_SHED:
            self._shed_in_a_row = 0
            return False
        self._shed_in_a_row += 1
        return True

    def values(self) -> dict[str, str]:
        """What the diagnostics show: the learnt costs and the state of the choice."""
        level = self._level
        values = {
            "deadline choice": "" if level is None else f"{level + 1} of {len(self.choices)}",
            "deadline slowness": f"{self._slowness():.2f}",
            "deadline margin": f"{math.exp(Z99 * self._spread()) * (1.0 + self._caution):.2f}",
        }
        for stage, cost in self._costs.items():
            values[f"cost {stage}"] = f"{cost.fixed_s * 1e3:.1f} ms + {cost.per_unit_s * 1e9:.3g} ns per unit"
        return values


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * len(values))]


def _last(cost: list[float], limit: float) -> int:
    """The best choice whose cost, and that of all cheaper ones, is within the limit; 0 where none is."""
    level = 0
    while level + 1 < len(cost) and cost[level + 1] <= limit:
        level += 1
    return level
