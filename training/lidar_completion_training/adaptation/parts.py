"""Splits a drive into the sweeps that train the model and those that judge it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lidar_completion_evaluation.drives.drive import Drive, DriveError

HELD_BACK_SHARE = 0.2
MAX_GAP_SHARE = 0.2
GAP_M = 100.0  # two sweeps this far apart, which reach 50 m each, have no surroundings in common
MIN_SWEEPS = 5


@dataclass(frozen=True)
class Parts:
    """The first `training` sweeps train; those from number `held_back` on judge; the gap between them is left out."""

    sweeps: int
    training: int
    held_back: int
    apart_m: float  # smallest distance between a training sweep and one that judges

    def of_training(self, drive: Drive) -> Drive:
        """The drive as if it had ended with the last training sweep."""
        return replace(drive, names=drive.names[: self.training], T_map_sensor=drive.T_map_sensor[: self.training])

    def describe(self) -> str:
        """What is trained on and what judges, in one or two lines."""
        lines = [
            f"sweeps 1 to {self.training} of {self.sweeps} train, {self.held_back + 1} to {self.sweeps} judge; "
            f"{self.held_back - self.training} between them are left out"
        ]
        if self.apart_m < GAP_M:
            lines.append(
                f"the two parts come within {self.apart_m:.0f} m of each other, so their surroundings overlap: the figures "
                f"of this drive are better than those of a new street (for separate ones, drive {GAP_M:g} m further)"
            )
        return "\n".join(lines)


def split(drive: Drive) -> Parts:
    """The last fifth of a drive judges. Before it, sweeps within GAP_M are left out, at most a fifth of the drive.

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
