"""What the sensor measured and what was imagined: provenance and confidence of the points of a completion."""

import torch
from torch import Tensor

MEASURED, COMPLETED = 0, 1


def calibrated_confidence(points: Tensor, calibration: dict[str, list[float]]) -> Tensor:
    """Probability (N,) float32 that a completed point (N, 3) lies within 0.2 m of a surface, by its range.

    calibration: `range_m`, the rings' centres, and `probability`, the share found on held-back scenes; linear between
    them. An uncalibrated model (no table) says 0.5: it does not know.
    """
    if not calibration:
        return torch.full_like(points[:, 0], 0.5)
    centres = torch.tensor(calibration["range_m"], dtype=points.dtype, device=points.device)
    shares = torch.tensor(calibration["probability"], dtype=points.dtype, device=points.device)
    distance = points.norm(dim=1).clamp(float(centres[0]), float(centres[-1]))
    right = torch.searchsorted(centres, distance).clamp_(1, len(centres) - 1)
    part = (distance - centres[right - 1]) / (centres[right] - centres[right - 1])
    return torch.lerp(shares[right - 1], shares[right], part).clamp_(0.0, 1.0)
