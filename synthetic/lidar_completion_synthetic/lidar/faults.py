"""Missing returns of a single sweep: dropped rings and sectors, random losses, rain and fog."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Faults:
    """Defects of one sweep; the default has none.

    every_ring: only every n-th ring remains. first_ring: the first ring that remains. loss: share of the returns that are lost at random.
    visibility_m: returns at distance d remain with probability exp(-d / visibility_m). sectors_deg: (start, width) of azimuth sectors
    without returns, degrees counter-clockwise from x.
    """

    every_ring: int = 1
    first_ring: int = 0
    loss: float = 0.0
    visibility_m: float = float("inf")
    sectors_deg: tuple[tuple[float, float], ...] = ()

    @property
    def blocks_rays(self) -> bool:
        """Whether some rays are not cast at all."""
        return self.every_ring > 1 or bool(self.sectors_deg)

    def remaining_rays(self, ring: np.ndarray, beams: np.ndarray) -> np.ndarray:
        """Indices of the rays (R,) outside the dropped rings and sectors. beams (R, 3): directions in the sensor frame."""
        kept = (ring - self.first_ring) % self.every_ring == 0
        if self.sectors_deg:
            azimuth = np.degrees(np.arctan2(beams[:, 1], beams[:, 0]))
            for start, width in self.sectors_deg:
                kept &= np.mod(azimuth - start, 360.0) >= width
        return np.flatnonzero(kept)

    def returned(self, distance: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """Whether a return (R,) at this distance (metres) is received; None if none is lost."""
        if self.loss == 0.0 and np.isinf(self.visibility_m):
            return None
        return rng.random(len(distance)) < (1.0 - self.loss) * np.exp(-distance / self.visibility_m)


NO_FAULTS = Faults()
