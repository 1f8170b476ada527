"""Evaluation protocols: which points are compared with the truth, and with which filters models run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lidar_completion.visibility import TrustRules
from lidar_completion_evaluation.truth.rules import MapRules, window_mask


@dataclass(frozen=True)
class Protocol:
    """Which predicted points are compared with the truth, and which filters the models run with."""

    name: str
    limit_height: bool  # drop predicted points outside the height limits of the truth
    filters: bool  # run models with the node's free-space and ground filters

    def select(self, points: np.ndarray, rules: MapRules) -> np.ndarray:
        """The predicted points (K, 3) of (N, 3) that are compared with the truth."""
        if self.limit_height:
            return points[window_mask(points, rules)]
        return points[np.linalg.norm(points, axis=1) < rules.max_range_m]

    @property
    def trust(self) -> TrustRules:
        """The filters that models run with."""
        return TrustRules() if self.filters else TrustRules(free_space=None, below_ground_m=None)


# Ours: predictions are compared only where truth exists, and models run as they do in the node.
DEFAULT = Protocol("default", limit_height=True, filters=True)
# The released evaluation script: the truth is limited in height, predictions are limited in range only, no filters.
PUBLISHED = Protocol("published", limit_height=False, filters=False)
PROTOCOLS = {protocol.name: protocol for protocol in (DEFAULT, PUBLISHED)}
