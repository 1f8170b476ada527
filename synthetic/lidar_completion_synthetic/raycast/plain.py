"""Plain implementation of ray casting against opaque solids: every ray against every solid. Tests compare the compiled loops with it."""

from __future__ import annotations

import numpy as np

from .scene import Solids
from .shapes import BOX, CYLINDER, ELLIPSOID, MISS


def cast_solids_plain(
    solids: Solids, origins: np.ndarray, directions: np.ndarray, max_range_m: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distance (R,) and solid (R,) of the first hits; max_range_m and MISS where there is none. Rays start outside all solids."""
    linear, shift = solids.to_local[:, :, :3].astype(float), solids.to_local[:, :, 3].astype(float)
    distance, hit = np.full(len(origins), float(max_range_m)), np.full(len(origins), MISS)
    for ray in range(len(origins)):
        p, v = linear @ origins[ray] + shift, linear @ directions[ray]
        t = [hit_unit_shape(int(solids.shape[k]), p[k], v[k]) for k in range(len(solids))]
        if t and min(t) < max_range_m:
            distance[ray], hit[ray] = min(t), int(np.argmin(t))
    return distance, hit


def hit_unit_shape(shape: int, p: np.ndarray, v: np.ndarray) -> float:
    """Smallest positive t at which p + t v lies on the surface of a unit shape; inf if there is none. p, v (3,)."""
    if shape == BOX:
        roots = _box_roots(p, v)
    elif shape == ELLIPSOID:
        roots = list(np.roots([v @ v, 2 * p @ v, p @ p - 1]))
    else:
        roots = _round_roots(shape, p, v)
    real = [float(np.real(t)) for t in roots if abs(np.imag(t)) < 1e-9 and np.real(t) > 0]
    return min(real, default=np.inf)


def _box_roots(p: np.ndarray, v: np.ndarray) -> list:
    roots = []
    for axis in range(3):
        for side in (-1, 1):
            t = (side - p[axis]) / v[axis]
            hit = p + t * v
            if all(abs(hit[other]) <= 1 + 1e-12 for other in range(3) if other != axis):
                roots.append(t)
    return roots


def _round_roots(shape: int, p: np.ndarray, v: np.ndarray) -> list:
    """Roots on the lateral surface and on the discs of a cylinder or cone."""
    if shape == CYLINDER:
        side = np.roots([v[:2] @ v[:2], 2 * p[:2] @ v[:2], p[:2] @ p[:2] - 1])
        discs = [-1, 1]
    else:
        h, hv = (1 - p[2]) / 2, -v[2] / 2
        side = np.roots([v[:2] @ v[:2] - hv * hv, 2 * (p[:2] @ v[:2] - h * hv), p[:2] @ p[:2] - h * h])
        discs = [-1]
    roots = [t for t in side if np.isreal(t) and abs(p[2] + np.real(t) * v[2]) <= 1]
    for z in discs:
        t = (z - p[2]) / v[2]
        if np.hypot(*(p + t * v)[:2]) <= 1.0:
            roots.append(t)
    return roots
