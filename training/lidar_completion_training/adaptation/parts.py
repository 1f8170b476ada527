"""Splits a drive into training sweeps and held-back sweeps, which evaluate the model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lidar_completion_evaluation.drives.drive import Drive, DriveError

HELD_BACK_SHARE = 0.2
MAX_GAP_SHARE = 0.2
GAP_M = 100.0  # two sweeps this far apart do not overlap, because each is used up to 50 m
MIN_SWEEPS = 5


@dataclass(frozen=True)
class Parts:
    """Sweeps [0, training) train the model, [held_back, sweeps) evaluate it, and those in between are not used."""

    sweeps: int
    training: int
    held_back: int
    apart_m: float  # smallest distance between a training sweep and a held-back one

    def of_training(self, drive: Drive) -> Drive:
        """The drive as if it had ended with the last training sweep."""
        return replace(drive, names=drive.names[: self.training], T_map_sensor=drive.T_map_sensor[: self.training])

    def describe(self) -> str:
        """The split, in one or two lines."""
        lines = [
            f"{self.training} of {self.sweeps} sweeps for training, the last {self.sweeps - self.held_back} for evaluation; "
            f"{self.held_back - self.training} between them are left out"
        ]
        if self.apart_m < GAP_M:
            lines.append(
                f"training and evaluation sweeps come within {self.apart_m:.0f} m of each other, so their surroundings "
                f"overlap, and the metrics may be better than on a new street; record a longer drive (a gap of {GAP_M:g} m "
                "avoids the overlap)"
            )
        return "\n".join(lines)


def split(drive: Drive) -> Parts:
    """Hold back the last fifth of a drive. Before it, sweeps within GAP_M are left out, at most a fifth of the drive.

    DriveError for a drive of fewer than MIN_SWEEPS sweeps.
    """
    sweeps = len(drive)
    if sweeps < MIN_SWEEPS:
        raise DriveError(
            f"{drive.name}: expected at least {MIN_SWEEPS} sweeps, found {sweeps}; record a longer drive to adapt to"
        )
    held_back = sweeps - max(1, round(HELD_BACK_SHARE * sweeps))
    places = drive.T_map_sensor[:, :3, 3]
    to_held_back = np.array([np.linalg.norm(places[held_back:] - place, axis=1).min() for place in places[:held_back]])
    near = np.flatnonzero(to_held_back >= GAP_M)
    last_far = int(near[-1]) + 1 if len(near) else 0
    training = max(last_far, held_back - max(1, round(MAX_GAP_SHARE * sweeps)))
    return Parts(sweeps, training, held_back, float(to_held_back[:training].min()))
