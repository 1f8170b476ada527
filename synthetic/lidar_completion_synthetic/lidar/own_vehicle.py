"""Occlusion by the ego vehicle, which carries the sensor."""

from __future__ import annotations

import numpy as np

from .own_vehicle_compiled import nearest_box

# Boxes in the sensor frame (lower and upper corner, metres): car roof, two rear posts of the roof rack, and a box on the right. They
# reproduce the occlusion in real HDL-64E sweeps (KITTI).
OWN_CAR = np.array(
    [
        [-1.20, -0.50, -0.60, 1.02, 0.50, -0.29],
        [-1.33, -0.58, -0.60, -1.20, -0.46, -0.22],
        [-1.33, 0.46, -0.60, -1.20, 0.58, -0.22],
        [0.15, -0.75, -0.60, 0.29, -0.62, -0.12],
    ]
)


# Parts of other vehicles that block rays, in the axes of the vehicle with the sensor at the origin.
OWN_VEHICLES: dict[str, np.ndarray] = {
    "none": np.zeros((0, 6)),
    "car": OWN_CAR,
    "car with bonnet": np.array([[-2.2, -0.65, -0.75, 0.1, 0.65, -0.12], [0.9, -0.8, -1.0, 2.2, 0.8, -0.75]]),
    "van": np.array([[-4.0, -0.95, -0.9, 0.5, 0.95, -0.25]]),
    "cab": np.array([[-3.0, -1.2, -1.5, -0.6, 1.2, 0.8], [-0.6, -1.1, -1.0, 0.7, 1.1, -0.4]]),
    "robot": np.array([[-0.5, -0.3, -0.6, 0.25, 0.3, -0.12], [-0.28, -0.04, -0.5, -0.2, 0.04, 0.6]]),
    "mast": np.array([[-0.3, -0.05, -1.0, -0.2, 0.05, 1.0], [-0.6, -0.35, -1.2, 0.3, 0.35, -0.45]]),
}


def block_by_own_vehicle(
    beams: np.ndarray, starts: np.ndarray, distance: np.ndarray, boxes: np.ndarray = OWN_CAR
) -> tuple[np.ndarray, np.ndarray]:
    """Distance (R,) to the first hit, the vehicle included, and whether the ray hits the vehicle (R,).

    beams, starts (R, 3): unit directions and start points in the axes of the vehicle, relative to the sensor; distance (R,) without the
    vehicle; metres.
    """
    nearest = nearest_box(boxes, np.ascontiguousarray(beams), np.ascontiguousarray(starts), highest_slope(boxes))
    blocked = nearest < distance
    return np.where(blocked, nearest, distance), blocked


def highest_slope(boxes: np.ndarray) -> float:
    """Upper bound on the z component of unit directions that can hit the boxes; 1 if the boxes reach the height of the sensor.

    Rays start at or above the sensor origin, at most 6 cm to the side of it (tilted sensors).
    """
    if not len(boxes) or boxes[:, 5].max() > -0.05:
        return 1.0
    reach = np.hypot(np.abs(boxes[:, [0, 3]]).max(axis=1), np.abs(boxes[:, [1, 4]]).max(axis=1)) + 0.06
    return float((boxes[:, 5] / np.hypot(reach, boxes[:, 5])).max())


def nearest_box_plain(boxes: np.ndarray, beams: np.ndarray, starts: np.ndarray, highest: float) -> np.ndarray:
    """Plain implementation of `nearest_box`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t0 = (boxes[None, :, :3] - starts[:, None]) / beams[:, None]
        t1 = (boxes[None, :, 3:] - starts[:, None]) / beams[:, None]
    near, far = np.minimum(t0, t1).max(axis=2), np.maximum(t0, t1).min(axis=2)
    hit = (near > 0) & (near <= far) & (beams[:, 2:] < highest)
    return np.where(hit, near, np.inf).min(axis=1, initial=np.inf)
