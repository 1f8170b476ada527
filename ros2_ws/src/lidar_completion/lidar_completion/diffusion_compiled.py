"""Noise added to and removed from points on CPUs, in one pass each. The plain implementations are in diffusion.py."""

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse.compiled import compiled, equal_cuts, in_parallel


def add_scaled_noise(points: Tensor, scale: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """As diffusion.add_scaled_noise, for tensors (N, 3) float32."""
    out = torch.empty(points.shape)
    arrays = [each.detach().contiguous().numpy() for each in (points, scale, noise, out)]
    in_parallel(_add_scaled_noise, [(*arrays, np.float32(sigma), *share) for share in equal_cuts(len(points))])
    return out


@compiled
def _add_scaled_noise(points, scale, noise, out, sigma, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        for axis in range(3):
            out[i, axis] = points[i, axis] + sigma * (scale[i, axis] * noise[i, axis])


def clean_estimate(points: Tensor, scale: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """As diffusion.clean_estimate, for tensors (N, 3) float32; the noise may be columns of a wider tensor."""
    out = torch.empty(points.shape)
    arrays = [points.detach().contiguous().numpy(), scale.detach().contiguous().numpy(), noise.detach().numpy()]
    settings = (out.numpy(), np.float32(sigma))
    in_parallel(_clean_estimate, [(*arrays, *settings, *share) for share in equal_cuts(len(points))])
    return out


@compiled
def _clean_estimate(points, scale, noise, out, sigma, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        for axis in range(3):
            out[i, axis] = points[i, axis] - sigma * scale[i, axis] * noise[i, axis]
