"""Means with intervals over scenes, and differences between methods on the same scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """Mean of n scenes and its 95 % bootstrap interval (percentiles); lower = upper = mean for a single scene."""

    mean: float
    lower: float
    upper: float
    n: int


def mean_interval(values: list[float], *, resamples: int = 4000, seed: int = 0) -> Interval:
    """Bootstrap over scenes: how the mean would vary between samples of such scenes.

    Neighbouring sweeps of a drive are correlated, so the interval of a drive is too narrow.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array) or not np.isfinite(array).all():
        raise ValueError(f"values: expected finite figures of at least one scene, found {values!r}")
    chosen = np.random.default_rng(seed).integers(0, len(array), (resamples, len(array)))
    means = array[chosen].mean(axis=1)
    lower, upper = np.percentile(means, (2.5, 97.5))
    return Interval(float(array.mean()), float(lower), float(upper), len(array))


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of two methods on the same scenes, and the share of scenes on which the first one is lower."""

    difference: Interval
    lower_on: float


def paired_difference(values: dict[str, float], reference: dict[str, float]) -> PairedDifference | None:
    """values - reference over the scenes of both (scene -> figure); None if they share no scene."""
    common = sorted(values.keys() & reference.keys())
    if not common:
        return None
    differences = [values[scene] - reference[scene] for scene in common]
    return PairedDifference(mean_interval(differences), float(np.mean(np.array(differences) < 0)))
