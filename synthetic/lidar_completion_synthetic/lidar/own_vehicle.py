"""Occlusion by the vehicle that carries the sensor."""

from __future__ import annotations

import numpy as np

from .own_vehicle_compiled import nearest_box

# Boxes in the sensor frame (lower and upper corner, metres): car roof, two rear posts of the roof rack, and a box on the right. They
# reproduce the occlusion in the real HDL-64E sweeps.
OWN_CAR = np.array(
    [
        [-1.20, -0.50, -0.60, 1.02, 0.50, -0.29],
        [-1.33, -0.58, -0.60, -1.20, -0.46, -0.22],
        [-1.33, 0.46, -0.60, -1.20, 0.58, -0.22],
        [0.15, -0.75, -0.60, 0.29, -0.62, -0.12],
    ]
)


def block_by_own_vehicle(
    beams: np.ndarray, eye: np.ndarray, distance: np.ndarray, boxes: np.ndarray = OWN_CAR
) -> tuple[np.ndarray, np.ndarray]:
    """Distance (R,) with the vehicle in the way, and whether the ray hits the vehicle (R,).

    beams (R, 3) unit directions and eye (R,) start heights in the sensor frame; distance (R,) without the vehicle; metres.
    """
    nearest = nearest_box(boxes, np.ascontiguousarray(beams), np.ascontiguousarray(eye, dtype=np.float64))
    blocked = nearest < distance
    return np.where(blocked, nearest, distance), blocked


def nearest_box_plain(boxes: np.ndarray, beams: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """Plain implementation of `nearest_box`."""
    start = np.stack([np.zeros_like(eye), np.zeros_like(eye), eye], axis=1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        t0, t1 = (boxes[None, :, :3] - start) / beams[:, None], (boxes[None, :, 3:] - start) / beams[:, None]
    near, far = np.minimum(t0, t1).max(axis=2), np.maximum(t0, t1).min(axis=2)
    hit = (near > 0) & (near <= far) & (beams[:, 2:] < -0.15)
    return np.where(hit, near, np.inf).min(axis=1)
