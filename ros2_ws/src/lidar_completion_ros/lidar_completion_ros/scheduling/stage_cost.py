"""The cost of one stage of the pipeline, learned online."""

from __future__ import annotations

import math


class StageCost:
    """Seconds of a stage = fixed + per_unit * units. Both weights drift and are tracked by a two-state Kalman filter."""

    DRIFT = 0.03  # relative change of a weight from sweep to sweep
    NOISE = 0.15  # relative error of a measurement
    MAX_UNCERTAINTY = 0.5  # relative standard deviation of a weight
    MAX_INNOVATION = 0.5  # relative error to which outliers are clipped
    MIN_SHARE = 0.05  # minimum share of each weight in a stage's seconds, so that neither becomes zero

    def __init__(self) -> None:
        self.fixed_s = 0.0
        self.per_unit_s = 0.0
        self._covariance = (0.0, 0.0, 0.0)  # fixed-fixed, fixed-unit, unit-unit

    def seconds(self, units: float) -> float:
        """Expected seconds for `units` of work."""
        return self.fixed_s + self.per_unit_s * units

    def learn(self, units: float, seconds: float) -> None:
        """Update from a measurement: `units` of work took `seconds`."""
        units, seconds = max(units, 1.0), max(seconds, 1e-6)
        if not self.seconds(units):
            self.fixed_s, self.per_unit_s = 0.3 * seconds, 0.7 * seconds / units
            self.scale(1.0)
            return
        self._drift()
        predicted = self.seconds(units)
        limit = self.MAX_INNOVATION * predicted
        error = min(max(seconds - predicted, -limit), limit)
        ff, fu, uu = self._covariance
        to_fixed, to_unit = ff + fu * units, fu + uu * units
        innovation = to_fixed + to_unit * units + (self.NOISE * predicted) ** 2
        self.fixed_s += to_fixed / innovation * error
        self.per_unit_s += to_unit / innovation * error
        self._covariance = (
            ff - to_fixed * to_fixed / innovation,
            fu - to_fixed * to_unit / innovation,
            uu - to_unit * to_unit / innovation,
        )
        self._keep_positive(units)

    def scale(self, factor: float) -> None:
        """Multiply the cost by `factor` after a change of the machine's speed, and reset the uncertainty."""
        self.fixed_s, self.per_unit_s = factor * self.fixed_s, factor * self.per_unit_s
        sigma = self.MAX_UNCERTAINTY
        self._covariance = ((sigma * self.fixed_s) ** 2, 0.0, (sigma * self.per_unit_s) ** 2)

    def _drift(self) -> None:
        ff, fu, uu = self._covariance
        ff = min(ff + (self.DRIFT * self.fixed_s) ** 2, (self.MAX_UNCERTAINTY * self.fixed_s) ** 2)
        uu = min(uu + (self.DRIFT * self.per_unit_s) ** 2, (self.MAX_UNCERTAINTY * self.per_unit_s) ** 2)
        limit = 0.98 * math.sqrt(max(ff, 0.0) * max(uu, 0.0))  # keeps the matrix positive definite after the clipping
        self._covariance = (ff, min(max(fu, -limit), limit), uu)

    def _keep_positive(self, units: float) -> None:
        total = max(self.seconds(units), 1e-6)
        self.fixed_s = max(self.fixed_s, self.MIN_SHARE * total)
        self.per_unit_s = max(self.per_unit_s, self.MIN_SHARE * total / units)
