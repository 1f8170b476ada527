"""Confidence of completed points: the probability of lying within 0.2 m of a surface."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lidar_completion.model.card import ModelCard
from lidar_completion.neighbours import nearest_within

MAX_SCAN_DISTANCE_M = 0.9  # distances to the downsampled sweep are clamped to this


def point_confidence(logit: Tensor | None, points: Tensor, scan: Tensor, card: ModelCard) -> Tensor:
    """Probability (N,) of completed points (N, 3): from the network's logits (N,) if there are any, else from the card's table.

    scan (S, 3): the downsampled sweep.
    """
    if logit is not None:
        return torch.sigmoid(logit)
    to_scan, _ = nearest_within(points, scan, MAX_SCAN_DISTANCE_M)
    return calibrated_confidence(points, to_scan, card.confidence)


def calibrated_confidence(points: Tensor, to_scan: Tensor, calibration: Mapping[str, list]) -> Tensor:
    """Probability (N,) float32 of completed points (N, 3), from a calibration table that was measured on held-out scenes.

    to_scan (N,): distance to the nearest point of the downsampled sweep in metres. calibration: `range_m` (R,), `distance_m`
    (D,) and `probability` (R, D), interpolated linearly; without `distance_m`, probability (R,) depends on range alone. Without
    a table the probability is 0.5.
    """
    if not calibration:
        return torch.full_like(points[:, 0], 0.5)
    table = points.new_tensor(calibration["probability"])
    ring, share = knots(points.norm(dim=1), calibration["range_m"])
    if "distance_m" not in calibration:
        return torch.lerp(table[ring - 1], table[ring], share)
    step, part = knots(to_scan, calibration["distance_m"])
    width, table = table.shape[1], table.reshape(-1)
    corner = ring * width + step
    inner = torch.lerp(table[corner - width - 1], table[corner - width], part)
    return torch.lerp(inner, torch.lerp(table[corner - 1], table[corner], part), share)


def knots(values: Tensor, at: Sequence[float]) -> tuple[Tensor, Tensor]:
    """For values (N,): index of the next knot, 1 to len(at) - 1, and the position in [0, 1] between the previous knot and it."""
    places = values.new_tensor(at)
    values = values.clamp(float(places[0]), float(places[-1]))
    after = torch.searchsorted(places, values).clamp_(1, len(places) - 1)
    before = places[after - 1]
    return after, (values - before) / (places[after] - before)
